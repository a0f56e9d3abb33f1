"""InsightFace packs: the same faces as insightface 2.1, and only the needed files are opened."""

from __future__ import annotations

import builtins
import os
import shutil
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper

from facelake.bench.parity import parity
from facelake.bench.synthetic_packs import iresnet, tiny_attribute_model, write_heavy_pack, write_pack
from facelake.config import Config, load_config
from facelake.contracts import U8
from facelake.embed import Pack
from facelake.embed.geometry import inverses
from facelake.embed.graphs import batchable, is_batch_invariant, repaired
from facelake.embed.insightface import choose_files
from facelake.embed.models import load_detector, load_encoder
from facelake.embed.resample import resize_into, to_blob, warp_linear
from facelake.embed.runtime import OnnxGraph
from facelake.errors import ConfigError, Refused, Retryable
from facelake.stages.admission.withdrawn_datasets import accepted_lineage
from facelake.stages.models.model_cards import card_of_pack, write_card
from facelake.stages.models.registry import find_card, load_pack
from facelake.testing.servers import Server

_LICENCE = {"model.accept_license": "non-commercial"}
_SAID = "CASIA-WebFace, VGGFace2 and MS1MV2"


@pytest.fixture(scope="module")
def scrfd(shared: Path) -> bytes:
    return (shared / "models/scrfd_500m_kps.onnx").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, scrfd: bytes, pack: Pack) -> Path:
    """SCRFD-500M and SFace as a pack, with an age model beside them."""
    made = write_pack(tmp_path_factory.mktemp("packs") / "light", scrfd, pack.encoder, "data")
    (made / "genderage.onnx").write_bytes(tiny_attribute_model())
    (made / "1k3d68.onnx").write_bytes(b"not even a model")
    return made


@pytest.fixture(scope="module")
def light(folder: Path) -> Pack:
    return card_of_pack(str(folder), Config(), _SAID)[1]


@pytest.fixture(scope="module")
def samples() -> Path:
    import insightface

    return Path(insightface.__file__).parent / "data/images"


def config(**overrides: Any) -> Config:
    return load_config(overrides=_LICENCE | {"embed.decode_px": 0} | overrides)


def clean_pack(tmp_path: Path, folder: Path) -> Path:
    """The pack without the file that is no model, which insightface would stumble over."""
    made = Path(shutil.copytree(folder, tmp_path / "light"))
    (made / "1k3d68.onnx").unlink()
    return made


def check(figures: dict[str, Any], faces: int) -> None:
    """The limits that the project sets itself. Measured is far better: 1.0, 0.0 and 0.999999 on London."""
    assert figures["faces"] == figures["faces_insightface"] == faces
    assert figures["photos_with_other_count"] == 0
    assert figures["iou_least"] >= 0.99
    assert figures["landmark_px_most"] <= 0.5
    assert figures["cosine_least"] >= 0.9995
    assert figures["agrees"]


# ---- parity


def test_the_samples_of_insightface(tmp_path: Path, folder: Path, samples: Path) -> None:
    check(parity(config(), str(clean_pack(tmp_path, folder)), str(samples)), 6)


def test_a_part_of_london(tmp_path: Path, folder: Path, shared: Path) -> None:
    for path in sorted((shared / "data/london/images").glob("*.jpg"))[::6]:
        shutil.copy(path, tmp_path)
    check(parity(config(), str(clean_pack(tmp_path, folder)), str(tmp_path)), 34)


@pytest.mark.slow
def test_all_of_london(tmp_path: Path, folder: Path, shared: Path) -> None:
    check(parity(config(), str(clean_pack(tmp_path, folder)), str(shared / "data/london/images")), 204)


def test_a_graph_of_any_size_searches_two_squares(tmp_path: Path, scrfd: bytes, pack: Pack, samples: Path) -> None:
    """insightface takes 128 and 640 pixels then, and one suppression; a face that fills its frame tells the difference."""
    made = write_pack(tmp_path / "any", batchable(scrfd, any_size=True), pack.encoder, "data")
    card, _ = card_of_pack(str(made), Config(), _SAID)
    assert card.detector.kind == "scrfd"
    assert (card.detector.sides, card.detector.any_size) == ([128, 640], True)
    figures = parity(config(), str(made), str(samples))
    check(figures, figures["faces_insightface"])
    fixed = write_pack(tmp_path / "fixed", scrfd, pack.encoder, "data")
    assert figures["faces"] > parity(config(), str(fixed), str(samples))["faces"]


