"""Tasks that hand each other blocks by key: the one thing that clustering asks of an engine."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from threadpoolctl import threadpool_limits

from facelake.config import SparkSection

Block = tuple[int, bytes]
Emit = Callable[[int], Iterable[Block]]
"""An item into blocks, each for a key."""
Reduce = Callable[[int, list[bytes]], Iterable[Block]]
"""All blocks of a key, in no order, into blocks for other keys."""


class Exchange(Protocol):
    """Runs `first` on each item, hands its blocks to `then` by key, and so on; the last blocks come back.

    `keys` says how many keys to expect, for the engine to plan with.
    """

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]: ...

    def close(self) -> None:
        """Stop what was started for it."""


class LocalExchange:
    """In this process, one after the other: the reference, and the way of corpora that no JVM is worth."""

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        """See Exchange."""
        with threadpool_limits(1, "blas"):  # one thread per task as on Spark: sums of products in the same order
            blocks = [block for item in items for block in first(item)]
            for reduce in then:
                by_key: dict[int, list[bytes]] = defaultdict(list)
                for key, body in blocks:
                    by_key[key].append(body)
                blocks = [block for key in sorted(by_key) for block in reduce(key, by_key[key])]
        return blocks

    def close(self) -> None:
        """Nothing was started."""


def open_exchange(section: SparkSection, faces: int, scratch: str | None = None) -> Exchange:
    """The engine for so many faces: Spark, or this process where a local Spark would take longer to start than to work.

    Args:
        scratch: see start_spark.

    Raises:
        Retryable: Spark cannot be started.
    """
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # by spark-submit: it runs already
    if section.master.startswith("local") and faces < section.in_process_below and not submitted:
        return LocalExchange()
    from facelake.engines import spark_cluster, spark_session  # importing PySpark takes a second

    return spark_cluster.SparkExchange(spark_session.start_spark(section, scratch=scratch), section.partitions)
