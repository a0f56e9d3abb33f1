"""Clustering on a real Spark cluster, whose executor dies between writing a shuffle and reading it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from facelake.config import SparkSection
from facelake.engines.exchange import Block, Emit, Reduce
from facelake.engines.spark_cluster import SparkExchange
from facelake.engines.spark_session import start_spark
from facelake.testing.clusters import short_lived_jvm, spark_standalone
from tests.integration.test_spark_cluster import SETTINGS
from tests.unit.cluster.test_cluster import people
from tests.unit.stages.clustering.test_full import World, by_id, cluster, clustering_of


class Shooting(SparkExchange):
    """In jobs with a shuffle the first reduce task kills the executor that it runs in, its shuffle files with it."""

    def __init__(self, session: object, folder: Path, most: int) -> None:
        super().__init__(session, 6)  # type: ignore[arg-type]
        self.folder, self.jobs, self.most = folder, 0, most

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        if not then or self.jobs == self.most:
            return super().run(items, first, *then, keys=keys)
        self.jobs += 1
        mark, reduce = self.folder / f"shot-{self.jobs}", then[0]

        def shooting(key: int, blocks: list[bytes]) -> Iterator[Block]:
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                yield from reduce(key, blocks)
                return
            daemon = os.getppid()
            executor = int(Path(f"/proc/{daemon}/stat").read_text().rsplit(")", 1)[1].split()[1])
            os.kill(executor, signal.SIGKILL)
            yield from reduce(key, blocks)

        return super().run(items, first, shooting, *then[1:], keys=keys)


@pytest.mark.parametrize("most", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_an_executor_killed_in_shuffles_changes_nothing(tmp_path: Path, most: int) -> None:
    generator = np.random.default_rng(5)
    crowd = World(*people(generator, generator.integers(1, 40, 60).tolist(), dim=64, noise=0.55))
    wanted, _ = cluster(crowd, tmp_path / "local", settings=SETTINGS)
    paths = crowd.write(tmp_path / "faces", 3)
    with spark_standalone(tmp_path) as master:
        conf = {"spark.executor.extraJavaOptions": short_lived_jvm()}
        conf |= {"spark.executor.memory": "1g", "spark.deploy.maxExecutorRetries": "-1", "spark.task.maxFailures": "8"}
        spark = start_spark(SparkSection(master=master, driver_memory="1g", conf=conf))
        try:
            exchange = Shooting(spark, tmp_path, most)
            found = clustering_of(paths, tmp_path / "work", 64, SETTINGS, exchange).run()
        finally:
            spark.stop()
    assert exchange.jobs >= min(most, 5)
    assert len(list(tmp_path.glob("shot-*"))) == exchange.jobs
    assert by_id(paths, found) == wanted
