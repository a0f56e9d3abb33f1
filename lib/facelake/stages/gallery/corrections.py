"""Corrections in table `corrections`: recording, undoing and listing them, and applying them to groups."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import CORRECTIONS, I64, Bool, Verdict
from facelake.distinct import distinct, union
from facelake.erase import Needles
from facelake.errors import ConfigError, Contradiction
from facelake.events import Notice
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.publish.corrections import Correction, agreement, enforce, holds, in_force, met
from facelake.publish.similarity import unit_mean
from facelake.stages.core.context import Context
from facelake.stages.gallery.face_keys import FaceKeys, Grouped, faces_of_ids
from facelake.stages.gallery.stored_faces import StoredFaces
from facelake.stages.gallery.versions import Gallery, current_gallery, not_active, require_gallery


@dataclass(frozen=True, slots=True)
class Corrected:
    """Groups after the corrections were applied.

    Attributes:
        labels: (n,) group of each face.
        moved: (n,) faces that a correction placed in this run.
        touched: (n,) faces whose group has a face that a correction in force names.
        in_force: number of corrections that are satisfied.
        conflicts: a message for each other correction.
    """

    labels: I64
    moved: Bool
    touched: Bool
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
    """Return the numbers of the corrections in force; if they change, the groups must be published again."""
    return [row["seq"] for row in in_force(lake["corrections"].read(["seq", "kind", "undoes"]).to_pylist())]


def correct_groups(context: Context, grouped: Grouped, gallery: Gallery | None) -> Corrected:
    """Apply the corrections in force to the groups of a run."""
    labels, faces = grouped.labels, grouped.faces
    stored = _about_groups(in_force(context.lake["corrections"].read().to_pylist()))
    if not stored:
        return Corrected(labels, np.zeros(len(labels), bool), np.zeros(len(labels), bool), 0, [])
    corrections = _numbered(stored, faces)
    parts = agreement(corrections, len(faces))
    corrected, moved = enforce(corrections, parts, labels, _NearerSide(context, faces))
    violated = [c for c in corrections if not (holds(c, parts) and met(c, parts, corrected))]
    lines = [f"correction {c.seq} ({c.kind}) is not in effect: a later one contradicts it" for c in violated]
    named = np.concatenate([faces for c in corrections for faces in (c.a, c.b)])
    touched = np.isin(corrected, corrected[named])
    return Corrected(corrected, moved, touched, len(corrections) - len(violated), lines)


def record_correction(context: Context, request: CorrectionRequest) -> dict[str, Any]:
    """Record a correction and return its row; it takes effect with the next publish. If a correction in force says the
    same, nothing is recorded, and its row is returned: else undoing one of the two would change nothing.

    Raises:
        ConfigError: an identity or face is not in the gallery, or a face is not in the identity.
        Contradiction: it contradicts earlier corrections, and `supersede` is not set.
    """
    gallery = require_gallery(context.lake)
    members = gallery.read("memberships", ["face_id", "identity_id"])
    table, stored = context.lake["corrections"], context.lake["corrections"].read().to_pylist()
    seq = 1 + max((row["seq"] for row in stored), default=0)
    row = dict.fromkeys(CORRECTIONS.names) | _identities_and_faces(context.lake, request, members)
    row |= {"seq": seq, "kind": str(request.kind), "undoes": [], "reason": request.reason}
    if same := next((other for other in in_force(stored) if _says(other) == _says(row)), None):
        context.emit(Notice("correct", f"correction {same['seq']} says the same already; nothing was recorded"))
        return dict(same)
    row |= {"reviewer": request.reviewer or getpass.getuser(), "gallery_version": gallery.version}
    row["recorded_at"] = datetime.now(UTC)
    contradicted = _contradicted(members, [*_about_groups(in_force(stored)), row])
    if contradicted and not request.supersede:
        what = f"it contradicts correction {', '.join(map(str, contradicted))}"
        next_step = "see `facelake correct list`; give --supersede to overrule it"
        raise Contradiction(what, where=request.kind, next_step=next_step, seqs=tuple(contradicted))
    row["undoes"] = contradicted
    context.check_lease()
    table.append([dict(row)])
    return row


def _says(row: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what a correction says, whoever recorded it: its kind, and the faces of both sides."""
    sides = [frozenset(row[name] or ()) for name in ("faces_a", "faces_b")]
    symmetric = row["kind"] in (Verdict.MERGE, Verdict.DISTINCT)
    return row["kind"], frozenset(sides) if symmetric else tuple(sides)


