"""The whole night: python jobs/nightly.py -c conf/cluster.yaml"""

from __future__ import annotations

import argparse

from facelake.config import load_config
from facelake.lake.store import read_text
from facelake.night import run_night
from facelake.terminal import Terminal, boundary


def main() -> None:
    """Parse, build, run; the exit code tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", help="YAML config; a path or s3://")
    parser.add_argument("--lake", help="lake directory or s3:// URI, over the config's")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")
    arguments = parser.parse_args()
    terminal = Terminal(as_json=arguments.json, quiet=arguments.quiet)
    with boundary(terminal):
        results = run_night(load_config(arguments.config, lake=arguments.lake, read=read_text), terminal.listen, [])
        terminal.night(results)
        terminal.result({"ok": True, "stages": {r.stage: dict(r.counts) for r in results}})


if __name__ == "__main__":
    main()
