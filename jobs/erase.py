"""Erase without asking: python jobs/erase.py -c conf/cluster.yaml --subject REF [--subject REF ...]"""

from __future__ import annotations

from facelake.cli import main

if __name__ == "__main__":
    main(["erase", "--yes"])
