# SPDX-License-Identifier: Apache-2.0
"""The command ``doctor``."""

from commands import run_cprune
from rpc_site import KEY, running_site

import tvm
from tvm.contrib.cprune.commands import doctor as command
from tvm.contrib.cprune.types import CPruneError


def doctor(*arguments: str) -> tuple[int, str]:
    done = run_cprune("doctor", *arguments)
    return done.returncode, done.stdout + done.stderr


def test_all_checks_pass_on_this_machine():
    code, text = doctor()
    assert code == 0, text
    round_trip = "ok   round trip: compiled and ran a kernel on this machine with the correct result"
    for line in (f"ok   TVM: {tvm.__version__}:", "ok   plug-in", "ok   compiler", round_trip):
        assert line in text, text


def test_a_missing_compiler_and_tracker_are_reported():
    code, text = doctor("--target", "android-cpu", "--tracker", "127.0.0.1:9", "--device-key", "phone")
    assert code == 1
    assert "FAIL compiler: TVM_NDK_CC is not set" in text
    assert "FAIL tracker: no tracker responds at 127.0.0.1:9" in text
    assert "?    round trip: there is no tracker" in text


def test_devices_are_checked():
    with running_site() as site:
        site.wait(0)
        code, text = doctor("--tracker", site.address, "--device-key", KEY)
        assert code == 1 and f"FAIL devices: none with key {KEY}" in text, text
        site.add()
        site.wait(1)
        code, text = doctor("--tracker", site.address, "--device-key", KEY)
        assert code == 0, text
        assert f"ok   round trip: compiled and ran a kernel on a device with key {KEY}" in text, text


def test_what_happens_to_a_device_is_printed_during_the_checks(monkeypatch):
    def lose_device(*arguments):
        arguments[-1]({"event": "device", "message": "lost device 127.0.0.1:9000: no answer within 15 s"})
        raise CPruneError("no device is left")

    monkeypatch.setattr(command, "create_measurer", lose_device)
    code, text = doctor()
    assert code == 1
    lost, failed = text.splitlines()[-3:-1]
    assert lost == "?    device: lost device 127.0.0.1:9000: no answer within 15 s"
    assert failed == "FAIL round trip: no device is left"
