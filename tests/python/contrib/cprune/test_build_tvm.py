# SPDX-License-Identifier: Apache-2.0
"""tools/build_tvm.py: its checks, its commands, and the virtual environment that results."""

import subprocess
import sys
import zipfile

import pytest
from commands import ROOT, error_of, run_python
from tvm_checkouts import SUBMODULE_FILES, make_checkout, make_llvm, make_program, write

from tvm.contrib.cprune import _plugin

sys.path.insert(0, str(ROOT / "tools"))
import build_tvm
import source_wheel
from shell import ToolError
from tvm_source import Build, check_sources, cmake_command, find_llvm, tvm_version

TOOLS = ("cmake", "ninja", "ccache", "make", "g++")
SOURCE_BUILD = pytest.mark.skipif(
    _plugin.ORIGIN != "in libtvm",
    reason="needs a TVM of tools/build_tvm.py; then: make test VENV=.venv-source TEST_ARGS='-k build_tvm'",
)


def definitions(build):
    return dict(item[2:].split("=", 1) for item in cmake_command(build) if item.startswith("-D"))


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Return an empty folder that is the only one in which programs are looked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_a_folder_that_is_no_checkout_is_one_line_with_the_command_that_makes_one(tmp_path):
    line = error_of(run_python(ROOT / "tools/build_tvm.py", tmp_path))
    assert line.startswith(f"build_tvm: {tmp_path} is not a checkout of TVM v0.17.0 to v0.19.0")
    assert "git clone --branch v0.17.0 --recursive" in line


def test_the_version_is_read_from_the_checkout(tmp_path):
    assert tvm_version(make_checkout(tmp_path, "0.19.0")) == "0.19.0"


@pytest.mark.parametrize("version", ["0.16.0", "0.20.0", "0.1.7"])
def test_another_version_is_rejected_with_the_tag_to_check_out(tmp_path, version):
    with pytest.raises(
        ToolError, match=rf"is TVM {version}, but .* v0\.17\.0 to v0\.19\.0: .*checkout v0\.17\.0"
    ):
        tvm_version(make_checkout(tmp_path, version))


def test_missing_submodules_are_named_in_the_command_that_adds_them(tmp_path):
    checkout = make_checkout(tmp_path)
    check_sources(checkout, opencl=False)
    for name in SUBMODULE_FILES[:2]:
        (checkout / name).unlink()
    with pytest.raises(ToolError, match=r"submodule update --init 3rdparty/dmlc-core 3rdparty/dlpack$"):
        check_sources(checkout, opencl=False)


def test_opencl_needs_its_headers(tmp_path):
    with pytest.raises(ToolError, match=r"--init 3rdparty/OpenCL-Headers$"):
        check_sources(make_checkout(tmp_path), opencl=True)


def test_a_config_file_in_the_checkout_is_rejected_because_it_replaces_options(tmp_path):
    config = write(make_checkout(tmp_path) / "config.cmake")
    with pytest.raises(ToolError, match=f"{config} would replace options"):
        check_sources(tmp_path, opencl=False)


def test_the_newest_llvm_that_the_version_supports_and_that_has_headers_is_used(programs):
    make_llvm(programs, "llvm-config-19", "19.1.7")
    make_llvm(programs, "llvm-config-18", "18.1.8", headers=False)
    expected = make_llvm(programs, "llvm-config-16", "16.0.6")
    make_llvm(programs, "llvm-config-15", "15.0.7")
    assert find_llvm("0.17.0", None) == str(expected)
    assert find_llvm("0.19.0", None) == str(programs / "llvm-config-19")


def test_the_requested_llvm_is_used(programs):
    make_llvm(programs, "llvm-config-16", "16.0.6")
    requested = make_llvm(programs, "llvm-config-15", "15.0.7")
    assert find_llvm("0.17.0", str(requested)) == str(requested)


@pytest.mark.parametrize(
    ("requested", "problem"),
    [
        ("llvm-config-99", "llvm-config-99 is not installed"),
        ("llvm-config-19", "llvm-config-19 is LLVM 19.1.7"),
        ("llvm-config-18", r"llvm-config-18 has no headers in .* \(package llvm-18-dev\)"),
        (None, "no suitable llvm-config was found"),
    ],
)
def test_an_unusable_llvm_is_one_line_with_what_is_needed(programs, requested, problem):
    make_llvm(programs, "llvm-config-19", "19.1.7")
    make_llvm(programs, "llvm-config-18", "18.1.8", headers=False)
    needs = r": TVM 0\.17\.0 needs LLVM 10 to 18 with headers; on Debian 12: apt-get install llvm-16-dev$"
    with pytest.raises(ToolError, match=problem + needs):
        find_llvm("0.17.0", requested)


