"""The residual scan on Spark: the hits of one process, nothing readable on disk, no certificate after a lost task."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle

from facelake.config import S3Section, SparkSection, load_config
from facelake.contracts import TABLES
from facelake.engines.exchange import Block, Emit, LocalExchange, Reduce
from facelake.engines.select_exchange import open_exchange
from facelake.engines.spark_cluster import SparkExchange
from facelake.engines.spark_session import start_spark
from facelake.erase import Needles
from facelake.errors import ConfigError, Retryable
from facelake.lake.data_files import completed, plain
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.erasure import scanning, stage
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.scanning import scan_objects, scan_on
from facelake.testing.clusters import short_lived_jvm, spark_standalone
from facelake.testing.servers import Server, of_workers
from tests.unit.stages.erasure.test_scanning import filled, in_tasks, lake, listed, needles_of, one_by_one

__all__ = ["lake"]  # a fixture
LOCAL = "local[2,3]"
PERSON = "person-to-be-forgotten"
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers of a cluster cannot import it


@pytest.fixture(scope="module")
def exchange() -> Iterator[SparkExchange]:
    opened = open_exchange(SparkSection(master=LOCAL, in_process_below=0), 1, encrypted=True)
    assert isinstance(opened, SparkExchange)
    yield opened
    opened.close()


class Shooting(SparkExchange):
    """The last task kills its process or the executor, the first time or every time."""

    folder, always, victim = Path(), False, "process"

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        mark, always, executor = Shooting.folder / "shot", Shooting.always, Shooting.victim == "executor"

        def shooting(item: int) -> Iterator[Block]:
            with contextlib.suppress(FileExistsError):
                if item == items[-1]:
                    mark.touch(exist_ok=always)
                    os.kill(parent(os.getppid()) if executor else os.getpid(), signal.SIGKILL)
            yield from first(item)

        return super().run(items, shooting, *then, keys=keys)


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


class Looking(SparkExchange):
    """Before each task files of some folders are searched for a name, and after the last one; `seen` are those."""

    folders: Sequence[str] = ()
    seen: list[str]

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        folders = self.folders

        def looking(item: int) -> Iterator[Block]:
            yield from ((-1, found.encode()) for found in readable(folders, PERSON.encode()))
            yield from first(item)

        blocks = super().run(items, looking, *then, keys=keys)
        self.seen = [body.decode() for key, body in blocks if key == -1] + list(readable(folders, PERSON.encode()))
        return [block for block in blocks if block[0] != -1]


def readable(folders: Sequence[str], text: bytes) -> Iterator[str]:
    """Names of the files below some folders that contain a text."""
    for path in (path for folder in folders for path in Path(folder).rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and text in path.read_bytes():
                yield path.name


def many_needles() -> Needles:
    """Needles of more than 1 MiB, from which size on Spark writes the function of a task to a file."""
    generator = np.random.default_rng(1)
    return Needles.of([PERSON], [generator.bytes(1024) for _ in range(1500)])


@pytest.mark.parametrize("tasks", [1, 2, 8])
def test_the_tasks_find_what_a_loop_finds(
    exchange: SparkExchange, lake: Lake, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = one_by_one(lake, needles_of())
    in_tasks(lake, tasks, monkeypatch)
    searched, hits = scan_on(exchange, lake, listed(lake), needles_of())
    assert (searched, list(hits.items())) == (len(listed(lake)), wanted)


def test_a_worker_that_dies_is_replaced(
    exchange: SparkExchange, lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = one_by_one(lake, needles_of())
    in_tasks(lake, 8, monkeypatch)
    Shooting.folder, Shooting.always = tmp_path, False
    searched, hits = scan_on(Shooting(exchange._session), lake, listed(lake), needles_of())
    assert (tmp_path / "shot").exists()
    assert (searched, list(hits.items())) == (len(listed(lake)), wanted)


@pytest.mark.parametrize(("faces", "counted"), [(0, 0), (2, 2), (8, 3)])
def test_few_bytes_or_few_faces_need_no_spark(
    lake: Lake, faces: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the bytes are photos: a lake whose clustering needs no Java is erased from without it."""
    if faces:
        rows = completed(pa.table({"face_id": [f"f{number}" for number in range(faces)]}), plain(TABLES["faces"]))
        lake["faces"].commit([lake["faces"].stage(rows)], [])
    opened: list[tuple[int, bool]] = []

    def noted(section: SparkSection, faces: int, scratch: str, *, threads: int, encrypted: bool) -> LocalExchange:
        opened.append((faces, encrypted))
        return LocalExchange(threads)

    monkeypatch.setattr(scanning, "open_exchange", noted)
    size = sum(item.size_bytes for item in listed(lake))
    monkeypatch.setattr(scanning, "_BYTES_PER_FACE", size // 3)
    scan_objects(load_config(lake=lake.uri), lake, listed(lake), *needles_of())
    assert opened == [(counted, True)]


@pytest.fixture
def no_session(exchange: SparkExchange) -> None:
    """The module's session is stopped; tests after this one start their own."""
    exchange.close()


@pytest.mark.parametrize("encrypted", [True, False])
@pytest.mark.usefixtures("no_session")
def test_what_spark_writes_of_the_tasks_is_encrypted(lake: Lake, tmp_path: Path, *, encrypted: bool) -> None:
    """Without encryption the name is there."""
    section = SparkSection(master=LOCAL, conf={"spark.io.encryption.enabled": "false"})
    looking = Looking(start_spark(section, scratch=str(tmp_path / "scratch"), encrypted=encrypted))
    looking.folders = [str(tmp_path / "scratch"), str(looking._session.sparkContext._temp_dir)]
    try:
        assert scan_on(looking, lake, listed(lake), [many_needles()]) == (len(listed(lake)), {})
        assert any(path.is_file() for path in Path(looking.folders[1]).rglob("*"))
    finally:
        looking.close()
    assert bool(looking.seen) != encrypted


@pytest.mark.usefixtures("no_session")
def test_the_tasks_read_s3(weed_env: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    on_s3 = filled(Lake.create("s3://lake/scanned-on-spark", S3Section(endpoint_url=weed_env.endpoint)))
    wanted = one_by_one(on_s3, needles_of())
    in_tasks(on_s3, 8, monkeypatch)
    exchange = SparkExchange(start_spark(SparkSection(master=LOCAL, conf=of_workers(weed_env)), encrypted=True))
    searched, hits = scan_on(exchange, on_s3, listed(on_s3), needles_of())
    exchange.close()
    assert (searched, list(hits.items())) == (len(listed(on_s3)), wanted)


@pytest.mark.usefixtures("no_session")
def test_a_session_that_does_not_encrypt_is_not_used() -> None:
    plain = start_spark(SparkSection(master=LOCAL))
    other = start_spark(SparkSection(master=LOCAL), encrypted=True)
    assert plain.sparkContext._jsc is None  # it was facelake's, and is stopped
    assert other.sparkContext.getConf().get("spark.io.encryption.enabled") == "true"
    assert start_spark(SparkSection(master=LOCAL), encrypted=True).sparkContext is other.sparkContext
    other.stop()
    foreign = start_spark(SparkSection(master=LOCAL), app="a notebook")
    try:
        with pytest.raises(ConfigError, match=r"writes its files without spark\.io\.encryption\.enabled"):
            start_spark(SparkSection(master=LOCAL), encrypted=True)
    finally:
        foreign.stop()


@pytest.mark.usefixtures("no_session")
def test_an_erasure_whose_scan_loses_its_workers_is_not_certified(
    demo_lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shooting.folder, Shooting.always = tmp_path, True
    config = load_config(lake=str(demo_lake), overrides={"spark.in_process_below": 0, "spark.master": "local[2,2]"})
    request = Request.of(subjects=["person-2"])
    with monkeypatch.context() as patch:
        patch.setattr("facelake.engines.spark_cluster.SparkExchange", Shooting)
        with writing(config, "test") as context, pytest.raises(Retryable, match="a task failed"):
            stage.erase(context, request)
    assert (tmp_path / "shot").exists()
    assert [path for path in (demo_lake / "audit").glob("*.json") if b'"erasure"' in path.read_bytes()] == []
    with writing(config, "test") as context:
        result = stage.erase(context, request)
    assert result.counts["residual_hits"] == 0
    assert result.counts["objects_scanned"] > 50
    assert (demo_lake / result.certificate).exists()


class LookingAndShooting(Looking, Shooting):
    """Both."""


@pytest.mark.parametrize("encrypted", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("no_session")
def test_an_executor_of_a_cluster_that_dies_is_replaced_and_writes_nothing_readable(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, encrypted: bool
) -> None:
    needles = [*needles_of(), many_needles()]
    wanted = one_by_one(lake, needles)
    in_tasks(lake, 8, monkeypatch)
    Shooting.folder, Shooting.always, Shooting.victim = tmp_path, False, "executor"
    conf = {"spark.executor.extraJavaOptions": short_lived_jvm(), "spark.executor.memory": "1g"}
    conf |= {"spark.deploy.maxExecutorRetries": "-1"}
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(tmp_path / "scratch"))  # of the executors
    with spark_standalone(tmp_path) as master:
        section = SparkSection(master=master, driver_memory="1g", conf=conf)
        exchange = LookingAndShooting(start_spark(section, encrypted=encrypted))
        exchange.folders = [str(tmp_path / "scratch"), str(tmp_path / "worker-0")]
        try:
            searched, hits = scan_on(exchange, lake, listed(lake), needles)
        finally:
            exchange.close()
            Shooting.victim = "process"
    assert (tmp_path / "shot").exists()
    assert (searched, list(hits.items())) == (len(listed(lake)), wanted)
    assert bool(exchange.seen) != encrypted  # the file of an executor, which the driver's is copied to
