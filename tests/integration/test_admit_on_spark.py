"""The decisions of `admit` on Spark: the files of one process; a lost task is repeated, or nothing is committed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from pyspark import cloudpickle

from facelake.config import load_config
from facelake.engines.exchange import Block, Emit, LocalExchange, Reduce
from facelake.engines.spark_cluster import SparkExchange
from facelake.errors import Retryable
from facelake.nightly import writing
from facelake.stages.admission import deciding
from facelake.stages.admission.admit import admit
from facelake.stages.core.context import Context
from facelake.testing.servers import Server, of_workers
from tests.unit.stages.admission.test_deciding import decided, fill, in_tasks, on, reasons, wanted

cloudpickle.register_pickle_by_value(sys.modules[__name__])


SPARK = {"spark.in_process_below": 0, "spark.master": "local[2,2]"}


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with writing(load_config(lake=str(tmp_path / "lake"), overrides=SPARK), "test") as context:
        fill(context)
        yield context


def again(context: Context) -> None:
    """Forget the decisions."""
    table = context.lake["admissions"]
    table.commit([], table.snapshot().files)


@pytest.mark.parametrize("tasks", [1, 8])
def test_the_files_are_those_of_one_process(context: Context, tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        on(LocalExchange(), patch)
        here = admit(context).counts
    files = decided(context)
    again(context)
    in_tasks(tasks, monkeypatch)
    monkeypatch.setattr(deciding, "_PARTS_SENT", 7)
    there = admit(context).counts
    assert decided(context) == files
    assert reasons(context) == wanted()
    assert {k: n for k, n in there.items() if k != "hashed"} == {k: n for k, n in here.items() if k != "hashed"}
    assert admit(context).skipped


def test_the_tasks_read_and_write_s3(weed_env: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = SPARK | {"s3.endpoint_url": weed_env.endpoint, "spark.conf": of_workers(weed_env)}
    with writing(load_config(lake="s3://lake/admitted-on-spark", overrides=overrides), "test") as context:
        fill(context)
        in_tasks(8, monkeypatch)
        admit(context)
        assert reasons(context) == wanted()


class Shooting(SparkExchange):
    """The last task that decides kills its process after it has staged its files, the first time or every time."""

    folder, always = Path(), False

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        mark, always, ids = Shooting.folder / "shot", Shooting.always, bool(then)

        def shooting(item: int) -> Iterator[Block]:
            blocks = list(first(item))
            with contextlib.suppress(FileExistsError):
                if item == items[-1] and not ids:
                    mark.touch(exist_ok=always)
                    os.kill(os.getpid(), signal.SIGKILL)
            yield from blocks

        return super().run(items, shooting, *then, keys=keys)


@pytest.mark.parametrize("always", [False, True])
def test_a_task_that_dies_is_repeated_or_ends_the_run(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, always: bool
) -> None:
    in_tasks(8, monkeypatch)
    Shooting.folder, Shooting.always = tmp_path, always
    monkeypatch.setattr("facelake.engines.spark_cluster.SparkExchange", Shooting)
    if always:
        with pytest.raises(Retryable, match="a task failed"):
            admit(context)
        assert context.lake["admissions"].version() == -1
    else:
        admit(context)
        assert reasons(context) == wanted()
        staged = {item.key.rpartition("/")[2] for item in context.lake.store.list("admissions") if "-" in item.key}
        assert staged == {
            file.path for file in context.lake["admissions"].snapshot().files
        }  # written once more, not twice
    assert (tmp_path / "shot").exists()
