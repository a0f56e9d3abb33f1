"""Graph surgery and the pipeline: results do not depend on batches, every photo has one outcome."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from facelake.config import Config
from facelake.contracts import Outcome, Reject
from facelake.embed import DecodeLimits, Pack, Pipeline, PipelineOptions, faces_table, rejects_table
from facelake.embed.graphs import batchable
from facelake.embed.models import load_detector, load_encoder
from facelake.embed.resample import Levels
from facelake.errors import ConfigError
from facelake.stages.models.registry import cache_folder, find_card
from facelake.vectors import embedding_matrix


@pytest.fixture(scope="module")
def pipeline(pack: Pack) -> Pipeline:
    return Pipeline(pack, PipelineOptions())


@pytest.fixture(scope="module")
def photos(demo_template: tuple[Path, object]) -> list[tuple[int, str, bytes]]:
    """The demo's own corpus: portraits, group photos, no faces, damaged files."""
    from facelake.lake.corpora.parquet import Corpus

    corpus = Corpus(str(demo_template[0] / "corpus"))
    return [(i, f"{i}", data) for i, (_, _, data) in enumerate(corpus.images("demo-1.parquet", 70, 140))]


@pytest.fixture(scope="module")
def outcomes(pipeline: Pipeline, photos: list[tuple[int, str, bytes]]) -> list[Outcome]:
    return list(pipeline.run(photos))


