"""Inference runtimes: a graph with one input, from array to arrays, on onnxruntime, OpenVINO, TensorRT or torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from facelake.contracts import F32
from facelake.embed import onnx_runtime
from facelake.embed.batch_sizes import padded_batch
from facelake.embed.cpu_features import Cpu, Precision, this_cpu
from facelake.embed.graphs import batchable
from facelake.embed.onnx_runtime import OnnxGraph
from facelake.errors import ConfigError
from facelake.extras import install_command

if TYPE_CHECKING:
    from facelake.embed.torch_runtime import TorchGraph

RuntimeName = Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"]
# Most inputs at once on a CPU if nothing was measured: activations of more do not fit the cache (docs/benchmarks.md).
_CPU_PIECE = 2


@dataclass(frozen=True, slots=True)
class Runtime:
    """The inference runtime and its device; `auto` is resolved by calibration.py, per graph and host."""

    name: RuntimeName = "onnxruntime"
    device: str = "cpu"
    half: bool = False
    threads: int = 1
    nvjpeg: bool = False
    """whether JPEGs are decoded on the device"""
    precision: Precision = "float32"
    """of the encoder; detectors compute in float32"""
    cache: str = field(default="", compare=False)
    """folder in which this host keeps what it measured, and TensorRT its engines; empty: nothing is kept"""
    piece: int = 0
    """most inputs of one call of a network on a CPU; 0: a default"""


class Graph(Protocol):
    """A loaded network with one input."""

    outputs: list[str]
    """names of the outputs, in the order of the file"""

    def run(self, blob: F32) -> list[F32]:
        """All outputs for a blob of float32, in the order of `outputs`."""
        ...


@dataclass(frozen=True, slots=True)
class Network:
    """A published graph and how facelake calls it."""

    role: Literal["detector", "encoder"]
    model: bytes = field(repr=False)
    shape: tuple[int, int, int]
    """(c, h, w) of one input, as it is called most"""
    smallest: tuple[int, int, int] | None = None
    """of the smallest inputs, where there are several sizes"""
    input_name: str | None = None
    any_size: bool = False
    batch: int = 1
    """most inputs at once"""
    mean: float = 127.5
    scale: float = 1 / 127.5
    """the input is (pixel - mean) * scale, of pixels from 0 to 255"""

    def prepared(self, name: RuntimeName) -> bytes:
        """The graph after surgery; only onnxruntime's blocked layout on CPUs needs PRelu unfolded."""
        return batchable(self.model, self.input_name, any_size=self.any_size, blocks=name == "onnxruntime")


class InPieces:
    """A graph that is called with at most `size` inputs at once, whose activations fit the processor's cache."""

    def __init__(self, graph: Graph, size: int) -> None:
        self._graph, self._size, self.outputs = graph, size, graph.outputs

    def run(self, blob: F32) -> list[F32]:
        """Implements Graph."""
        if len(blob) <= self._size:
            return self._graph.run(blob)
        parts = [self._graph.run(blob[start : start + self._size]) for start in range(0, len(blob), self._size)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]


class InFixedSizes:
    """A graph on a GPU that is called with few different numbers of inputs, filled up with zeros.

    cuDNN prepares kernels anew for every shape, which takes longer than hundreds of photos.
    """

    def __init__(self, graph: Graph, most: int) -> None:
        self._graph, self._most, self.outputs = graph, most, graph.outputs

    def run(self, blob: F32) -> list[F32]:
        """Implements Graph."""
        size = padded_batch(len(blob), self._most)
        if len(blob) >= size:
            return self._graph.run(blob)
        filled = np.zeros((size, *blob.shape[1:]), blob.dtype)
        filled[: len(blob)] = blob
        return [output[: len(blob)] for output in self._graph.run(filled)]


def unavailable(runtime: Runtime, cpu: Cpu | None = None) -> str | None:
    """Return why this host does not have a runtime with this device and precision; None if it does.

    Nothing is loaded, except onnxruntime to ask for its providers.
    """
    name, on_gpu = runtime.name, runtime.device != "cpu"
    if runtime.precision == "bf16" and name != "openvino":
        return "only the runtime openvino computes in bf16"
    if runtime.half and name != "torch":
        return "only the runtime torch computes in half precision"
    if runtime.precision == "int8" and (on_gpu or name == "torch"):
        return "encoders in int8 run on CPUs only, by onnxruntime or openvino"
    if not on_gpu and (reason := (cpu or this_cpu()).lacking(runtime.precision)):
        return reason
    if name == "torch":
        return None if importlib.util.find_spec("torch") else "torch is not installed"
    if name == "openvino":
        if on_gpu:
            return "OpenVINO is used on the CPU only"
        return None if importlib.util.find_spec("openvino") else "openvino is not installed"
    if name == "tensorrt" and not on_gpu:
        return "TensorRT needs embed.device cuda"
    if name in ("tensorrt", "onnxruntime") and on_gpu:
        wanted = onnx_runtime.TENSORRT if name == "tensorrt" else onnx_runtime.CUDA
        if wanted not in onnx_runtime.providers():
            return f"the installed onnxruntime has no {wanted}"
    return None


