# SPDX-License-Identifier: Apache-2.0
"""What to compile for, by name: target, host, the compiler that links, and how libraries are packed."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tvm
from tvm.contrib import cc
from tvm.contrib.cprune.targets.target import host_target, parse_target
from tvm.contrib.cprune.types import CPruneError

Linker = Literal["host", "aarch64", "ndk"]
Device = Literal["cpu", "opencl", "vulkan"]
# The device that runs the programs of a target's kind.
DEVICES: dict[str, Device] = {"llvm": "cpu", "opencl": "opencl", "vulkan": "vulkan"}


@dataclass(frozen=True)
class Preset:
    """A kind of device.

    Attributes
    ----------
    target, host
        As TVM names them; ``host`` is None where the target is the host's.
    linker
        Which compiler links a library: this machine's, Debian's ``aarch64-linux-gnu-g++``, or the Android
        NDK's that ``TVM_NDK_CC`` names.
    device
        Which device runs programs.
    """

    name: str
    target: str
    linker: Linker
    host: str | None = None
    device: Device = "cpu"

    @property
    def runs_here(self) -> bool:
        """Whether programs for it run on this machine's CPU."""
        return self.linker == "host" and self.device == "cpu"

    def make_target(self) -> tvm.target.Target:
        """Return TVM's target, with its host."""
        plain = parse_target(self.target)
        return tvm.target.Target(plain, host=self.host) if self.host else plain

    def link(self, library: Any, path: Path) -> None:
        """Write a compiled module as a shared library for the device, or as a tar of objects if ``path`` ends
        so.

        Raises
        ------
        CPruneError
            If the compiler is missing or fails.
        """
        try:
            if path.suffix == ".tar":
                library.export_library(str(path))
            else:
                library.export_library(str(path), fcompile=cc.cross_compiler(self.compiler()))
        except RuntimeError as error:
            reason = [line for line in str(error).splitlines() if line.strip()][-1]
            raise CPruneError(f"cannot link {path.name} for {self.name}: {reason}") from error

    def compiler(self) -> str:
        """Return the path of the compiler that links.

        Raises
        ------
        CPruneError
            If it is not there; the message says how to get it.
        """
        if self.linker == "host":
            return _find(os.environ.get("CXX", "g++"), "install it, such as `apt install g++`")
        if self.linker == "aarch64":
            return _find("aarch64-linux-gnu-g++", "`apt install g++-aarch64-linux-gnu`")
        given = os.environ.get("TVM_NDK_CC")
        if not given:
            raise CPruneError(
                "TVM_NDK_CC is not set: expected the NDK's compiler, such as "
                "$ANDROID_NDK/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android28-clang++"
            )
        return _find(given, "set TVM_NDK_CC to the NDK's clang++ (docs/android.md)")


def _find(command: str, advice: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise CPruneError(f"{command} is not installed: {advice}")
    return found


_ANDROID = "llvm -mtriple=aarch64-linux-android -mattr=+neon"
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("arm64-linux", "llvm -mtriple=aarch64-linux-gnu -mattr=+neon -num-cores 4", "aarch64"),
        Preset("android-cpu", f"{_ANDROID} -num-cores 4", "ndk"),
        Preset("android-opencl-mali", "opencl -device=mali", "ndk", _ANDROID, "opencl"),
        Preset("android-opencl-adreno", "opencl -device=adreno", "ndk", _ANDROID, "opencl"),
    )
}
NAMES = ("cpu", *PRESETS)


def find_preset(text: str | None) -> Preset:
    """Return the preset of a name, or one for a target string; None is this machine.

    Raises
    ------
    CPruneError
        If it is neither a preset's name nor a target of a kind in ``DEVICES``.
    """
    if text is None or text == "cpu":
        return Preset("cpu", host_target(), "host")
    if text in PRESETS:
        return PRESETS[text]
    try:
        target = parse_target(text)
    except CPruneError as error:
        raise CPruneError(f"{error}; nor is it one of {', '.join(NAMES)}") from error
    triples = [str(each.attrs.get("mtriple", "")) for each in (target, target.host) if each]
    triple = next(filter(None, triples), "")
    linker: Linker = "host"
    if "android" in triple:
        linker = "ndk"
    elif triple.startswith(("aarch64", "arm64")):
        linker = "aarch64"
    kind = str(target.kind.name)
    if kind not in DEVICES:
        raise CPruneError(f"target {text!r} is of kind {kind}, expected {', '.join(DEVICES)}")
    host = str(target.host) if target.host else None
    return Preset(text, text, linker, host, DEVICES[kind])
