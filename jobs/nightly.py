"""Run all stages: python jobs/nightly.py -c conf/cluster.yaml (options as of `facelake nightly`)."""

from __future__ import annotations

from facelake.cli import main

if __name__ == "__main__":
    main(["nightly"])
