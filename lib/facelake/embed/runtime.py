"""What the models need of a runtime: a graph with one input, arrays in, arrays out."""

from __future__ import annotations

from typing import Any, Protocol

import onnxruntime

from facelake.contracts import F32


class Graph(Protocol):
    """A loaded network with one input."""

    outputs: list[str]
    """names, in the order in which the file lists them"""

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
        found: list[F32] = self._session.run(None, {self._input: blob})
        return found
