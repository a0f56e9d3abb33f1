"""The review page's queue of questions, its views of faces, and the answers that become corrections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.contracts import F32, I64, Bool, Verdict
from facelake.errors import ConfigError, Contradiction, FacelakeError
from facelake.lake.lake import Lake
from facelake.publish.corrections import in_force
from facelake.publish.similarity import (
    evenly_spaced,
    mean_between,
    mean_within,
    nearest_links,
    split_in_two,
    unit_mean,
)
from facelake.stages.gallery.corrections import CorrectionRequest, list_corrections, record_correction, undo
from facelake.stages.review.session import ReviewSession, ReviewState, Sheet

_LINKED = 512  # faces of each column that are searched for the most similar pairs
_LINKS = 6
_QUEUE = ("kind", "identity_id", "other_id", "score", "doubt", "faces", "reason", "gallery_version")
_CONFIRMED_SHARE = 0.8  # of an identity's faces; confirming as many answers whether it is one person


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
    """number of the correction that answers the question"""
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
    """unanswered questions on all pages"""


@dataclass(frozen=True, slots=True)
class ShownFace:
    """One face of a view."""

    face_id: str
    image_id: str
    quality: float | None
    similarity: float
    """cosine to the template of its identity"""
    other: float | None
    """cosine to the other column: the template of the other identity, or the mean of the other part"""
    shared: bool
    """another face of the view is in the same photo"""


@dataclass(frozen=True, slots=True)
class Side:
    """One column of a view: an identity, or a part of one."""

    identity: str
    part: str
    """all, main or rest"""
    size: int
    """faces of the identity"""
    total: int
    """faces of this column that may be shown"""
    hidden: int
    """faces of the identity that may not be shown"""
    compared: int
    """faces of the identity that were read"""
    offset: int
    inside: float | None
    """mean cosine of the pairs in this column"""
    faces: list[ShownFace]


@dataclass(frozen=True, slots=True)
class Link:
    """A pair of very similar faces, one of each column."""

    a: str
    b: str
    similarity: float


@dataclass(frozen=True, slots=True)
class View:
    """Two columns of faces to compare."""

    gallery_version: int
    kind: str
    """one: an identity and its proposed parts; pair: two identities"""
    sides: list[Side]
    between: float | None
    """mean cosine of the faces of one column with those of the other"""
    prototypes: float | None
    """cosine of the two templates; None for one identity"""
    links: list[Link]
    linked: list[int]
    """faces of each column that were searched for links"""
    shared_photos: int
    """photos with faces of both columns"""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column with all of its faces."""

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
        images: list[str] = self.sheet.faces["image_id"].take(pa.array(self.at)).to_pylist()
        return images


# ---- the queue


def queue(session: ReviewSession, offset: int = 0, limit: int = 50) -> Queue:
    """Return a page of the questions whose identities may be used for the purpose, with their answers so far."""
    state, lake = session.state(), session.context.lake
    reviewable = state.identities.place
    rows = [
        row
        for row in lake["reviews"].read(_QUEUE).sort_by([("score", "descending")]).to_pylist()
        if row["identity_id"] in reviewable and (row["other_id"] is None or row["other_id"] in reviewable)
    ]
    answers = _answers(lake)
    questions = [_question(row, answers, session.skipped) for row in rows]
    page = questions[offset : offset + limit]
    open_ = sum(question.settled_by is None for question in questions)
    session.audit("queue", gallery_version=state.gallery.version, offset=offset, questions=len(page))
    return Queue(state.gallery.version, page, offset, len(questions), open_)


def _answers(lake: Lake) -> list[Any]:
    columns = ["seq", "kind", "undoes", "identity_a", "identity_b", "faces_b", "reviewer", "gallery_version"]
    return in_force(lake["corrections"].read(columns).to_pylist())


def _question(row: dict[str, Any], answers: list[Any], skipped: set[tuple[str, str | None]]) -> Question:
    answer = next((correction for correction in reversed(answers) if _settles(correction, row)), None)
    return Question(
        row["kind"], row["identity_id"], row["other_id"], row["score"], row["doubt"], row["faces"], row["reason"],
        answer["seq"] if answer else None, answer["kind"] if answer else None,
        answer["reviewer"] if answer else None, (row["identity_id"], row["other_id"]) in skipped,
    )  # fmt: skip