def test_orientation_and_odd_sizes(tmp_path: Path, folder: Path, samples: Path) -> None:
    from PIL import Image

    with Image.open(samples / "t1.jpg") as photo:
        for orientation in (3, 6, 8):
            exif = Image.Exif()
            exif[0x0112] = orientation
            turned = photo.rotate({3: 180, 6: 90, 8: 270}[orientation], expand=True)
            turned.save(tmp_path / f"{orientation}.jpg", exif=exif, quality=95)
        photo.resize((333, 777)).save(tmp_path / "narrow.png")
        photo.crop((0, 0, 1279, 301)).save(tmp_path / "flat.png")
    figures = parity(config(), str(clean_pack(tmp_path / "pack", folder)), str(tmp_path))
    assert figures["photos"] == 5
    check(figures, figures["faces_insightface"])
    assert figures["faces"] >= 18, "six faces in each of the turned photos"


def test_the_heavy_pack_of_the_benchmark(tmp_path: Path, samples: Path) -> None:
    """Networks in the shapes of SCRFD-10G and ResNet-50: one face in any photo, here as in insightface."""
    for path in sorted(samples.glob("*.jpg"))[:2]:
        shutil.copy(path, tmp_path)
    check(parity(config(), str(write_heavy_pack(tmp_path / "heavy")), str(tmp_path)), 2)


# ---- sampling


def test_pixels_are_sampled_as_opencv_samples_them(samples: Path) -> None:
    import cv2

    pixels: U8 = cv2.imread(str(samples / "t1.jpg"))
    for width, height in ((640, 443), (128, 88), (301, 700), (1500, 1100), (1280, 886)):
        ours = np.zeros((height, width, 3), np.uint8)
        resize_into(pixels, ours, width, height)
        assert np.abs(ours.astype(int) - cv2.resize(pixels, (width, height))).max() <= 1
    for angle, scale, x, y in ((0.3, 0.5, 400, 300), (-1.2, 1.7, 5, 880), (3.0, 0.2, 1279, 10)):
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        matrix = np.column_stack([turn, 56 - turn @ [x, y]])
        theirs = cv2.warpAffine(pixels, matrix, (112, 112), borderValue=0.0)
        crop = warp_linear(pixels, inverses(matrix[None])[0], 112)
        assert np.abs(crop.astype(int) - theirs).mean() < 0.01
    theirs = cv2.dnn.blobFromImages([pixels], 1 / 128, (1280, 886), (127.5,) * 3, swapRB=True)
    np.testing.assert_allclose(to_blob(pixels[None], 127.5, 1 / 128, swap=True), theirs, atol=1e-6)


# ---- graphs


def test_detector_and_encoder_run_in_batches(light: Pack) -> None:
    assert load_detector(light, 0.5).batched  # type: ignore[attr-defined]
    assert load_encoder(light).batched


def test_encoder_is_the_published_one(folder: Path, light: Pack) -> None:
    """Against the file as insightface runs it, after PRelu was written anew."""
    face = np.random.default_rng(1).integers(0, 255, (1, 112, 112, 3), dtype=np.uint8)
    theirs = OnnxGraph((folder / "w_sface.onnx").read_bytes()).run(to_blob(face, 0.0, 1.0))[0]
    np.testing.assert_allclose(load_encoder(light).raw(face), theirs, atol=1e-5)


def rows_of_one_photo(scrfd: bytes) -> bytes:
    """Heads as older exports lay them out: (n, a k, h, w) to (h, w, n, a k) to rows, no batch axis."""
    model = onnx.load_from_string(scrfd)
    makers = {name: node for node in model.graph.node for name in node.output}
    for output in model.graph.output:
        node = makers[output.name]
        node = makers[node.input[0]] if node.op_type == "Sigmoid" else node
        next(a for a in makers[node.input[0]].attribute if a.name == "perm").ints[:] = [2, 3, 0, 1]
        rows, width = (d.dim_value for d in output.type.tensor_type.shape.dim[1:])
        shape = f"{node.output[0]}_rows"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, width], np.int64), shape))
        node.input[1] = shape
        del output.type.tensor_type.shape.dim[:]
        for size in (rows, width):
            output.type.tensor_type.shape.dim.add().dim_value = size
    return bytes(model.SerializeToString())


def test_rows_of_the_heads_stay_with_their_photo(scrfd: bytes) -> None:
    old = rows_of_one_photo(scrfd)
    blob = np.random.default_rng(0).uniform(-1, 1, (3, 3, 640, 640)).astype(np.float32)
    ours = OnnxGraph(batchable(old, any_size=True)).run(blob)
    published = OnnxGraph(old)
    for i in range(3):
        for whole, alone in zip(ours, published.run(blob[i : i + 1]), strict=True):
            np.testing.assert_allclose(whole[i], alone, atol=1e-4)


