"""The previous gallery version as arrays beside the faces that are grouped now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import F32, I32, I64, U8, Bool
from facelake.lake.lake import Lake
from facelake.publish import Standing
from facelake.publish.identities import first_keys
from facelake.stages.gallery.face_keys import FaceKeys, Grouped, IdNumbers
from facelake.stages.gallery.versions import Gallery

HOW = ("grouped", "joined", "corrected")
"""Values of memberships.how; arrays hold positions in it."""
_COLUMNS = ["face_id", "identity_id", "core", "former_id", "score", "how"]


@dataclass(frozen=True, slots=True)
class Returning:
    """A retired identity of which core faces are here again.

    Attributes:
        faces: their numbers.
        core: number of faces that its core had.
    """

    faces: list[int]
    core: int


@dataclass(frozen=True, slots=True)
class Previous:
    """What the previous version records of the faces that are grouped now.

    Attributes:
        identity: (n,) position in `names`, or -1 for a face that was in no identity.
        core: (n,) whether it was a core face.
        former: (n,) position in `tombstones` of the merged identity that it came from, or -1.
        score: (n,) similarity to the identity's template; NaN where unknown.
        how: (n,) position in HOW; 0 where unknown.
        names: ids of the previous active identities, ascending.
        sizes: (names,) their faces.
        own: (names,) those that no merge brought in.
        since: (names,) gallery versions that created them.
        tombstones: ids of tombstones that faces refer to, ascending.
    """

    identity: I32
    core: Bool
    former: I32
    score: F32
    how: U8
    names: list[str]
    sizes: I64
    own: I64
    since: I64
    tombstones: list[str]

    @classmethod
    def nothing(cls, count: int) -> Previous:
        """Return what is known without a previous version: every face is new."""
        return cls(
            np.full(count, -1, np.int32),
            np.zeros(count, bool),
            np.full(count, -1, np.int32),
            np.full(count, np.nan, np.float32),
            np.zeros(count, np.uint8),
            [],
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            [],
        )

    def standing(self, grouped: Grouped, labels: I64, returning: dict[str, Returning]) -> Standing:
        """Combine with the groups.

        Args:
            grouped: the grouped faces.
            labels: (n,) their groups, as corrected.
            returning: retired identities of which core faces are here again.
        """
        tombstones = sorted({*self.tombstones, *returning})
        former = self.former.astype(np.int64)
        if returning:
            place = {name: i for i, name in enumerate(tombstones)}
            renumbered = np.array([*(place[name] for name in self.tombstones), -1], np.int64)
            former = renumbered[former]
            for name, found in returning.items():
                former[found.faces] = place[name]
        count = int(labels.max(initial=-1)) + 1
        first = first_keys(labels, grouped.faces.keys, count)
        cores = np.array([returning[name].core if name in returning else 0 for name in tombstones], np.int64)
        previous = self.identity.astype(np.int64)
        known = self.names, self.sizes, self.own, self.since
        return Standing(labels, first, previous, self.core, former, *known, tombstones, cores)


def read_previous(gallery: Gallery, faces: FaceKeys) -> Previous:
    """Read the memberships of a gallery version of the same model, file by file."""
    out = Previous.nothing(len(faces))
    names, since = _active_identities(gallery)
    numbers = IdNumbers.of(names, f"{gallery.lake.uri}/identities")
    sizes, own = np.zeros(len(names), np.int64), np.zeros(len(names), np.int64)
    tombstones: dict[str, int] = {}
    for rows in gallery.parts("memberships", _COLUMNS):
        identity = numbers.find(rows["identity_id"])
        sizes += np.bincount(identity, minlength=len(names))
        own += np.bincount(identity[np.asarray(pc.is_null(rows["former_id"]))], minlength=len(names))
        at = faces.find(rows["face_id"])
        here = at >= 0
        at = at[here]
        out.identity[at] = identity[here]
        out.core[at] = np.asarray(pc.fill_null(rows["core"], False))[here]
        out.score[at] = rows["score"].to_numpy()[here]
        how = pc.fill_null(pc.index_in(rows["how"], pa.array(HOW)), 0)
        out.how[at] = np.asarray(how.to_numpy())[here]
        former = rows["former_id"].combine_chunks().dictionary_encode()
        codes = np.array(
            [tombstones.setdefault(name, len(tombstones)) for name in former.dictionary.to_pylist()] + [-1]
        )
        index = pc.fill_null(former.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        out.former[at] = codes[index][here]
    active = set(names) if tombstones else set()
    ordered = sorted(name for name in tombstones if name not in active)
    place = np.full(len(tombstones) + 1, -1, np.int32)
    for position, name in enumerate(ordered):
        place[tombstones[name]] = position
    former, known = place[out.former], (names, sizes, own, since)
    return Previous(out.identity, out.core, former, out.score, out.how, *known, ordered)


def _active_identities(gallery: Gallery) -> tuple[list[str], I64]:
    """Return the ids of a gallery version's active identities, ascending, and the version (n,) that created each."""
    rows = gallery.read("identities", ["identity_id", "status", "first_version"])
    active = rows.filter(pc.field("status") == "active").sort_by("identity_id")
    return active["identity_id"].to_pylist(), active["first_version"].to_numpy()


