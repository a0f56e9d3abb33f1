"""The physical limit of a network: the machine's own float32 matrix rate, and a network's multiplications."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import onnx
from onnx import helper, shape_inference
from threadpoolctl import threadpool_limits

from facelake.embed.runtime import Network

_SIDE, _MEASURED_S = 768, 0.5


def float32_rate() -> float:
    """Float32 operations per second of one core (two per multiplication), by products of large matrices.

    The best of repeated products, measured for half a second.
    """
    random = np.random.default_rng(0)
    a, b = (random.random((_SIDE, _SIDE), np.float32) for _ in range(2))
    least = np.inf
    with threadpool_limits(1):
        began = time.monotonic()
        while time.monotonic() - began < _MEASURED_S:
            cpu = time.process_time()
            a @ b
            least = min(least, time.process_time() - cpu)
    return 2 * _SIDE**3 / least


def multiplications(network: Network) -> int:
    """Multiplications of a network's convolutions and matrix products for one input of its usual shape.

    Returns:
        0 if the shapes of the graph cannot be inferred.
    """
    model = onnx.load_from_string(network.prepared("torch"))
    for axis, size in enumerate((1, *network.shape)):
        dimension = model.graph.input[0].type.tensor_type.shape.dim[axis]
        dimension.ClearField("dim_param")
        dimension.dim_value = size
    inferred = shape_inference.infer_shapes(model).graph
    shapes = {
        item.name: [dimension.dim_value for dimension in item.type.tensor_type.shape.dim]
        for item in [*inferred.value_info, *inferred.output]
    }
    weights = {item.name: list(item.dims) for item in inferred.initializer}
    return sum(_of_node(node, shapes, weights) for node in inferred.node)


def _of_node(node: Any, shapes: dict[str, list[int]], weights: dict[str, list[int]]) -> int:
    """Output elements times the inputs that each of them sums."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
        return 0
    output, weight = shapes.get(node.output[0], [0]), weights[node.input[1]]
    if node.op_type == "Conv":
        return int(np.prod(output) * np.prod(weight[1:]))
    transposed = any(item.name == "transB" and helper.get_attribute_value(item) for item in node.attribute)
    return int(np.prod(output) * weight[-1 if transposed else 0])