def _settles(correction: Any, row: dict[str, Any]) -> bool:
    """Return whether a correction answers a question.

    A confirmation answers it as long as it holds at least _CONFIRMED_SHARE of the identity's faces.
    """
    if row["other_id"] is not None:
        return {correction["identity_a"], correction["identity_b"]} == {row["identity_id"], row["other_id"]}
    if correction["identity_a"] != row["identity_id"]:
        return False
    if correction["kind"] == Verdict.CONFIRM:
        return len(correction["faces_b"] or ()) >= _CONFIRMED_SHARE * int(row["faces"])
    is_of_this_gallery = bool(correction["gallery_version"] >= row["gallery_version"])
    return correction["kind"] in (Verdict.SPLIT, Verdict.REJECT, Verdict.NOT_A_FACE) and is_of_this_gallery


# ---- views


def view_one(session: ReviewSession, identity: str, offset: tuple[int, int] = (0, 0), limit: int = 60) -> View:
    """Return an identity as two parts, the larger part first; 2-means clustering proposes the parts.

    Raises:
        ConfigError: the identity is not in the gallery, or may not be used for the purpose.
    """
    state = session.state()
    sheet = session.sheet(state, identity)
    shown = _visible(state, sheet)
    vectors = sheet.vectors[shown]
    rest = split_in_two(vectors)
    template = state.identities.templates(session.context.lake, [identity])[0]
    columns = []
    for name, part, others in (("main", ~rest, rest), ("rest", rest, ~rest)):
        toward = unit_mean(vectors[others]) if others.any() else None
        columns.append(_column(sheet, name, shown[part], template, toward, hidden=len(sheet.vectors) - len(shown)))
    return _view(session, state, "one", columns, None, (offset, limit))


def view_pair(session: ReviewSession, a: str, b: str, offset: tuple[int, int] = (0, 0), limit: int = 60) -> View:
    """Return two identities side by side; the faces most similar to the other identity come first.

    Raises:
        ConfigError: an identity is not in the gallery, or may not be used for the purpose, or both are the same.
    """
    if a == b:
        raise ConfigError("it is the same identity twice", where=a, next_step="name two")
    state = session.state()
    sheets = [session.sheet(state, name) for name in (a, b)]
    templates = state.identities.templates(session.context.lake, [a, b])
    columns = []
    for number, sheet in enumerate(sheets):
        shown = _visible(state, sheet)
        toward, hidden = templates[1 - number], len(sheet.vectors) - len(shown)
        columns.append(_column(sheet, "all", shown, templates[number], toward, hidden=hidden))
    return _view(session, state, "pair", columns, float(templates[0] @ templates[1]), (offset, limit))


def _visible(state: ReviewState, sheet: Sheet) -> I64:
    return np.flatnonzero(state.rights.may_show(sheet.faces, sheet.admitted))


def _column(sheet: Sheet, part: str, at: I64, template: F32, toward: F32 | None, *, hidden: int) -> _Column:
    """Return a column: a part by similarity to its identity, a whole identity by similarity to the other one."""
    similarity = sheet.vectors[at] @ template
    other = sheet.vectors[at] @ toward if toward is not None else None
    by = similarity if part != "all" or other is None else other
    order = np.lexsort((at, -by))
    return _Column(sheet, part, at[order], similarity[order], other[order] if other is not None else None, hidden)


def _view(
    session: ReviewSession,
    state: ReviewState,
    kind: str,
    columns: list[_Column],
    templates_cosine: float | None,
    paging: tuple[tuple[int, int], int],
) -> View:
    """Cut the columns into pages, write the view to the audit trail, and only then permit crops of its faces."""
    offset, limit = paging
    images = [set(column.images) for column in columns]
    in_both = images[0] & images[1]
    pages = [np.arange(len(column.at))[start : start + limit] for column, start in zip(columns, offset, strict=True)]
    sides = [
        _side(column, page, start, _repeated(column) | np.array([name in in_both for name in column.images], bool))
        for column, page, start in zip(columns, pages, offset, strict=True)
    ]
    links, linked = _links(columns)
    rows = [(column.sheet, column.at[page]) for column, page in zip(columns, pages, strict=True)]
    faces = [face.face_id for side in sides for face in side.faces]
    identities = list(dict.fromkeys(column.sheet.identity for column in columns))
    session.audit(
        "view", gallery_version=state.gallery.version, identities=identities, faces=session.hashes(faces),
        links=[session.hashes([link.a, link.b]) for link in links],
    )  # fmt: skip
    session.viewed.update(dict.fromkeys(identities, state.gallery.version))
    linked_ids = {face for link in links for face in (link.a, link.b)}
    for sheet, at in rows:
        extra = [i for i, face in enumerate(sheet.faces["face_id"].to_pylist()) if face in linked_ids]
        session.mark_shown(sheet, np.union1d(at, np.array(extra, np.int64)))
    between = mean_between(columns[0].vectors, columns[1].vectors)
    return View(state.gallery.version, kind, sides, between, templates_cosine, links, linked, len(in_both))