def read_previous_by_photo(lake: Lake, gallery: Gallery, grouped: Grouped, labels: I64) -> Previous:
    """Read the memberships of a version of another model, whose faces have other ids: match them by photo."""
    faces = grouped.faces
    images = np.full(len(faces), -1, np.int64)
    for _, rows in lake["faces"].parts(["face_id", "image_id"]):
        at = faces.find(rows["face_id"])
        images[at[at >= 0]] = columns.keys(rows["image_id"])[at >= 0]
    names, since = _active_identities(gallery)
    numbers = IdNumbers.of(names, f"{gallery.lake.uri}/identities")
    parts = [
        (columns.keys(rows["face_id"]), columns.keys(rows["image_id"]), numbers.find(rows["identity_id"]))
        for rows in gallery.parts("memberships", ["face_id", "image_id", "identity_id"])
    ]
    nothing = (np.zeros(0, np.int64),) * 3
    old_faces, old_images, old_identity = (np.concatenate(part) for part in zip(nothing, *parts, strict=True))
    order = np.argsort(old_faces, kind="stable")
    out = Previous.nothing(len(faces))
    out.identity[:] = match_by_photo(images, labels, old_images[order], old_identity[order])
    sizes = np.bincount(old_identity, minlength=len(names)).astype(np.int64)
    return Previous(out.identity, out.core, out.former, out.score, out.how, names, sizes, sizes, since, [])


def match_by_photo(images: I64, labels: I64, old_images: I64, old_identity: I64) -> I64:
    """Return the previous identity (n,) of each face of a new model, or -1.

    A group and an identity of one person meet in all photos of that person, those of two people only where both are
    seen. So each face takes, among the identities in its photo, the one that its group meets most often; each previous
    face is taken once.

    Args:
        images: (n,) key of each face's photo.
        labels: (n,) group of each face.
        old_images: (m,) key of the photo of each previous face.
        old_identity: (m,) its identity, 0..
    """
    by_photo = np.argsort(old_images, kind="stable")
    first, last = (np.searchsorted(old_images[by_photo], images, side=side) for side in ("left", "right"))
    candidates = last - first
    face = np.repeat(np.arange(len(images)), candidates)
    offset = np.arange(len(face)) - np.repeat(np.cumsum(candidates) - candidates, candidates)
    old = by_photo[np.repeat(first, candidates) + offset]
    meeting = labels[face] * (int(old_identity.max(initial=0)) + 1) + old_identity[old]
    _, inverse, meetings = np.unique(meeting, return_inverse=True, return_counts=True)
    matched, taken = np.full(len(images), -1, np.int64), np.zeros(len(old_images), bool)
    for k in np.lexsort((old, -meetings[inverse])).tolist():
        if matched[face[k]] < 0 and not taken[old[k]]:
            matched[face[k]] = old_identity[old[k]]
            taken[old[k]] = True
    return matched
