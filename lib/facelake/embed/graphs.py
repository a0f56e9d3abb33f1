"""Graph surgery: turns published ONNX files into batchable float graphs that compute the same function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.external_data_helper import uses_external_data

from facelake.contracts import F32

_BATCH = "n"
_LOG = logging.getLogger(__name__)


def batchable(
    model_bytes: bytes, input_name: str | None = None, *, any_size: bool = False, blocks: bool = True
) -> bytes:
    """A model with a symbolic batch axis and dequantised weights that are not listed as inputs.

    Published graphs prevent batching in three ways: a batch size of 1 in the input, the same in reshapes of the heads,
    and weights listed as graph inputs. Block-quantised weights are dequantised once, (q - zero) * scale, because the
    runtime would do it at every call, and rejects some of the nodes.

    Args:
        input_name: of the input; default: the only one that is not a weight.
        any_size: also make height and width symbolic, for a fully convolutional model.
        blocks: replace PRelu by operators that onnxruntime supports in its blocked channel layout.
    """
    model = onnx.load_from_string(model_bytes)
    graph = model.graph
    _repair(graph, input_name)
    _free_reshapes(graph)
    if blocks:
        _unfold_prelu(graph)
    for item in graph.output:
        if len(item.type.tensor_type.shape.dim) == 2:
            _batch_rows(graph, item)
    for item in [*graph.input, *graph.output]:
        item.type.tensor_type.shape.dim[0].dim_param = _BATCH
    if any_size:
        for axis in (2, 3):
            graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
        for item in graph.output:
            item.type.tensor_type.shape.dim[1].dim_param = f"anchors_{item.name}"
    del graph.value_info[:]
    return bytes(model.SerializeToString())


def repaired(model_bytes: bytes, input_name: str | None = None) -> bytes:
    """A model with float weights that are not listed as inputs, otherwise as published."""
    model = onnx.load_from_string(model_bytes)
    _repair(model.graph, input_name)
    return bytes(model.SerializeToString())


def has_outside_weights(model_bytes: bytes) -> bool:
    """Whether a model takes weights from files beside it (ONNX external data), which its digest does not cover.

    Raises:
        google.protobuf.message.DecodeError: it is no ONNX file.
    """
    model = onnx.load_from_string(model_bytes)
    return any(map(uses_external_data, _tensors(model.graph, *model.functions)))


def _tensors(*graphs: Any) -> Iterator[Any]:
    """Yield the stored tensors of graphs and functions, and of the graphs within their nodes."""
    for graph in graphs:
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            yield from (attribute.t, *attribute.tensors, attribute.sparse_tensor.values)
            yield from _tensors(*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def _repair(graph: Any, input_name: str | None) -> None:
    weights = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    if input_name:
        inputs = [item for item in inputs if item.name == input_name]
    if len(inputs) != 1:
        raise ValueError(f"expected one input, found {[item.name for item in inputs]}")
    del graph.input[:]
    graph.input.extend(inputs)
    _dequantise(graph)


def is_batch_invariant(run: Callable[[F32], list[F32]], shape: tuple[int, int, int]) -> bool:
    """Whether a batch of three inputs of `shape` (c, h, w) gives the same outputs as the inputs one by one.

    False after failed surgery: an error of the runtime, outputs without a batch axis, or other values. Only meaningful
    in full precision: in half precision, another batch size may change the order of summation.
    """
    blob = np.random.default_rng(0).uniform(-1, 1, (3, *shape)).astype(np.float32)
    try:
        together = run(blob)
    except Exception as err:  # noqa: BLE001  runtimes raise errors of their own types for shapes that do not fit
        _LOG.warning("a graph with a symbolic batch axis fails: %s", " ".join(str(err).split())[:200])
        return False
    alone = [run(blob[i : i + 1]) for i in range(3)]
    for k, batch in enumerate(together):
        parts = [outputs[k] for outputs in alone]
        if len(batch) != 3 or any(len(part) != 1 for part in parts):
            return False
        if not np.allclose(batch, np.concatenate(parts), rtol=1e-3, atol=1e-4 * (1 + float(np.abs(batch).max()))):
            return False
    return True


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
    """Replace the batch size 1 at the start of reshapes of activations by 0, which in ONNX keeps the input's size."""
    values = {item.name: item for item in graph.initializer}
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in values:
            continue
        shape = numpy_helper.to_array(values[node.input[1]])
        if shape.size >= 2 and shape[0] == 1:
            freed = np.concatenate([[0], shape[1:]]).astype(np.int64)
            values[node.input[1]].CopyFrom(numpy_helper.from_array(freed, node.input[1]))


