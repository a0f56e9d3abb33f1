"""What forks Spark's Python workers on a local master, ready for work before it forks.

PySpark's own daemon imports nothing, so that every worker pays for all imports, for reading PySpark's zip file once per
import path and for numba's registries: two seconds of CPU. And it collects garbage after every task, over all objects
of all modules; frozen ones are left out.
"""

from __future__ import annotations

import gc
import importlib.util
import sys


def prepare() -> None:
    """Import what tasks need."""
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

    columns.vector_keys(np.ones((1, 2), np.float32))  # loads what numba needs for any loop
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    prepare()
    from pyspark.daemon import manager

    manager()
