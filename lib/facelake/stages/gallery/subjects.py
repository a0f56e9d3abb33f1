"""Lists identities of several subject references and subjects in several identities, by photos of one face.

Reads three tables file by file and keeps 24 bytes for each photo of one face, whatever the length of ids; sorting them
takes as much again. With 10^7 such photos the process peaks at 1.1 GB.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.contracts import I64, is_of_model, references
from facelake.distinct import among, distinct
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.publish.subject_evidence import Conflicts, Evidence
from facelake.stages.admission.withdrawals import LedgerState
from facelake.stages.gallery.face_keys import FaceKeys, IdNumbers
from facelake.stages.gallery.versions import Gallery, require_gallery

MOST_PARTS = 10
"""subjects of an identity, or identities of a subject, that are listed"""
_SALTS = 4
_COUNTS = ("subject_photos", "joined", "divided")


@dataclass(frozen=True, slots=True)
class CommonPhotos:
    """The photos of one face that an identity and a subject have in common.

    Attributes:
        name: the subject's reference, or the identity's id.
        photos: how many.
    """

    name: str
    photos: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An identity with photos of several subjects, or a subject with photos in several identities.

    Attributes:
        name: the identity's id, or the subject's reference.
        photos: its photos of one face that name a subject.
        apart: those outside its largest part.
        count: number of its parts.
        parts: the largest of them, at most MOST_PARTS.
    """

    name: str
    photos: int
    apart: int
    count: int
    parts: tuple[CommonPhotos, ...]

    def as_json(self, name: str, part: str) -> dict[str, Any]:
        """Return a JSON object; the keys of the names are `name` and `part`."""
        parts = [{part: item.name, "photos": item.photos} for item in self.parts]
        return {name: self.name, "photos": self.photos, "apart": self.apart, "count": self.count, "parts": parts}


@dataclass(frozen=True, slots=True)
class SubjectCounts:
    """How many identities and subjects contradict each other.

    Attributes:
        photos: photos of one face that name a subject: the evidence.
        joined: identities with photos of several subjects.
        divided: subjects with photos in several identities.
    """

    photos: int
    joined: int
    divided: int

    @classmethod
    def of(cls, evidence: Evidence) -> SubjectCounts:
        """Count what contradicts in the evidence."""
        return cls(int(evidence.photos.sum()), len(evidence.joined()), len(evidence.divided()))

    def in_words(self) -> str:
        """Return both counts as text."""
        joined = f"{counted(self.joined, 'identity', 'identities')} with photos of several subjects"
        return f"{joined}, {counted(self.divided, 'subject')} with photos in several identities"


@dataclass(frozen=True, slots=True)
class Contradictions:
    """What contradicts in a gallery version; those with most photos outside their largest part first.

    Attributes:
        gallery_version: the version.
        counts: of all.
        joined: the first of these identities.
        divided: the first of these subjects.
    """

    gallery_version: int
    counts: SubjectCounts
    joined: tuple[Contradiction, ...]
    divided: tuple[Contradiction, ...]


def find_contradictions(lake: Lake, most: int, now: datetime) -> Contradictions:
    """Compare subjects and identities of the newest gallery.

    Photos that may no longer be used (withdrawn, erased, ended grant) are left out, as if they did not exist.

    Args:
        lake: the lake.
        most: identities and subjects that are listed.
        now: at which legal bases are checked.

    Raises:
        ConfigError: nothing was published.
    """
    gallery = require_gallery(lake)
    barred = LedgerState.of(lake).barred_images(gallery.row["purpose"], now)
    ids = active_identities(gallery)
    for salt in range(_SALTS):
        evidence = one_face_evidence(gallery, ids, without=barred, salt=salt)
        joined, divided = evidence.joined(), evidence.divided()
        parts = [evidence.subject[joined.parts(number)[:MOST_PARTS]] for number in range(min(most, len(joined)))]
        names = _subject_names(lake, distinct(np.concatenate([divided.group[:most], *parts])), salt)
        if names is None:
            continue
        identities = {number: ids[number].as_py() for number in _listed_identities(evidence, joined, divided, most)}
        return Contradictions(
            gallery.version,
            SubjectCounts(int(evidence.photos.sum()), len(joined), len(divided)),
            _listed(joined, most, evidence, identities, names),
            _listed(divided, most, evidence, names, identities),
        )
    raise Corrupt("two subject references have one key under every hash", where=lake.uri, next_step="report it")


def as_drift(gallery: Gallery, counts: SubjectCounts) -> dict[str, Any]:
    """Return the columns of table `drift` that record the counts of a gallery, and what they were counted from."""
    return dict(zip(_COUNTS, (counts.photos, counts.joined, counts.divided), strict=True)) | _origin(gallery)


def count_contradictions(gallery: Gallery) -> SubjectCounts:
    """Count what contradicts in a gallery version, by the photos that the last run admitted.

    The counts that the analytics recorded are returned, unless the gallery, decisions or faces changed since.
    """
    origin = _origin(gallery)
    for row in gallery.lake["drift"].read([*_COUNTS, *origin]).to_pylist():
        if origin.items() <= row.items():
            return SubjectCounts(*(row[name] for name in _COUNTS))
    return SubjectCounts.of(one_face_evidence(gallery, active_identities(gallery)))


