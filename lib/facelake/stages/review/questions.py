"""The review page's queue: questions that publish asks, the most valuable first, with their answers so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from facelake.contracts import Verdict
from facelake.lake.lake import Lake
from facelake.publish.corrections import in_force
from facelake.stages.review.session import ReviewSession

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
