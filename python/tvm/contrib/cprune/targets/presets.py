# SPDX-License-Identifier: Apache-2.0
"""Presets: kinds of devices by name, with their target, linker and runtime device."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tvm
from tvm.contrib import cc
from tvm.contrib.cprune.targets.target import host_target, parse_target
from tvm.contrib.cprune.types import CPruneError, InfrastructureError

Linker = Literal["host", "aarch64", "ndk"]
Device = Literal["cpu", "opencl", "vulkan", "cuda"]
# The runtime device of each target kind.
DEVICES: dict[str, Device] = {"llvm": "cpu", "opencl": "opencl", "vulkan": "vulkan", "cuda": "cuda"}


@dataclass(frozen=True)
class Preset:
    """A kind of device.

    Attributes
    ----------
    name
        What the command line calls it.
    target
        TVM target string of the programs.
    linker
        The compiler that links libraries: this machine's ("host"), ``aarch64-linux-gnu-g++`` ("aarch64") or
        the Android NDK's in ``TVM_NDK_CC`` ("ndk").
    host
        TVM target string of the CPU that launches the programs, None if they run on that CPU.
    device
        The runtime device.
    """

    name: str
    target: str
    linker: Linker
    host: str | None = None
    device: Device = "cpu"

    @property
    def runs_here(self) -> bool:
        """Whether its programs run on this machine's CPU."""
        return self.linker == "host" and self.device == "cpu"

    def make_target(self) -> tvm.target.Target:
        """Return the TVM target, with its host."""
        target = parse_target(self.target)
        return tvm.target.Target(target, host=self.host) if self.host else target

    def link(self, library: Any, path: Path) -> None:
        """Export a compiled module as a shared library, or as an object archive if ``path`` ends in .tar.

        Raises
        ------
        InfrastructureError
            If the compiler is missing or fails, or a file cannot be written.
        CPruneError
            If TVM cannot generate the module's code.
        """
        try:
            if path.suffix == ".tar":
                library.export_library(str(path))
            else:
                library.export_library(str(path), fcompile=cc.cross_compiler(self.compiler()))
        except (RuntimeError, OSError) as error:
            # TVM appends the compiler's command to the compiler's message.
            lines = [line for line in str(error).split("\nCommand line:")[0].splitlines() if line.strip()]
            reason = lines[-1] if lines else type(error).__name__
            by_module = isinstance(error, tvm.error.TVMError) and "Cannot open" not in reason
            kind = CPruneError if by_module else InfrastructureError
            raise kind(f"cannot link {path.name} for {self.name}: {reason}") from error

    def compiler(self) -> str:
        """Return the path of the compiler that links libraries.

        Raises
        ------
        InfrastructureError
            If the compiler is not installed.
        """
        if self.linker == "host":
            return _find(os.environ.get("CXX", "g++"), "install it, such as `apt install g++`")
        if self.linker == "aarch64":
            return _find("aarch64-linux-gnu-g++", "install it, such as `apt install g++-aarch64-linux-gnu`")
        command = os.environ.get("TVM_NDK_CC")
        if not command:
            raise InfrastructureError(
                "TVM_NDK_CC is not set: expected the NDK's compiler, such as "
                "$ANDROID_NDK/toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android28-clang++"
            )
        return _find(command, "set TVM_NDK_CC to the NDK's clang++ (docs/android.md)")


def _find(command: str, advice: str) -> str:
    path = shutil.which(command)
    if path is None:
        raise InfrastructureError(f"{command} is not installed: {advice}")
    return path


_ANDROID = "llvm -mtriple=aarch64-linux-android -mattr=+neon"
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("arm64-linux", "llvm -mtriple=aarch64-linux-gnu -mattr=+neon -num-cores 4", "aarch64"),
        Preset("android-cpu", f"{_ANDROID} -num-cores 4", "ndk"),
        Preset("android-opencl-mali", "opencl -device=mali", "ndk", _ANDROID, "opencl"),
        Preset("android-opencl-adreno", "opencl -device=adreno", "ndk", _ANDROID, "opencl"),
        Preset("opencl", "opencl", "host", "llvm", "opencl"),
        Preset("vulkan", "vulkan", "host", "llvm", "vulkan"),
        Preset("cuda", "cuda", "host", "llvm", "cuda"),
    )
}
NAMES = ("cpu", *PRESETS)


def find_preset(text: str | None) -> Preset:
    """Return the preset of a name, or a preset for a target string. None is this machine.

    Raises
    ------
    CPruneError
        If ``text`` is neither a preset nor a target of a kind in ``DEVICES``.
    """
    if text is None or text == "cpu":
        return Preset("cpu", host_target(), "host")
    if text in PRESETS:
        return PRESETS[text]
    try:
        target = parse_target(text)
    except CPruneError as error:
        raise CPruneError(f"{error}; the presets are {', '.join(NAMES)}") from error
    triples = [str(part.attrs.get("mtriple", "")) for part in (target, target.host) if part]
    triple = next(filter(None, triples), "")
    linker: Linker = "host"
    if "android" in triple:
        linker = "ndk"
    elif triple.startswith(("aarch64", "arm64")):
        linker = "aarch64"
    kind = str(target.kind.name)
    if kind not in DEVICES:
        raise CPruneError(f"target {text!r} has kind {kind}, expected {', '.join(DEVICES)}")
    host = str(target.host) if target.host else None
    return Preset(text, text, linker, host, DEVICES[kind])
