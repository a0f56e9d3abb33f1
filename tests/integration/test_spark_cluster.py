"""Clustering on Spark: whatever the partitions, the order of the input, and tasks that die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyspark.worker
import pytest

from facelake.bench.cluster import cluster_files
from facelake.config import ClusterSection, Config, SparkSection
from facelake.engines.exchange import Block, LocalExchange
from facelake.engines.select_exchange import open_exchange
from facelake.engines.spark_cluster import SparkExchange
from facelake.engines.spark_session import start_spark
from facelake.errors import Corrupt
from facelake.events import ignore_events
from tests.unit.cluster.test_cluster import people
from tests.unit.stages.clustering.test_full import World, agree, by_id, cluster, clustering_of

SETTINGS = ClusterSection(exact_below=500, list_size=40, deep_cells=2)


@pytest.fixture(scope="module")
def session() -> Iterator[object]:
    spark = start_spark(SparkSection(master="local[2,3]"))
    yield spark
    spark.stop()


@pytest.fixture(scope="module")
def crowd() -> World:
    generator = np.random.default_rng(5)
    return World(*people(generator, generator.integers(1, 40, 150).tolist(), dim=64, noise=0.55))


def test_partitions_order_and_engine_do_not_matter(session: object, crowd: World, tmp_path: Path) -> None:
    wanted, _ = cluster(crowd, tmp_path / "local", settings=SETTINGS)
    assert agree(crowd, wanted)
    for number, (partitions, files, seed) in enumerate([(2, 3, None), (8, 1, 4), (64, 7, 9)]):
        place = tmp_path / f"spark-{number}"
        paths = crowd.write(place / "faces", files, seed)
        exchange = SparkExchange(session, partitions)  # type: ignore[arg-type]
        found = clustering_of(paths, place / "work", 64, SETTINGS, exchange).run()
        assert by_id(paths, found) == wanted


def test_few_faces_need_no_spark(session: object, monkeypatch: pytest.MonkeyPatch) -> None:
    section = SparkSection(master="local[2,3]", in_process_below=100)
    assert isinstance(open_exchange(section, 99), LocalExchange)
    assert isinstance(open_exchange(section, 100), SparkExchange)
    monkeypatch.setenv("PYSPARK_GATEWAY_PORT", "1")  # under spark-submit it runs already
    assert isinstance(open_exchange(section, 99), SparkExchange)


def test_workers_of_a_local_master_are_forked_ready_for_work(session: object) -> None:
    def look(item: int) -> Iterator[Block]:
        import gc
        import sys

        yield item, f"{gc.get_freeze_count() > 100_000} {sys.modules['pyspark.worker'].__file__}".encode()

    for _, said in SparkExchange(session).run(range(2), look):  # type: ignore[arg-type]
        assert said.decode() == f"True {pyspark.worker.__file__}"


def test_a_worker_killed_in_every_exchange_is_done_again(session: object, tmp_path: Path) -> None:
    def once(name: str) -> None:
        try:
            (tmp_path / name).touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)

    def emit(item: int) -> Iterator[Block]:
        yield from ((key, bytes([item])) for key in range(3))
        if item == 2:
            once("emit")

    def gather(key: int, blocks: list[bytes]) -> Iterator[Block]:
        if key == 1:
            once("gather")
        yield key % 2, bytes(sorted(b for block in blocks for b in bytes(block)))

    def count(key: int, blocks: list[bytes]) -> Iterator[Block]:
        if key == 1:
            once("count")
        yield key, b"".join(sorted(bytes(block) for block in blocks))

    found = SparkExchange(session, 4).run(range(5), emit, gather, count)  # type: ignore[arg-type]
    five = bytes(range(5))
    assert {key: bytes(body) for key, body in found} == {0: five * 2, 1: five}
    assert {path.name for path in tmp_path.iterdir()} == {"emit", "gather", "count"}


def test_what_a_task_says_reaches_the_driver(session: object) -> None:
    def fail(item: int) -> Iterator[Block]:
        raise Corrupt("a data file is damaged", where="faces/x", next_step="restore it")
        yield item, b""

    with pytest.raises(Corrupt) as told:
        SparkExchange(session).run(range(1), fail)  # type: ignore[arg-type]
    assert (told.value.what, told.value.where, told.value.next_step) == (
        "a data file is damaged", "faces/x", "restore it",
    )  # fmt: skip


@pytest.mark.parametrize("settings", [SETTINGS, ClusterSection()])
def test_the_whole_job_is_the_same_without_spark(crowd: World, tmp_path: Path, settings: ClusterSection) -> None:
    # The job stops its session, so that this is the last test of the module.
    crowd.write(tmp_path / "faces", 3)
    for below in (0, 1_000_000):
        config = Config(cluster=settings, spark=SparkSection(master="local[2,3]", in_process_below=below))
        cluster_files(config, str(tmp_path / "faces"), str(tmp_path / f"{below}.parquet"), ignore_events)
    assert (tmp_path / "0.parquet").read_bytes() == (tmp_path / "1000000.parquet").read_bytes()
