# SPDX-License-Identifier: Apache-2.0
"""Addresses of trackers, and the devices that a tracker has."""

import socket

import pytest
from rpc_site import KEY, running_site

from tvm.contrib.cprune.measuring import tracker as tracker_module
from tvm.contrib.cprune.measuring.tracker import Tracker
from tvm.contrib.cprune.types import CPruneError


@pytest.mark.parametrize(
    ("address", "key", "message"),
    [
        ("nowhere", "k", "invalid tracker address 'nowhere': expected host:port"),
        ("127.0.0.1:99999", "k", "invalid tracker address '127.0.0.1:99999'"),
        (None, "k", "no tracker given: pass --tracker host:port, or set TVM_TRACKER_HOST"),
        ("127.0.0.1:9190", None, "no device key given: pass --device-key"),
    ],
)
def test_malformed_trackers_are_rejected(address, key, message, monkeypatch):
    monkeypatch.delenv("TVM_TRACKER_HOST", raising=False)
    with pytest.raises(CPruneError, match=message):
        Tracker.parse(address, key)


def test_the_environment_provides_the_default_tracker(monkeypatch):
    monkeypatch.setenv("TVM_TRACKER_HOST", "10.0.0.1")
    monkeypatch.setenv("TVM_TRACKER_PORT", "9191")
    assert Tracker.parse(None, "k") == Tracker("10.0.0.1", 9191, "k")


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("localhost", False), ("10.0.0.1", True)])
def test_trackers_that_other_machines_can_reach_cause_a_warning(host, warned):
    assert ("has no authentication" in Tracker(host, 9190, "k").warning) == warned


def test_an_unknown_key_is_rejected_with_the_registered_keys():
    with running_site() as site:
        for _ in range(2):
            site.add()
        site.wait(2)
        Tracker.parse(site.address, KEY).require_device()
        message = rf"{site.address} has no device with key 'bored'; registered devices: board \(2\)"
        with pytest.raises(CPruneError, match=message):
            Tracker.parse(site.address, "bored").require_device()


def test_a_tracker_that_does_not_answer_is_an_error(monkeypatch):
    monkeypatch.setattr(tracker_module, "RESPONSE_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # connections are accepted, but never answered
        port = server.getsockname()[1]
        with pytest.raises(CPruneError, match=f"no tracker responds at 127.0.0.1:{port}: timed out"):
            Tracker("127.0.0.1", port, "phone").devices()
