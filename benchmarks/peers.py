# SPDX-License-Identifier: Apache-2.0
"""CPrune's models and other inference runtimes, for the benchmarks that compare them: float32 on all cores.

Each one runs in a process of its own, so that the threads of one do not spin beside those of another. Such a
process is this file as a script. A run includes passing the input and fetching the output.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], np.ndarray]


def _cprune(path: str, threads: int) -> Run:
    import tvm
    from tvm.contrib import graph_executor

    module = graph_executor.GraphModule(tvm.runtime.load_module(path)["default"](tvm.cpu()))

    def run(data: np.ndarray) -> np.ndarray:
        module.set_input("data", data)
        module.run()
        return np.asarray(module.get_output(0).numpy())

    return run


def _onnx_runtime(path: str, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda data: session.run(None, {"data": data})[0]


def _openvino(path: str, threads: int) -> Run:
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda data: request.infer([data])[0]


def _ncnn(path: str, threads: int) -> Run:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    if net.load_param(path) or net.load_model(path.removesuffix("param") + "bin"):
        raise SystemExit(f"ncnn cannot load {path}")

    def run(data: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(data[0]))
        code, result = extractor.extract("out0")
        if code:
            raise SystemExit(f"ncnn fails with code {code} on {path}")
        return np.array(result)[None]

    return run


def _mnn(path: str, threads: int) -> Run:
    import MNN

    interpreter = MNN.Interpreter(path)
    session = interpreter.createSession({"backend": "CPU", "precision": "high", "numThread": threads})
    source, result = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
    kind, layout = MNN.Halide_Type_Float, MNN.Tensor_DimensionType_Caffe
    shape = result.getShape()
    received = MNN.Tensor(shape, kind, np.zeros(shape, np.float32), layout)

    def run(data: np.ndarray) -> np.ndarray:
        source.copyFrom(MNN.Tensor(data.shape, kind, data, layout))
        interpreter.runSession(session)
        result.copyToHostTensor(received)
        return np.array(received.getNumpyData(), np.float32).reshape(shape)

    return run


OURS = "CPrune"
# Largest difference from PyTorch, relative to PyTorch's largest output.
TOLERANCE = 1e-3
# Seconds of runs before the timed ones. The first ones are slow: threads wake up, and may share a core.
WARM_UP = 0.2
RUNTIMES: dict[str, tuple[str, Callable[[str, int], Run]]] = {
    OURS: ("net.so", _cprune),
    "ONNX Runtime": ("model.onnx", _onnx_runtime),
    "OpenVINO": ("model.onnx", _openvino),
    "ncnn": ("model.ncnn.param", _ncnn),
    "MNN": ("model.mnn", _mnn),
}


def export_onnx(model: Any, shape: tuple[int, ...], folder: Path) -> Path:
    """Write a PyTorch model to a folder for ONNX Runtime and OpenVINO, and return the path of the file."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model.onnx"
    torch.onnx.export(model, (torch.zeros(shape),), str(path), dynamo=False, input_names=["data"])
    return path


def convert(model: Any, shape: tuple[int, ...], folder: Path) -> None:
    """Write a PyTorch model to a folder in the formats of all other runtimes.

    Raises
    ------
    RuntimeError
        If a converter fails; the message has its output.
    """
    import torch

    onnx, traced = export_onnx(model, shape, folder), folder / "model.pt"
    torch.jit.trace(model, torch.zeros(shape)).save(str(traced))
    sizes = ",".join(map(str, shape))
    binaries = Path(sys.executable).parent
    # pnnx writes the files of ncnn beside the traced model.
    _call([str(binaries / "pnnx"), str(traced), f"inputshape=[{sizes}]", "fp16=0"])
    to_mnn = ["-f", "ONNX", "--modelFile", str(onnx), "--MNNModel", str(folder / "model.mnn")]
    _call([str(binaries / "mnnconvert"), *to_mnn, "--bizCode", "none"])
    for name, (file, _) in RUNTIMES.items():
        if name != OURS and not (folder / file).exists():
            raise RuntimeError(f"{folder / file} was not written")


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stdout[-500:]}{done.stderr[-500:]}")


class Peer:
    """A runtime that has loaded a model, in a process of its own. Use it as a context manager.

    Parameters
    ----------
    name
        A key of ``RUNTIMES``.
    folder
        Folder with the model's file for the runtime (see ``convert`` and ``export_onnx``).
    data
        The input of every run.
    threads
        Number of threads of a run.
    """

    def __init__(self, name: str, folder: Path, data: np.ndarray, threads: int) -> None:
        self.name = name
        inputs, outputs = folder / "data.npy", folder / f"{name.replace(' ', '')}.npy"
        np.save(inputs, data)
        command = [sys.executable, __file__, name, str(folder), str(inputs), str(outputs), str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TVM_NUM_THREADS": str(threads)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self._read()
        self.output: np.ndarray = np.load(outputs)

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def time(self, runs: int) -> list[float]:
        """Return the seconds of some runs, after ``WARM_UP`` seconds of others."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{runs}\n")
        self._process.stdin.flush()
        return [float(value) for value in self._read()]

    def check(self, expected: np.ndarray) -> None:
        """Exit if the output differs from PyTorch's."""
        error = float(np.abs(self.output - expected).max() / np.abs(expected).max())
        # NaN fails, too.
        if self.output.shape != expected.shape or not error <= TOLERANCE:
            raise SystemExit(
                f"the output of {self.name} differs from PyTorch's by {error:.1e}, {self.output.shape}"
            )

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _read(self) -> Any:
        """Return the next answer of the process, which is its next line of JSON."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("["):
                return json.loads(line)
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}")


def take_turns(peers: Sequence[Peer], rounds: int, runs: int) -> list[list[float]]:
    """Return the seconds of the runs of each peer: in every round, each peer in turn makes ``runs`` runs."""
    samples: list[list[float]] = [[] for _ in peers]
    for _ in range(rounds):
        for peer, own in zip(peers, samples, strict=True):
            own += peer.time(runs)
            time.sleep(0.2)  # threads of some runtimes keep spinning for a moment
    return samples


def _serve(name: str, folder: str, inputs: str, outputs: str, threads: str) -> None:
    """Load a model, write its output, and then time runs: as many as each line of the standard input says."""
    file, load = RUNTIMES[name]
    run, data = load(str(Path(folder, file)), int(threads)), np.load(inputs)
    np.save(outputs, run(data))
    print("[]", flush=True)
    for line in sys.stdin:
        warm = time.perf_counter() + WARM_UP
        while time.perf_counter() < warm:
            run(data)
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            run(data)
            seconds.append(time.perf_counter() - started)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
