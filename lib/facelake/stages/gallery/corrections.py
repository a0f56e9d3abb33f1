"""Corrections: recording them, and making groups agree with them."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CORRECTIONS, I64, Bool, Verdict
from facelake.errors import ConfigError, Contradiction
from facelake.lake.lake import Lake
from facelake.lake.tables import plain
from facelake.publish.corrections import Correction, agreement, enforce, holds, in_force, met
from facelake.publish.similarity import unit_mean
from facelake.stages.core.context import Context
from facelake.stages.gallery.face_keys import FaceKeys, Grouped, faces_of_ids
from facelake.stages.gallery.face_vectors import Faces
from facelake.stages.gallery.versions import Gallery, current_gallery


@dataclass(frozen=True, slots=True)
class Corrected:
    """Groups that agree with the corrections.

    Attributes:
        labels: (n,) group of each face.
        moved: (n,) faces that a correction placed.
        in_force: how many corrections are met.
        conflicts: for each that is not, a message.
    """

    labels: I64
    moved: Bool
    in_force: int
    conflicts: list[str]


@dataclass(frozen=True, slots=True)
class CorrectionRequest:
    """A correction as a reviewer states it."""

    kind: Verdict
    identity: str | None = None
    other: str | None = None
    faces: tuple[str, ...] = ()
    reason: str = ""
    reviewer: str = ""
    supersede: bool = False


def corrections_digest(lake: Lake) -> list[int]:
    """Return the numbers of the corrections in force: other numbers, other groups."""
    return [row["seq"] for row in in_force(lake["corrections"].read(["seq", "kind", "undoes"]).to_pylist())]


def correct_groups(context: Context, grouped: Grouped, gallery: Gallery | None) -> Corrected:
    """Make groups agree with every correction in force."""
    labels, faces = grouped.labels, grouped.faces
    stored = in_force(context.lake["corrections"].read().to_pylist())
    if not stored:
        return Corrected(labels, np.zeros(len(labels), bool), 0, [])
    corrections = _numbered(stored, faces)
    parts = agreement(corrections, len(faces))
    corrected, moved = enforce(corrections, parts, labels, _Nearer(context, faces))
    broken = [c for c in corrections if not (holds(c, parts) and met(c, parts, corrected))]
    lines = [f"correction {c.seq} ({c.kind}) is not in effect: a later one contradicts it" for c in broken]
    return Corrected(corrected, moved, len(corrections) - len(broken), lines)


def record_correction(context: Context, said: CorrectionRequest) -> dict[str, Any]:
    """Keep a correction; it takes effect with the next publish.

    Raises:
        ConfigError: an identity or face that is not in the gallery; faces that are not of the identity.
        Contradiction: it contradicts earlier corrections and is not said to supersede them.
    """
    gallery = current_gallery(context.lake)
    if gallery is None:
        raise ConfigError("no gallery was published yet", where=context.lake.uri, next_step="run `facelake nightly`")
    members = gallery.read("memberships", ["face_id", "identity_id"])
    members = members if _ascending(members["face_id"].combine_chunks()) else members.sort_by("face_id")
    table, stored = context.lake["corrections"], context.lake["corrections"].read().to_pylist()
    seq = 1 + max((row["seq"] for row in stored), default=0)
    row = dict.fromkeys(CORRECTIONS.names) | _spoken_of(context.lake, said, members)
    row |= {"seq": seq, "kind": str(said.kind), "undoes": [], "reason": said.reason}
    row |= {"reviewer": said.reviewer or getpass.getuser(), "gallery_version": gallery.version}
    row["recorded_at"] = datetime.now(UTC)
    broken = _contradicted(members, [*in_force(stored), row])
    if broken and not said.supersede:
        what = f"it contradicts correction {', '.join(map(str, broken))}"
        next_step = "see `facelake correct list`; give --supersede to overrule it"
        raise Contradiction(what, where=said.kind, next_step=next_step, seqs=tuple(broken))
    row["undoes"] = broken
    context.check_lease()
    table.append([row])
    return row


def undo(context: Context, seq: int, reason: str = "", reviewer: str = "") -> dict[str, Any]:
    """Take a correction back.

    Raises:
        ConfigError: there is no such correction that counts.
    """
    stored = context.lake["corrections"].read().to_pylist()
    if seq not in [row["seq"] for row in in_force(stored)]:
        what = f"no correction {seq} counts"
        raise ConfigError(what, where=context.lake.uri, next_step="see `facelake correct list`")
    row = dict.fromkeys(CORRECTIONS.names) | {"seq": 1 + max(r["seq"] for r in stored), "kind": str(Verdict.UNDO)}
    row |= {"undoes": [seq], "reason": reason, "reviewer": reviewer or getpass.getuser()}
    gallery = current_gallery(context.lake)
    row |= {"gallery_version": gallery.version if gallery else 0, "recorded_at": datetime.now(UTC)}
    context.check_lease()
    context.lake["corrections"].append([row])
    return row


def forget_faces(lake: Lake, faces: set[str]) -> int:
    """Take faces that are erased out of the corrections, and the words that were said of them; rows changed."""
    table, changed = lake["corrections"], 0
    stored = table.read().to_pylist()
    for row in stored:
        sides = {name: [face for face in row[name] or () if face not in faces] for name in ("faces_a", "faces_b")}
        if any(len(sides[name]) != len(row[name] or ()) for name in sides):
            row.update(sides | {"reason": None})
            changed += 1
    if changed:
        table.replace_all(pa.Table.from_pylist(stored, schema=plain(CORRECTIONS)))
    return changed


def list_corrections(lake: Lake) -> list[dict[str, Any]]:
    """Every correction, oldest first, and whether it counts."""
    stored = sorted(lake["corrections"].read().to_pylist(), key=lambda row: row["seq"])
    alive = {row["seq"] for row in in_force(stored)}
    return [row | {"counts": row["seq"] in alive} for row in stored]


def _spoken_of(lake: Lake, said: CorrectionRequest, members: pa.Table) -> dict[str, Any]:
    """Identities and faces of a correction, from the gallery that the reviewer sees."""
    faces = list(dict.fromkeys(said.faces))
    home = dict(zip(*(c.to_pylist() for c in _of(members, "face_id", faces).columns), strict=True)) if faces else {}
    if missing := [face for face in faces if face not in home]:
        what = f"no face {missing[0]!r}"
        raise ConfigError(what, where=lake.uri, next_step="see `facelake gallery show --identity ID`")
    if said.kind is Verdict.REJECT:
        if len({home[face] for face in faces}) != 1:
            raise ConfigError("faces of several identities", where="reject", next_step="reject them one by one")
        return _pair(lake, members, home[faces[0]], faces)
    if said.kind in (Verdict.SPLIT, Verdict.CONFIRM):
        if not faces:
            raise ConfigError("no face is named", where=said.kind, next_step="name the faces")
        wrong = [face for face in faces if home[face] != said.identity] if said.kind is Verdict.SPLIT else []
        if wrong:
            what = f"face {wrong[0]!r} is not in {said.identity!r}"
            raise ConfigError(what, where="split", next_step="see `facelake gallery show --identity ID`")
        row = _pair(lake, members, said.identity, faces)
        if said.kind is Verdict.SPLIT and not row["faces_a"]:
            raise ConfigError("nothing of the identity would stay", where="split", next_step="name fewer faces")
        return row
    if said.identity == said.other:
        raise ConfigError("it is the same identity twice", where=said.kind, next_step="name two")
    a, b = (_faces_of(lake, members, name) for name in (said.identity, said.other))
    return {"identity_a": said.identity, "identity_b": said.other, "faces_a": a, "faces_b": b}


def _ascending(ids: pa.Array) -> bool:
    """As publish writes them; an erasure may leave them so in several files."""
    return bool(pc.all(pc.less_equal(ids[:-1], ids[1:])).as_py()) if len(ids) > 1 else True


def _pair(lake: Lake, members: pa.Table, identity: str | None, faces: Sequence[str]) -> dict[str, Any]:
    rest = set(_faces_of(lake, members, identity)) - set(faces)
    return {"identity_a": identity, "faces_a": sorted(rest), "faces_b": list(faces)}


def _faces_of(lake: Lake, members: pa.Table, identity: str | None) -> list[str]:
    found: list[str] = _of(members, "identity_id", [identity or ""])["face_id"].to_pylist()
    if not found:
        raise ConfigError(f"no active identity {identity!r}", where=lake.uri, next_step="see `facelake gallery show`")
    return found


def _of(members: pa.Table, column: str, values: Sequence[str]) -> pa.Table:
    return members.filter(pc.is_in(members[column], pa.array(list(values), pa.string())))


def _contradicted(members: pa.Table, stored: Sequence[Any]) -> list[int]:
    """Return the corrections that cannot be met once the last one is."""
    faces, _ = faces_of_ids(lambda: [members["face_id"]], "memberships")
    corrections = _numbered(stored, faces)
    *earlier, last = corrections
    parts = agreement(corrections, members.num_rows)
    if not holds(last, parts):
        return [c.seq for c in earlier if np.intersect1d(np.union1d(c.a, c.b), last.b).size]
    return [c.seq for c in earlier if not holds(c, parts)]


def _numbered(stored: Sequence[Any], faces: FaceKeys) -> list[Correction]:
    """Return corrections with face numbers in place of face ids; faces that are gone are left out."""

    def numbers(ids: list[str] | None) -> I64:
        at = faces.find(pa.array(ids or [], pa.string()))
        return np.unique(at[at >= 0])

    return [
        Correction(
            row["seq"],
            Verdict(row["kind"]),
            numbers(row["faces_a"]),
            numbers(row["faces_b"]),
            row["identity_a"] or "",
            row["identity_b"] or "",
        )
        for row in stored
    ]


@dataclass(slots=True)
class _Nearer:
    """Compares faces with two sides of a correction by the means of the sides' vectors."""

    context: Context
    faces: FaceKeys

    def __call__(self, others: I64, sides: list[I64]) -> I64:
        wanted = np.zeros(len(self.faces), bool)
        wanted[np.concatenate([others, *sides])] = True
        files = tuple(file.path for file in self.context.lake["faces"].snapshot().files)
        faces = Faces.of(self.context.lake, self.faces, files)
        vector = {int(p): v for at, vectors, _ in faces.vectors(wanted) for p, v in zip(at, vectors, strict=True)}
        means = np.array([unit_mean(np.array([vector[int(p)] for p in side])) for side in sides])
        similarity = np.array([vector[int(p)] for p in others]) @ means.T
        return np.asarray(np.argmax(similarity, axis=1), np.int64)
