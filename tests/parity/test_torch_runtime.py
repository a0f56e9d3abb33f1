"""Graphs on torch give the results of onnxruntime, on the CPU and, where available, on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from facelake.bench.synthetic_packs import iresnet, scrfd_10g, write_pack
from facelake.config import Config
from facelake.contracts import F32
from facelake.embed import Pack, Pipeline, PipelineOptions
from facelake.embed.graphs import batchable
from facelake.embed.models import load_encoder
from facelake.embed.runtime import OnnxGraph, Runtime, open_graph, open_torch
from facelake.embed.torch_runtime import TorchGraph
from facelake.errors import ConfigError
from facelake.stages.models.model_cards import card_of_pack

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def blob(*shape: int) -> F32:
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def agree(model: bytes, x: F32, device: str) -> None:
    ours, theirs = open_torch(model, Runtime("torch", device)), OnnxGraph(model)
    assert ours.outputs == theirs.outputs
    for found, wanted in zip(ours.run(x), theirs.run(x), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4 * (1 + np.abs(wanted).max()))


@pytest.mark.parametrize("device", DEVICES)
def test_scrfd(shared: Path, device: str) -> None:
    scrfd = (shared / "models/scrfd_500m_kps.onnx").read_bytes()
    agree(batchable(scrfd, any_size=True, blocks=False), blob(2, 3, 320, 256), device)


@pytest.mark.parametrize("device", DEVICES)
def test_yunet_and_sface(pack: Pack, device: str) -> None:
    agree(batchable(pack.detector, any_size=True, blocks=False), blob(2, 3, 192, 320) * 255, device)
    for blocks in (False, True):
        agree(batchable(pack.encoder, "data", blocks=blocks), blob(3, 3, 112, 112) * 255, device)


@pytest.mark.parametrize("device", DEVICES)
def test_iresnet(device: str) -> None:
    agree(batchable(iresnet((1, 1, 1, 1)), blocks=False), blob(2, 3, 112, 112), device)


def test_no_value_on_the_device_is_read_while_a_graph_runs(pack: Pack, shared: Path) -> None:
    """Tensors of the device `meta` have shapes and no values: what reads one fails, as it would in a captured graph."""
    scrfd = (shared / "models/scrfd_500m_kps.onnx").read_bytes()
    graphs = [
        (batchable(scrfd, any_size=True, blocks=False), 640),
        (batchable(scrfd_10g(), any_size=True, blocks=False), 640),
        (batchable(pack.detector, any_size=True, blocks=False), 640),
        (batchable(pack.encoder, "data", blocks=False), 112),
        (batchable(iresnet((1, 1, 1, 1)), blocks=False), 112),
    ]
    for model, side in graphs:
        with torch.inference_mode():
            graph = TorchGraph(model, "meta", half=True)
            outputs = graph.forward(torch.empty(4, 3, side, side, dtype=torch.float16, device="meta"))
        assert all(item.device.type == "meta" and len(item) == 4 for item in outputs)


@pytest.fixture(scope="module")
def light(pack: Pack, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """SCRFD-500M and SFace."""
    scrfd = (shared / "models/scrfd_500m_kps.onnx").read_bytes()
    folder = write_pack(tmp_path_factory.mktemp("packs") / "light", scrfd, pack.encoder, "data")
    return card_of_pack(str(folder), Config(), "not stated")[1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["opencv", "light"])
def test_half_precision_keeps_the_direction(name: str, pack: Pack, light: Pack, device: str, shared: Path) -> None:
    chosen = light if name == "light" else pack
    photos = [
        path.read_bytes()
        for path in sorted((shared / "data/london/images").glob("*.jpg"))[: 2 if device == "cpu" else 40]
    ]
    rows = [(i, str(i), data) for i, data in enumerate(photos)]
    whole = list(Pipeline(chosen, PipelineOptions()).run(rows))
    half = replace(PipelineOptions(), runtime=Runtime("torch", device, half=True))
    for ours, theirs in zip(Pipeline(chosen, half).run(rows), whole, strict=True):
        (a,), (b,) = ours.faces, theirs.faces
        assert float(a.embedding.astype(np.float32) @ b.embedding.astype(np.float32)) >= 0.995


def test_the_pipeline_on_torch_gives_the_same_faces(light: Pack, shared: Path) -> None:
    data = (shared / "data/london/images/001_neutral.jpg").read_bytes()
    options = PipelineOptions(min_det_score=0.5)
    (onnx_face,), (torch_face,) = (
        next(iter(Pipeline(light, replace(options, runtime=runtime)).run([(0, "a", data)]))).faces
        for runtime in (Runtime(), Runtime("torch", "cpu"))
    )
    np.testing.assert_allclose(torch_face.box, onnx_face.box, atol=0.01)
    np.testing.assert_allclose(torch_face.landmarks, onnx_face.landmarks, atol=0.01)
    assert float(torch_face.embedding.astype(np.float32) @ onnx_face.embedding.astype(np.float32)) >= 0.9995


def test_padding_of_batches_does_not_affect_outputs(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of CUDA graphs played by the graph itself, which writes over what it gave before as they do."""

    def replayed(work: Callable[[], list[torch.Tensor]], *_: object) -> Callable[[], list[torch.Tensor]]:
        held = work()
        return lambda: [old.copy_(new) for old, new in zip(held, work(), strict=True)]

    monkeypatch.setattr("facelake.embed.torch_runtime.replayed", replayed)
    for name in ("graph_pool_handle", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: None)
    graph = TorchGraph(batchable(pack.encoder, "data", blocks=False))
    graph._captures = True
    photos = torch.from_numpy(blob(40, 3, 112, 112))
    with torch.inference_mode():
        (whole,) = graph.once(photos)
        found = [graph.on_device(photos[part], 64)[0] for part in (slice(0, 40), slice(3, 5), slice(7, 24), slice(1))]
    assert [len(one) for one in found] == [40, 2, 17, 1]
    for one, part in zip(found, (slice(0, 40), slice(3, 5), slice(7, 24), slice(1)), strict=True):
        torch.testing.assert_close(one, whole[part], rtol=1e-4, atol=1e-4)
    assert sorted(shape[0] for shape in graph._captured) == [16, 32, 64]


def test_half_precision_is_another_model_digest() -> None:
    plain = PipelineOptions().shaping()
    assert replace(PipelineOptions(), runtime=Runtime("torch")).shaping() == plain
    assert replace(PipelineOptions(), runtime=Runtime("torch", half=True)).shaping() != plain


def test_unsupported_runtime_options_are_reported(pack: Pack) -> None:
    strange = helper.make_model(
        helper.make_graph(
            [helper.make_node("Erf", ["x"], ["y"])],
            "strange",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        )
    )
    with pytest.raises(ValueError, match="Erf"):
        TorchGraph(strange.SerializeToString())
    with pytest.raises(ConfigError, match="only the runtime torch computes in half precision"):
        open_graph(batchable(pack.encoder, "data"), Runtime("onnxruntime", half=True))
    assert load_encoder(pack, runtime=Runtime("torch", "cpu")).batched