def _about_groups(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The corrections that concern groups; marks of what is not a face take effect when photos are embedded."""
    return [row for row in rows if row["kind"] != Verdict.NOT_A_FACE]


def undo(context: Context, seq: int, reason: str = "", reviewer: str = "") -> dict[str, Any]:
    """Record that a correction no longer counts, and return the row of the undo.

    Raises:
        ConfigError: no such correction is in force.
    """
    stored = context.lake["corrections"].read().to_pylist()
    if any(row["seq"] == seq and row["kind"] == Verdict.UNDO for row in stored):
        what = f"{seq} is an undo, which cannot be undone"
        raise ConfigError(what, where=context.lake.uri, next_step="record the correction that it ended again")
    if seq not in [row["seq"] for row in in_force(stored)]:
        what = f"no correction {seq} in force"
        raise ConfigError(what, where=context.lake.uri, next_step="see `facelake correct list`")
    row = dict.fromkeys(CORRECTIONS.names) | {"seq": 1 + max(r["seq"] for r in stored), "kind": str(Verdict.UNDO)}
    row |= {"undoes": [seq], "reason": reason, "reviewer": reviewer or getpass.getuser()}
    gallery = current_gallery(context.lake)
    row |= {"gallery_version": gallery.version if gallery else 0, "recorded_at": datetime.now(UTC)}
    context.check_lease()
    context.lake["corrections"].append([row])
    return row


def forget_faces(lake: Lake, faces: set[str], contents: set[str], needles: Needles) -> int:
    """Remove erased faces from the corrections, with the reasons given, and names from other reasons; return the
    number of changed rows.

    Faces that the lake no longer has are removed too, whosever they were: a withdrawal before the erasure, or another
    model since, has removed them, and nothing tells any more which of them were the person's.

    Args:
        lake: the lake.
        faces: ids of the erased faces.
        contents: SHA-256 of the erased photos; a region that is not a face is known by it alone.
        needles: texts that must not stay in a reason.
    """
    table, changed = lake["corrections"], 0
    stored = table.read().to_pylist()
    faces = faces | _faces_that_are_gone(lake, stored)
    for row in stored:
        if row["kind"] == Verdict.NOT_A_FACE:
            changed += _forget_regions(row, faces, contents) or _redact_reason(row, needles)
            continue
        sides = {name: [face for face in row[name] or () if face not in faces] for name in ("faces_a", "faces_b")}
        if any(len(sides[name]) != len(row[name] or ()) for name in sides):
            row.update(sides | {"reason": None})
            changed += 1
        else:
            changed += _redact_reason(row, needles)
    if changed:
        table.replace_all(pa.Table.from_pylist(stored, schema=plain(CORRECTIONS)))
    return changed


def _faces_that_are_gone(lake: Lake, stored: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the faces that corrections about groups name and table `faces` lacks."""
    named = {face for row in _about_groups(stored) for side in ("faces_a", "faces_b") for face in row[side] or ()}
    if not named:
        return named
    wanted = pa.array(sorted(named), pa.string())
    for _, rows in lake["faces"].parts(["face_id"]):
        named.difference_update(rows["face_id"].filter(pc.is_in(rows["face_id"], wanted)).to_pylist())
    return named


def _redact_reason(row: dict[str, Any], needles: Needles) -> bool:
    """Take names out of the reason of a correction; returns whether there were any."""
    text = needles.redacted(row["reason"]) if row["reason"] else row["reason"]
    changed = text != row["reason"]
    row["reason"] = text
    return bool(changed)


def _forget_regions(row: dict[str, Any], faces: set[str], contents: set[str]) -> bool:
    columns = ("faces_b", "contents", "boxes")
    regions = list(zip(*(row[name] or () for name in columns), strict=True))
    kept = [region for region in regions if region[0] not in faces and region[1] not in contents]
    if len(kept) == len(regions):
        return False
    row.update({name: [region[i] for region in kept] for i, name in enumerate(columns)})
    row["reason"] = None
    return True


def list_corrections(lake: Lake) -> list[dict[str, Any]]:
    """Return every correction, oldest first, with column `counts`: whether it is in force; None for an undo."""
    stored = sorted(lake["corrections"].read().to_pylist(), key=lambda row: row["seq"])
    active = {row["seq"] for row in in_force(stored)}
    return [row | {"counts": None if row["kind"] == Verdict.UNDO else row["seq"] in active} for row in stored]


def _identities_and_faces(lake: Lake, request: CorrectionRequest, members: pa.Table) -> dict[str, Any]:
    """Return the identity and face columns of a correction, checked against the gallery that the reviewer sees."""
    faces = list(dict.fromkeys(request.faces))
    rows = _where(members, "face_id", faces)
    identity_of = dict(zip(*(column.to_pylist() for column in rows.columns), strict=True)) if faces else {}
    if missing := [face for face in faces if face not in identity_of]:
        what = f"no face {missing[0]!r}"
        raise ConfigError(what, where=lake.uri, next_step="see `facelake gallery show ID`")
    if request.kind is Verdict.NOT_A_FACE:
        return _regions(lake, faces, request.identity)
    if request.kind is Verdict.REJECT:
        if len({identity_of[face] for face in faces}) != 1:
            raise ConfigError(
                "the faces belong to several identities", where="reject", next_step="reject them one by one"
            )
        return _pair(lake, members, identity_of[faces[0]], faces)
    if request.kind in (Verdict.SPLIT, Verdict.CONFIRM):
        if not faces:
            raise ConfigError("no face is named", where=request.kind, next_step="name the faces")
        elsewhere = (
            [face for face in faces if identity_of[face] != request.identity] if request.kind is Verdict.SPLIT else []
        )
        if elsewhere:
            what = f"face {elsewhere[0]!r} is not in {request.identity!r}"
            raise ConfigError(what, where="split", next_step="see `facelake gallery show ID`")
        row = _pair(lake, members, request.identity, faces)
        if request.kind is Verdict.SPLIT and not row["faces_a"]:
            raise ConfigError("the identity would keep no face", where="split", next_step="name fewer faces")
        return row
    if request.identity == request.other:
        raise ConfigError("it is the same identity twice", where=request.kind, next_step="name two")
    a, b = (_faces_of(lake, members, name) for name in (request.identity, request.other))
    return {"identity_a": request.identity, "identity_b": request.other, "faces_a": a, "faces_b": b}


def _regions(lake: Lake, faces: list[str], identity: str | None) -> dict[str, Any]:
    """Return where faces are: the photo's digest and the box, which outlast the face's id.

    Raises:
        ConfigError: no face is named, or one is gone from table `faces`.
    """
    if not faces:
        raise ConfigError("no face is named", where=Verdict.NOT_A_FACE, next_step="name the faces")
    parts = (part for _, part in lake["faces"].parts(["face_id", "content_sha256", "box"]))
    rows = {row["face_id"]: row for part in parts for row in _where(part, "face_id", faces).to_pylist()}
    if missing := [face for face in faces if face not in rows]:
        what = f"face {missing[0]!r} is in the gallery and no longer in table `faces`"
        raise ConfigError(what, where=lake.uri, next_step="run `facelake nightly`")
    contents, boxes = [rows[face]["content_sha256"] for face in faces], [rows[face]["box"] for face in faces]
    return {"identity_a": identity, "faces_a": [], "faces_b": faces, "contents": contents, "boxes": boxes}


def _pair(lake: Lake, members: pa.Table, identity: str | None, faces: Sequence[str]) -> dict[str, Any]:
    rest = set(_faces_of(lake, members, identity)) - set(faces)
    return {"identity_a": identity, "faces_a": sorted(rest), "faces_b": list(faces)}


def _faces_of(lake: Lake, members: pa.Table, identity: str | None) -> list[str]:
    faces: list[str] = _where(members, "identity_id", [identity or ""])["face_id"].to_pylist()
    if not faces:
        gallery = require_gallery(lake)
        ended = not_active(gallery, identity)
        undone = lake["corrections"].read(["kind", "gallery_version"]).to_pylist()
        if any((row["kind"], row["gallery_version"]) == (Verdict.UNDO, gallery.version) for row in undone):
            next_step = f"run `facelake nightly` first, which applies the last undo; else {ended.next_step}"
            raise ConfigError(ended.what, where=ended.where, next_step=next_step)
        raise ended
    return sorted(faces)  # after an erasure the table's rows ascend only within each file


def _where(members: pa.Table, column: str, values: Sequence[str]) -> pa.Table:
    return members.filter(pc.is_in(members[column], pa.array(list(values), pa.string())))


def _contradicted(members: pa.Table, stored: Sequence[Any]) -> list[int]:
    """Return the numbers of the earlier corrections that cannot hold together with the last one."""
    if stored[-1]["kind"] == Verdict.NOT_A_FACE:
        return []
    faces, _ = faces_of_ids(lambda: [members["face_id"]], "memberships")
    corrections = _numbered(stored, faces)
    *earlier, last = corrections
    parts = agreement(corrections, members.num_rows)
    if not holds(last, parts):
        return [c.seq for c in earlier if np.intersect1d(union(c.a, c.b), last.b).size]
    return [c.seq for c in earlier if not holds(c, parts)]


def agreed_parts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the part of each face that corrections name, by face id, so that they hold (see `agreement`).

    Args:
        rows: the corrections in force, oldest first.
    """
    stored = _about_groups(rows)
    ids = pa.array(sorted({face for row in stored for side in ("faces_a", "faces_b") for face in row[side] or ()}))
    if not len(ids):
        return {}
    faces, _ = faces_of_ids(lambda: [pa.chunked_array([ids])], "corrections")
    parts = agreement(_numbered(stored, faces), len(ids))
    return dict(zip(ids.to_pylist(), parts[faces.find(ids)].tolist(), strict=True))


def _numbered(stored: Sequence[Any], faces: FaceKeys) -> list[Correction]:
    """Return corrections with face numbers in place of face ids; faces that no longer exist are left out."""

    sides = [row[side] or [] for row in stored for side in ("faces_a", "faces_b")]
    # all ids at once: looking up a few at a time takes a hundred times as long
    at = faces.find(pa.array([face for side in sides for face in side], pa.string()))
    ends = np.cumsum([len(side) for side in sides], dtype=np.int64)
    numbers = [distinct(part[part >= 0]) for part in np.split(at, ends[:-1])]
    return [
        Correction(
            row["seq"],
            Verdict(row["kind"]),
            numbers[2 * place],
            numbers[2 * place + 1],
            row["identity_a"] or "",
            row["identity_b"] or "",
        )
        for place, row in enumerate(stored)
    ]


@dataclass(slots=True)
class _NearerSide:
    """Assigns faces to the side of a correction whose mean vector is most similar."""

    context: Context
    faces: FaceKeys

    def __call__(self, others: I64, sides: list[I64]) -> I64:
        needed = np.zeros(len(self.faces), bool)
        needed[np.concatenate([others, *sides])] = True
        faces = StoredFaces.known(self.context.lake, self.faces)
        vector = {int(p): v for at, vectors in faces.vectors(needed) for p, v in zip(at, vectors, strict=True)}
        means = np.array([unit_mean(np.array([vector[int(p)] for p in side])) for side in sides])
        similarity = np.array([vector[int(p)] for p in others]) @ means.T
        return np.asarray(np.argmax(similarity, axis=1), np.int64)
