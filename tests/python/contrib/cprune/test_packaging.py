# SPDX-License-Identifier: Apache-2.0
"""The TVM wheel tool, the installed package, the build inside TVM, and importing without Relay."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from commands import ROOT, Done, error_of, run_python

from tvm.contrib import cprune

sys.path.insert(0, str(ROOT / "tools"))
import tvm_wheel
from shell import ToolError

DOCS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))


def run_tool(*arguments: str, **environment: str) -> Done:
    return run_python(ROOT / "tools" / "tvm_wheel.py", *arguments, env=environment)


def test_wheel_tool_rejects_a_wrong_hash_and_writes_nothing(tmp_path):
    source = tmp_path / "some.whl"
    source.write_bytes(b"not the wheel")
    line = error_of(run_tool("--source", str(source), "--out", str(tmp_path / "out")))
    assert "has SHA-256" in line
    assert tvm_wheel.SOURCE_SHA256 in line
    assert not (tmp_path / "out").exists()


def test_wheel_tool_reports_a_missing_compiler(tmp_path):
    line = error_of(run_tool("--out", str(tmp_path / "out"), PATH=str(tmp_path)))
    assert "g++ is not installed; on Debian: apt-get install g++" in line


def test_wheel_tool_reports_a_missing_network(tmp_path):
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0"}
    offline |= {"PIP_CONFIG_FILE": os.devnull, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    line = error_of(run_tool("--out", str(tmp_path / "out"), **offline))
    assert "cannot download" in line
    assert "check the network connection" in line


def test_wheel_tool_rejects_other_machines(monkeypatch):
    monkeypatch.setattr(tvm_wheel.platform, "machine", lambda: "aarch64")
    with pytest.raises(ToolError, match=r"linux aarch64.*build TVM v0\.13 to v0\.19 from source"):
        tvm_wheel.check_machine()


def test_wheel_tool_reports_a_missing_source_wheel(tmp_path):
    line = error_of(run_tool("--source", str(tmp_path / "none.whl"), "--out", str(tmp_path / "out")))
    assert "No such file" in line


def test_tvm_uses_the_compiled_cython_ffi():
    if not metadata.version("apache-tvm").endswith("+cprune"):
        pytest.skip("this TVM is not the wheel of tools/tvm_wheel.py")
    from tvm._ffi import registry

    assert registry.PackedFuncBase.__module__ == "tvm._ffi._cy3.core"


def test_version_is_the_same_everywhere():
    assert metadata.version("tvm-cprune") == cprune.__version__
    assert f"\nversion: {cprune.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    assert headings[0] == "## [Unreleased]"
    assert headings[1].startswith(f"## [{cprune.__version__}]")


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS])
def test_links_in_documents_resolve(document):
    path = ROOT / document
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert not [link for link in links if not (path.parent / link).exists()]


def test_installed_package_contains_the_styles_and_the_script_of_reports():
    paths = {str(path) for path in metadata.files("tvm-cprune") or ()}
    assert {f"tvm/contrib/cprune/report/page.{kind}" for kind in ("css", "js")} <= paths


def test_installed_package_is_typed_and_contains_no_stubs_of_tvm():
    names = [Path(path).name for path in metadata.files("tvm-cprune") or ()]
    assert "py.typed" in names
    assert not [name for name in names if name.endswith(".pyi")]


def test_tvm_builds_with_our_sources_when_asked(tmp_path):
    """A stand-in project with TVM's target names, extended only by CMAKE_PROJECT_tvm_INCLUDE."""
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(tvm CXX)\nset(CMAKE_CXX_STANDARD 17)\n"
        "set(CMAKE_POSITION_INDEPENDENT_CODE ON)\n"
        'file(WRITE ${CMAKE_BINARY_DIR}/own.cc "int own() { return 0; }")\n'
        "add_library(tvm_objs OBJECT ${CMAKE_BINARY_DIR}/own.cc)\n"
        "add_library(tvm SHARED $<TARGET_OBJECTS:tvm_objs>)\n"
    )
    module = ROOT / "cmake" / "modules" / "contrib" / "CPrune.cmake"

    def symbols(use_cprune: str) -> str:
        build = str(tmp_path / use_cprune)
        options = [f"-DCMAKE_PROJECT_tvm_INCLUDE={module}", f"-DUSE_CPRUNE={use_cprune}"]
        configure = ["cmake", "-S", str(tmp_path), "-B", build, *options]
        for command in (configure, ["cmake", "--build", build]):
            subprocess.run(command, check=True, capture_output=True)
        list_symbols = ["nm", "-C", f"{build}/libtvm.so"]
        return subprocess.run(list_symbols, check=True, capture_output=True, text=True).stdout

    assert "cprune::" in symbols("ON")
    assert "cprune::" not in symbols("OFF")


def test_import_without_relay_explains_which_tvm_is_needed(tmp_path):
    package = tmp_path / "tvm" / "contrib" / "cprune"
    package.mkdir(parents=True)
    (tmp_path / "tvm" / "__init__.py").write_text('__version__ = "0.25.0"\n')
    (tmp_path / "tvm" / "contrib" / "__init__.py").write_text("")
    source = ROOT / "python" / "tvm" / "contrib" / "cprune" / "__init__.py"
    (package / "__init__.py").write_text(source.read_text())
    done = run_python("-c", "import tvm.contrib.cprune", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "needs a TVM with Relay and auto_scheduler" in done.stderr
    assert "this is TVM 0.25.0" in done.stderr


def test_plugin_is_not_loaded_when_libtvm_provides_the_functions():
    code = (
        "import ctypes, tvm, tvm.contrib.cprune\n"
        "names = 'FindSubgraphs CollectVars AxisClasses FitLengths FittingWidth TileFactors'.split()\n"
        "for name in names:\n"
        "    tvm.register_func(f'cprune.{name}', lambda *args: 7, override=True)\n"
        "def refuse(path, *rest):\n"
        "    raise SystemExit('the plug-in was loaded')\n"
        "ctypes.CDLL = refuse\n"
        "from tvm.contrib.cprune import _plugin\n"
        "assert _plugin.fitting_width(8, 7, 1, 1, []) == 7\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
