"""onnxruntime's CUDA provider gives the results of its CPU provider. Only on hosts with onnxruntime-gpu and a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facelake.bench.synthetic_packs import iresnet, scrfd_10g
from facelake.embed import Pack, Pipeline, PipelineOptions
from facelake.embed.models import detector_network, encoder_network
from facelake.embed.onnx_runtime import CUDA, providers
from facelake.embed.runtime import Network, Runtime, open_network

ON_CUDA = Runtime("onnxruntime", "cuda")
pytestmark = pytest.mark.skipif(
    CUDA not in providers() or not torch.cuda.is_available(), reason="needs onnxruntime-gpu and a GPU"
)


def agree(network: Network, sides: list[tuple[int, int]], rtol: float = 1e-3) -> None:
    on_cpu, on_gpu = open_network(network, Runtime()), open_network(network, ON_CUDA)
    assert on_gpu.outputs == on_cpu.outputs
    random = np.random.default_rng(0)
    for count, (height, width) in zip((1, 3, network.batch), sides, strict=True):
        x = random.uniform(-1, 1, (count, 3, height, width)).astype(np.float32)
        for found, wanted in zip(on_gpu.run(x), on_cpu.run(x), strict=True):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-4 * (1 + np.abs(wanted).max()))


def test_the_default_pack(pack: Pack) -> None:
    agree(detector_network(pack), [(320, 320), (640, 640), (640, 640)])
    agree(encoder_network(pack), [(112, 112)] * 3)


def test_networks_of_insightface_shapes() -> None:
    agree(Network("detector", scrfd_10g(), (3, 640, 640), batch=4), [(640, 640)] * 3)
    agree(Network("encoder", iresnet((1, 1, 1, 1)), (3, 112, 112), batch=8), [(112, 112)] * 3)


def test_the_same_faces_as_on_the_cpu(pack: Pack, shared: Path) -> None:
    paths = sorted((shared / "data/london/images").glob("*.jpg"))[:24]
    rows = [(i, path.stem, path.read_bytes()) for i, path in enumerate(paths)]
    options = PipelineOptions()
    on_cpu = list(Pipeline(pack, options).run(rows))
    on_gpu = list(Pipeline(pack, replace(options, runtime=ON_CUDA)).run(rows))
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        (a,), (b,) = ours.faces, theirs.faces
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=0.05)
        assert float(a.embedding.astype(np.float32) @ b.embedding.astype(np.float32)) >= 0.9995
