"""Counts the outcomes that a sweep removes, by why their photos have none any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from facelake.contracts import I64, Refusal
from facelake.distinct import among, distinct
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot
from facelake.stages.core.known_ids import U64, hashed

_CHANGED = "changed"
CAUSES = ("vanished", "refused", "withdrawn", _CHANGED, "erased")
"""no longer in the corpus; refused now for another reason than withdrawal; withdrawn; admitted, but with other content
or another cover; on the suppression list, as after a lake was restored. Of several photos with one id the last cause
counts.
"""


@dataclass(frozen=True, slots=True)
class DoomedRows:
    """Outcomes (n,) at a place where another photo, or none, is admitted now: 64-bit hashes and a flag.

    Attributes:
        places: of corpus file and row.
        decisions: of the photo's id, cover and content.
        photos: of the photo's id.
        faces: whether it is a face of the current model.
        erased: whether the photo is on the suppression list.
    """

    places: U64
    decisions: U64
    photos: U64
    faces: np.ndarray
    erased: np.ndarray


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep removed and did not move, by cause (CAUSES).

    Attributes:
        photos: number of photos.
        faces: number of faces.
        again: (n,) hashes of the ids of photos that are embedded again, one for each removed face.
    """

    photos: Counter[str]
    faces: Counter[str]
    again: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))

    def lost_faces(self, lake: Lake, before: Snapshot) -> Counter[str]:
        """Return the removed faces by cause, without those that came back when their photos were embedded again.

        Args:
            lake: after the run.
            before: table `faces` before it.
        """
        if not len(self.again):
            return self.faces
        ids, had = np.unique(self.again, return_counts=True)
        table, kept, has = lake["faces"], {file.path for file in before.files}, np.zeros(len(ids), np.int64)
        for file in table.snapshot().files:
            if file.path not in kept:
                hashes = hashed(table.file(file, ["image_id"])["image_id"])
                has += np.bincount(np.searchsorted(ids, hashes[among(hashes, ids)]), minlength=len(ids))
        return +(self.faces - Counter({_CHANGED: int(np.minimum(had, has).sum())}))


def count_swept(lake: Lake, rows: Sequence[DoomedRows], carried: U64) -> Swept:
    """Count the rows whose decision is not among those that have an outcome elsewhere now.

    Args:
        lake: its admissions tell the cause; they are read if anything was swept.
        rows: the outcomes that are removed from their place.
        carried: hashes of the decisions whose outcome was moved.
    """
    lost = [_without(part, carried) for part in rows]
    photos = np.concatenate([np.zeros(0, np.uint64), *(part.photos for part in lost)])
    if not len(photos):
        return Swept(Counter(), Counter())
    ids = distinct(photos)
    cause = _causes(lake, ids)[np.searchsorted(ids, photos)]
    unnamed = cause == CAUSES.index("vanished")  # decisions do not name erased photos
    cause[unnamed & np.concatenate([part.erased for part in lost])] = CAUSES.index("erased")
    _, first = np.unique(np.concatenate([part.places for part in lost]), return_index=True)
    faces = np.concatenate([part.faces for part in lost])
    again = photos[faces & (cause == CAUSES.index(_CHANGED))]
    return Swept(_counted(cause[first]), _counted(cause[faces]), again)


def _without(rows: DoomedRows, carried: U64) -> DoomedRows:
    own = ~np.isin(rows.decisions, carried)
    return DoomedRows(rows.places[own], rows.decisions[own], rows.photos[own], rows.faces[own], rows.erased[own])


def _counted(causes: I64) -> Counter[str]:
    counts = np.bincount(causes, minlength=len(CAUSES)).tolist()
    return Counter({name: count for name, count in zip(CAUSES, counts, strict=True) if count})


def _causes(lake: Lake, ids: U64) -> I64:
    """Return the cause for each photo (n,), as a position in CAUSES."""
    causes = np.zeros(len(ids), np.int64)
    for _, rows in lake["admissions"].parts(["image_id", "reason"]):
        named = rows.filter(pc.is_valid(rows["image_id"]))
        hashes = hashed(named["image_id"])
        own = np.flatnonzero(among(hashes, ids))
        reasons = named["reason"].take(own).to_pylist()
        ranks = [3 if reason is None else 2 if reason == Refusal.WITHDRAWN else 1 for reason in reasons]
        np.maximum.at(causes, np.searchsorted(ids, hashes[own]), np.array(ranks, np.int64))
    return causes
