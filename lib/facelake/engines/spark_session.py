"""A Spark session that is tuned for moving blocks between Python workers."""

from __future__ import annotations

import os
import sys

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from facelake.config import SparkSection, package_dir
from facelake.errors import Retryable

# The JVM moves blocks and computes nothing: half of its CPU was the optimising compiler's.
_COMPILE_PLAINLY = "-XX:TieredStopAtLevel=1"
# On a cluster the daemon starts before `--py-files` are there.
_LOCAL = {"spark.python.daemon.module": "facelake.engines.spark_daemon"}


def start_spark(section: SparkSection, app: str = "facelake", scratch: str | None = None) -> SparkSession:
    """A session on the configured master; under spark-submit, what was submitted wins over the config.

    Args:
        scratch: folder for shuffles of a local master; a cluster's workers have their own.

    Raises:
        Retryable: the master does not answer or Java is missing.
    """
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    local = section.master.startswith("local")
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    java = f"-Dlog4j2.configurationFile=file:{package_dir() / 'engines' / 'log4j2.properties'}"
    conf = {
        "spark.master": section.master,
        "spark.app.name": app,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": section.driver_memory,
        "spark.driver.extraJavaOptions": java,
        "spark.driver.maxResultSize": "0",
        # Rows are blocks of up to some megabytes, and what a task gets was sized by us, not by Spark's guesses.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        "spark.sql.adaptive.enabled": "false",
        # A few thousand rows are not worth a compiler.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        # One thread per task: Spark counts cores by tasks.
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
    }
    if local:
        conf |= _LOCAL | {"spark.driver.extraJavaOptions": f"{java} {_COMPILE_PLAINLY}"}
        if scratch:
            conf["spark.local.dir"] = scratch
    builder = SparkSession.builder
    try:
        submitted = _submitted()
        for key, value in (conf | section.conf).items():
            if key not in submitted:
                builder = builder.config(key, value)
        return builder.getOrCreate()
    except Exception as err:
        what = f"Spark cannot be started: {str(err).splitlines()[0]}"
        raise Retryable(
            what, where=section.master, next_step="check spark.master, JAVA_HOME (Java 17+) and memory"
        ) from err


def _submitted() -> frozenset[str]:
    """Keys that spark-submit has set: it started this process and runs the JVM already."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return frozenset()
    SparkContext._ensure_initialized()
    return frozenset(key for key, _ in SparkConf().getAll())
