"""The whole night: python jobs/nightly.py -c conf/cluster.yaml"""

from __future__ import annotations

from facelake.job import run_stages

if __name__ == "__main__":
    run_stages(__doc__, [])
