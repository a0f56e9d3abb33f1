"""Commands that record corrections of the gallery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from facelake.cli.command import Invocation, command, typer_app
from facelake.contracts import Verdict

correct_app = typer_app("Correct the gallery. Every later run respects a correction, a full clustering too.")
_Identity = Annotated[str, typer.Argument(help="identity id; see `facelake gallery show`")]
_Faces = Annotated[list[str], typer.Argument(help="face ids; see `facelake gallery show IDENTITY`")]
_Reason = Annotated[str, typer.Option(help="the reason, for later reviewers")]
_By = Annotated[str | None, typer.Option("--by", help="name of the reviewer; default: your user name")]
_Supersede = Annotated[bool, typer.Option("--supersede", help="overrule earlier corrections that contradict this one")]
_COLUMNS = ("seq", "kind", "identity_a", "identity_b", "reviewer", "reason", "counts")


@command(correct_app, "merge")
def correct_merge(
    call: Invocation, a: _Identity, b: _Identity, reason: _Reason = "", by: _By = None, supersede: _Supersede = False
) -> None:
    """Record that two identities are the same person."""
    _record(call, Verdict.MERGE, (a, b), (), reason=reason, by=by, supersede=supersede)


@command(correct_app, "split")
def correct_split(
    call: Invocation, a: _Identity, faces: _Faces, reason: _Reason = "", by: _By = None, supersede: _Supersede = False
) -> None:
    """Record that some faces of an identity are all of one other person."""
    _record(call, Verdict.SPLIT, (a, None), faces, reason=reason, by=by, supersede=supersede)


@command(correct_app, "reject")
def correct_reject(
    call: Invocation,
    face: Annotated[str, typer.Argument(help="face id")],
    reason: _Reason = "",
    by: _By = None,
    supersede: _Supersede = False,
) -> None:
    """Record that a face does not belong to the identity that holds it."""
    _record(call, Verdict.REJECT, (None, None), [face], reason=reason, by=by, supersede=supersede)


@command(correct_app, "not-a-face")
def correct_not_a_face(call: Invocation, faces: _Faces, reason: _Reason = "", by: _By = None) -> None:
    """Record that detections are no faces (a drawing, an animal, a pattern): no later run has them."""
    _record(call, Verdict.NOT_A_FACE, (None, None), faces, reason=reason, by=by, supersede=False)


@command(correct_app, "confirm")
def correct_confirm(
    call: Invocation, a: _Identity, faces: _Faces, reason: _Reason = "", by: _By = None, supersede: _Supersede = False
) -> None:
    """Record that faces belong to this identity, wherever they are now."""
    _record(call, Verdict.CONFIRM, (a, None), faces, reason=reason, by=by, supersede=supersede)


@command(correct_app, "distinct")
def correct_distinct(
    call: Invocation, a: _Identity, b: _Identity, reason: _Reason = "", by: _By = None, supersede: _Supersede = False
) -> None:
    """Record that two identities are different people."""
    _record(call, Verdict.DISTINCT, (a, b), (), reason=reason, by=by, supersede=supersede)


def _record(
    call: Invocation,
    verdict: Verdict,
    identities: tuple[str | None, str | None],
    faces: list[str] | tuple[()],
    *,
    reason: str,
    by: str | None,
    supersede: bool,
) -> None:
    from facelake.stages.gallery.corrections import CorrectionRequest

    request = CorrectionRequest(verdict, *identities, tuple(faces), reason, by or "", supersede)
    record = call.open_lake().corrections.record(request)
    call.terminal.say(f"correction {record.seq}: {verdict}; it takes effect with the next `facelake nightly`")
    call.terminal.result({"ok": True, "seq": record.seq, "supersedes": record.undoes})


@command(correct_app, "undo")
def correct_undo(
    call: Invocation,
    seq: Annotated[int, typer.Argument(help="number of the correction; see `facelake correct list`")],
    reason: _Reason = "",
    by: _By = None,
) -> None:
    """Undo a correction."""
    record = call.open_lake().corrections.by(by or "").undo(seq, reason=reason)
    call.terminal.say(f"correction {seq} no longer applies; the next `facelake nightly` clusters without it")
    call.terminal.result({"ok": True, "seq": record.seq, "undoes": [seq]})


@command(correct_app, "list")
def correct_list(call: Invocation) -> None:
    """List every correction and whether it is in force."""
    from facelake.nightly import reading
    from facelake.stages.gallery.corrections import list_corrections
    from facelake.stages.gallery.versions import current_gallery

    lake = reading(call.config()).lake
    rows, gallery = list_corrections(lake), current_gallery(lake)
    for row in rows:
        row["applied"] = gallery is not None and row["recorded_at"] <= gallery.row["created_at"]
    columns = [*_COLUMNS[:-1], "faces", "effect"]
    shown = [[*(row[name] for name in _COLUMNS[:-1]), _named_faces(row), _effect(row)] for row in rows]
    if not rows:
        call.terminal.say("no corrections")
    call.terminal.table("corrections", columns, shown)
    call.terminal.result({"ok": True, "corrections": [{name: row[name] for name in _COLUMNS} for row in rows]})


def _named_faces(row: Mapping[str, Any]) -> str:
    """Return how many faces the reviewer named; empty for a correction of whole identities."""
    return "" if row["kind"] in (Verdict.MERGE, Verdict.DISTINCT, Verdict.UNDO) else str(len(row["faces_b"] or ()))


def _effect(row: Mapping[str, Any]) -> str:
    """Return what a correction does, in words: whether it is in force, and which earlier ones it ended."""
    ended = ", ".join(map(str, row["undoes"] or ()))
    if row["counts"] is None:
        return f"undoes {ended}"
    if not row["counts"]:
        return "not in force"
    effect = "in force" if row["applied"] else "from the next run on"
    return f"{effect}, overrules {ended}" if ended else effect
