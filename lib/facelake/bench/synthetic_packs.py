"""Packs for tests: a folder that both facelake and insightface load, and networks of real size with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facelake.embed.graphs import repaired


def write_pack(folder: Path, detector: bytes, encoder: bytes, encoder_input: str) -> Path:
    """A pack of a detector and a repaired encoder whose normalisation insightface recognises; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "det_500m.onnx").write_bytes(detector)
    (folder / "w_sface.onnx").write_bytes(_normalising_first(repaired(encoder, encoder_input)))
    return folder


def _normalising_first(model_bytes: bytes) -> bytes:
    """Names by which insightface tells that a graph subtracts and multiplies by itself."""
    model = onnx.load_from_string(model_bytes)
    for node in model.graph.node[:2]:
        node.name = f"{node.op_type}_{node.name}"
    if [node.op_type for node in model.graph.node[:2]] != ["Sub", "Mul"]:
        raise ValueError("the encoder does not begin with Sub and Mul")
    return bytes(model.SerializeToString())


def tiny_attribute_model() -> bytes:
    """A model as packs hold them for age and gender: 96x96 in, three numbers out."""
    shape = [1, 3, 96, 96]
    weights = np.zeros((3, 3 * 96 * 96), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["data"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights"], ["fc1"], transB=1),
        ],
        "genderage",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return _serialised(graph)


def iresnet(blocks: tuple[int, ...] = (3, 4, 14, 3), seed: int = 0, dim: int = 512) -> bytes:
    """An ArcFace encoder of iresnet50's shape (He et al. 2016, as insightface's iresnet.py) with random weights."""
    net = _Net(seed)
    x = net.prelu(net.conv("data", 3, 64, 3, 1), 64)
    channels = 64
    for width, count in zip((64, 128, 256, 512), blocks, strict=True):
        for block in range(count):
            stride = 2 if block == 0 else 1
            y = net.prelu(net.conv(net.norm(x, channels), channels, width, 3, 1), width)
            y = net.conv(y, width, width, 3, stride)
            if stride == 2:
                x = net.conv(x, channels, width, 1, stride)
            x, channels = net.add(x, y), width
    flat = net.node("Flatten", [net.norm(x, channels)])
    weight = net.weight("fc", net.random.normal(0, 0.01, (dim, channels * 49)))
    net.nodes.append(helper.make_node("Gemm", [flat, weight], ["683"], transB=1))
    graph = helper.make_graph(
        net.nodes,
        "iresnet",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, dim])],
        net.weights,
    )
    return _serialised(graph)


_STRIDES, _ANCHORS, _SQUARE = (8, 16, 32), 2, 640
# A face of 192 pixels in the middle of the square, in units of the stride from its anchor: edges, then five points.
_BOX = (3.0, 3.0, 3.0, 3.0)
_POINTS = (-1.1, -0.9, 1.1, -0.9, 0.0, 0.2, -0.9, 1.3, 0.9, 1.3)