_NEXT_STEPS = {
    "no native precision": "set embed.precision to float32, or use hosts whose processors compute it",
    "onnxruntime": "run `pip uninstall onnxruntime` and `pip install 'onnxruntime-gpu[cuda,cudnn]'`, or set "
    "embed.runtime to torch, which is faster",
    "tensorrt": "install onnxruntime-gpu in place of onnxruntime, and TensorRT's libraries, or set embed.runtime to "
    "torch",
    "openvino": "pip install openvino, or set embed.runtime to onnxruntime",
    "torch": f"run {install_command('torch')}, or set embed.runtime to onnxruntime",
}


def must_have(runtime: Runtime, cpu: Cpu | None = None) -> None:
    """Check that this host has a fixed runtime.

    Raises:
        ConfigError: it does not; the next step says how to change that.
    """
    reason = unavailable(runtime, cpu)
    if reason is None:
        return
    where, next_step = "embed.runtime", _NEXT_STEPS.get(runtime.name, "set embed.runtime to auto")
    if runtime.device == "cpu" and (cpu or this_cpu()).lacking(runtime.precision):
        where, next_step = "embed.precision", _NEXT_STEPS["no native precision"]
    elif runtime.precision == "bf16":
        next_step = "set embed.runtime to openvino or auto, or embed.precision to float32"
    elif runtime.precision == "int8":
        next_step = "set embed.device to cpu and embed.runtime to auto, or select the card of the float model"
    elif runtime.half:
        next_step = "set embed.runtime to torch, or embed.half_precision to false"
    elif runtime.device != "cpu" and runtime.name == "openvino":
        next_step = "set embed.device to cpu"
    elif runtime.device == "cpu" and runtime.name == "tensorrt":
        next_step = "set embed.device to cuda, or embed.runtime to auto"
    raise ConfigError(reason, where=where, next_step=next_step)


def open_graph(model: bytes, runtime: Runtime) -> Graph:
    """Load a prepared graph on a fixed runtime of the CPU, or on torch.

    Raises:
        ConfigError: the host does not have the runtime, or it does not support the device or precision.
    """
    must_have(runtime)
    if runtime.name == "torch":
        return open_torch(model, runtime)
    if runtime.name == "openvino":
        from facelake.embed.openvino_runtime import OpenVinoGraph

        return OpenVinoGraph(model, runtime.threads, runtime.precision)
    return OnnxGraph(model, runtime.threads)


def open_network(network: Network, runtime: Runtime) -> Graph:
    """Load a network on a fixed runtime, on the CPU in pieces that fit its cache.

    Raises:
        ConfigError: as open_graph; or onnxruntime cannot start the provider.
    """
    if network.role == "detector":
        runtime = replace(runtime, precision="float32")
    model = network.prepared("torch" if runtime.device != "cpu" else runtime.name)
    if runtime.device == "cpu":
        graph = open_graph(model, runtime)
        return graph if runtime.name == "torch" else InPieces(graph, runtime.piece or _CPU_PIECE)
    must_have(runtime)
    if runtime.name == "torch":
        return open_torch(model, runtime)
    name = network.input_name or _input_of(model)
    shapes = network.smallest or network.shape, network.shape
    graph = OnnxGraph(model, 1, onnx_runtime.gpu_providers(runtime, model, name, shapes, network.batch))
    return InFixedSizes(graph, network.batch) if runtime.name == "onnxruntime" and network.batch > 1 else graph


def _input_of(model: bytes) -> str:
    import onnx

    return str(onnx.load_from_string(model).graph.input[0].name)


def open_torch(model: bytes, runtime: Runtime) -> TorchGraph:
    """Load a graph on torch.

    Raises:
        ConfigError: torch is not installed, or a GPU is configured and torch sees none.
    """
    must_have_torch(runtime)
    from facelake.embed.torch_runtime import TorchGraph

    return TorchGraph(model, runtime.device, half=runtime.half)


def torch_sees_gpu() -> bool:
    """Whether torch was built for CUDA and finds a GPU. Imports torch, which takes seconds."""
    import torch

    return bool(torch.cuda.is_available())


def must_have_torch(runtime: Runtime) -> None:
    """Check that torch supports the runtime, and set its process-wide options.

    Raises:
        ConfigError: torch is not installed, or a GPU is configured and torch sees none.
    """
    try:
        import torch
    except ImportError as err:
        next_step = f"run {install_command('torch')}, or set embed.runtime to onnxruntime"
        raise ConfigError("torch is not installed", where="embed.runtime", next_step=next_step) from err
    if runtime.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU", where="embed.device", next_step="set embed.device to cpu")
    if runtime.device == "cpu":
        torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = False  # TF32 would reduce float32 to ten bits of mantissa
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # sums of products stay in float32
