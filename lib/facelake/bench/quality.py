"""bench quality: the gallery against labels by image."""

from __future__ import annotations

from typing import Any

from facelake.bench.scores import cluster_scores
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.evaluation.labels import label_faces, read_labels
from facelake.stages.gallery.versions import require_gallery


def quality(lake: Lake, labels: str) -> dict[str, Any]:
    """Score the newest gallery. Of a labelled photo with several faces, the largest face carries the label.

    Args:
        labels: CSV with the columns image and person; image is an image_id, that without its source, or a file name.

    Returns:
        faces, identities (predicted, among labelled faces), people, images_without_face, pairwise, bcubed.
    """
    person_of = read_labels(labels)
    gallery = require_gallery(lake)
    members = gallery.read("memberships", ["face_id", "identity_id"])
    found = label_faces(lake["faces"].read(["face_id", "image_id", "box"]), person_of)
    home = dict(zip(*(column.to_pylist() for column in members.columns), strict=True))
    pairs = [(person, home[face]) for face, person in zip(found.faces, found.people, strict=True) if face in home]
    truth, groups = [person for person, _ in pairs], [identity for _, identity in pairs]
    if not truth:
        raise ConfigError(
            "no labelled image is in the gallery",
            where=labels,
            next_step="compare the image column with image_id",
        )
    figures = {"faces": len(truth), "identities": len(set(groups)), "people": len(set(truth))}
    return figures | {"images_without_face": found.missing} | cluster_scores(truth, groups)
