"""The command line. Every command: parse, build, run, say; no logic of its own."""

from __future__ import annotations

from facelake.cli.run import app
from facelake.cli.tables import bench_app, gallery_app, ledger_app, models_app

for _name, _sub in (("ledger", ledger_app), ("models", models_app), ("gallery", gallery_app), ("bench", bench_app)):
    app.add_typer(_sub, name=_name)


def main() -> None:
    """Entry point of the `facelake` command."""
    app(prog_name="facelake")