def _batch_rows(graph: Any, output: Any) -> None:
    """Change a detector head that SCRFD's export lays out as (rows, k) to (batch, rows, k), with rows in the same
    order.

    The export transposes (n, a k, h, w) to (h, w, n, a k) and reshapes to (-1, k): with one photo the rows run along
    the grid and then the anchors; with several they would be shuffled between photos.
    """
    makers = {name: node for node in graph.node for name in node.output}
    values = {item.name: item for item in graph.initializer}
    node = makers.get(output.name)
    while node is not None and node.op_type == "Sigmoid":
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Reshape":
        return
    turn = makers.get(node.input[0])
    shape = _constant(node.input[1], makers, values)
    if turn is None or turn.op_type != "Transpose" or shape is None or shape.size != 2 or shape[0] != -1:
        return
    order = next(item for item in turn.attribute if item.name == "perm")
    if list(order.ints) != [2, 3, 0, 1]:
        return
    order.ints[:] = [0, 2, 3, 1]
    name = f"{node.output[0]}_batched_shape"
    graph.initializer.append(numpy_helper.from_array(np.array([0, -1, shape[1]], np.int64), name))
    node.input[1] = name
    dims = output.type.tensor_type.shape.dim
    rows, width = dims[0].dim_value, dims[1].dim_value
    del dims[:]
    for size in (1, rows, width):
        dims.add().dim_value = size


def _constant(name: str, makers: dict[str, Any], values: dict[str, Any]) -> np.ndarray | None:
    """The value of an initializer or Constant node."""
    if name in values:
        return np.asarray(numpy_helper.to_array(values[name]))
    node = makers.get(name)
    if node is None or node.op_type != "Constant":
        return None
    return np.asarray(numpy_helper.to_array(node.attribute[0].t))


def _unfold_prelu(graph: Any) -> None:
    """Replace PRelu(x) with slopes a by a x + (1 - a) Relu(x), written as scalings per channel.

    onnxruntime keeps activations in blocks of channels between convolutions, but has no PRelu for blocks: each one
    costs two reorderings and a slow loop, half of an ArcFace encoder's time on a CPU. It supports scalings per channel.
    """
    values = {item.name: item for item in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    convolved = {"Conv", "BatchNormalization", "Add"}
    nodes = []
    for node in graph.node:
        slopes = values.get(node.input[1]) if node.op_type == "PRelu" else None
        before = makers.get(node.input[0]) if node.input else None
        if slopes is None or len(slopes.dims) != 3 or before is None or before.op_type not in convolved:
            nodes.append(node)
            continue
        x, name = node.input[0], node.output[0]
        slope = numpy_helper.to_array(slopes).astype(np.float32).ravel()
        parts = {"slope": slope, "rest": 1 - slope, "zero": np.zeros_like(slope), "one": np.ones_like(slope)}
        for part, value in parts.items():
            graph.initializer.append(numpy_helper.from_array(value, f"{name}_{part}"))
        zero, unit = f"{name}_zero", f"{name}_one"
        nodes.append(helper.make_node("Relu", [x], [f"{name}_relu"]))
        for source, part in ((x, "slope"), (f"{name}_relu", "rest")):
            inputs = [source, f"{name}_{part}", zero, zero, unit]
            nodes.append(helper.make_node("BatchNormalization", inputs, [f"{name}_{part}_x"], epsilon=0.0))
        nodes.append(helper.make_node("Add", [f"{name}_slope_x", f"{name}_rest_x"], [name]))
    del graph.node[:]
    graph.node.extend(nodes)
