"""Commands by which people correct the gallery."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from facelake.cli.options import (
    SETTINGS,
    ConfigOption,
    DebugOption,
    JsonOption,
    LakeOption,
    QuietOption,
    open_terminal,
    read_config,
)
from facelake.contracts import Verdict
from facelake.terminal import boundary

correct_app = typer.Typer(
    help="What people say of faces and identities; every later night keeps to it, full ones too.", **SETTINGS
)
IdentityArgument = Annotated[str, typer.Argument(help="identity id; see `facelake gallery show`")]
FacesArgument = Annotated[list[str], typer.Argument(help="face ids; see `facelake gallery show --identity ID`")]
ReasonOption = Annotated[str, typer.Option(help="why, for who looks at it later")]
ByOption = Annotated[str | None, typer.Option("--by", help="who says so; default: you")]
SupersedeOption = Annotated[bool, typer.Option("--supersede", help="overrule earlier corrections that contradict it")]


def _record(
    kind: Verdict, identity: str | None, other: str | None, faces: list[str], reason: str, by: str | None,
    supersede: bool, config: str | None, lake: str | None, json: bool, quiet: bool, debug: bool,
) -> None:  # fmt: skip
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.gallery.corrections import Said, record_correction

        said = Said(kind, identity, other, tuple(faces), reason, by or "", supersede)
        with writing(read_config(config, lake), "correct", terminal.listen) as context:
            row = record_correction(context, said)
        terminal.say(f"correction {row['seq']}: {kind}; it takes effect with the next `facelake nightly`")
        terminal.result({"ok": True, "seq": row["seq"], "supersedes": row["undoes"]})


@correct_app.command("merge")
def correct_merge(
    a: IdentityArgument, b: IdentityArgument, reason: ReasonOption = "", by: ByOption = None,
    supersede: SupersedeOption = False, config: ConfigOption = None, lake: LakeOption = None,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Two identities are one person."""
    _record(Verdict.MERGE, a, b, [], reason, by, supersede, config, lake, json, quiet, debug)


@correct_app.command("split")
def correct_split(
    a: IdentityArgument, faces: FacesArgument, reason: ReasonOption = "", by: ByOption = None,
    supersede: SupersedeOption = False, config: ConfigOption = None, lake: LakeOption = None,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Some faces of an identity are another person, one and the same."""
    _record(Verdict.SPLIT, a, None, faces, reason, by, supersede, config, lake, json, quiet, debug)


@correct_app.command("reject")
def correct_reject(
    face: Annotated[str, typer.Argument(help="face id")], reason: ReasonOption = "", by: ByOption = None,
    supersede: SupersedeOption = False, config: ConfigOption = None, lake: LakeOption = None,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """A face is not the person whose identity it is in."""
    _record(Verdict.REJECT, None, None, [face], reason, by, supersede, config, lake, json, quiet, debug)


@correct_app.command("confirm")
def correct_confirm(
    a: IdentityArgument, faces: FacesArgument, reason: ReasonOption = "", by: ByOption = None,
    supersede: SupersedeOption = False, config: ConfigOption = None, lake: LakeOption = None,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Faces, wherever they are now, are of this identity."""
    _record(Verdict.CONFIRM, a, None, faces, reason, by, supersede, config, lake, json, quiet, debug)


@correct_app.command("distinct")
def correct_distinct(
    a: IdentityArgument, b: IdentityArgument, reason: ReasonOption = "", by: ByOption = None,
    supersede: SupersedeOption = False, config: ConfigOption = None, lake: LakeOption = None,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Two identities are different people."""
    _record(Verdict.DISTINCT, a, b, [], reason, by, supersede, config, lake, json, quiet, debug)


@correct_app.command("undo")
def correct_undo(
    seq: Annotated[int, typer.Argument(help="number of the correction; see `facelake correct list`")],
    reason: ReasonOption = "", by: ByOption = None, config: ConfigOption = None, lake: LakeOption = None,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Take a correction back."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import writing
        from facelake.stages.gallery.corrections import undo

        with writing(read_config(config, lake), "correct", terminal.listen) as context:
            row = undo(context, seq, reason, by or "")
        terminal.say(f"correction {seq} no longer counts; the next `facelake nightly` groups as if it had not been")
        terminal.result({"ok": True, "seq": row["seq"], "undoes": [seq]})


@correct_app.command("list")
def correct_list(
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Every correction, and whether it counts."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.nightly import reading
        from facelake.stages.gallery.corrections import list_corrections

        rows: list[dict[str, Any]] = list_corrections(reading(read_config(config, lake)).lake)
        shown = ("seq", "kind", "identity_a", "identity_b", "reviewer", "reason", "counts")
        terminal.table("corrections", [*shown], [[row[name] for name in shown] for row in rows])
        terminal.result({"ok": True, "corrections": [{name: row[name] for name in shown} for row in rows]})
