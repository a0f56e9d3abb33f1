"""bench quality: the gallery against labels by image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from facelake.bench.baselines import compare
from facelake.bench.scores import cluster_scores
from facelake.contracts import F32
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.evaluation.accuracy import vectors_of_faces
from facelake.stages.evaluation.labels import label_faces, read_labels
from facelake.stages.gallery.versions import require_gallery

_MOST_COMPARED = 6_000  # faces of which all pairs are compared: 150 MB of similarities
_FALSE_MATCH_RATE = 1e-3


def quality(lake: Lake, labels: str, *, baselines: bool = False) -> dict[str, Any]:
    """Score the newest gallery. Of a labelled photo with several faces, the largest face carries the label.

    Args:
        labels: CSV with the columns image and person; image is an image_id, that without its source, or a file name.
        baselines: also score simple methods on the same vectors (baselines.py), and the embeddings themselves.

    Returns:
        faces, identities (predicted, among labelled faces), people, images_without_face, pairwise, bcubed; with
        `baselines` also `compared`: the same scores for facelake and for every method on at most 6,000 faces of whole
        people, and `tar`, the share of genuine pairs above the similarity that 1 of 1,000 impostor pairs reaches.
    """
    person_of = read_labels(labels)
    gallery = require_gallery(lake)
    members = gallery.read("memberships", ["face_id", "identity_id"])
    labelled = label_faces(lake["faces"].read(["face_id", "image_id", "box"]), person_of)
    home = dict(zip(*(column.to_pylist() for column in members.columns), strict=True))
    known = [(face, person) for face, person in zip(labelled.faces, labelled.people, strict=True) if face in home]
    truth, groups = [person for _, person in known], [home[face] for face, _ in known]
    if not truth:
        raise ConfigError(
            "no labelled image is in the gallery",
            where=labels,
            next_step="compare the image column with image_id",
        )
    figures: dict[str, Any] = {"faces": len(truth), "identities": len(set(groups)), "people": len(set(truth))}
    figures |= {"images_without_face": labelled.missing} | cluster_scores(truth, groups)
    if baselines:
        figures["compared"] = _compared(lake, [face for face, _ in known], truth, groups)
    return figures


def _compared(lake: Lake, faces: list[str], people: list[str], groups: list[str]) -> dict[str, Any]:
    """Scores of facelake and of the baselines on the same faces: those of some people, if there are many."""
    names, which, count = np.unique(people, return_inverse=True, return_counts=True)
    drawn = np.random.default_rng(0).permutation(len(names))
    fits = drawn[np.cumsum(count[drawn]) <= max(_MOST_COMPARED, count[drawn[0]])]
    taken = np.flatnonzero(np.isin(which, fits))
    ids = pa.array([faces[i] for i in taken], pa.string())
    vectors = vectors_of_faces(lake, ids)
    chosen, ours = [people[i] for i in taken], [groups[i] for i in taken]
    figures: dict[str, Any] = {"faces": len(chosen), "people": len(fits), "tar": _tar(vectors, which[taken])}
    return figures | {"methods": {"facelake": {"fixed": cluster_scores(chosen, ours)}} | compare(vectors, chosen)}


def _tar(vectors: F32, person: np.ndarray) -> float | None:
    """True accept rate at a false match rate of 1 in 1,000; None with too few pairs of either kind."""
    upper = np.triu_indices(len(vectors), 1)
    similarity, same = (vectors @ vectors.T)[upper], person[upper[0]] == person[upper[1]]
    impostor = np.sort(similarity[~same])[::-1]
    errors = int(_FALSE_MATCH_RATE * len(impostor))
    if not errors or not same.any():
        return None
    return float((similarity[same] > impostor[errors]).mean())