def _repeated(column: _Column) -> Bool:
    """Return the faces (n,) of a column whose photo has another face of the column."""
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
        mean_within(column.vectors), faces,
    )  # fmt: skip


def _links(columns: list[_Column]) -> tuple[list[Link], list[int]]:
    chosen = [column.at[evenly_spaced(len(column.at), _LINKED)] for column in columns]
    a, b = (column.sheet.vectors[at] for column, at in zip(columns, chosen, strict=True))
    names = [
        column.sheet.faces["face_id"].take(pa.array(at)).to_pylist() for column, at in zip(columns, chosen, strict=True)
    ]
    return [Link(names[0][i], names[1][j], cosine) for i, j, cosine in nearest_links(a, b, _LINKS)], [len(a), len(b)]


# ---- answers


@dataclass(frozen=True, slots=True)
class Recorded:
    """The correction that an answer became."""

    seq: int
    kind: str
    supersedes: list[int]


def answer(session: ReviewSession, request: CorrectionRequest, gallery_version: int) -> Recorded:
    """Record the reviewer's answer as a correction.

    Args:
        request: the correction; it may name only what this session has shown.
        gallery_version: of the view that is answered.

    Raises:
        ConfigError: a new gallery was published since; an identity or face that this session has not shown.
        Contradiction: earlier corrections contradict it, and it does not supersede them.
        Busy: a run holds the lake.
    """
    state = session.state(fresh=True)  # the cached state may be of an older gallery than the lake's
    _require_current(state, gallery_version)
    _require_shown(session, state, request)
    with session.writing() as context:
        identities = [name for name in (request.identity, request.other) if name]
        facts = {"kind": str(request.kind), "identities": identities}
        session.audit("answer", **facts, faces=session.hashes(request.faces), supersede=request.supersede)
        try:
            row = record_correction(context, _with_anchor(session, state, request))
        except FacelakeError as err:
            seqs = list(err.seqs) if isinstance(err, Contradiction) else []
            session.audit("answer not recorded", **facts, why=type(err).__name__, contradicts=seqs)
            raise
        session.audit("answer recorded", seq=row["seq"], supersedes=row["undoes"])
    return Recorded(row["seq"], str(request.kind), row["undoes"])


def undo_correction(session: ReviewSession, seq: int, reason: str) -> Recorded:
    """Undo a correction.

    Raises:
        ConfigError: no such correction is in force.
        Busy: a run holds the lake.
    """
    session.state()
    with session.writing() as context:
        session.audit("undo", seq=seq)
        row = undo(context, seq, reason, session.reviewer)
    return Recorded(row["seq"], str(Verdict.UNDO), [seq])


def skip(session: ReviewSession, identity: str, other: str | None) -> None:
    """Mark a question as skipped, for this session only."""
    session.audit("skip", identities=[name for name in (identity, other) if name])
    session.skipped.add((identity, other))


def corrections(session: ReviewSession, limit: int = 100) -> list[dict[str, Any]]:
    """Return the latest corrections, the newest first, with the number of their faces in place of the face ids."""
    session.state()
    rows = list_corrections(session.context.lake)[::-1][:limit]
    names = ("seq", "kind", "identity_a", "identity_b", "reason", "reviewer", "recorded_at", "counts", "undoes")
    return [{name: row[name] for name in names} | {"faces": len(row["faces_b"] or ())} for row in rows]


def _require_current(state: ReviewState, version: int) -> None:
    if version != state.gallery.version:
        what = f"gallery {state.gallery.version} was published since you opened this page; nothing was recorded"
        raise ConfigError(what, where=f"gallery {version}", next_step="check the faces again and answer once more")


def _require_shown(session: ReviewSession, state: ReviewState, request: CorrectionRequest) -> None:
    """Refuse a correction of identities or faces that the reviewer has not seen, or may not see."""
    for name in (request.identity, request.other):
        if name and (session.viewed.get(name) != state.gallery.version or name not in state.identities.place):
            raise ConfigError("this identity was not shown", where=name, next_step="open it first")
    for face in request.faces:
        if not session.was_shown(face):
            raise ConfigError("this face was not shown", where=face, next_step="open its identity first")


def _with_anchor(session: ReviewSession, state: ReviewState, request: CorrectionRequest) -> CorrectionRequest:
    """Take one face out of a confirmation of all faces: the other faces are then bound to that face's identity."""
    if request.kind is not Verdict.CONFIRM or not request.identity:
        return request
    sheet = session.sheet(state, request.identity)
    if len(request.faces) < sheet.size:
        return request
    anchor = sheet.faces["face_id"][0].as_py()
    return replace(request, faces=tuple(face for face in request.faces if face != anchor))
