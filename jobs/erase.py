"""Erase: python jobs/erase.py -c conf/cluster.yaml --subject REF [--subject REF ...]"""

from __future__ import annotations

import argparse

from facelake.config import load_config
from facelake.night import writing
from facelake.stages.erasing import erase
from facelake.terminal import Terminal, boundary


def main() -> None:
    """Parse, build, run; the exit code tells."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", help="YAML config")
    parser.add_argument("--lake", help="lake directory or s3:// URI, over the config's")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line of stdout")
    for what in ("subject", "image", "source"):
        parser.add_argument(f"--{what}", action="append", help="to erase; may be repeated")
    arguments = parser.parse_args()
    terminal = Terminal(as_json=arguments.json)
    with boundary(terminal):
        with writing(load_config(arguments.config, lake=arguments.lake), "erase", terminal.listen) as context:
            chosen = {"subjects": arguments.subject, "images": arguments.image, "sources": arguments.source}
            result = erase(context, **chosen)
        terminal.result({"ok": True, **result.counts})


if __name__ == "__main__":
    main()
