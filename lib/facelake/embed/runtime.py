"""Inference runtimes: a graph with one input, from array to arrays, on onnxruntime or torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import onnxruntime

from facelake.contracts import F32
from facelake.errors import ConfigError

if TYPE_CHECKING:
    from facelake.embed.torch_runtime import TorchGraph


@dataclass(frozen=True, slots=True)
class Runtime:
    """The inference runtime and its device."""

    name: Literal["onnxruntime", "torch"] = "onnxruntime"
    device: str = "cpu"
    half: bool = False
    threads: int = 1
    nvjpeg: bool = False
    """whether JPEGs are decoded on the device"""


class Graph(Protocol):
    """A loaded network with one input."""

    outputs: list[str]
    """names of the outputs, in the order of the file"""

    def run(self, blob: F32) -> list[F32]:
        """All outputs for a blob of float32, in the order of `outputs`."""
        ...


class OnnxGraph:
    """A graph on onnxruntime, on the CPU."""

    def __init__(self, model: bytes, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, blob: F32) -> list[F32]:
        """Implements Graph."""
        outputs: list[F32] = self._session.run(None, {self._input: blob})
        return outputs


def open_graph(model: bytes, runtime: Runtime) -> Graph:
    """Load a graph on the given runtime.

    Raises:
        ConfigError: torch is not installed, or the runtime does not support the device or precision.
    """
    if runtime.name == "onnxruntime":
        if runtime.half or runtime.device != "cpu":
            what = "onnxruntime is supported on the CPU in float32 only"
            raise ConfigError(what, where="embed.runtime", next_step="set embed.runtime to torch")
        return OnnxGraph(model, runtime.threads)
    return open_torch(model, runtime)


def open_torch(model: bytes, runtime: Runtime) -> TorchGraph:
    """Load a graph on torch.

    Raises:
        ConfigError: torch is not installed, or a GPU is configured and torch sees none.
    """
    must_have_torch(runtime)
    from facelake.embed.torch_runtime import TorchGraph

    return TorchGraph(model, runtime.device, half=runtime.half)


def must_have_torch(runtime: Runtime) -> None:
    """Check that torch supports the runtime, and set its process-wide options.

    Raises:
        ConfigError: torch is not installed, or a GPU is configured and torch sees none.
    """
    try:
        import torch
    except ImportError as err:
        next_step = "pip install 'facelake[torch]', or set embed.runtime to onnxruntime"
        raise ConfigError("torch is not installed", where="embed.runtime", next_step=next_step) from err
    if runtime.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("torch sees no GPU", where="embed.device", next_step="set embed.device to cpu")
    if runtime.device == "cpu":
        torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.allow_tf32 = False  # TF32 would reduce float32 to ten bits of mantissa
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # sums of products stay in float32
