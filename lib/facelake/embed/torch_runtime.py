"""ONNX graphs as torch modules. Supports the operators of SCRFD, ArcFace, YuNet and SFace only.

Shape arithmetic of a graph (Shape, Gather, Concat of integers) stays on the host; only activations are on the device.
In half precision, sums and the statistics of batch normalisation stay in float32, and outputs are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from facelake.contracts import F32
from facelake.embed.batch_sizes import padded_batch

_Values = Sequence[Any]
_Attributes = dict[str, Any]


class TorchGraph(torch.nn.Module):
    """A graph with one input on torch; implements `facelake.embed.runtime.Graph`."""

    def __init__(self, model: bytes, device: str = "cpu", *, half: bool = False) -> None:
        """Load an ONNX model.

        Raises:
            ValueError: the graph has an unsupported operator.
        """
        super().__init__()
        graph = onnx.load_from_string(model).graph
        self._device, self._dtype = torch.device(device), torch.float16 if half else torch.float32
        self._on_host = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
        norms = (node for node in graph.node if node.op_type == "BatchNormalization")
        # variances exceed the range of half precision
        self._full_precision = {name for node in norms for name in node.input[1:]}
        self._constants = {item.name: self._placed(item.name, item) for item in graph.initializer}
        self._input = graph.input[0].name
        self.outputs = [item.name for item in graph.output]
        self._steps = [self._step(node) for node in graph.node]
        self._last_use = {name: i for i, (_, inputs, _) in enumerate(self._steps) for name in inputs}
        self._captures, self._captured = self._device.type == "cuda", dict[tuple[int, ...], _Captured]()
        self._shared: tuple[Any, Any] | None = None
        """memory pool and stream that all captures share: one graph runs at a time, and its outputs are copied"""

    def run(self, blob: F32) -> list[F32]:
        """All outputs for a blob of float32, in the order of `outputs`."""
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(blob)).to(self._device)
            return [value.cpu().numpy() for value in self.once(x)]

    def on_device(self, x: torch.Tensor, batch: int) -> list[torch.Tensor]:
        """All outputs in float32 for a tensor of at most `batch` inputs on the device; call under inference_mode.

        On a GPU the graph is captured once per shape, for `batch` and its halves, and replayed with the smallest of
        them that fits all inputs: one launch instead of hundreds, which would dominate the time of small networks.
        """
        x, count = self._fit(x), len(x)
        if not self._captures:
            return self.once(x)
        shape = (padded_batch(count, batch), *x.shape[1:])
        if shape not in self._captured:
            self._shared = self._shared or (torch.cuda.graph_pool_handle(), torch.cuda.Stream(self._device))
            self._captured[shape] = _Captured(self, shape, self._device, self._dtype, self._shared)
        outputs = [value.float() for value in self._captured[shape](x)]
        return [value[:count] for value in outputs] if batch > 1 else outputs

    def once(self, x: torch.Tensor) -> list[torch.Tensor]:
        """As `on_device`, but without captured graphs: node by node."""
        return [value.float() for value in self.forward(self._fit(x))]

    def _fit(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self._dtype).contiguous(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Run the nodes in order; values are released after their last use."""
        values: dict[str, Any] = self._constants | {self._input: x}
        for i, (operate, inputs, output) in enumerate(self._steps):
            values[output] = operate([values[name] if name else None for name in inputs])
            for name in inputs:
                if self._last_use.get(name) == i and name not in self.outputs:
                    values.pop(name, None)
        return [values[name] for name in self.outputs]

    def _placed(self, name: str, constant: Any) -> torch.Tensor:
        """A weight on the device in the graph's precision; shape constants stay on the host, where they are read."""
        value = torch.from_numpy(np.array(numpy_helper.to_array(constant)))
        if not value.is_floating_point() or name in self._on_host:
            return value
        value = value.to(self._device, torch.float32 if name in self._full_precision else self._dtype)
        return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value

    def _step(self, node: Any) -> tuple[Callable[[_Values], Any], list[str], str]:
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            constant = self._placed(node.output[0], attributes["value"])
            return (lambda _: constant), [], node.output[0]
        known = _OPERATORS.get(node.op_type)
        if known is None:
            raise ValueError(f"operator {node.op_type} is not supported")
        return (lambda values: known(values, attributes)), list(node.input), node.output[0]