def test_a_graph_that_cannot_be_batched_is_reported_and_runs_one_by_one(
    folder: Path, pack: Pack, scrfd: bytes, samples: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An encoder whose reshape joins the batch to the channels, as no surgery of ours undoes."""
    model = onnx.load_from_string(repaired(pack.encoder, "data"))
    flatten = next(node for node in model.graph.node if node.op_type == "Flatten")
    flatten.op_type = "Reshape"
    del flatten.attribute[:]
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1], np.int64), "all"))
    flatten.input.append("all")
    name, flatten.output[0] = flatten.output[0], "joined"
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "first"))
    after = onnx.helper.make_node("Unsqueeze", ["joined", "first"], [name])
    model.graph.node.insert(list(model.graph.node).index(flatten) + 1, after)
    graph = OnnxGraph(batchable(model.SerializeToString()))
    assert not is_batch_invariant(graph.run, (3, 112, 112))

    from facelake.embed.models import Encoder

    encoder = Encoder(graph, 0.0, 1.0)
    assert not encoder.batched
    assert "face by face" in caplog.text
    faces = np.random.default_rng(2).integers(0, 255, (3, 112, 112, 3), dtype=np.uint8)
    np.testing.assert_allclose(encoder.encode(faces), load_encoder(pack).encode(faces), atol=1e-5)


def test_prelu_is_replaced_in_networks_of_real_shape() -> None:
    published = iresnet((1, 1, 1, 1))
    face = np.random.default_rng(3).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    ours = batchable(published)
    kinds = {node.op_type for node in onnx.load_from_string(ours).graph.node}
    assert "PRelu" not in kinds
    whole = OnnxGraph(ours).run(face)[0]
    alone = np.concatenate([OnnxGraph(published).run(face[i : i + 1])[0] for i in range(2)])
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-4 * np.abs(alone).max())


# ---- duplicates


def test_the_same_face_is_encoded_once(light: Pack) -> None:
    encoder = load_encoder(light)
    faces = np.random.default_rng(4).integers(0, 255, (3, 112, 112, 3), dtype=np.uint8)
    first = encoder.encode(faces[[0, 1, 0, 2, 1]])
    assert encoder.encoded == 3
    np.testing.assert_array_equal(first[0], first[2])
    np.testing.assert_array_equal(encoder.encode(faces[[2]])[0], first[3])
    assert encoder.encoded == 3


# ---- cards, terms, files


def test_only_detector_and_encoder_are_opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the making of the card to the loaded models; io.open sees what pathlib and zipfile open, too."""
    import io

    opened: set[str] = set()
    plain = io.open

    def watching(file: Any, *more: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike):
            opened.add(os.path.basename(os.fspath(file)))
        return plain(file, *more, **options)

    monkeypatch.setattr(io, "open", watching)
    monkeypatch.setattr(builtins, "open", watching)
    monkeypatch.setenv("FACELAKE_CACHE", str(tmp_path / "cache"))
    card, _ = card_of_pack(str(folder), Config(), _SAID)
    write_card(card, str(tmp_path / "card.yaml"))
    loaded = load_pack(config(**{"model.card": str(tmp_path / "card.yaml")}))
    load_detector(loaded, 0.5)
    load_encoder(loaded)
    models = {name for name in opened if name.endswith(".onnx")}
    assert {"det_500m.onnx", "w_sface.onnx"} <= models
    assert not [name for name in models if "genderage" in name or "1k3d68" in name]
    assert {path.name.partition("-")[2] for path in (tmp_path / "cache").iterdir()} == {"det_500m.onnx", "w_sface.onnx"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["det_10g.onnx", "w600k_r50.onnx", "genderage.onnx", "1k3d68.onnx", "2d106det.onnx"], "w600k_r50.onnx"),
        (["scrfd_10g_bnkps.onnx", "glintr100.onnx", "genderage.onnx", "2d106det.onnx", "a.txt"], "glintr100.onnx"),
        (["det_500m.onnx", "w600k_mbf.onnx"], "w600k_mbf.onnx"),
        (["det_500m.onnx", "image_encoder.onnx", "sub/other.onnx"], "image_encoder.onnx"),
    ],
)
def test_packs_as_insightface_publishes_them(names: list[str], chosen: str) -> None:
    assert choose_files(names, "x").encoder == chosen


@pytest.mark.parametrize("names", [[], ["det_1.onnx"], ["r50.onnx"], ["det_1.onnx", "a.onnx", "b.onnx"]])
def test_folders_that_are_not_packs_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="a pack needs one"):
        choose_files(names, "x")
    assert choose_files(["det_1.onnx", "a.onnx", "b.onnx"], "x", encoder="b.onnx").encoder == "b.onnx"


