# SPDX-License-Identifier: Apache-2.0
"""The files of ``apps/android_rpc``, with stand-ins for Android's tools, against a checkout of TVM."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from commands import ROOT, Done

from tvm.contrib.cprune.measuring.rpc_pool import FLUSH_CACHE

APP = ROOT / "apps" / "android_rpc"
INSIDE = Path("apps", "android_rpc")
JNI = INSIDE / "app" / "src" / "main" / "jni"
APK = INSIDE / "app" / "build" / "outputs" / "apk" / "release"
JAR = Path("jvm", "core", "target", "tvm4j-core-0.0.1-SNAPSHOT.jar")
TOOLS = ("javac", "keytool", "gradle", "ndk-build", "adb")
TVM = os.getenv("TVM_SOURCE")

with_tvm = pytest.mark.skipif(
    TVM is None,
    reason="git clone --recursive -b v0.17.0 https://github.com/apache/tvm, and set TVM_SOURCE to its folder",
)
# What processes that measure call on a device, besides the methods of TVM's RPC sessions.
CALLED = (
    "runtime.config_threadpool",
    "runtime.RPCTimeEvaluator",
    "tvm.contrib.random.random_fill",
    "runtime.module.loadbinary_GraphExecutorFactory",
    "tvm.rpc.server.upload",
    "tvm.rpc.server.remove",
    FLUSH_CACHE,
)


def write_tool(path: Path, action: str = "") -> None:
    """Write a program that appends its name, folder and arguments to the file in ``LOG``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "{path.name} $PWD $*" >> "$LOG"\n{action}\n')
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder that has what ``install.sh`` looks for in a checkout of TVM."""
    folder = tmp_path / "tvm"
    (folder / JNI).mkdir(parents=True)
    for module in ("dlpack", "dmlc-core", "OpenCL-Headers"):
        (folder / "3rdparty" / module / "include").mkdir(parents=True)
    (folder / JAR).parent.mkdir(parents=True)
    (folder / JAR).write_bytes(b"")
    write_tool(folder / INSIDE / "dev_tools" / "gen_keystore.sh", "touch dev_tools/tvmrpc.keystore")
    return folder


@pytest.fixture
def tvm_checkout(checkout: Path) -> Path:
    """Return a copy of the Android app of the checkout in ``TVM_SOURCE``, with what else belongs to it."""
    source = Path(str(TVM))
    shutil.rmtree(checkout / INSIDE)
    shutil.copytree(source / INSIDE, checkout / INSIDE)
    shutil.rmtree(checkout / "3rdparty")
    for name in ("include", "src", "3rdparty", "jvm/native", "jvm/core/src"):
        (checkout / name).symlink_to((source / name).resolve())
    return checkout


def install(kind: str, checkout: Path, tmp_path: Path, without: str = "") -> Done:
    """Run ``install.sh`` with stand-ins for all tools but one."""
    sdk, tools = tmp_path / "sdk", tmp_path / "bin"
    write_tool(
        sdk / "build-tools" / "30.0.3" / "apksigner", 'for last; do :; done; cp "$last" "$last.signed"'
    )
    for name in TOOLS:
        action = f"mkdir -p {checkout / APK} && touch {checkout / APK}/app-release-unsigned.apk"
        write_tool(tools / name, action if name == "gradle" else "")
    if without in TOOLS:
        (tools / without).unlink()
    for name in ("bash", "sh", "sed", "cut", "ls", "dirname", "find", "sort", "tail", "cp", "mkdir", "touch"):
        (tools / name).symlink_to(str(shutil.which(name)))
    environment = {"PATH": str(tools), "LOG": str(tmp_path / "log"), "ANDROID_HOME": str(sdk)}
    environment.pop(without, None)
    command = [str(APP / "install.sh"), kind, str(checkout)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_app_is_configured_built_signed_and_installed(kind, checkout, tmp_path):
    done = install(kind, checkout, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (checkout / JNI / "config.mk").read_text() == (APP / f"{kind}_config.mk").read_text()
    app, apk = checkout / INSIDE, checkout / APK
    keystore = app / "dev_tools" / "tvmrpc.keystore"
    assert (tmp_path / "log").read_text().splitlines() == [
        f"gradle {app} clean build",
        f"gen_keystore.sh {app} ",
        f"apksigner {Path.cwd()} sign --ks {keystore} --ks-key-alias tvmrpc --out {apk}/tvmrpc-release.apk"
        f" {apk}/app-release-unsigned.apk",
        f"adb {Path.cwd()} install -r {apk}/tvmrpc-release.apk",
    ]


@pytest.mark.parametrize("name", [*TOOLS, "ANDROID_HOME"])
def test_a_missing_tool_is_reported_before_the_checkout_is_changed(name, checkout, tmp_path):
    done = install("cpu", checkout, tmp_path, without=name)
    assert done.returncode == 1
    assert re.fullmatch(rf"install.sh: {name} is not (set|installed).*\n", done.stderr)
    assert not (checkout / JNI / "config.mk").exists()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("apps", "does not contain apps/android_rpc: expected a checkout of TVM v0.13 to v0.19"),
        ("3rdparty/OpenCL-Headers/include", "OpenCL-Headers is empty: run `git submodule update --init`"),
        ("jvm", "TVM4J is not built: run `mvn -pl core package"),
    ],
)
def test_what_a_checkout_lacks_is_reported(path, message, checkout, tmp_path):
    shutil.rmtree(checkout / path)
    done = install("gpu", checkout, tmp_path)
    assert done.returncode == 1
    assert message in done.stderr


@with_tvm
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_the_configuration_sets_what_tvm_reads(kind, tvm_checkout):
    def names(path: Path) -> set[str]:
        return set(re.findall(r"^(\w+) *=", path.read_text(), re.MULTILINE))

    assert names(APP / f"{kind}_config.mk") == names(tvm_checkout / JNI / "make" / "config.mk")


def evaluate(checkout: Path, kind: str, tmp_path: Path) -> dict[str, str]:
    """Evaluate TVM's makefiles for ndk-build with a configuration, and return the variables that it reads."""
    shutil.copyfile(APP / f"{kind}_config.mk", checkout / JNI / "config.mk")
    names = (
        *("APP_ABI", "APP_PLATFORM", "APP_CPPFLAGS", "APP_LDFLAGS"),
        *("LOCAL_SRC_FILES", "LOCAL_C_INCLUDES", "LOCAL_LDLIBS"),
    )
    wrapper = tmp_path / "wrapper.mk"
    lines = ["my-dir = $(CURDIR)", "CLEAR_VARS = /dev/null", "BUILD_SHARED_LIBRARY = /dev/null"]
    lines += ["include Application.mk", "include Android.mk", "all: ;"]
    lines += [f"$(info {name}=$({name}))" for name in names]
    wrapper.write_text("\n".join(lines) + "\n")
    command = ["make", "-s", "--no-print-directory", "-C", str(checkout / JNI), "-f", str(wrapper)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.split("=", 1) for line in done.stdout.splitlines())


