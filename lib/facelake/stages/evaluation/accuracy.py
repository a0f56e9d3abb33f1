"""Recognition accuracy on the faces of a lake, in the terms of ISO/IEC 19795-1: FMR, FNMR, failure to enrol.

Three kinds of evidence are reported separately, each with its counts:

    same photo   pairs of faces in one photo, nearly always different people: impostors without labels
    gallery      faces against templates; the identities are those of the clustering, so that its errors are included
    labels       faces against faces, with given labels: the only independent evidence
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32, I64
from facelake.distinct import distinct, union
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.publish.thresholds import interval, thresholds
from facelake.stages.core.context import Context, last_details
from facelake.stages.evaluation.evidence import MOST_LABELLED, Evidence, needed_texts
from facelake.stages.evaluation.labels import LabelledFaces, People, label_faces, read_labels
from facelake.stages.evaluation.operating_points import compared
from facelake.stages.gallery.versions import Gallery, require_gallery
from facelake.vectors import embedding_matrix

_MOST_PHOTOS = 50_000


def accuracy(context: Context, labels: str | None = None) -> dict[str, Any]:
    """Return the accuracy report; `evidence` has the counts of each kind and `notes` says in sentences what they show.

    Args:
        labels: CSV with the columns image and person.

    Raises:
        ConfigError: no gallery was published; the labels cannot be read, or none belongs to a face of this lake.
    """
    gallery = require_gallery(context.lake)
    rows = gallery.read("identities", ["identity_id", "status", "size"])
    rows = rows.filter(pc.field("status") == "active").sort_by("identity_id")
    report: dict[str, Any] = {
        "model_digest": gallery.row["model_digest"],
        "gallery_version": gallery.version,
        "enrolment": _enrolment(context),
    }
    compared_gallery = compared(context, gallery, rows)
    pairs = {
        "same_photo": (_same_photo(context), np.zeros(0, np.float32)),
        "gallery": (compared_gallery.impostor, compared_gallery.genuine),
    }
    if labels:
        impostor, genuine, counts = _labelled(context, gallery, labels)
        report["labels"] = counts | {"points": _as_dicts(thresholds(impostor, genuine))}
        pairs["labels"] = impostor, genuine
    report |= {name: _as_dicts(thresholds(*pairs[name])) for name in ("same_photo", "gallery")}
    cuts = last_details(context.lake, "cluster").get("calibration")
    at = cuts.get("graph_cut") if isinstance(cuts, dict) else None
    evidence = {name: Evidence.of(*sides, at) for name, sides in pairs.items()}
    report["evidence"] = {name: item.as_json() for name, item in evidence.items()}
    report["notes"] = [f"{name.replace('_', ' ')}: {text}" for name, item in evidence.items() for text in item.texts()]
    report["notes"] += _limits(evidence, at)
    return report


def _limits(evidence: dict[str, Evidence], at: float | None) -> list[str]:
    """Return what the counts are about, and what is missing to count errors at the usual rates."""
    notes = [] if at is None else [f"{at:.3f} is the similarity from which the last clustering links two faces"]
    best = max(item.impostors for item in evidence.values())
    if needed := needed_texts(best):
        notes += ["comparisons that share a face depend on each other: with few people the true intervals are wider"]
        notes += needed
    return notes


def _as_dicts(points: list[Any]) -> list[dict[str, Any]]:
    return [asdict(point) for point in points]


def _enrolment(context: Context) -> dict[str, Any]:
    """Return the failure-to-enrol rate with its 95 % interval, and the rejects by reason."""
    reasons = Counter(context.lake["rejects"].read(["reason"])["reason"].to_pylist())
    enrolled = pc.count_distinct(context.lake["faces"].read(["image_id"])["image_id"]).as_py()
    failed = reasons.total()
    attempts = enrolled + failed
    low, high = interval(failed, attempts)
    rate = failed / attempts if attempts else None
    counts = {"images": attempts, "failed": failed, "rate": rate, "rate_low": low, "rate_high": high}
    return counts | {"reasons": dict(sorted(reasons.items()))}


def _same_photo(context: Context) -> F32:
    """Return the similarities of neighbouring faces in the same photo."""
    rows = (
        context.lake["faces"]
        .read(["face_id", "image_id"])
        .sort_by([("image_id", "ascending"), ("face_id", "ascending")])
    )
    images = pc.dictionary_encode(rows["image_id"].combine_chunks()).indices.to_numpy()
    first = np.flatnonzero(images[1:] == images[:-1])[:_MOST_PHOTOS]
    if not len(first):
        return np.zeros(0, np.float32)
    rows_needed = union(first, first + 1)
    ids = rows["face_id"].combine_chunks().take(pa.array(rows_needed))
    vectors = vectors_of_faces(context.lake, ids)
    a, b = (np.searchsorted(rows_needed, side) for side in (first, first + 1))
    return np.asarray(np.einsum("ij,ij->i", vectors[a], vectors[b]), np.float32)


def _people(gallery: Gallery, labelled: LabelledFaces, everyone: Collection[str]) -> People:
    """Count the people whose labelled faces the gallery groups rightly."""
    person_of = dict(zip(labelled.faces, labelled.people, strict=True))
    faces = pa.array(labelled.faces, pa.string())
    pairs: list[tuple[str, str]] = []
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]):
        own = rows.filter(pc.is_in(rows["face_id"], faces))
        names = zip(own["face_id"].to_pylist(), own["identity_id"].to_pylist(), strict=True)
        pairs += [(person_of[face], identity) for face, identity in names]
    return People.of(everyone, pairs)


def _labelled(context: Context, gallery: Gallery, path: str) -> tuple[F32, F32, dict[str, Any]]:
    """Return the similarities of impostor and of genuine pairs of labelled faces, and their counts."""
    given = read_labels(path)
    labelled = label_faces(context.lake["faces"].read(["face_id", "image_id", "box"]), given)
    if not labelled.faces:
        what = "no labelled image has a face in this lake"
        raise ConfigError(
            what, where=path, next_step="column image has ids as `facelake images` prints them, or file names"
        )
    chosen = np.sort(np.random.default_rng(0).permutation(len(labelled.faces))[:MOST_LABELLED])
    ids = pa.array([labelled.faces[i] for i in chosen], pa.string())
    person: I64 = np.unique([labelled.people[i] for i in chosen], return_inverse=True)[1].astype(np.int64)
    vectors = vectors_of_faces(context.lake, ids)
    upper = np.triu_indices(len(chosen), 1)
    similarity, same = (vectors @ vectors.T)[upper], person[upper[0]] == person[upper[1]]
    counts = {
        "faces": len(chosen),
        "people": len(distinct(person)),
        "images_without_face": labelled.missing,
        "in_gallery": asdict(_people(gallery, labelled, given.values())),
        "genuine_pairs": int(same.sum()),
        "impostor_pairs": int((~same).sum()),
    }
    return similarity[~same].astype(np.float32), similarity[same].astype(np.float32), counts


def vectors_of_faces(lake: Lake, ids: pa.Array) -> F32:
    """Return the unit vectors (n, dim) of faces in the order of `ids`."""
    rows = lake["faces"].where("face_id", pa.chunked_array([ids]), ["face_id", "embedding"])
    vectors, _ = embedding_matrix(rows["embedding"])
    order = pc.index_in(ids, rows["face_id"].combine_chunks()).to_numpy(zero_copy_only=False)
    return np.asarray(vectors[order], np.float32)