def test_a_card_needs_training_data_and_its_lineage_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training data of .* is not known"):
        card_of_pack(str(folder), Config())
    card, _ = card_of_pack(str(folder), Config(), _SAID)
    write_card(card, str(tmp_path / "card.yaml"))
    with pytest.raises(ConfigError, match="cannot be written"):
        write_card(card, str(tmp_path / "card.yaml"))
    settings = config(**{"model.card": str(tmp_path / "card.yaml")})
    with pytest.raises(Refused, match="VGGFace2"):
        accepted_lineage(settings, find_card(settings.model.card))


def test_a_pack_is_opened_only_if_its_terms_are_accepted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACELAKE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "card.yaml"
    write_card(card_of_pack(str(folder), Config(), _SAID)[0], str(path))
    body = yaml.safe_load(path.read_text())
    del body["terms"]
    path.write_text(yaml.safe_dump(body))
    with pytest.raises(Refused, match="non-commercial"):
        load_pack(load_config(overrides={"model.card": str(path)}))
    assert not (tmp_path / "cache").exists(), "what a card does not say is the stricter"
    with pytest.raises(ConfigError, match="accept_license"):
        load_config(overrides={"model.accept_license": "yes"})
    assert load_pack(config(**{"model.card": str(path)})).card.name == "light"
    with pytest.raises(Refused):
        parity(Config(), str(folder), str(folder))


def test_a_pack_that_was_changed_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACELAKE_CACHE", str(tmp_path / "cache"))
    made = Path(shutil.copytree(folder, tmp_path / "pack"))
    write_card(card_of_pack(str(made), Config(), _SAID)[0], str(tmp_path / "card.yaml"))
    (made / "w_sface.onnx").write_bytes((made / "w_sface.onnx").read_bytes() + b"\0")
    with pytest.raises(ConfigError, match="differs from its card"):
        load_pack(config(**{"model.card": str(tmp_path / "card.yaml")}))


def test_a_pack_in_s3(folder: Path, weed_env: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facelake.lake.store import open_store

    monkeypatch.setenv("FACELAKE_CACHE", str(tmp_path / "cache"))
    store = open_store("s3://lake/packs/light", Config().s3)
    for path in folder.iterdir():
        store.write(path.name, path.read_bytes())
    card, _ = card_of_pack("s3://lake/packs/light", Config(), _SAID)
    assert card.name == "light"
    write_card(card, str(tmp_path / "card.yaml"))
    loaded = load_pack(config(**{"model.card": str(tmp_path / "card.yaml")}))
    assert loaded.encoder == (folder / "w_sface.onnx").read_bytes()


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in place of the releases from which insightface fetches; its own code does the fetching."""
    from insightface.utils import storage

    served = tmp_path / "zoo"
    served.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(served)))
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(storage, "MODEL_ZOO_RELEASE_DOWNLOAD_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("FACELAKE_CACHE", str(tmp_path / "cache"))
    yield served
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("inside", ["", "w_light/"])
def test_insightface_fetches_a_pack_once_its_terms_are_accepted(
    zoo: Path, folder: Path, light: Pack, tmp_path: Path, inside: str
) -> None:
    with zipfile.ZipFile(zoo / "w_light.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"{inside}{path.name}")
    with pytest.raises(Refused, match="non-commercial"):
        card_of_pack("insightface:w_light", Config(), _SAID)
    assert not (tmp_path / "cache").exists()
    for _ in range(2):  # the second time nothing is asked of the zoo
        card, fetched = card_of_pack("insightface:w_light", config(), _SAID)
        assert (fetched.detector, fetched.encoder) == (light.detector, light.encoder)
        (zoo / "w_light.zip").unlink(missing_ok=True)
    kept = tmp_path / "cache/insightface"
    assert {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()} == {
        "w_light/det_500m.onnx", "w_light/w_sface.onnx",
    }  # fmt: skip
    write_card(card, str(tmp_path / "card.yaml"))
    assert load_pack(config(**{"model.card": str(tmp_path / "card.yaml")})).encoder == light.encoder


def test_a_failed_download_is_reported(zoo: Path) -> None:
    with pytest.raises(Retryable, match="could not fetch"):
        card_of_pack("insightface:buffalo_none", config())
    (zoo / "w_torn.zip").write_bytes(b"no archive")
    with pytest.raises(Retryable, match="could not fetch"):
        card_of_pack("insightface:w_torn", config())
    with pytest.raises(ConfigError, match="not a name of a pack"):
        card_of_pack("insightface:../w_torn", config())
