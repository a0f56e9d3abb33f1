"""review: the questions, the faces that answer them, and what a person says of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.contracts import F32, I64, Bool, Verdict
from facelake.errors import ConfigError, Contradiction, FacelakeError
from facelake.lake.lake import Lake
from facelake.publish.corrections import in_force
from facelake.publish.similarity import between, evenly, inside, nearest_links, two_sides, unit_mean
from facelake.stages.gallery.corrections import CorrectionRequest, list_corrections, record_correction, undo
from facelake.stages.review.session import Moment, ReviewSession, Sheet

_LINKED = 512  # faces of each side among which the nearest pairs are looked for
_LINKS = 6
_QUEUE = ("kind", "identity_id", "other_id", "score", "doubt", "faces", "reason", "gallery_version")
_MOST = 0.8  # of an identity's faces: to confirm so many says that it is one person


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the queue."""

    kind: str
    identity: str
    other: str | None
    score: float
    doubt: float
    faces: int
    reason: str
    settled_by: int | None
    """number of the correction that answers it"""
    settled_how: str | None
    settled_who: str | None
    skipped: bool


@dataclass(frozen=True, slots=True)
class Queue:
    """A page of the queue, the most valuable question first."""

    gallery_version: int
    questions: list[Question]
    offset: int
    total: int
    open: int
    """questions without an answer, on all pages"""


@dataclass(frozen=True, slots=True)
class ShownFace:
    """One face as a reviewer sees it."""

    face_id: str
    image_id: str
    quality: float | None
    similarity: float
    """cosine to the prototype of its identity"""
    other: float | None
    """cosine to the other side: the other identity's prototype, or the mean of the other part"""
    shared: bool
    """its photo shows another face that is on the page"""


@dataclass(frozen=True, slots=True)
class Side:
    """One column: an identity, or a part of one."""

    identity: str
    part: str
    """all, main or rest"""
    size: int
    """faces of the identity"""
    total: int
    """of this column that may be shown"""
    hidden: int
    """of the identity that may not be shown"""
    compared: int
    """faces of the identity that were read"""
    offset: int
    inside: float | None
    """mean cosine of pairs in this column"""
    faces: list[ShownFace]


@dataclass(frozen=True, slots=True)
class Link:
    """Two faces, one of each side, that are most alike."""

    a: str
    b: str
    similarity: float


