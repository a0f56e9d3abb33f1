"""The command line. Every command: parse, build, run, say; no logic of its own."""

from __future__ import annotations

import sys

from facelake.cli import (
    operate,  # noqa: F401  its commands register themselves
    review,  # noqa: F401  so does this one
)
from facelake.cli.bench import bench_app
from facelake.cli.correct import correct_app
from facelake.cli.feed import feed_app
from facelake.cli.run import app
from facelake.cli.tables import gallery_app, ledger_app, models_app
from facelake.terminal import Terminal

_SUBS = {
    "ledger": ledger_app,
    "models": models_app,
    "gallery": gallery_app,
    "correct": correct_app,
    "feed": feed_app,
    "bench": bench_app,
}
for _name, _sub in _SUBS.items():
    app.add_typer(_sub, name=_name)


def main() -> None:
    """Entry point of the `facelake` command."""
    try:
        app(prog_name="facelake")
    except SystemExit as stop:
        if stop.code == 2 and "--json" in sys.argv and not Terminal.said_result:  # the arguments did not parse
            error = {"kind": "UsageError", "what": "bad arguments", "next": "see `facelake --help`"}
            Terminal(as_json=True).result({"ok": False, "error": error})
        raise
