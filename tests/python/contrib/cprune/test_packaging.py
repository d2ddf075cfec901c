# SPDX-License-Identifier: Apache-2.0
"""The TVM wheel's tool, the plug-in in TVM's own build, and what `import` says without Relay."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import tvm_wheel


def run_tool(*arguments, **environment):
    command = [sys.executable, str(ROOT / "tools" / "tvm_wheel.py"), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def one_line(done):
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    return done.stderr


def test_a_wrong_hash_is_one_line_and_leaves_nothing(tmp_path):
    source = tmp_path / "some.whl"
    source.write_bytes(b"not the wheel")
    line = one_line(run_tool("--source", str(source), "--out", str(tmp_path / "out")))
    assert "has SHA-256" in line
    assert tvm_wheel.SOURCE_SHA256 in line
    assert not (tmp_path / "out").exists()


def test_no_compiler_is_one_line(tmp_path):
    line = one_line(run_tool("--out", str(tmp_path / "out"), PATH=str(tmp_path)))
    assert "g++ was not found; on Debian: apt-get install g++" in line


def test_no_network_is_one_line(tmp_path):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    line = one_line(run_tool("--out", str(tmp_path / "out"), **nowhere))
    assert "cannot download" in line
    assert "is there a network" in line


def test_another_machine_is_one_line(monkeypatch):
    monkeypatch.setattr(tvm_wheel.platform, "machine", lambda: "aarch64")
    with pytest.raises(tvm_wheel.WheelError, match=r"linux aarch64.*build TVM v0\.13 to v0\.19 from source"):
        tvm_wheel.check_machine()


def test_a_missing_source_is_one_line(tmp_path):
    line = one_line(run_tool("--source", str(tmp_path / "none.whl"), "--out", str(tmp_path / "out")))
    assert "No such file" in line


def test_tvm_uses_the_cython_ffi_where_it_was_compiled():
    from importlib.metadata import version

    if not version("apache-tvm").endswith("+cprune"):
        pytest.skip("this TVM is not the wheel of tools/tvm_wheel.py")
    from tvm._ffi import registry

    assert registry.PackedFuncBase.__module__ == "tvm._ffi._cy3.core"


def test_tvms_own_build_takes_the_sources_in(tmp_path):
    """A stand-in project with TVM's names, extended by CMAKE_PROJECT_tvm_INCLUDE alone."""
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(tvm CXX)\nset(CMAKE_CXX_STANDARD 17)\n"
        "set(CMAKE_POSITION_INDEPENDENT_CODE ON)\n"
        'file(WRITE ${CMAKE_BINARY_DIR}/own.cc "int own() { return 0; }")\n'
        "add_library(tvm_objs OBJECT ${CMAKE_BINARY_DIR}/own.cc)\n"
        "add_library(tvm SHARED $<TARGET_OBJECTS:tvm_objs>)\n"
    )
    module = ROOT / "cmake" / "modules" / "contrib" / "CPrune.cmake"

    def symbols(switch):
        build = tmp_path / switch
        options = [f"-DCMAKE_PROJECT_tvm_INCLUDE={module}", f"-DUSE_CPRUNE={switch}"]
        for command in (["cmake", "-S", tmp_path, "-B", build, *options], ["cmake", "--build", build]):
            subprocess.run([str(each) for each in command], check=True, capture_output=True)
        listed = subprocess.run(
            ["nm", "-C", str(build / "libtvm.so")], check=True, capture_output=True, text=True
        )
        return listed.stdout

    assert "cprune::" in symbols("ON")
    assert "cprune::" not in symbols("OFF")


def test_a_tvm_without_relay_is_named(tmp_path):
    package = tmp_path / "tvm" / "contrib" / "cprune"
    package.mkdir(parents=True)
    (tmp_path / "tvm" / "__init__.py").write_text('__version__ = "0.25.0"\n')
    (tmp_path / "tvm" / "contrib" / "__init__.py").write_text("")
    source = ROOT / "python" / "tvm" / "contrib" / "cprune" / "__init__.py"
    (package / "__init__.py").write_text(source.read_text())
    done = subprocess.run(
        [sys.executable, "-c", "import tvm.contrib.cprune"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "needs a TVM with Relay and auto_scheduler" in done.stderr
    assert "this is TVM 0.25.0" in done.stderr


def test_the_plug_in_is_not_loaded_where_libtvm_has_its_functions():
    code = (
        "import ctypes, tvm, tvm.contrib.cprune\n"
        "names = 'FindSubgraphs CollectVars AxisClasses FitLengths FittingWidth TileFactors'.split()\n"
        "for name in names:\n"
        "    tvm.register_func(f'cprune.{name}', lambda *args: 7)\n"
        "def refuse(path, *rest):\n"
        "    raise SystemExit('the plug-in was loaded')\n"
        "ctypes.CDLL = refuse\n"
        "from tvm.contrib.cprune import _plugin\n"
        "assert _plugin.fitting_width(8, 7, 1, 1, []) == 7\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
