"""The command line. Every command parses its options, calls a stage or benchmark, and prints the result."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from facelake.cli import check, doctor, erase, images, init, match, operate, report, review  # noqa: F401  importing registers commands
from facelake.cli.bench import bench_app
from facelake.cli.certificate import certificate_app
from facelake.cli.correct import correct_app
from facelake.cli.feed import feed_app
from facelake.cli.gallery import gallery_app
from facelake.cli.ledger import ledger_app
from facelake.cli.models import models_app
from facelake.cli.run import app
from facelake.terminal import Terminal, result_was_written

_GROUPS = {
    "ledger": ledger_app,
    "models": models_app,
    "gallery": gallery_app,
    "correct": correct_app,
    "certificate": certificate_app,
    "feed": feed_app,
    "bench": bench_app,
}
for _name, _group in _GROUPS.items():
    app.add_typer(_group, name=_name)


def main(before: Sequence[str] = ()) -> None:
    """Run the `facelake` command on the process's arguments.

    Args:
        before: arguments put in front of them; the scripts in jobs/ name their command this way.
    """
    os.umask(0o077)  # lakes, exports and engines' files hold personal data: only this account reads them
    try:
        app([*before, *sys.argv[1:]], prog_name="facelake")
    except SystemExit as stop:
        if stop.code == 2 and "--json" in sys.argv and not result_was_written():  # the arguments did not parse
            error = {"kind": "UsageError", "what": "bad arguments", "next": "see `facelake --help`"}
            Terminal(as_json=True).result({"ok": False, "error": error})
        raise
