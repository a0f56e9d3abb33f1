"""Labels that somebody gives: a CSV of images and who is in them, and the faces that carry them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from facelake.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Labelled:
    """Faces with a label, by image id."""

    faces: list[str]
    people: list[str]
    missing: int
    """labels whose image has no face here"""


def read_labels(path: str) -> dict[str, str]:
    """Who is in an image, by the image's name.

    Raises:
        ConfigError: it cannot be read, or lacks the columns image and person.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"labels cannot be read: {err}", where=path, next_step="check --labels") from err
    if not rows or not {"image", "person"} <= set(rows[0]):
        raise ConfigError("labels need the columns image and person", where=path, next_step="add a header line")
    return {row["image"]: row["person"] for row in rows}


def labelled(faces: pa.Table, person_of: dict[str, str]) -> Labelled:
    """Give faces their labels; of a labelled photo with several faces, the largest carries it.

    Args:
        faces: face_id, image_id, box.
        person_of: by image_id, that without its source, or a file name.
    """
    largest: dict[str, tuple[float, str]] = {}
    columns = (faces[name].to_pylist() for name in ("face_id", "image_id", "box"))
    for face, image, box in zip(*columns, strict=True):
        claim = ((box[2] - box[0]) * (box[3] - box[1]) if box else 0.0, face)
        largest[image] = max(largest.get(image, claim), claim)
    found = [(face, key) for image, (_, face) in sorted(largest.items()) if (key := _key(image, person_of)) is not None]
    people = [person_of[key] for _, key in found]
    return Labelled([face for face, _ in found], people, len(set(person_of) - {key for _, key in found}))


def _key(image_id: str, person_of: dict[str, str]) -> str | None:
    """The label's name for an image: its id, its path without the source, or its file name."""
    for name in (image_id, image_id.partition("/")[2], image_id.rpartition("/")[2]):
        if name in person_of:
            return name
    return None
