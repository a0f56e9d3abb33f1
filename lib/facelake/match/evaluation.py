"""Error rates of a matcher on labelled photos, by similarity: the points of a DET curve with counts and intervals.

Labels name the identity of each photo (columns image, identity_id; an empty identity: a person who is not in the
gallery), or a person (columns image, person): then photos are compared with each other and the gallery is not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelake.contracts import F32, I64
from facelake.distinct import distinct
from facelake.embedder import Embedder, ProbeFace, probe_matrix
from facelake.errors import ConfigError
from facelake.match.search import OperatingPoint
from facelake.matcher import Gallery
from facelake.publish.thresholds import interval
from facelake.stages.evaluation.labels import missing_columns, read_rows

_BINS = 20_000  # of similarities from -1 to 1: a resolution of 1e-4
_BLOCK = 256  # probes that are compared at a time
_MOST_POINTS = 200
_NAMED = 5  # missing files


@dataclass(frozen=True, slots=True)
class DetPoint:
    """The error rates at one similarity; None without comparisons of that kind."""

    similarity: float
    false_matches: int
    impostors: int
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    false_non_matches: int
    genuine: int
    fnmr: float | None
    fnmr_low: float | None
    fnmr_high: float | None


@dataclass(slots=True)
class _Histogram:
    """Counts of comparisons per bin of similarity."""

    impostor: I64
    genuine: I64

    def add(self, similarity: F32, genuine: np.ndarray, counted: np.ndarray) -> None:
        """Count comparisons; `genuine` and `counted` are masks of the same shape."""
        bins = np.clip(((similarity.astype(np.float64) + 1) * (_BINS / 2)).astype(np.int64), 0, _BINS - 1)
        self.genuine += np.bincount(bins[genuine & counted], minlength=_BINS)
        self.impostor += np.bincount(bins[~genuine & counted], minlength=_BINS)


def evaluate(
    gallery: Gallery, embedder: Embedder, labels: str, folder: str | None, point: OperatingPoint | None
) -> dict[str, Any]:
    """Measure error rates on labelled photos.

    Args:
        gallery: an open export.
        embedder: of the gallery's model.
        labels: CSV with columns image, and identity_id or person.
        folder: in which the images are; None: that of the CSV.
        point: at which identification rates are counted; None: they are not.

    Returns:
        `photos`, `compared` (photos with a face that passes the quality gate), `failed` (failure to acquire, by
        reason; `missing`: there is no such file), `missing` (sentences on the first of these), `points` (DetPoint as
        objects, by ascending similarity), `rank_1` (of probes whose identity is in the gallery), `strangers` (photos
        whose label the gallery does not have, and the first of these labels, `strange_labels`), and `identification` at
        the operating point.

    Raises:
        ConfigError: the labels cannot be read, or name no photo that exists and has a usable face.
    """
    rows, column = _read(labels)
    base = Path(folder).expanduser() if folder else Path(labels).expanduser().parent
    present, missing = _present(base, rows, labels, "--images" if folder else "the CSV's folder")
    faces, names, failed = _probes(embedder, base, present, column)
    failed |= {"missing": len(missing)} if missing else {}
    if not faces:
        what = "no labelled photo has a face that passes the quality gate"
        raise ConfigError(what, where=labels, next_step="check the photos, or lower --min-quality")
    probes = probe_matrix(faces, embedder.dim)
    histogram = _Histogram(np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64))
    report: dict[str, Any] = {"photos": len(rows), "compared": len(faces), "failed": failed, "labels": column}
    report["missing"] = missing[:_NAMED]
    if column == "person":
        _each_other(probes, names, histogram)
    else:
        report |= _with_gallery(gallery, embedder.model_digest, probes, names, histogram, point)
    return report | {"points": [asdict(item) for item in det_points(histogram.impostor, histogram.genuine)]}


def det_points(impostor: I64, genuine: I64) -> list[DetPoint]:
    """Return error rates at the lower edge of each bin at which a count changes, at most a few hundred.

    Args:
        impostor: (bins,) comparisons of different people per bin of similarity from -1 to 1.
        genuine: (bins,) comparisons of the same person.
    """
    matches = np.concatenate([np.cumsum(impostor[::-1])[::-1], [0]])  # at or above the lower edge of each bin
    missed = np.concatenate([[0], np.cumsum(genuine)])  # below it
    totals = int(impostor.sum()), int(genuine.sum())
    bins = len(impostor)
    edges = np.flatnonzero((np.diff(matches, prepend=-1) != 0) | (np.diff(missed, prepend=-1) != 0))
    if len(edges) > _MOST_POINTS:
        edges = edges[distinct(np.linspace(0, len(edges) - 1, _MOST_POINTS).astype(np.int64))]
    return [_point(2 * int(edge) / bins - 1, int(matches[edge]), int(missed[edge]), totals) for edge in edges]


def _point(similarity: float, matches: int, missed: int, totals: tuple[int, int]) -> DetPoint:
    impostors, genuine = totals
    fmr = matches / impostors if impostors else None
    fnmr = missed / genuine if genuine else None
    low, high = interval(matches, impostors)
    under, over = interval(missed, genuine)
    return DetPoint(round(similarity, 6), matches, impostors, fmr, low, high, missed, genuine, fnmr, under, over)


def _each_other(probes: F32, people: Sequence[str], histogram: _Histogram) -> None:
    """Compare every pair of photos once."""
    _, person = np.unique(np.array(people), return_inverse=True)
    for start in range(0, len(probes), _BLOCK):
        own = np.arange(start, min(start + _BLOCK, len(probes)))
        genuine = person[own][:, None] == person[None, :]
        histogram.add(probes[own] @ probes.T, genuine, own[:, None] < np.arange(len(probes))[None, :])


def _with_gallery(
    gallery: Gallery,
    model_digest: str,
    probes: F32,
    identities: Sequence[str],
    histogram: _Histogram,
    point: OperatingPoint | None,
) -> dict[str, Any]:
    """Compare every photo with every identity; returns the rates of 1:N identification."""
    mated = np.array([name in gallery for name in identities], bool)
    first = np.zeros(len(probes), bool)
    best = np.full(len(probes), -1.0, np.float32)
    for start in range(0, len(probes), _BLOCK):
        own = slice(start, start + _BLOCK)
        similarity, names = gallery.similarities(probes[own], model_digest)
        order = {name: i for i, name in enumerate(names)}
        at = np.array([order.get(name, -1) for name in identities[own]], np.int64)
        genuine = at[:, None] == np.arange(len(names))[None, :]
        histogram.add(similarity, genuine, np.ones_like(genuine))
        best[own] = similarity.max(axis=1)
        first[own] = similarity.argmax(axis=1) == at
    out: dict[str, Any] = {"rank_1": {"correct": int(first.sum()), "mated": int(mated.sum())}}
    out["strangers"] = int((~mated).sum())
    out["strange_labels"] = sorted({name for name in identities if name and name not in gallery})[:_NAMED]
    if point is not None:
        accepted = best >= point.similarity
        out["identification"] = point.as_json() | {
            "false_negatives": int((mated & ~(first & accepted)).sum()),
            "mated": int(mated.sum()),
            "false_positives": int((~mated & accepted).sum()),
            "not_mated": int((~mated).sum()),
        }
    return out


def _present(base: Path, rows: list[dict[str, str]], labels: str, under: str) -> tuple[list[dict[str, str]], list[str]]:
    """Return the labels whose photo is there, and where the others are missing.

    Raises:
        ConfigError: none is there.
    """
    present: list[dict[str, str]] = []
    missing: list[str] = []
    for number, row in enumerate(rows, 1):
        path = base / row["image"]
        if path.is_file():
            present.append(row)
        else:
            missing.append(f"row {number} of {Path(labels).name}: no such file under {under}: {path}")
    if missing and not present:
        what = missing[0] + (f"; nor any of the other {len(missing) - 1:,}" if len(missing) > 1 else "")
        next_step = "column image has paths below the folder that --images names; by default that of the CSV"
        raise ConfigError(what, where=labels, next_step=next_step)
    return present, missing


def _probes(
    embedder: Embedder, base: Path, rows: Sequence[Mapping[str, str]], column: str
) -> tuple[list[ProbeFace], list[str], dict[str, int]]:
    """Return the largest face of each photo that passes the gate, its label, and the other photos by reason."""
    faces: list[ProbeFace] = []
    names: list[str] = []
    failed: dict[str, int] = {}
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for row, photo in zip(block, embedder.embed([base / row["image"] for row in block]), strict=True):
            largest = max(photo.faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])), default=None)
            if largest is None or largest.refused is not None:
                reason = photo.reject or "quality"
                failed[reason] = failed.get(reason, 0) + 1
                continue
            faces.append(largest)
            names.append(row[column])
    return faces, names, failed


def _read(path: str) -> tuple[list[dict[str, str]], str]:
    """Return the rows of the labels, and the column that has the label."""
    rows = read_rows(path, "--evaluate")
    column = next((name for name in ("identity_id", "person") if rows and name in rows[0]), None)
    if column is None or "image" not in rows[0]:
        raise missing_columns(path, rows, "image and identity_id, or image and person")
    return [row for row in rows if row["image"]], column