def test_batch_of_the_encoder_changes_nothing(pack: Pack) -> None:
    faces = np.random.default_rng(0).integers(0, 255, (7, 112, 112, 3), dtype=np.uint8)
    encoder = load_encoder(pack)
    whole = encoder.encode(faces)
    np.testing.assert_allclose(whole, np.concatenate([encoder.encode(f[None]) for f in faces]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)


def test_encoder_agrees_with_the_file_as_it_is_published(pack: Pack) -> None:
    """onnxruntime dequantises the original's weights at every call; ours are folded once."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = onnx.load_from_string(pack.encoder)
    only = [item for item in model.graph.input if item.name == "data"]
    del model.graph.input[:]
    model.graph.input.extend(only)
    original = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    face = np.random.default_rng(1).integers(0, 255, (1, 112, 112, 3), dtype=np.uint8)
    raw = original.run(["fc1"], {"data": face.transpose(0, 3, 1, 2).astype(np.float32)})[0]
    np.testing.assert_allclose(load_encoder(pack).encode(face), raw / np.linalg.norm(raw), atol=1e-4)


def test_detector_runs_in_batches_and_at_any_size(pack: Pack) -> None:
    session = onnxruntime.InferenceSession(batchable(pack.detector, any_size=True), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).uniform(0, 255, (3, 3, 192, 320)).astype(np.float32)
    whole = session.run(None, {"input": x})
    single = [session.run(None, {"input": x[i : i + 1]}) for i in range(3)]
    for k, head in enumerate(whole):
        np.testing.assert_allclose(head, np.concatenate([s[k] for s in single]), atol=1e-4)


def test_detector_finds_the_faces(pack: Pack) -> None:
    found = load_detector(pack, 0.8).locate([Levels(np.zeros((480, 640, 3), np.uint8))] * 2)
    assert [len(f.scores) for f in found] == [0, 0]


def test_every_photo_has_one_outcome_in_order(outcomes: list[Outcome], photos: list[tuple[int, str, bytes]]) -> None:
    assert [o.row for o in outcomes] == [row for row, _, _ in photos]
    assert all((o.reject is None) == bool(o.faces) for o in outcomes)
    assert {o.reject for o in outcomes} >= {None, Reject.NO_FACE, Reject.UNREADABLE, Reject.EMPTY, Reject.FORMAT}
    faces, rejects = faces_table(outcomes, "m", "f"), rejects_table(outcomes, "m", "f")
    assert faces.num_rows == sum(len(o.faces) for o in outcomes)
    assert rejects.num_rows == sum(o.reject is not None for o in outcomes)
    assert embedding_matrix(faces["embedding"])[1].all()


def test_rows_do_not_depend_on_their_batch(
    pipeline: Pipeline, outcomes: list[Outcome], photos: list[tuple[int, str, bytes]]
) -> None:
    together = faces_table(outcomes, "m", "f")
    apart = faces_table([o for photo in reversed(photos) for o in pipeline.run([photo])], "m", "f")
    assert together.sort_by("face_id").equals(apart.sort_by("face_id"))


def test_small_faces_are_counted_as_such(pack: Pack, photos: list[tuple[int, str, bytes]]) -> None:
    strict = Pipeline(pack, PipelineOptions(min_face_px=5000))
    reasons = {o.reject for o in strict.run(photos)}
    assert Reject.TOO_SMALL in reasons
    assert None not in reasons


def test_a_face_that_fills_its_frame_is_found(pipeline: Pipeline, shared: Path) -> None:
    image = Image.open(shared / "data/london/images/001_neutral.jpg")
    whole = next(iter(pipeline.run([(0, "a", (shared / "data/london/images/001_neutral.jpg").read_bytes())])))
    x0, y0, x1, y1 = whole.faces[0].box
    sink = io.BytesIO()
    image.crop((x0, y0, x1, y1)).save(sink, "PNG")
    tight = next(iter(pipeline.run([(0, "b", sink.getvalue())])))
    assert len(tight.faces) == 1
    assert float(tight.faces[0].embedding.astype(np.float32) @ whole.faces[0].embedding.astype(np.float32)) > 0.7


def test_a_small_face_in_a_large_photo_is_decoded_again(pack: Pack, shared: Path) -> None:
    """Ten portraits of 320 pixels in a photo of 3200: at half its size the encoder would have less than there is."""
    frame = Image.new("RGB", (3200, 1600), "gray")
    for i, path in enumerate(sorted((shared / "data/london/images").glob("*.jpg"))[:10]):
        frame.paste(Image.open(path).resize((320, 320)), (100 + i % 5 * 600, 100 + i // 5 * 700))
    sink = io.BytesIO()
    frame.save(sink, "JPEG", quality=95)
    options = PipelineOptions(min_det_score=0.6)
    halved = Pipeline(pack, options)
    whole = Pipeline(pack, replace(options, limits=DecodeLimits(target_px=0)))
    (found,), (wanted,) = (list(p.run([(0, "a", sink.getvalue())])) for p in (halved, whole))
    assert (found.width, found.height) == frame.size
    assert len(found.faces) == len(wanted.faces) == 10
    cosines = []
    for face in found.faces:
        near = min(wanted.faces, key=lambda other: float(np.abs(other.box - face.box).sum()))
        assert np.abs(near.box - face.box).max() < 20, "boxes are in pixels of the whole photo"
        cosines.append(float(near.embedding.astype(np.float32) @ face.embedding.astype(np.float32)))
    assert np.median(cosines) > 0.995, ".981 where it is not decoded again"


def test_wrong_digest_and_missing_files_are_refused(pack: Pack) -> None:
    card = find_card("opencv")
    with pytest.raises(ConfigError, match="has digest"):
        Pack.verified(card, {card.detector.file: pack.detector, card.encoder.file: pack.encoder + b"x"})
    with pytest.raises(ConfigError, match="missing"):
        Pack.verified(card, {})


def test_a_model_with_weights_in_other_files_is_refused(pack: Pack, tmp_path: Path) -> None:
    """Its digest would stay the same whatever the other files hold; also where a node's own graph has them."""
    model = onnx.load_from_string(pack.encoder)
    inner = onnx.helper.make_graph([], "inner", [], [], [onnx.numpy_helper.from_array(np.ones(4, np.float32), "w")])
    nested = onnx.load_from_string(pack.encoder)
    nested.graph.node.append(onnx.helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    outside = nested.graph.node[-1].attribute[0].g.initializer[0]
    onnx.external_data_helper.set_external_data(outside, "weights.bin")
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    for data in ((tmp_path / "m.onnx").read_bytes(), nested.SerializeToString()):
        encoder = pack.card.encoder.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})
        card = pack.card.model_copy(update={"encoder": encoder})
        with pytest.raises(ConfigError, match="weights from other files"):
            Pack.verified(card, {card.detector.file: pack.detector, encoder.file: data})


def test_cached_files_are_checked_at_every_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Pack) -> None:
    from facelake.stages.models.registry import load_pack

    for path in cache_folder(Config()).glob("*yunet*"):
        (tmp_path / path.name).write_bytes(b"not the model")
    for path in cache_folder(Config()).glob("*sface*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setenv("FACELAKE_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="model file has digest"):
        load_pack(Config())