def _origin(gallery: Gallery) -> dict[str, Any]:
    """Return the time of the gallery, which differs if an erasure rewrote it, and the versions of the other tables."""
    versions = {f"{name}_version": gallery.lake[name].version() for name in ("admissions", "faces")}
    return {"gallery_version": gallery.version, "created_at": gallery.row["created_at"], **versions}


def active_identities(gallery: Gallery) -> pa.Array:
    """Return the ids (n,) of the active identities of a gallery."""
    ids = [pa.array([], pa.string())]
    for rows in gallery.parts("identities", ["identity_id", "status"]):
        ids.append(rows["identity_id"].filter(pc.equal(rows["status"], "active")).combine_chunks())
    return pa.concat_arrays(ids)


def one_face_evidence(gallery: Gallery, ids: pa.Array, *, without: pa.Array | None = None, salt: int = 0) -> Evidence:
    """Count the photos of one face that name a subject, by subject and identity.

    Args:
        gallery: the version.
        ids: (n,) its active identities; the evidence has their positions.
        without: ids of photos that are left out.
        salt: of the keys of photos and subjects. Two photos with the same key count as one of two faces, which is no
            evidence.
    """
    photos = _photos_of_one_face(gallery, salt)
    if without is not None and len(without):
        photos = photos[~among(photos, distinct(columns.keys(without, salt)))]
    known, numbers = FaceKeys(photos, salt), IdNumbers.of(ids, f"{gallery.lake.uri}/identities")
    identity = np.full(len(photos), -1, np.int64)
    for rows in gallery.parts("memberships", ["image_id", "identity_id"]):
        at = known.find(rows["image_id"])
        identity[at[at >= 0]] = numbers.find(rows["identity_id"])[at >= 0]
    subject, named = np.zeros(len(photos), np.int64), np.zeros(len(photos), bool)
    for _, rows in gallery.lake["admissions"].parts(["image_id", "subject_ref", "admitted"]):
        rows = rows.filter(pc.and_(rows["admitted"], pc.is_valid(rows["image_id"])))
        names = references(rows["subject_ref"])
        given = pc.greater(pc.utf8_length(names), 0)
        at = known.find(rows["image_id"].filter(given))
        subject[at[at >= 0]] = columns.keys(names.filter(given), salt)[at >= 0]
        named[at[at >= 0]] = True
    chosen = named & (identity >= 0)
    return Evidence.of(subject[chosen], identity[chosen])


def _photos_of_one_face(gallery: Gallery, salt: int) -> I64:
    """Return the keys of the photos in which the gallery's model found exactly one face, ascending."""
    table = gallery.lake["faces"]
    snapshot = table.snapshot()
    of_model = [file for file in snapshot.files if is_of_model(file.path, gallery.row["model_digest"])]
    found = [columns.keys(table.file(file, ["image_id"])["image_id"], salt) for file in of_model]
    keys = np.sort(np.concatenate([np.zeros(0, np.int64), *found]))
    differs = np.ones(len(keys) + 1, bool)
    differs[1:-1] = keys[1:] != keys[:-1]
    return np.asarray(keys[differs[:-1] & differs[1:]])


def _listed_identities(evidence: Evidence, joined: Conflicts, divided: Conflicts, most: int) -> set[int]:
    parts = [evidence.identity[divided.parts(number)[:MOST_PARTS]] for number in range(min(most, len(divided)))]
    return set(np.concatenate([joined.group[:most], *parts]).tolist())


def _subject_names(lake: Lake, wanted: I64, salt: int) -> dict[int, str] | None:
    """Return the references with these keys (ascending); None if two references have the same key."""
    names: dict[int, str] = {}
    for _, rows in lake["admissions"].parts(["subject_ref"]) if len(wanted) else ():
        texts = pc.unique(references(rows["subject_ref"])).drop_null()
        keys = columns.keys(texts, salt)
        for at in np.flatnonzero(among(keys, wanted)).tolist():
            text = texts[at].as_py()
            if names.setdefault(int(keys[at]), text) != text:
                return None
    return names


def _listed(
    conflicts: Conflicts, most: int, evidence: Evidence, groups: dict[int, str], others: dict[int, str]
) -> tuple[Contradiction, ...]:
    """Return the first of the conflicts with the names of groups and parts."""
    member = evidence.subject if conflicts.by_identity else evidence.identity
    listed = []
    for number in range(min(most, len(conflicts))):
        rows = conflicts.parts(number)
        parts = tuple(CommonPhotos(others[int(member[row])], int(evidence.photos[row])) for row in rows[:MOST_PARTS])
        counts = int(conflicts.photos[number]), int(conflicts.apart[number]), len(rows)
        listed.append(Contradiction(groups[int(conflicts.group[number])], *counts, parts))
    return tuple(listed)