@with_tvm
@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_ndk_build_finds_what_the_configuration_selects(kind, tvm_checkout, tmp_path):
    variables = evaluate(tvm_checkout, kind, tmp_path)
    assert variables["APP_ABI"] == "arm64-v8a"
    assert ("-DTVM_OPENCL_RUNTIME=1" in variables["APP_CPPFLAGS"]) == (kind == "gpu")
    assert "-DUSE_RANDOM=1" in variables["APP_CPPFLAGS"]
    assert variables["APP_LDFLAGS"] == "" and "OpenCL" not in variables["LOCAL_LDLIBS"]
    folders = [Path(folder) for folder in variables["LOCAL_C_INCLUDES"].split()]
    if kind == "cpu":
        folders = [folder for folder in folders if folder.name != "OpenCL-Headers"]
    headers = ["tvm/runtime/c_runtime_api.h", "dlpack/dlpack.h", "dmlc/logging.h", "CL/cl.h"]
    for header in headers[: len(folders)]:
        assert any((folder / header).is_file() for folder in folders), f"{header} is in none of {folders}"
    native = tvm_checkout / "jvm" / "native" / "src" / "main" / "native"
    assert (native / variables["LOCAL_SRC_FILES"]).is_file()


@with_tvm
def test_gradle_and_install_use_the_same_files(tvm_checkout, tmp_path):
    gradle = (tvm_checkout / INSIDE / "app" / "build.gradle").read_text()
    assert f"files('../../../{JAR}')" in gradle
    assert 'commandLine "ndk-build"' in gradle and '"javac", "-h"' in gradle
    for kind in ("cpu", "gpu"):
        platform = evaluate(tvm_checkout, kind, tmp_path)["APP_PLATFORM"]
        assert f"minSdkVersion {platform.removeprefix('android-')}\n" in gradle
    tools = tvm_checkout / INSIDE / "dev_tools"
    assert "/../app/build/outputs/apk/release\n" in (tools / "sign_apk.sh").read_text()
    assert "/app-release-unsigned.apk\n" in (tools / "sign_apk.sh").read_text()
    assert "-keystore $CURR_DIR/tvmrpc.keystore -alias tvmrpc " in (tools / "gen_keystore.sh").read_text()


@with_tvm
def test_the_app_contains_what_is_called_on_devices(tvm_checkout):
    text = (tvm_checkout / JNI / "tvm_runtime.h").read_text()
    files = [tvm_checkout / "include" / name for name in re.findall(r'#include "(\.\./src/.*)"', text)]
    # The paths are relative to a folder of the compiler's search path.
    sources = "".join(Path(os.path.normpath(path)).read_text() for path in files)
    missing = [name for name in CALLED if f'"{name}"' not in sources]
    assert missing == []


@with_tvm
def test_the_guide_names_the_ports_and_labels_of_the_app(tvm_checkout):
    guide = (ROOT / "docs" / "android.md").read_text()
    java = tvm_checkout / "jvm" / "core" / "src" / "main" / "java" / "org" / "apache" / "tvm" / "rpc"
    processor = (java / "ConnectTrackerServerProcessor.java").read_text()
    (port,) = re.findall(r"int serverPort = (\d+);", processor)
    assert f"adb forward tcp:{port} tcp:{port}" in guide
    strings = tvm_checkout / INSIDE / "app" / "src" / "main" / "res" / "values" / "strings.xml"
    (label,) = re.findall(r'name="label_persistent">(.*)<', strings.read_text())
    assert f'"{label}"' in guide
