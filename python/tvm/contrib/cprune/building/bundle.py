# SPDX-License-Identifier: Apache-2.0
"""Deployment bundles: library, graph, parameters, labels, records, example programs and a manifest."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
from tvm import relay
from tvm.contrib.cprune.files import replaced, write_text
from tvm.contrib.cprune.table import TaskTable
from tvm.contrib.cprune.targets.presets import Preset
from tvm.contrib.cprune.types import INPUT, CPruneError

MANIFEST, FORMAT = "manifest.json", 1
# DLPack's names of the runtime devices.
DL_DEVICES = {"cpu": "kDLCPU", "opencl": "kDLOpenCL", "vulkan": "kDLVulkan", "cuda": "kDLCUDA"}

_PYTHON = '''"""Run the bundle's model on one input: python example.py"""

from pathlib import Path

import numpy as np
import tvm
from tvm.contrib import graph_executor

folder = Path(__file__).parent
device = tvm.{device}(0)
library = tvm.runtime.load_module(str(folder / "{library}"))
model = graph_executor.create((folder / "graph.json").read_text(), library, device)
model.load_params((folder / "params.bin").read_bytes())
data = np.zeros({shape}, "float32")
model.set_input("{input}", data)
model.run()
scores = model.get_output(0).numpy()
labels = (folder / "labels.txt").read_text().split("\\n")
print("class", labels[int(scores[0].argmax())], "score", float(scores[0].max()))
'''

_CPP = """// Run the bundle's model on one input. Link with libtvm_runtime:
//   g++ -std=c++17 example.cc -I$TVM/include -I$TVM/3rdparty/dlpack/include \\
//       -I$TVM/3rdparty/dmlc-core/include -L$TVM/build -ltvm_runtime -o example && ./example
#include <tvm/runtime/module.h>
#include <tvm/runtime/registry.h>

#include <cstdio>
#include <fstream>
#include <sstream>

static std::string Read(const char* path) {{
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}}

int main() {{
  DLDevice device{{{dl_device}, 0}};
  auto library = tvm::runtime::Module::LoadFromFile("{library}");
  auto create = *tvm::runtime::Registry::Get("tvm.graph_executor.create");
  tvm::runtime::Module model = create(Read("graph.json"), library, (int)device.device_type, device.device_id);
  TVMByteArray params;
  const std::string bytes = Read("params.bin");
  params.data = bytes.data();
  params.size = bytes.size();
  model.GetFunction("load_params")(params);
  auto data = tvm::runtime::NDArray::Empty({{{sizes}}}, {{kDLFloat, 32, 1}}, device);
  model.GetFunction("set_input")("{input}", data);
  model.GetFunction("run")();
  tvm::runtime::NDArray scores = model.GetFunction("get_output")(0);
  std::printf("%d outputs\\n", (int)scores.Shape().back());
}}
"""


def write_bundle(
    folder: Path,
    library: Any,
    table: TaskTable,
    preset: Preset,
    shape: tuple[int, ...],
    classes: Sequence[str],
    facts: dict[str, Any],
) -> None:
    """Write a bundle into a folder. The manifest is written last, so a bundle with a manifest is complete.

    Parameters
    ----------
    folder
        The bundle's folder; an existing bundle is replaced.
    library
        The result of ``building.build.build``.
    table
        The tuned programs that the library contains.
    preset
        The device that the bundle is for.
    shape
        Shape of the model's input.
    classes
        Names of the classes; if empty, the classes are numbered.
    facts
        Further entries of the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    with replaced(folder / "net.so") as partial:
        preset.link(library.get_lib(), partial)
    write_text(folder / "graph.json", library.get_graph_json())
    with replaced(folder / "params.bin") as partial:
        partial.write_bytes(relay.save_param_dict(library.get_params()))
    names = classes or [str(i) for i in range(_class_count(library))]
    write_text(folder / "labels.txt", "\n".join(names))
    write_text(folder / "records.json", "".join(f"{row.program.record}\n" for row in table.rows))
    _write_examples(folder, preset, shape)
    files = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST)
    manifest = {
        "format": FORMAT,
        "tvm": tvm.__version__,
        "target": table.target,
        "preset": preset.name,
        "threads": table.threads,
        "input": {"name": INPUT, "shape": shape, "dtype": "float32"},
        **facts,
        "sha256": {name: _hash(folder / name) for name in files},
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1))


def _write_examples(folder: Path, preset: Preset, shape: tuple[int, ...]) -> None:
    """Write a Python and a C++ program that run the bundle's model."""
    values = {
        "device": preset.device,
        "library": "net.so",
        "shape": tuple(shape),
        "sizes": ", ".join(str(size) for size in shape),
        "input": INPUT,
        "dl_device": DL_DEVICES[preset.device],
    }
    write_text(folder / "example.py", _PYTHON.format(**values))
    write_text(folder / "example.cc", _CPP.format(**values))


def _class_count(library: Any) -> int:
    """Return the size of the last dimension of the model's first output."""
    graph = json.loads(library.get_graph_json())
    head = graph["heads"][0][0]
    return int(graph["attrs"]["shape"][1][graph["node_row_ptr"][head]][-1])


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_bundle(folder: Path) -> int:
    """Compare a bundle's files with its manifest and return their number.

    Raises
    ------
    CPruneError
        If the manifest is missing or damaged, or if a file is missing or differs from its hash.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        hashes = manifest["sha256"]
    except OSError as error:
        raise CPruneError(f"{folder} is not a bundle: {MANIFEST}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise CPruneError(f"{folder / MANIFEST} is damaged: rebuild the bundle with `deploy`") from None
    for name, expected in hashes.items():
        path = folder / Path(name).name
        if not path.is_file():
            raise CPruneError(f"the bundle lacks {name}: rebuild it with `deploy`")
        if _hash(path) != expected:
            raise CPruneError(
                f"{path} was changed: its SHA-256 differs from the manifest; rebuild the bundle with `deploy`"
            )
    return len(hashes)