def scrfd_10g(seed: int = 0) -> bytes:
    """A detector of SCRFD-10G's shape with random weights, which sees one face in the middle of any photo.

    Guo et al. 2022 and insightface's scrfd_10g_bnkps.py: deep stem, basic blocks (3, 4, 2, 3) of 56, 88, 88 and 224
    channels, a path aggregation neck of 56, heads of three convolutions of 80 per stride. The last convolutions are
    scaled to next to nothing and a map is added, so that the networks' work is done and the answer is known.
    """
    net = _Net(seed)
    x = "input.1"
    for channels, width, stride in ((3, 28, 2), (28, 28, 1), (28, 56, 1)):
        x = net.relu(net.conv(x, channels, width, 3, stride))
    x, channels, levels = net.pool(x), 56, []
    for stage, (width, count) in enumerate(zip((56, 88, 88, 224), (3, 4, 2, 3), strict=True)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            y = net.conv(net.relu(net.conv(x, channels, width, 3, stride)), width, width, 3, 1)
            if stride == 2 or channels != width:
                x = net.conv(x, channels, width, 1, stride)
            x, channels = net.relu(net.add(x, y)), width
        levels.append((x, width))
    heads = [_head(net, level, stride) for level, stride in zip(_neck(net, levels[1:]), _STRIDES, strict=True)]
    outputs = [part for parts in zip(*heads, strict=True) for part in parts]
    graph = helper.make_graph(
        net.nodes,
        "scrfd",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, _SQUARE, _SQUARE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        net.weights,
    )
    return _serialised(graph)


def _neck(net: _Net, levels: list[tuple[str, int]]) -> list[str]:
    """Down from the coarsest level, then up again (Liu et al. 2018); 56 channels each."""
    sides = [net.conv(x, width, 56, 1, 1) for x, width in levels]
    for fine in (1, 0):
        sides[fine] = net.add(sides[fine], net.double(sides[fine + 1]))
    outputs = [net.conv(side, 56, 56, 3, 1) for side in sides]
    for coarse in (1, 2):
        outputs[coarse] = net.add(outputs[coarse], net.conv(outputs[coarse - 1], 56, 56, 3, 2))
    return [outputs[0], *(net.conv(x, 56, 56, 3, 1) for x in outputs[1:])]


def _head(net: _Net, x: str, stride: int) -> list[tuple[str, list[int]]]:
    """Scores, boxes and landmarks of one stride as the export lays them out; with the face at the coarsest."""
    for channels in (56, 80, 80):
        x = net.relu(net.conv(x, channels, 80, 3, 1))
    cells = _SQUARE // stride
    outputs = []
    for values in ((6.0,), _BOX, _POINTS):
        size = len(values)
        known = np.zeros((1, _ANCHORS * size, cells, cells))
        if size == 1:
            known -= 8.0
        if size > 1 or stride == _STRIDES[-1]:
            known[0, :size, cells // 2, cells // 2] = values
        y = net.add(net.conv(x, 80, _ANCHORS * size, 3, 1, scale=1e-5), net.weight("known", known))
        y = net.reshape(net.node("Transpose", [y], perm=[2, 3, 0, 1]), [-1, size])
        outputs.append((net.node("Sigmoid", [y]) if size == 1 else y, [cells * cells * _ANCHORS, size]))
    return outputs


def write_heavy_pack(folder: Path) -> Path:
    """A pack of the shapes of SCRFD-10G and ResNet-50, which is what buffalo_l holds, with random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "det_10g.onnx").write_bytes(scrfd_10g())
    (folder / "random_r50.onnx").write_bytes(iresnet())
    return folder


class _Net:
    """Nodes and random weights, named by their order."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, name: str, value: np.ndarray) -> str:
        name = f"{name}_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value.astype(np.float32), name))
        return name

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def conv(self, x: str, channels: int, width: int, kernel: int, stride: int, scale: float = 1.0) -> str:
        scale *= np.sqrt(2 / (channels * kernel * kernel))
        weights = [
            self.weight("w", self.random.normal(0, scale, (width, channels, kernel, kernel))),
            self.weight("b", np.zeros(width)),
        ]
        pad, strides = [kernel // 2] * 4, [stride, stride]
        return self.node("Conv", [x, *weights], kernel_shape=[kernel, kernel], pads=pad, strides=strides)

    def norm(self, x: str, channels: int) -> str:
        ones, zeros = np.ones(channels), np.zeros(channels)
        parts = [self.weight("bn", value) for value in (ones, zeros, zeros, ones * 2)]
        return self.node("BatchNormalization", [x, *parts])

    def prelu(self, x: str, channels: int) -> str:
        return self.node("PRelu", [x, self.weight("slope", np.full((channels, 1, 1), 0.25))])

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def pool(self, x: str) -> str:
        return self.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])

    def double(self, x: str) -> str:
        name = f"scales_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), name))
        return self.node("Resize", [x, "", name], mode="nearest")

    def reshape(self, x: str, shape: list[int]) -> str:
        name = f"shape_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(shape, np.int64), name))
        return self.node("Reshape", [x, name])

    def add(self, x: str, y: str) -> str:
        return self.node("Add", [x, y])


def _serialised(graph: Any) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())
