"""How well faces of this lake are told apart, in the words of ISO/IEC 19795-1: FMR, FNMR, failure to enrol.

Three kinds of evidence, each told with its counts, none mixed with another:

    same photo   faces of one photo are nearly always different people: impostors that nobody had to label
    gallery      faces against prototypes; who is who is what clustering found, so errors of clustering count in
    labels       faces against faces, when somebody says who is who: the only evidence from outside
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32, I64
from facelake.errors import ConfigError
from facelake.publish.thresholds import interval, thresholds
from facelake.stages.core.context import Context
from facelake.stages.evaluation.labels import labelled, read_labels
from facelake.stages.evaluation.operating_points import operating_points
from facelake.stages.gallery.versions import current_gallery
from facelake.vectors import embedding_matrix

_MOST_PHOTOS, _MOST_LABELLED = 50_000, 4_000


def accuracy(context: Context, labels: str | None = None) -> dict[str, Any]:
    """The report.

    Args:
        labels: CSV with the columns image and person.

    Raises:
        ConfigError: no gallery yet; labels that cannot be read or name no face here.
    """
    gallery = current_gallery(context.lake)
    if gallery is None:
        raise ConfigError("no gallery was published yet", where=context.lake.uri, next_step="run `facelake nightly`")
    rows = gallery.read("identities").filter(pc.field("status") == "active").sort_by("identity_id")
    report: dict[str, Any] = {
        "model_digest": gallery.row["model_digest"],
        "gallery_version": gallery.version,
        "enrolment": _enrolment(context),
        "same_photo": _told(thresholds(_same_photo(context), np.zeros(0, np.float32))),
        "gallery": operating_points(context, gallery, rows),
    }
    if labels:
        impostor, genuine, counts = _labelled(context, labels)
        report["labels"] = counts | {"points": _told(thresholds(impostor, genuine))}
    return report


def _told(points: list[Any]) -> list[dict[str, Any]]:
    return [asdict(point) for point in points]


def _enrolment(context: Context) -> dict[str, Any]:
    """Admitted images that gave no face, by reason: failure to enrol, with its 95 % interval."""
    reasons = Counter(context.lake["rejects"].read(["reason"])["reason"].to_pylist())
    enrolled = pc.count_distinct(context.lake["faces"].read(["image_id"])["image_id"]).as_py()
    failed = reasons.total()
    tried = enrolled + failed
    low, high = interval(failed, tried)
    rate = failed / tried if tried else None
    counts = {"images": tried, "failed": failed, "rate": rate, "rate_low": low, "rate_high": high}
    return counts | {"reasons": dict(sorted(reasons.items()))}


def _same_photo(context: Context) -> F32:
    """Similarities of pairs of faces of one photo."""
    rows = (
        context.lake["faces"]
        .read(["face_id", "image_id"])
        .sort_by([("image_id", "ascending"), ("face_id", "ascending")])
    )
    images = pc.dictionary_encode(rows["image_id"].combine_chunks()).indices.to_numpy()
    together = np.flatnonzero(images[1:] == images[:-1])[:_MOST_PHOTOS]
    if not len(together):
        return np.zeros(0, np.float32)
    wanted = np.unique(np.concatenate([together, together + 1]))
    ids = rows["face_id"].combine_chunks().take(pa.array(wanted))
    vectors = _vectors(context, ids)
    a, b = (np.searchsorted(wanted, side) for side in (together, together + 1))
    return np.asarray(np.einsum("ij,ij->i", vectors[a], vectors[b]), np.float32)


def _labelled(context: Context, path: str) -> tuple[F32, F32, dict[str, Any]]:
    """Similarities of impostor and genuine pairs of labelled faces."""
    found = labelled(context.lake["faces"].read(["face_id", "image_id", "box"]), read_labels(path))
    if not found.faces:
        what = "no labelled image has a face here"
        raise ConfigError(what, where=path, next_step="compare the image column with image_id")
    chosen = np.sort(np.random.default_rng(0).permutation(len(found.faces))[:_MOST_LABELLED])
    ids = pa.array([found.faces[i] for i in chosen], pa.string())
    person: I64 = np.unique([found.people[i] for i in chosen], return_inverse=True)[1].astype(np.int64)
    vectors = _vectors(context, ids)
    upper = np.triu_indices(len(chosen), 1)
    similarity, same = (vectors @ vectors.T)[upper], person[upper[0]] == person[upper[1]]
    counts = {
        "faces": len(chosen),
        "people": len(np.unique(person)),
        "images_without_face": found.missing,
        "genuine_pairs": int(same.sum()),
        "impostor_pairs": int((~same).sum()),
    }
    return similarity[~same].astype(np.float32), similarity[same].astype(np.float32), counts


def _vectors(context: Context, ids: pa.Array) -> F32:
    """Unit vectors (n, dim) of faces, in the order of their ids."""
    rows = context.lake["faces"].where("face_id", pa.chunked_array([ids]), ["face_id", "embedding"])
    vectors, _ = embedding_matrix(rows["embedding"])
    order = pc.index_in(ids, rows["face_id"].combine_chunks()).to_numpy(zero_copy_only=False)
    return np.asarray(vectors[order], np.float32)
