"""Matches photos against the gallery of an export: 1:N for every face, or 1:1 with a claimed identity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facelake.contracts import Reject
from facelake.embedder import EmbeddedPhoto, Embedder, ProbeFace, probe_matrix
from facelake.errors import ConfigError
from facelake.matcher import Gallery

DEFAULT_FMR = 1e-4
MISSING = "missing"
"""why a photo was not compared, beside the values of Reject: its file cannot be read"""
_UNREAD = {MISSING, Reject.EMPTY, Reject.UNREADABLE, Reject.FORMAT, Reject.BYTES, Reject.PIXELS, Reject.TIMEOUT}


@dataclass(frozen=True, slots=True)
class MatchOptions:
    """How probes are compared.

    Attributes:
        top: candidates per face.
        fmr: false match rate of one comparison at the operating point.
        threshold: similarity from which a comparison matches; None: that of the export at `fmr`.
        claim: identity that the person claims to be; None: 1:N.
    """

    top: int = 5
    fmr: float = DEFAULT_FMR
    threshold: float | None = None
    claim: str | None = None

    def __post_init__(self) -> None:
        """Check the values: nothing would match above 1, and everything or nothing at what is no number.

        Raises:
            ConfigError: one cannot be meant.
        """
        if self.top < 1:
            raise ConfigError(f"{self.top} candidates per face", where="--top", next_step="give at least 1")
        if self.threshold is not None and not -1 <= self.threshold <= 1:
            next_step = "give a number from -1 to 1, or leave it out"
            raise ConfigError(f"{self.threshold} is not a similarity", where="--threshold", next_step=next_step)
        if not 0 <= self.fmr <= 1:
            raise ConfigError(f"{self.fmr} is not a rate", where="--fmr", next_step="give a number from 0 to 1")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """The similarity from which a comparison matches, and where it comes from.

    Attributes:
        similarity: the threshold.
        fmr: the false match rate for which it was chosen; None where it was given.
        source: measured, extrapolated or given.
    """

    similarity: float
    fmr: float | None
    source: str

    @classmethod
    def of(cls, gallery: Gallery, options: MatchOptions) -> OperatingPoint:
        """Return the operating point of a gallery.

        Raises:
            ConfigError: the gallery has none for this rate.
        """
        if options.threshold is not None:
            return cls(options.threshold, None, "given")
        similarity, source = gallery.operating_point(options.fmr)
        return cls(similarity, options.fmr, source)

    def as_json(self) -> dict[str, Any]:
        """Return the values by name."""
        return {"similarity": self.similarity, "fmr": self.fmr, "source": self.source}


def match_photos(
    gallery: Gallery, embedder: Embedder, photos: Sequence[bytes | str], options: MatchOptions
) -> dict[str, Any]:
    """Compare the faces of photos with a gallery.

    Args:
        gallery: an open export.
        embedder: of the gallery's model.
        photos: encoded photos or paths.
        options: how to compare.

    Returns:
        `operating_point`, and `photos`: per photo its name, `reject` (`missing` for a file that cannot be read) and
        `faces`; per face its box, quality, `refused` (why the quality gate refuses it), `decision` and `candidates`
        with similarity, FMR and the upper end of its 95 % interval. Decisions: match, no match, refused. `unread` is
        the number of photos that could not be read or decoded.

    Raises:
        ConfigError: there is no such operating point or claimed identity.
        Refused: the lease has ended, or the model is another.
    """
    point = OperatingPoint.of(gallery, options)
    if options.claim is not None and options.claim not in gallery:
        what = f"the gallery has no identity {options.claim!r}"
        raise ConfigError(what, where="--claim", next_step="give an identity id of the export")
    faults = [_fault(photo) for photo in photos]
    embedded = iter(embedder.embed([photo for photo, fault in zip(photos, faults, strict=True) if fault is None]))
    results: list[dict[str, Any]] = []
    for given, fault in zip(photos, faults, strict=True):
        if fault is not None:
            results.append({"photo": str(given), "reject": MISSING, "detail": fault, "faces": []})
            continue
        photo = next(embedded)
        faces = [face for face in photo.faces if face.refused is None]
        if options.claim is not None and len(photo.faces) > 1:
            faces = []  # which face claims the identity is not known
        candidates = iter(_candidates(gallery, faces, embedder, options))
        described = [_face(photo, face, candidates, (gallery, point, options)) for face in photo.faces]
        results.append(
            {"photo": photo.name, "reject": photo.reject, "detail": photo.detail or None, "faces": described}
        )
    unread = sum(result["reject"] in _UNREAD for result in results)
    return {"operating_point": point.as_json(), "photos": results, "unread": unread}


def _fault(photo: bytes | str) -> str | None:
    """Return why a photo cannot be read, which is no reason to leave the others unanswered; None if it can."""
    if isinstance(photo, bytes):
        return None
    path = Path(photo).expanduser()
    try:
        if path.exists() and not path.is_file():
            return "not a file"
        with path.open("rb"):
            return None
    except (OSError, ValueError) as err:  # a name with a zero byte
        return getattr(err, "strerror", None) or str(err)


def _candidates(
    gallery: Gallery, faces: Sequence[ProbeFace], embedder: Embedder, options: MatchOptions
) -> Iterator[list[tuple[str, float]]]:
    """Yield the candidates of each face, best first."""
    if not faces:
        return
    probes = probe_matrix(faces, embedder.dim)
    if options.claim is not None:
        for value in gallery.verify(probes, [options.claim] * len(faces), embedder.model_digest).tolist():
            yield [(options.claim, value)]
        return
    matches = gallery.search(probes, embedder.model_digest, options.top)
    for names, values in zip(matches.identity_ids, matches.similarity.tolist(), strict=True):
        yield list(zip(names, values, strict=True))


def _face(
    photo: EmbeddedPhoto,
    face: ProbeFace,
    candidates: Iterator[list[tuple[str, float]]],
    compared: tuple[Gallery, OperatingPoint, MatchOptions],
) -> dict[str, Any]:
    gallery, point, options = compared
    refused = face.refused
    if refused is None and options.claim is not None and len(photo.faces) > 1:
        refused = f"{len(photo.faces)} faces in the photo, and a claim is of one person"
    own = [] if refused else next(candidates)
    matched = bool(own) and own[0][1] >= point.similarity
    return {
        "box": [round(float(value), 1) for value in face.box],
        "quality": round(face.quality, 4),
        "refused": refused,
        "decision": "refused" if refused else "match" if matched else "no match",
        "candidates": [_candidate(gallery, name, value) for name, value in own],
    }


def _candidate(gallery: Gallery, name: str, similarity: float) -> dict[str, Any]:
    rate = gallery.false_match_rate(float(np.float32(similarity)))
    fmr, high = rate if rate else (None, None)
    return {"identity_id": name, "similarity": round(similarity, 6), "fmr": fmr, "fmr_high": high}
