"""bench quality: the gallery against labels by image."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from facelake.bench.scores import cluster_scores
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.gallery import current_gallery


def quality(lake: Lake, labels: str) -> dict[str, Any]:
    """Score the newest gallery. Of a labelled photo with several faces, the largest face carries the label.

    Args:
        labels: CSV with the columns image and person; image is an image_id, that without its source, or a file name.

    Returns:
        faces, identities (predicted, among labelled faces), people, images_without_face, pairwise, bcubed.
    """
    person_of = _read_labels(labels)
    gallery = current_gallery(lake)
    if gallery is None:
        raise ConfigError("no gallery was published yet", where=lake.uri, next_step="run `facelake nightly`")
    members = gallery.read("memberships", ["face_id", "identity_id", "image_id"]).to_pylist()
    boxes = lake["faces"].read(["face_id", "box"])
    area = {
        face: (box[2] - box[0]) * (box[3] - box[1])
        for face, box in zip(boxes["face_id"].to_pylist(), boxes["box"].to_pylist(), strict=True)
    }
    largest: dict[str, dict[str, Any]] = {}
    for row in sorted(members, key=lambda r: (area.get(r["face_id"], 0.0), r["face_id"])):
        largest[row["image_id"]] = row
    truth, groups, matched = [], [], set()
    for image_id, row in sorted(largest.items()):
        key = _label_key(image_id, person_of)
        if key is not None:
            truth.append(person_of[key])
            groups.append(row["identity_id"])
            matched.add(key)
    if not truth:
        raise ConfigError(
            "no labelled image is in the gallery",
            where=labels,
            next_step="compare the image column with image_id",
        )
    figures = {"faces": len(truth), "identities": len(set(groups)), "people": len(set(truth))}
    return figures | {"images_without_face": len(set(person_of) - matched)} | cluster_scores(truth, groups)


def _label_key(image_id: str, person_of: dict[str, str]) -> str | None:
    """The label's name for an image: its id, its path without the source, or its file name."""
    for name in (image_id, image_id.partition("/")[2], image_id.rpartition("/")[2]):
        if name in person_of:
            return name
    return None


def _read_labels(path: str) -> dict[str, str]:
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"labels cannot be read: {err}", where=path, next_step="check --labels") from err
    if not rows or not {"image", "person"} <= set(rows[0]):
        raise ConfigError("labels need the columns image and person", where=path, next_step="add a header line")
    return {row["image"]: row["person"] for row in rows}
