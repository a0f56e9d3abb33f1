"""Multiplications of a network, and the machine's own rate."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from facelake.bench.matrix_rate import float32_rate, multiplications
from facelake.embed.runtime import Network


def test_multiplications_of_convolutions_and_products() -> None:
    """A 3x3 convolution of 3 to 4 channels at stride 2 on 8 x 8, in groups of one a depthwise one, then 64 to 10."""
    weights = {"w": (4, 3, 3, 3), "depthwise": (4, 1, 3, 3), "full": (10, 64)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "depthwise"], ["b"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "full"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10])],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    network = Network("encoder", model.SerializeToString(), (3, 8, 8))
    assert multiplications(network) == 16 * 4 * 27 + 16 * 4 * 9 + 64 * 10


def test_the_rate_is_that_of_a_core() -> None:
    assert 1e9 < float32_rate() < 1e12
