"""The answers of a reviewer, which become corrections, and what a session may answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from facelake.contracts import Verdict
from facelake.errors import ConfigError, Contradiction, FacelakeError, Refused
from facelake.plural import counted
from facelake.stages.gallery.corrections import CorrectionRequest, list_corrections, record_correction, undo
from facelake.stages.review.session import ReviewSession, ReviewState
from facelake.stages.review.views import visible_rows

_NEXT = "go to the next question"


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
        Refused: a face, or every face of an identity, may not be shown any more.
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
    """Mark a question as skipped, for this session only.

    Raises:
        ConfigError: no such identity is reviewed: other text would stay in the audit trail, from which nothing is
            removed.
    """
    known = session.state().identities.place
    for name in (identity, other):
        if name and name not in known:
            raise ConfigError("no identity of this name to review", where="skip", next_step=_NEXT)
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
        if name and not len(visible_rows(state, session.sheet(state, name))):
            raise Refused("no face of this identity may be shown any more", where=name, next_step=_NEXT)
    hidden = session.not_showable(state, request.faces)
    if hidden:
        what = f"{counted(len(hidden), 'face')} may not be shown any more; nothing was recorded"
        raise Refused(what, where=hidden[0], next_step=_NEXT)


def _with_anchor(session: ReviewSession, state: ReviewState, request: CorrectionRequest) -> CorrectionRequest:
    """Take one face out of a confirmation of all faces: the other faces are then bound to that face's identity."""
    if request.kind is not Verdict.CONFIRM or not request.identity:
        return request
    sheet = session.sheet(state, request.identity)
    if len(request.faces) < sheet.size:
        return request
    anchor = sheet.faces["face_id"][0].as_py()
    return replace(request, faces=tuple(face for face in request.faces if face != anchor))
