# SPDX-License-Identifier: Apache-2.0
"""The tutorial and the commands for devices with TVM's native RPC server for AArch64, in an emulator."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import emulated_server
import numpy as np
import pytest
import torch
from commands import SMALLEST_RUN, as_arguments, run_cprune, run_tutorial
from emulated_server import EmulatedServer
from rpc_site import KEY, Site, running_site, wait_until

from tvm import rpc
from tvm.contrib import graph_executor
from tvm.contrib.cprune.measuring import model_timing, throttling
from tvm.contrib.cprune.measuring.tracker import Tracker

# Machines emulate at different speeds; a program that takes this long hangs. The run has no time limit.
RUN_TIMEOUT = 300
OPTIONS = {
    **SMALLEST_RUN,
    "--trials": 2,
    "--tune-seconds": 0,
    "--max-seconds": 0,
    "--threads": 1,
    "--repeats": 2,
    "--min-time": 0,
    "--run-timeout": RUN_TIMEOUT,
    "--target": "arm64-linux",
}

pytestmark = pytest.mark.skipif(emulated_server.missing() is not None, reason=str(emulated_server.missing()))


@pytest.fixture
def short_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time models and the reference program less often: one run of the latter takes half a second."""
    monkeypatch.setattr(model_timing, "TIME_BUDGET", 5.0)
    monkeypatch.setattr(throttling, "CHECK_REPEATS", 1)


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        yield running


@pytest.fixture
def server(site: Site, tmp_path: Path) -> Iterator[EmulatedServer]:
    folder = tmp_path / "server"
    folder.mkdir()
    with EmulatedServer(site.address, KEY, folder) as running:
        site.wait(1)
        yield running


def restart(server: EmulatedServer, site: Site) -> None:
    server.kill()
    tracker = Tracker.parse(site.address, KEY)
    wait_until(lambda: tracker.devices()[0] == 0, "the tracker to drop the server")
    server.start()
    site.wait(1)


def prune(site: Site, server: EmulatedServer, run_dir: Path) -> str:
    """Run the tutorial, restart the server during the first tuning, and return the tutorial's output."""
    options = as_arguments(OPTIONS)
    options += ["--tracker", site.address, "--device-key", KEY, "--experiment-data-dir", str(run_dir)]

    def restart_while_tuning() -> None:
        wait_until(lambda: "/program-" in server.log(), "a program on the server", RUN_TIMEOUT)
        restart(server, site)

    restarting = threading.Thread(target=restart_while_tuning)
    restarting.start()
    done = run_tutorial(*options)
    restarting.join()
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def outputs_on_device(bundle: Path, site: Site, data: np.ndarray) -> np.ndarray:
    """Run the library of a bundle on the server, with nothing but TVM."""
    host, port = site.address.split(":")
    session = rpc.connect_tracker(host, int(port)).request(KEY)
    session.upload(str(bundle / "net.so"))
    library = session.load_module("net.so")
    model = graph_executor.create((bundle / "graph.json").read_text(), library, session.cpu())
    model.load_params((bundle / "params.bin").read_bytes())
    model.run(data=data)
    return model.get_output(0).numpy()


def test_the_doctor_runs_a_kernel_on_the_server(short_timing, site, server):
    done = run_cprune("doctor", "--target", "arm64-linux", "--tracker", site.address, "--device-key", KEY)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok   compiler: arm64-linux links with /usr/bin/aarch64-linux-gnu-g++" in done.stdout
    assert f"ok   round trip: compiled and ran a kernel on a device with key {KEY}" in done.stdout


def test_a_network_is_pruned_and_deployed_although_the_server_is_killed(
    short_timing, latency_by_macs, site, server, tmp_path
):
    run_dir, bundle = tmp_path / "run", tmp_path / "bundle"
    text = prune(site, server, run_dir)
    assert "lost device" in text, text
    result = json.loads((run_dir / "result.json").read_text())
    assert "aarch64-linux-gnu" in result["target"] and result["accepted"] >= 1, text
    assert result["output_error"]["net.so"]["max_rel"] < 1e-3
    assert result["trials"]["pruning_and_final_tuning"]["transplant"] > 0

    restart(server, site)
    devices = ["--tracker", site.address, "--device-key", KEY]
    done = run_cprune("deploy", str(run_dir), *devices, "--repeats", "3", "--out", str(bundle))
    assert done.returncode == 0, done.stdout + done.stderr
    model = torch.jit.load(str(run_dir / "model.pt"))
    data = np.load(run_dir / "samples.npy")[:1]
    expected = model(torch.tensor(data)).detach().numpy()
    np.testing.assert_allclose(outputs_on_device(bundle, site, data), expected, rtol=1e-3, atol=1e-3)
