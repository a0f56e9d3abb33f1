"""Erase: python jobs/erase.py -c conf/cluster.yaml --subject REF [--subject REF ...]"""

from __future__ import annotations

import argparse

from facelake.config import load_config
from facelake.lake.store import read_text
from facelake.night import writing
from facelake.stages.erase_targets import Request, read_keys
from facelake.stages.erasing import erase
from facelake.terminal import Terminal, boundary


def main() -> None:
    """Parse, build, run; the exit code tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", help="YAML config; a path or s3://")
    parser.add_argument("--lake", help="lake directory or s3:// URI, over the config's")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    for what in ("subject", "image", "source", "identity"):
        parser.add_argument(f"--{what}", action="append", default=[], help="to erase; may be repeated")
    parser.add_argument("--purpose", help="erase only what was made for this purpose")
    parser.add_argument("--from-file", help="CSV with columns kind and key")
    arguments = parser.parse_args()
    terminal = Terminal(as_json=arguments.json, quiet=arguments.quiet)
    with boundary(terminal):
        more = read_keys(arguments.from_file) if arguments.from_file else {}
        named = [
            [*getattr(arguments, kind), *more.get(kind, [])] for kind in ("subject", "image", "source", "identity")
        ]
        request = Request.of(named[0], named[1], named[2], named[3], arguments.purpose)
        with writing(
            load_config(arguments.config, lake=arguments.lake, read=read_text), "erase", terminal.listen
        ) as context:
            result = erase(context, request)
        terminal.result({"ok": True, **result.counts})


if __name__ == "__main__":
    main()
