"""The daemon that forks Spark's Python workers on a local master, with all imports done before the fork.

PySpark's own daemon imports nothing, so that every worker pays for all imports, for reading PySpark's zip file once per
import path and for numba's registries: two seconds of CPU. It also collects garbage after every task over the objects
of all modules; frozen objects are excluded.
"""

from __future__ import annotations

import gc
import importlib.util
import sys


def prepare() -> None:
    """Import the modules that tasks need, and freeze their objects for the garbage collector."""
    path = list(sys.path)
    sys.path[:] = [place for place in path if not place.endswith(".zip")]
    if not (importlib.util.find_spec("pyspark") and importlib.util.find_spec("py4j")):
        sys.path[:] = path
    import numpy as np
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import pyspark.worker  # noqa: F401
    from pyspark.sql.pandas import serializers  # noqa: F401

    from facelake.cluster import (  # noqa: F401
        columns,
        edges,
        labels,
        lists,
        mapequation,
        neighbours,
        nuisance,
    )
    from facelake.lake import store, tables  # noqa: F401

    columns.vector_keys(np.ones((1, 2), np.float32))  # initialises numba's registries, which every compiled loop needs
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    prepare()
    from pyspark.daemon import manager

    manager()
