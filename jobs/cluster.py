"""Cluster and publish on Spark: spark-submit jobs/cluster.py -c conf/cluster.yaml"""

from __future__ import annotations

from facelake.cli import main

if __name__ == "__main__":
    main(["nightly", "--only", "cluster", "--only", "publish"])
