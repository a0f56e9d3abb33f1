"""Admit and embed on Ray: ray job submit --working-dir . -- python jobs/embed.py -c conf/cluster.yaml"""

from __future__ import annotations

from facelake.cli import main

if __name__ == "__main__":
    main(["nightly", "--only", "admit", "--only", "embed"])