def test_missing_programs_are_named_with_their_packages(programs):
    for name in TOOLS[2:]:
        make_program(programs, name)
    with pytest.raises(
        ToolError, match=r"^not installed: cmake, ninja; .* apt-get install cmake ninja-build$"
    ):
        build_tvm.check_tools(None)
    for name in TOOLS[:2]:
        make_program(programs, name)
    with pytest.raises(ToolError, match=r"apt-get install g\+\+-aarch64-linux-gnu$"):
        build_tvm.check_tools("aarch64-linux-gnu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cross", "aarch64-linux-gnu"), "--cross aarch64-linux-gnu needs --runtime-only"),
        (("--runtime-only", "--llvm", "llvm-config-16"), "--runtime-only builds no compiler"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(tmp_path, capsys, arguments, message):
    assert build_tvm.main([str(make_checkout(tmp_path)), *arguments]) == 1
    assert capsys.readouterr().err.startswith(f"build_tvm: {message}")


def test_the_command_line_becomes_a_build(tmp_path, programs):
    for name in (*TOOLS, "aarch64-linux-gnu-g++"):
        make_program(programs, name)
    llvm, checkout = make_llvm(programs, "llvm-config-16", "16.0.6"), make_checkout(tmp_path)

    def plan(*arguments):
        return build_tvm.plan_build(build_tvm.parse([str(checkout), *arguments]))

    assert plan("--vulkan") == Build(checkout, str(llvm), vulkan=True)
    cross = plan("--runtime-only", "--cross", "aarch64-linux-gnu")
    assert cross == Build(checkout, runtime_only=True, cross="aarch64-linux-gnu")


@pytest.mark.parametrize("library", ["", "libLLVMCore.a", "libPolly.a"])
def test_llvm_is_linked_statically_if_all_of_its_libraries_exist(tmp_path, programs, capsys, library):
    write(tmp_path / "libLLVMCore.a")
    names = f"{tmp_path}/libLLVMCore.a {tmp_path}/{library}" if library else ""
    llvm = str(make_program(programs, "llvm-config-16", f"[ $1 = --link-static ] && echo {names}"))
    assert build_tvm.has_static_libraries(llvm) == (library == "libLLVMCore.a")
    missing = {"": "static libraries", "libPolly.a": "libPolly.a"}.get(library)
    printed = capsys.readouterr().out
    assert printed.startswith(f"{llvm} has no {missing}, so") if missing else not printed
    build = Build(tmp_path, llvm, static_llvm=True)
    assert definitions(build)["USE_LLVM"] == f"{llvm} --ignore-libllvm --link-static"
    assert definitions(build)["CMAKE_SHARED_LINKER_FLAGS"] == "-Wl,--exclude-libs,ALL"


def test_the_command_line_finds_the_static_libraries(tmp_path, programs):
    for name in TOOLS:
        make_program(programs, name)
    make_llvm(programs, "llvm-config-16", "16.0.6")
    script = (
        programs / "llvm-config-16"
    ).read_text() + f"if [ $1 = --link-static ]; then echo {tmp_path}; fi\n"
    (programs / "llvm-config-16").write_text(script)
    assert build_tvm.plan_build(build_tvm.parse([str(make_checkout(tmp_path))])).static_llvm


def test_jobs_are_bounded_by_cores_and_by_memory():
    assert build_tvm.count_jobs(64 << 30, 4) == 4
    assert build_tvm.count_jobs(int(3.5 * build_tvm.MEMORY_PER_JOB), 16) == 3
    with pytest.raises(ToolError, match=r"^0\.5 GiB of memory are available"):
        build_tvm.count_jobs(1 << 29, 4)


def test_available_memory_respects_the_limit_of_a_container(tmp_path):
    write(tmp_path / "proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    assert build_tvm.available_memory(tmp_path) == 4 << 30
    limit = write(tmp_path / "sys/fs/cgroup/memory.max", "max\n")
    assert build_tvm.available_memory(tmp_path) == 4 << 30
    limit.write_text(f"{3 << 30}\n")
    write(tmp_path / "sys/fs/cgroup/memory.stat", f"anon {1 << 30}\nfile {2 << 30}\n")
    assert build_tvm.available_memory(tmp_path) == 2 << 30


def test_libtvm_is_configured_with_our_module_and_the_selected_options(tmp_path):
    build = Build(tmp_path, llvm="/usr/bin/llvm-config-16", opencl=True)
    options = definitions(build)
    module = ROOT / "cmake/modules/contrib/CPrune.cmake"
    assert options.items() >= {"USE_CPRUNE": "ON", "CMAKE_PROJECT_tvm_INCLUDE": str(module)}.items()
    assert options.items() >= {"USE_LLVM": "/usr/bin/llvm-config-16", "USE_OPENCL": "ON"}.items()
    assert options.items() >= {"USE_VULKAN": "OFF", "USE_LIBBACKTRACE": "OFF", "USE_CCACHE": "ON"}.items()
    assert f"{tmp_path}/build-cprune" in cmake_command(build)


def test_libbacktrace_is_used_if_its_sources_are_there(tmp_path):
    write(tmp_path / "3rdparty/libbacktrace/configure")
    assert definitions(Build(tmp_path, "llvm-config"))["USE_LIBBACKTRACE"] == "AUTO"


def test_a_runtime_for_another_machine_has_its_compilers_and_nothing_of_cprune(tmp_path):
    build = Build(tmp_path, runtime_only=True, cross="aarch64-linux-gnu")
    options = definitions(build)
    assert options.items() >= {"USE_LLVM": "OFF", "USE_CPP_RPC": "ON"}.items()
    assert options["CMAKE_CXX_COMPILER"] == "aarch64-linux-gnu-g++"
    assert options["CMAKE_SYSTEM_PROCESSOR"] == "aarch64"
    assert "USE_CPRUNE" not in options
    assert [path.name for path in build.products] == ["libtvm_runtime.so", "tvm_rpc"]
    assert build.folder == tmp_path / "build-cprune-aarch64-linux-gnu"


def test_the_first_error_of_cmake_is_quoted_on_one_line():
    output = (
        "CMake Warning at a.cmake:1:\n  Ignored.\n\n"
        "CMake Error at cmake/modules/Vulkan.cmake:22 (message):\n  Cannot find Vulkan,\n  USE_VULKAN=ON\n"
        "Call Stack (most recent call first):\n  CMakeLists.txt:557 (include)\n"
    )
    expected = "CMake Error at cmake/modules/Vulkan.cmake:22 (message): Cannot find Vulkan, USE_VULKAN=ON"
    assert build_tvm.cmake_error(output) == expected


def test_the_wheel_has_tvm_without_cprune_and_replaces_older_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(source_wheel, "compile_cython_ffi", lambda *_: "")
    checkout, out = make_checkout(tmp_path / "tvm"), tmp_path / "wheels"
    for name in ("__init__.py", "relay/std/core.rly", "contrib/cprune/loop.py", "_ffi/_cy3/core.so"):
        write(checkout / "python/tvm" / name)
    for name in ("LICENSE", "licenses/LICENSE.x.txt"):
        write(checkout / name)
    write(tmp_path / "build/libtvm.so")
    older = write(out / "apache_tvm-0.16.0+cprune-cp311-cp311-linux_x86_64.whl")
    wheel = source_wheel.make_wheel(checkout, tmp_path / "build", out)
    assert not older.exists()
    assert wheel.name.startswith("apache_tvm-0.17.0+cprune-cp3")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name for name in names if name.startswith("tvm/")} == {
        "tvm/__init__.py",
        "tvm/_ffi/libinfo.py",
        "tvm/libtvm.so",
        "tvm/relay/std/core.rly",
    }
    assert "apache_tvm-0.17.0+cprune.dist-info/licenses/LICENSE" in names


def test_make_installs_the_built_wheel_and_no_plug_in_into_its_virtual_environment(tmp_path):
    def commands():
        make = ["make", "-n", "-C", str(ROOT), "install", f"VENV={tmp_path}"]
        return subprocess.run(make, check=True, capture_output=True, text=True).stdout

    assert "tools/tvm_wheel.py" in commands()
    assert "USE_CPRUNE=OFF" not in commands()
    write(tmp_path / "wheels/apache_tvm-0.17.0+cprune-cp311-cp311-linux_x86_64.whl")
    assert "tools/tvm_wheel.py" not in commands()
    assert f"{tmp_path}/wheels/apache_tvm-" in commands()
    assert "USE_CPRUNE=OFF" in commands()


@SOURCE_BUILD
def test_a_process_that_uses_cprune_has_not_loaded_the_plug_in():
    code = (
        "from tvm.contrib.cprune import _plugin\n"
        "assert _plugin.fit_lengths(12, [4], 1, 1) == [(4,)]\n"
        "libraries = open('/proc/self/maps').read()\n"
        "assert '/libtvm.so' in libraries\n"
        "assert 'libtvm_cprune' not in libraries\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
