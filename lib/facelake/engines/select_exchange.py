"""Chooses the engine for tasks: Spark, or this process for what a JVM does not pay for."""

from __future__ import annotations

import os

from facelake.config import SparkSection
from facelake.engines.exchange import Exchange, LocalExchange


def open_exchange(
    section: SparkSection, faces: int, scratch: str | None = None, *, threads: int = 1, encrypted: bool = False
) -> Exchange:
    """Return the engine for this many faces.

    This process, where starting a local Spark would take longer than the work; otherwise Spark.

    Args:
        section: the config's `spark` section.
        faces: how many faces will be clustered.
        scratch: local folder for shuffle files, as in `start_spark`.
        threads: tasks at once where this process runs them.
        encrypted: whether Spark encrypts what it writes to disk, for tasks that carry what must not be found there:
            their functions, and the blocks of a cluster's shuffle. Those of a local master's shuffle, which
            `SparkExchange` writes below `scratch` itself, are not encrypted.

    Raises:
        ConfigError, Retryable: Spark cannot be started.
    """
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # set by spark-submit: the JVM runs already
    if section.master.startswith("local") and faces < section.in_process_below and not submitted:
        return LocalExchange(threads)
    from facelake.engines import spark_cluster, spark_session  # importing PySpark takes a second

    session = spark_session.start_spark(section, scratch=scratch, encrypted=encrypted)
    return spark_cluster.SparkExchange(session, section.partitions)
