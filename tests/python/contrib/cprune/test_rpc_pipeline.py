# SPDX-License-Identifier: Apache-2.0
"""Pruning and deploying with all measurements on RPC devices."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import SMALLEST_RUN, TUTORIAL, as_arguments, error_of, run_cprune, run_python
from rpc_site import KEY, Site, running_site

from tvm.contrib.cprune.targets.target import host_target

OPTIONS = {
    **SMALLEST_RUN,
    "--trials": 4,
    "--threads": 1,
    "--repeats": 2,
}


@pytest.fixture
def site() -> Iterator[Site]:
    with running_site() as running:
        for _ in range(3):
            running.add(hold=0)
        running.wait(3)
        yield running


def check_bundle(bundle: Path) -> None:
    """The example runs, and the check of the bundle detects a changed file."""
    example = run_python(bundle / "example.py")
    assert example.stdout.startswith("class "), example.stderr
    assert run_cprune("deploy", "--check", str(bundle)).returncode == 0
    params = bytearray((bundle / "params.bin").read_bytes())
    params[100] ^= 1
    (bundle / "params.bin").write_bytes(bytes(params))
    done = run_cprune("deploy", "--check", str(bundle))
    assert "params.bin was changed" in error_of(done)


def test_a_model_is_pruned_and_deployed_on_devices(site, tmp_path):
    run_dir, bundle = tmp_path / "run", tmp_path / "bundle"
    options = as_arguments(OPTIONS)
    devices = ["--tracker", site.address, "--device-key", KEY]
    folder = ["--experiment-data-dir", str(run_dir), "--target", host_target()]
    done = run_python(TUTORIAL / "main.py", *options, *devices, *folder, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f'"device_key": "{KEY}"' in (run_dir / "result.json").read_text()

    done = run_cprune("deploy", str(run_dir), *devices, "--repeats", "5", "--out", str(bundle))
    assert done.returncode == 0, done.stderr
    assert "images per second" in done.stdout and "unpruned" in done.stdout
    check_bundle(bundle)