@dataclass(frozen=True, slots=True)
class View:
    """Two columns to compare."""

    gallery_version: int
    kind: str
    """one: an identity and its proposed parts; pair: two identities"""
    sides: list[Side]
    between: float | None
    """mean cosine of faces of one side with those of the other"""
    prototypes: float | None
    """pair: cosine of the two prototypes"""
    links: list[Link]
    linked: list[int]
    """faces of each side among which links were looked for"""
    shared_photos: int
    """photos that show faces of both sides"""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column before it is cut into pages."""

    sheet: Sheet
    part: str
    at: I64
    """rows of the sheet, in the order of the page"""
    similarity: F32
    other: F32 | None
    hidden: int

    @property
    def vectors(self) -> F32:
        return self.sheet.vectors[self.at]

    @property
    def images(self) -> list[str]:
        found: list[str] = self.sheet.faces["image_id"].take(pa.array(self.at)).to_pylist()
        return found


# ---- the queue


def queue(session: ReviewSession, offset: int = 0, limit: int = 50) -> Queue:
    """A page of the questions whose identities are in force for the purpose, with their answers so far."""
    moment, lake = session.moment(), session.context.lake
    known = moment.known.place
    rows = [
        row
        for row in lake["reviews"].read(_QUEUE).sort_by([("score", "descending")]).to_pylist()
        if row["identity_id"] in known and (row["other_id"] is None or row["other_id"] in known)
    ]
    answers = _answers(lake)
    found = [_question(row, answers, session.skipped) for row in rows]
    page = found[offset : offset + limit]
    open_ = sum(one.settled_by is None for one in found)
    session.note("queue", gallery_version=moment.gallery.version, offset=offset, questions=len(page))
    return Queue(moment.gallery.version, page, offset, len(found), open_)


def _answers(lake: Lake) -> list[Any]:
    columns = ["seq", "kind", "undoes", "identity_a", "identity_b", "faces_b", "reviewer", "gallery_version"]
    return in_force(lake["corrections"].read(columns).to_pylist())


def _question(row: dict[str, Any], answers: list[Any], skipped: set[tuple[str, str | None]]) -> Question:
    answer = next((one for one in reversed(answers) if _settles(one, row)), None)
    return Question(
        row["kind"], row["identity_id"], row["other_id"], row["score"], row["doubt"], row["faces"], row["reason"],
        answer["seq"] if answer else None, answer["kind"] if answer else None,
        answer["reviewer"] if answer else None, (row["identity_id"], row["other_id"]) in skipped,
    )  # fmt: skip


def _settles(one: Any, row: dict[str, Any]) -> bool:
    """Whether a correction answers a question; that it is one person stays said while most faces are the same."""
    if row["other_id"] is not None:
        return {one["identity_a"], one["identity_b"]} == {row["identity_id"], row["other_id"]}
    if one["identity_a"] != row["identity_id"]:
        return False
    if one["kind"] == Verdict.CONFIRM:
        return len(one["faces_b"] or ()) >= _MOST * int(row["faces"])
    return one["kind"] in (Verdict.SPLIT, Verdict.REJECT) and bool(one["gallery_version"] >= row["gallery_version"])


# ---- views


def view_one(session: ReviewSession, identity: str, offset: tuple[int, int] = (0, 0), limit: int = 60) -> View:
    """An identity in the two parts into which its faces fall best, the larger one first.

    Raises:
        ConfigError: it is not in the gallery, or not in force for the purpose.
    """
    moment = session.moment()
    sheet = session.sheet(moment, identity)
    shown = _visible(moment, sheet)
    vectors = sheet.vectors[shown]
    rest = two_sides(vectors)
    prototype = moment.known.prototypes(session.context.lake, [identity])[0]
    columns = []
    for name, mine, others in (("main", ~rest, rest), ("rest", rest, ~rest)):
        toward = unit_mean(vectors[others]) if others.any() else None
        columns.append(_column(sheet, name, shown[mine], prototype, toward, hidden=len(sheet.vectors) - len(shown)))
    return _view(session, moment, "one", columns, None, offset, limit)


def view_pair(session: ReviewSession, a: str, b: str, offset: tuple[int, int] = (0, 0), limit: int = 60) -> View:
    """Two identities side by side, in each the faces first that are most like the other one.

    Raises:
        ConfigError: one is not in the gallery, or not in force for the purpose, or it is the same twice.
    """
    if a == b:
        raise ConfigError("it is the same identity twice", where=a, next_step="name two")
    moment = session.moment()
    sheets = [session.sheet(moment, name) for name in (a, b)]
    prototypes = moment.known.prototypes(session.context.lake, [a, b])
    columns = []
    for mine, sheet in enumerate(sheets):
        shown = _visible(moment, sheet)
        toward = prototypes[1 - mine]
        columns.append(_column(sheet, "all", shown, prototypes[mine], toward, hidden=len(sheet.vectors) - len(shown)))
    return _view(session, moment, "pair", columns, float(prototypes[0] @ prototypes[1]), offset, limit)


def _visible(moment: Moment, sheet: Sheet) -> I64:
    return np.flatnonzero(moment.standing.may_show(sheet.faces, sheet.admitted))


def _column(sheet: Sheet, part: str, at: I64, prototype: F32, toward: F32 | None, hidden: int) -> _Column:
    """A part's faces by their likeness to its identity; an identity's by that to the other one."""
    similarity = sheet.vectors[at] @ prototype
    other = sheet.vectors[at] @ toward if toward is not None else None
    by = similarity if part != "all" or other is None else other
    order = np.lexsort((at, -by))
    return _Column(sheet, part, at[order], similarity[order], other[order] if other is not None else None, hidden)


def _view(
    session: ReviewSession, moment: Moment, kind: str, columns: list[_Column], prototypes: float | None,
    offset: tuple[int, int], limit: int,
) -> View:  # fmt: skip
    """Cut pages, put them into the audit, and only then let faces be seen."""
    images = [set(column.images) for column in columns]
    both = images[0] & images[1]
    pages = [np.arange(len(column.at))[start : start + limit] for column, start in zip(columns, offset, strict=True)]
    sides = [
        _side(column, page, start, _repeated(column) | np.array([name in both for name in column.images], bool))
        for column, page, start in zip(columns, pages, offset, strict=True)
    ]
    links, linked = _links(columns)
    rows = [(column.sheet, column.at[page]) for column, page in zip(columns, pages, strict=True)]
    faces = [face.face_id for side in sides for face in side.faces]
    named = list(dict.fromkeys(column.sheet.identity for column in columns))
    session.note(
        "view", gallery_version=moment.gallery.version, identities=named, faces=session.hashes(faces),
        links=[session.hashes([link.a, link.b]) for link in links],
    )  # fmt: skip
    session.met.update(dict.fromkeys(named, moment.gallery.version))
    linked_ids = {face for link in links for face in (link.a, link.b)}
    for sheet, at in rows:
        extra = [i for i, face in enumerate(sheet.faces["face_id"].to_pylist()) if face in linked_ids]
        session.reveal(sheet, np.union1d(at, np.array(extra, np.int64)))
    apart = between(columns[0].vectors, columns[1].vectors)
    return View(moment.gallery.version, kind, sides, apart, prototypes, links, linked, len(both))


def _repeated(column: _Column) -> Bool:
    """Faces (n,) of a column whose photo shows another one of it."""
    names, inverse, counts = np.unique(np.array(column.images, object).astype(str), return_inverse=True,
                                       return_counts=True)  # fmt: skip
    return np.asarray(counts[inverse] > 1) if len(names) else np.zeros(0, bool)


def _side(column: _Column, page: I64, start: int, shared: Bool) -> Side:
    rows = column.sheet.faces.take(pa.array(column.at[page])).select(["face_id", "image_id", "quality"]).to_pylist()
    faces = [
        ShownFace(
            row["face_id"], row["image_id"], row["quality"], float(column.similarity[i]),
            float(column.other[i]) if column.other is not None else None, bool(shared[i]),
        )
        for i, row in zip(page.tolist(), rows, strict=True)
    ]  # fmt: skip
    sheet = column.sheet
    return Side(
        sheet.identity, column.part, sheet.size, len(column.at), column.hidden, len(sheet.vectors), start,
        inside(column.vectors), faces,
    )  # fmt: skip


def _links(columns: list[_Column]) -> tuple[list[Link], list[int]]:
    chosen = [column.at[evenly(len(column.at), _LINKED)] for column in columns]
    a, b = (column.sheet.vectors[at] for column, at in zip(columns, chosen, strict=True))
    names = [
        column.sheet.faces["face_id"].take(pa.array(at)).to_pylist() for column, at in zip(columns, chosen, strict=True)
    ]
    return [Link(names[0][i], names[1][j], like) for i, j, like in nearest_links(a, b, _LINKS)], [len(a), len(b)]


# ---- what a person says


@dataclass(frozen=True, slots=True)
class Recorded:
    """What became of an answer."""

    seq: int
    kind: str
    supersedes: list[int]


def answer(session: ReviewSession, said: CorrectionRequest, gallery_version: int) -> Recorded:
    """Record what the reviewer says of what he was shown.

    Args:
        gallery_version: of the view that he answers.

    Raises:
        ConfigError: a new gallery was published since; an identity or face that this session has not shown.
        Contradiction: of earlier corrections, and it is not said to supersede them.
        Busy: a night holds the lake.
    """
    moment = session.moment(anew=True)  # what was answered of a gallery a second ago may be of another one now
    _must_be_current(moment, gallery_version)
    _must_be_shown(session, moment, said)
    with session.writing() as context:
        facts = {"kind": str(said.kind), "identities": [name for name in (said.identity, said.other) if name]}
        session.note("answer", **facts, faces=session.hashes(said.faces), supersede=said.supersede)
        try:
            row = record_correction(context, _with_anchor(session, moment, said))
        except FacelakeError as err:
            seqs = list(err.seqs) if isinstance(err, Contradiction) else []
            session.note("answer not recorded", **facts, why=type(err).__name__, contradicts=seqs)
            raise
        session.note("answer recorded", seq=row["seq"], supersedes=row["undoes"])
    return Recorded(row["seq"], str(said.kind), row["undoes"])


def take_back(session: ReviewSession, seq: int, reason: str) -> Recorded:
    """Undo a correction.

    Raises:
        ConfigError: there is none that counts. Busy: a night holds the lake.
    """
    session.moment()
    with session.writing() as context:
        session.note("undo", seq=seq)
        row = undo(context, seq, reason, session.reviewer)
    return Recorded(row["seq"], str(Verdict.UNDO), [seq])


def skip(session: ReviewSession, identity: str, other: str | None) -> None:
    """Leave a question for later; only this session knows."""
    session.note("skip", identities=[name for name in (identity, other) if name])
    session.skipped.add((identity, other))


def corrections(session: ReviewSession, limit: int = 100) -> list[dict[str, Any]]:
    """The latest corrections, the newest first, without the faces that they name."""
    session.moment()
    rows = list_corrections(session.context.lake)[::-1][:limit]
    names = ("seq", "kind", "identity_a", "identity_b", "reason", "reviewer", "recorded_at", "counts", "undoes")
    return [{name: row[name] for name in names} | {"faces": len(row["faces_b"] or ())} for row in rows]


def _must_be_current(moment: Moment, version: int) -> None:
    if version != moment.gallery.version:
        what = f"gallery {moment.gallery.version} was published since you opened this page"
        raise ConfigError(what, where=f"gallery {version}", next_step="look again; nothing was recorded")


def _must_be_shown(session: ReviewSession, moment: Moment, said: CorrectionRequest) -> None:
    """Nobody decides of what he has not seen, or may not see."""
    for name in (said.identity, said.other):
        if name and (session.met.get(name) != moment.gallery.version or name not in moment.known.place):
            raise ConfigError("this identity was not shown", where=name, next_step="open it first")
    for face in said.faces:
        if not session.was_shown(face):
            raise ConfigError("this face was not shown", where=face, next_step="open its identity first")


def _with_anchor(session: ReviewSession, moment: Moment, said: CorrectionRequest) -> CorrectionRequest:
    """To confirm all faces of an identity says that they are one person: all but the likest are bound to that one."""
    if said.kind is not Verdict.CONFIRM or not said.identity:
        return said
    sheet = session.sheet(moment, said.identity)
    if len(said.faces) < sheet.size:
        return said
    first = sheet.faces["face_id"][0].as_py()
    rest = tuple(face for face in said.faces if face != first)
    return CorrectionRequest(said.kind, said.identity, said.other, rest, said.reason, said.reviewer, said.supersede)
