"""Graph surgery: turn published ONNX files into batchable float graphs without touching their arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

_BATCH = "n"


def batchable(model_bytes: bytes, input_name: str | None = None, any_size: bool = False) -> bytes:
    """A model with a symbolic batch axis, weights dequantised, weights no longer listed as inputs.

    Published graphs come with three habits that stop batching: a batch size of 1 written into the input, into
    reshapes of the heads, and weights listed as graph inputs. Block-quantised weights are dequantised here
    once (q - zero) * scale, because the runtime does it at every call, and rejects some of the nodes.

    Args:
        input_name: the one true input; default: the only one that is no weight.
        any_size: free height and width too, for a fully convolutional model.
    """
    model = onnx.load_from_string(model_bytes)
    graph = model.graph
    weights = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    if input_name:
        inputs = [item for item in inputs if item.name == input_name]
    if len(inputs) != 1:
        raise ValueError(f"expected one input, found {[item.name for item in inputs]}")
    del graph.input[:]
    graph.input.extend(inputs)
    _dequantise(graph)
    _free_reshapes(graph)
    for item in [*graph.input, *graph.output]:
        item.type.tensor_type.shape.dim[0].dim_param = _BATCH
    if any_size:
        for axis in (2, 3):
            graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
        for item in graph.output:
            item.type.tensor_type.shape.dim[1].dim_param = f"anchors_{item.name}"
    del graph.value_info[:]
    return bytes(model.SerializeToString())


def _dequantise(graph: Any) -> None:
    """Fold DequantizeLinear of weights, and the Reshape that may follow, into float initializers."""
    values = {item.name: item for item in graph.initializer}
    nodes = []
    for node in graph.node:
        constant = all(name in values for name in node.input)
        if node.op_type == "DequantizeLinear" and constant:
            values[node.output[0]] = numpy_helper.from_array(_dequantised(node, values), node.output[0])
        elif node.op_type == "Reshape" and constant:
            data, shape = (numpy_helper.to_array(values[name]) for name in node.input)
            values[node.output[0]] = numpy_helper.from_array(data.reshape(shape), node.output[0])
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(value for name, value in values.items() if name in used)


def _dequantised(node: Any, values: dict[str, Any]) -> np.ndarray:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    arrays = [numpy_helper.to_array(values[name]).astype(np.float32) for name in node.input]
    quantised, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 else np.zeros_like(scale)

    def spread(a: np.ndarray) -> np.ndarray:
        if a.size == 1:
            return a.reshape(())
        if block and a.ndim == quantised.ndim:
            return np.repeat(a, block, axis).take(range(quantised.shape[axis]), axis)
        shape = [1] * quantised.ndim
        shape[axis] = -1
        return a.reshape(shape)

    return np.asarray((quantised - spread(zero)) * spread(scale), np.float32)


def _free_reshapes(graph: Any) -> None:
    """In reshapes of activations, a leading 1 is the batch: 0 means "as it comes"."""
    values = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in values:
            continue
        shape = numpy_helper.to_array(values[node.input[1]])
        if shape.size >= 2 and shape[0] == 1:
            freed = np.concatenate([[0], shape[1:]]).astype(np.int64)
            values[node.input[1]].CopyFrom(numpy_helper.from_array(freed, node.input[1]))
