"""What the files in jobs/ share: arguments as cluster users give them, the config, the terminal, the exit code."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from facelake.config import Config, load_config
from facelake.lake.store import read_text
from facelake.nightly import run_night
from facelake.terminal import Terminal, boundary


def arguments(about: str | None) -> ArgumentParser:
    """Those that every job has."""
    parser = ArgumentParser(description=about)
    parser.add_argument("-c", "--config", help="YAML config; a path or s3://")
    parser.add_argument("--lake", help="lake directory or s3:// URI, over the config's")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    return parser


def terminal_of(said: Namespace) -> Terminal:
    """Where the job tells what it does."""
    return Terminal(as_json=said.json, quiet=said.quiet)


def config_of(said: Namespace) -> Config:
    """The config that the arguments name."""
    return load_config(said.config, lake=said.lake, read=read_text)


def run_stages(about: str | None, stages: Sequence[str]) -> None:
    """Parse, run these stages of the night (none named: all), tell; the exit code tells too."""
    said = arguments(about).parse_args()
    terminal = terminal_of(said)
    with boundary(terminal):
        results = run_night(config_of(said), terminal.listen, list(stages))
        terminal.night(results)
        terminal.result({"ok": True, "stages": {result.stage: dict(result.counts) for result in results}})
