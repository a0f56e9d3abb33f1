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

    def conv(self, x: str, channels: int, width: int, kernel: int, stride: int) -> str:
        scale = np.sqrt(2 / (channels * kernel * kernel))
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

    def add(self, x: str, y: str) -> str:
        return self.node("Add", [x, y])


def _serialised(graph: Any) -> bytes:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())