class _Captured:
    """A captured graph for one input shape; its outputs are copied, since the next call overwrites them."""

    def __init__(
        self,
        graph: TorchGraph,
        shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        shared: tuple[Any, Any],
    ) -> None:
        self._input = torch.zeros(shape, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
        self._replay = replayed(lambda: graph.forward(self._input), device, shared)

    def __call__(self, x: torch.Tensor) -> list[torch.Tensor]:
        self._input[: len(x)].copy_(x)
        return [value.clone() for value in self._replay()]


def replayed(
    work: Callable[[], list[torch.Tensor]], device: torch.device, shared: tuple[Any, Any] | None = None
) -> Callable[[], list[torch.Tensor]]:
    """A function of fixed tensors, captured as a CUDA graph on a GPU (PyTorch, "CUDA semantics"); unchanged elsewhere.

    Args:
        shared: memory pool and stream of other captures that never run at the same time.
    """
    if device.type != "cuda":
        return work
    with torch.cuda.device(device):
        pool, side = shared or (None, torch.cuda.Stream(device))
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):  # the first calls allocate memory and choose kernels, which cannot be captured
            for _ in range(3):
                work()
        torch.cuda.current_stream(device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # another thread may allocate memory meanwhile, to decode photos
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            outputs = work()

    def replay() -> list[torch.Tensor]:
        graph.replay()
        return outputs

    return replay


def _conv(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x, weight, bias = values[0], values[1], values[2] if len(values) > 2 else None
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, strides, (top, left), dilations, attributes.get("group", 1))


def _batch_norm(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x, scale, shift, mean, variance = values
    # some graphs state 0, which some versions of torch refuse; the substitute is below float32's resolution
    epsilon = attributes.get("epsilon", 1e-5) or 1e-30
    return F.batch_norm(x, mean, variance, scale, shift, eps=epsilon)


def _prelu(values: _Values, attributes: _Attributes) -> torch.Tensor:
    return F.prelu(values[0], values[1].flatten())


def _gemm(values: _Values, attributes: _Attributes) -> torch.Tensor:
    left, right = values[0], values[1]
    left = left.T if attributes.get("transA") else left
    right = right.T if attributes.get("transB") else right
    product: torch.Tensor = attributes.get("alpha", 1.0) * (left @ right)
    return product + attributes.get("beta", 1.0) * values[2] if len(values) > 2 else product


def _max_pool(values: _Values, attributes: _Attributes) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise ValueError("max pooling with uneven padding is not supported")
    kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
    return F.max_pool2d(values[0], kernel, strides, (top, left), ceil_mode=bool(attributes.get("ceil_mode", 0)))


def _average_pool(values: _Values, attributes: _Attributes) -> torch.Tensor:
    if any(attributes.get("pads", [])):
        raise ValueError("average pooling with padding is not supported")
    ceil = bool(attributes.get("ceil_mode", 0))
    return F.avg_pool2d(values[0], attributes["kernel_shape"], attributes.get("strides", [1, 1]), ceil_mode=ceil)


def _resize(values: _Values, attributes: _Attributes) -> torch.Tensor:
    """Nearest-neighbour upsampling by an integer factor, the only use in feature pyramids."""
    x = values[0]
    if attributes.get("mode", b"nearest") != b"nearest":
        raise ValueError("only nearest-neighbour resizing is supported")
    if len(values) > 3 and values[3] is not None:
        height, width = (int(side) for side in values[3][2:])
    else:
        scales = values[-1] if len(values) < 3 else values[2]
        height, width = (round(float(scale) * side) for scale, side in zip(scales[2:], x.shape[2:], strict=True))
    return F.interpolate(x, size=(height, width), mode="nearest")


def _reshape(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x, shape = values
    sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(shape.tolist())]
    shaped: torch.Tensor = x.reshape(sizes)
    return shaped


def _axes(values: _Values, attributes: _Attributes) -> list[int]:
    """The axes, an attribute in older operator sets and an input in newer ones."""
    return list(attributes["axes"]) if "axes" in attributes else values[1].tolist()


def _unsqueeze(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x: torch.Tensor = values[0]
    for axis in sorted(_axes(values, attributes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x: torch.Tensor = values[0]
    for axis in sorted(_axes(values, attributes), reverse=True):
        x = x.squeeze(axis)
    return x


def _slice(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x, starts, ends = values[:3]
    axes = values[3].tolist() if len(values) > 3 else list(range(len(starts)))
    steps = values[4].tolist() if len(values) > 4 else [1] * len(axes)
    cut: list[slice] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts.tolist(), ends.tolist(), steps, strict=True):
        cut[axis] = slice(start, min(end, x.shape[axis]) if end > 0 else end, step)
    part: torch.Tensor = x[tuple(cut)]
    return part


def _gather(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x, index = values
    part: torch.Tensor = torch.take(x, index) if x.ndim == 1 else x.index_select(attributes.get("axis", 0), index)
    return part


def _flatten(values: _Values, attributes: _Attributes) -> torch.Tensor:
    x, axis = values[0], attributes.get("axis", 1)
    flat: torch.Tensor = x.reshape(int(np.prod(x.shape[:axis])), -1)
    return flat


def _cast(values: _Values, attributes: _Attributes) -> torch.Tensor:
    if attributes["to"] in (onnx.TensorProto.INT64, onnx.TensorProto.INT32):
        whole: torch.Tensor = values[0].long()
        return whole
    x: torch.Tensor = values[0]
    return x


_OPERATORS: dict[str, Callable[[_Values, _Attributes], Any]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "PRelu": _prelu,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "Resize": _resize,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Slice": _slice,
    "Gather": _gather,
    "Flatten": _flatten,
    "Cast": _cast,
    "GlobalAveragePool": lambda values, _: values[0].mean((2, 3), keepdim=True),
    "Shape": lambda values, _: torch.tensor(values[0].shape),
    "Concat": lambda values, attributes: torch.cat(list(values), attributes["axis"]),
    "Transpose": lambda values, attributes: values[0].permute(list(attributes["perm"])),
    "Relu": lambda values, _: F.relu(values[0]),
    "Sigmoid": lambda values, _: torch.sigmoid(values[0]),
    "Add": lambda values, _: values[0] + values[1],
    "Sub": lambda values, _: values[0] - values[1],
    "Mul": lambda values, _: values[0] * values[1],
    "Div": lambda values, _: values[0] / values[1],
    "MatMul": lambda values, _: values[0] @ values[1],
    "Dropout": lambda values, _: values[0],
    "Identity": lambda values, _: values[0],
}
