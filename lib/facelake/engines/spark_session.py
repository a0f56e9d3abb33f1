"""A Spark session tuned for moving blocks between Python workers."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pyspark import SparkConf, SparkContext
from pyspark.sql import SparkSession

from facelake.config import SparkSection, package_dir
from facelake.engines.scratch import private_folder
from facelake.errors import ConfigError, Retryable

# The driver's JVM only schedules and moves blocks; its optimising compiler took half of its CPU time.
_SIMPLE_COMPILER = "-XX:TieredStopAtLevel=1"
# Local masters only: on a cluster the daemon starts before `--py-files` are available.
_LOCAL = {"spark.python.daemon.module": "facelake.engines.spark_daemon"}

_ENCRYPTS = "spark.io.encryption.enabled"


def start_spark(
    section: SparkSection, app: str = "facelake", scratch: str | None = None, *, encrypted: bool = False
) -> SparkSession:
    """A session on the configured master; options of spark-submit take precedence over the config.

    Args:
        section: the config's `spark` section.
        app: name of the application.
        scratch: folder for shuffles of a local master; a cluster's workers have their own.
        encrypted: whether Spark encrypts what it writes to disk, whatever the config says: the functions of tasks, if
            they are larger than 1 MiB, and blocks. The key exists in memory only. Blocks that `SparkExchange` passes
            through files of its own, under a local master, are not among them.

    A session on the same master that is already active is used again; one of facelake's on another master is stopped,
    and one that does not encrypt where that is asked for.

    Raises:
        ConfigError: somebody else's session on another master, or without encryption, is active in this process.
        Retryable: the master does not respond, Java is missing, or the scratch folder belongs to another account.
    """
    _stop_unsuitable(section.master, app, encrypted=encrypted)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    local = section.master.startswith("local")
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    os.environ.setdefault("SPARK_LAUNCHER_OPTS", "-XX:-UsePerfData")
    # without performance data, which a JVM writes below /tmp and which nothing here reads
    logging = f"-Dlog4j2.configurationFile=file:{package_dir() / 'engines' / 'log4j2.properties'}"
    conf = {
        "spark.master": section.master,
        "spark.app.name": app,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.memory": section.driver_memory,
        "spark.driver.extraJavaOptions": f"{_SIMPLE_COMPILER} -XX:-UsePerfData {logging}",
        "spark.driver.maxResultSize": "0",
        # Rows are blocks of up to some megabytes, and facelake itself determines the input size of tasks.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "64",
        "spark.sql.adaptive.enabled": "false",
        # Code generation does not pay for a few thousand rows.
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        # One thread per task, because Spark assigns one core per task.
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executorEnv.OPENBLAS_NUM_THREADS": "1",
        _ENCRYPTS: "false",  # else that of the first session of this process holds for the next ones
    }
    if local:
        conf |= _LOCAL
        if scratch:
            conf["spark.local.dir"] = str(private_folder(Path(scratch)))
    builder = SparkSession.builder
    try:
        submitted = _submitted()
        for key, value in (conf | section.conf).items():
            if key not in submitted:
                builder = builder.config(key, value)
        return builder.config(_ENCRYPTS, "true").getOrCreate() if encrypted else builder.getOrCreate()
    except Exception as err:
        what = f"Spark cannot be started: {str(err).splitlines()[0]}"
        raise Retryable(
            what, where=section.master, next_step="check spark.master, JAVA_HOME (Java 17+) and memory"
        ) from err


def _stop_unsuitable(master: str, app: str, *, encrypted: bool) -> None:
    """Stop an active session on another master, to which a new session would otherwise connect silently, or one that
    does not encrypt its files.

    Raises:
        ConfigError: the session is not facelake's.
    """
    active = SparkContext._active_spark_context
    if active is None:
        return
    plain = encrypted and not active._encryption_enabled
    if not plain and (active.master == master or "PYSPARK_GATEWAY_PORT" in os.environ):
        return
    if active.appName != app:
        what = f"a Spark session on {active.master} is active in this process"
        what += f", and writes its files without {_ENCRYPTS}" if plain else ""
        next_step = "stop it" if plain else f"stop it, or set spark.master to {active.master}"
        raise ConfigError(what, where="spark.master", next_step=next_step)
    SparkSession.builder.getOrCreate().stop()


def _submitted() -> frozenset[str]:
    """Keys that spark-submit has set, which started this process and already runs the JVM."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        return frozenset()
    SparkContext._ensure_initialized()
    return frozenset(key for key, _ in SparkConf().getAll())
