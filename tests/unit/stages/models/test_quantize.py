"""An encoder in int8: another model, close to the float one, and independent of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from facelake.bench.precision import compare_precision, recognition
from facelake.config import Config, load_config
from facelake.embed.models import load_encoder
from facelake.errors import ConfigError
from facelake.stages.admission.import_images import photos_of
from facelake.stages.models.quantize import aligned_faces, write_int8_pack
from facelake.stages.models.registry import config_model_digest, find_card, load_pack


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """insightface's photo of six people, and its mirror image."""
    import insightface

    folder = tmp_path_factory.mktemp("samples")
    with Image.open(Path(insightface.__file__).parent / "data/images/t1.jpg") as photo:
        photo.save(folder / "t1.png")
        ImageOps.mirror(photo).save(folder / "mirrored.png")
    return folder


@pytest.fixture(scope="module")
def int8(samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """A pack in int8: its folder, and what was said about it."""
    folder = str(tmp_path_factory.mktemp("pack") / "int8")
    return folder, write_int8_pack(Config(), str(samples), folder)


def test_an_int8_pack_is_another_model(samples: Path, int8: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    folder, made = int8
    assert made["faces"] == 12
    settings = load_config(overrides={"model.card": made["card"], "model.cache": str(tmp_path / "cache")})
    pack, whole = load_pack(settings), load_pack(Config())
    assert config_model_digest(settings, pack.card) != config_model_digest(Config(), whole.card)
    assert pack.card.withdrawn_lineage == whole.card.withdrawn_lineage
    assert pack.detector == whole.detector
    faces = np.stack([face for _, face in aligned_faces(Config(), whole, photos_of(str(samples)))])
    ours, theirs = load_encoder(pack).encode(faces), load_encoder(whole).encode(faces)
    assert (ours * theirs).sum(1).min() > 0.9, "measured: .96 on London"
    alone = np.concatenate([load_encoder(pack).encode(face[None]) for face in faces])
    assert (alone == ours).all()
    with pytest.raises(ConfigError, match="exists"):
        write_int8_pack(Config(), str(samples), folder)


def test_too_few_faces_for_calibration_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no photos"):
        write_int8_pack(Config(), str(tmp_path), str(tmp_path / "int8"))


def test_recognition_counts_pairs() -> None:
    """Two people in two photos each; one impostor pair is as alike as one genuine pair."""
    unit = np.array([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1], [0, 0.6, 0.8]], np.float32)
    found = recognition(unit, ["a", "a", "b", "b"])
    assert (found["genuine_pairs"], found["impostor_pairs"]) == (2, 4)
    assert found["impostor_most"] == pytest.approx(0.48)
    assert found["tar_at_0.001"] == 1.0
    worse = recognition(unit, ["a", "b", "b", "a"])
    assert worse["impostor_most"] == pytest.approx(0.8)
    assert worse["tar_at_0.001"] == 0.0


def test_precision_is_compared_on_labelled_photos(
    samples: Path, int8: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    _, made = int8
    folder = tmp_path / "photos"
    folder.mkdir()
    rows = ["image,person"]
    for person, name in enumerate(("t1.png", "mirrored.png")):
        for number in range(2):
            (folder / f"{number}-{name}").write_bytes((samples / name).read_bytes())
            rows.append(f"{number}-{name},{person}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    figures = compare_precision(Config(), made["card"], str(folder), str(tmp_path / "labels.csv"))
    assert figures["faces"] == 4
    assert figures["float32_tar_at_0.001"] == figures["other_tar_at_0.001"] == 1.0
    assert figures["other_cpu_ms"] > 0
    assert find_card(made["card"]).name == figures["card"] == "opencv-int8"
