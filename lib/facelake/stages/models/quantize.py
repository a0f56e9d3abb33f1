"""Creates an int8 version of the configured model pack: model files and a card in a new folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from facelake.config import Config
from facelake.contracts import U8
from facelake.embed import ModelCard, Pack, Pipeline
from facelake.embed.int8 import in_int8
from facelake.embed.packs import FolderCard
from facelake.errors import ConfigError
from facelake.stages.admission.import_images import photos_of
from facelake.stages.models.model_cards import write_card
from facelake.stages.models.registry import load_pack, pipeline_options

_LEAST_FACES, _MOST_FACES = 8, 256


def write_int8_pack(config: Config, images: str, out: str) -> dict[str, Any]:
    """Quantise the encoder of the configured pack, calibrated on at most 256 faces of a folder of photos.

    Returns:
        card (path), faces (used for calibration), bytes and float_bytes (size of the encoder after and before).

    Raises:
        ConfigError: fewer than eight faces in the photos; `out` cannot be written or already contains the card.
        Refused: the pack's terms are not accepted.
    """
    pack, folder = load_pack(config), Path(out).expanduser().absolute()
    faces = list(aligned_faces(config, pack, photos_of(images)))[:_MOST_FACES]
    if len(faces) < _LEAST_FACES:
        next_step = "give photos of many people, similar to those that the model will process"
        raise ConfigError(f"{len(faces)} faces found, {_LEAST_FACES} needed", where=images, next_step=next_step)
    encoder = in_int8(pack.encoder, pack.card.encoder, np.stack([face for _, face in faces]))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        card = _card(pack.card, encoder, folder)
        (folder / card.detector.file).write_bytes(pack.detector)
        (folder / card.encoder.file).write_bytes(encoder)
    except OSError as err:
        raise ConfigError(f"cannot write: {err.strerror}", where=out, next_step="give another --out") from err
    path = folder / f"{card.name}.yaml"
    write_card(card, str(path))
    return {"card": str(path), "faces": len(faces), "bytes": len(encoder), "float_bytes": len(pack.encoder)}


def _card(card: ModelCard, encoder: bytes, folder: Path) -> ModelCard:
    """The card of the quantised pack. Its digest differs, so that rows of the two packs are never mixed."""
    part = card.encoder
    name = f"{Path(part.file).stem}.int8.onnx"
    update = {"file": name, "sha256": hashlib.sha256(encoder).hexdigest(), "precision": "int8"}
    return card.model_copy(
        update={
            "name": f"{card.name}-int8",
            "title": f"{card.title}, encoder in int8",
            "encoder": part.model_copy(update=update),
            "source": FolderCard(uri=str(folder)),
            "precisions": [],  # they describe the float file
        }
    )


def aligned_faces(config: Config, pack: Pack, paths: list[Path]) -> Iterator[tuple[Path, U8]]:
    """Yield (path, face), faces (112, 112, 3) uint8 as the encoder receives them, best detection first within a
    photo.
    """
    pipeline = Pipeline(pack, pipeline_options(config, pack.card))
    for path in paths:
        for face in pipeline.aligned((0, path.name, path.read_bytes())):
            yield path, face
