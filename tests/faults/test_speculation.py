"""Spark runs a slow task twice: both attempts write, one is committed.

Copies run only on another host than the original, so workers have loopback addresses of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from facelake.config import load_config
from facelake.engines.exchange import Block, Emit, Reduce
from facelake.engines.spark_cluster import SparkExchange
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.clustering.stage import cluster
from facelake.stages.gallery.publish import publish
from facelake.stages.models.registry import load_pack
from facelake.testing.clusters import spark_standalone
from tests.conftest import run_json
from tests.faults.conftest import Note
from tests.faults.test_nights import Demo, state

_SPECULATIVE = {
    "spark.speculation": "true",
    "spark.speculation.interval": "100ms",
    "spark.speculation.multiplier": "1.1",
    "spark.speculation.quantile": "0.5",
    "spark.executor.memory": "700m",
    "spark.executor.cores": "1",
}
_DAWDLES_S = 45.0


class Dawdling(SparkExchange):
    """The first attempt at the first of several items does its work and then takes a long time to end."""

    folder = Path()
    jobs = several = 0

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        Dawdling.jobs += 1
        Dawdling.several += len(items) > 1  # Spark makes no copy of a task that is alone
        slow, mark, dawdles_s = (
            (items[0] if len(items) > 1 else None),
            Dawdling.folder / f"{Dawdling.jobs:03d}",
            _DAWDLES_S,
        )

        def dawdling(item: int) -> Iterator[Block]:
            blocks: Iterable[Block] = first(item)
            if item == slow:
                blocks = list(blocks)
                for attempt in range(10):
                    try:
                        mark.with_suffix(f".{attempt}").touch(exist_ok=False)
                        break
                    except FileExistsError:
                        continue
                if attempt == 0:
                    time.sleep(dawdles_s)
            yield from blocks

        return super().run(items, dawdling, *then, keys=keys)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_speculative_duplicates(
    demo_lake: Path, demo_template: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Note
) -> None:
    before = Lake.open(str(demo_lake))["groups"].snapshot()
    Dawdling.folder, Dawdling.jobs, Dawdling.several = tmp_path / "marks", 0, 0
    Dawdling.folder.mkdir()
    monkeypatch.setattr("facelake.engines.spark_cluster.SparkExchange", Dawdling)
    with spark_standalone(tmp_path, workers=2, cores=1, hosts=True) as master:
        overrides: dict[str, Any] = {"spark.master": master, "spark.conf": _SPECULATIVE, "spark.driver_memory": "1g"}
        config = load_config(lake=str(demo_lake), overrides=overrides)
        try:
            with writing(config, "cluster") as context:
                context.rebase, context.pack = True, load_pack(config)
                counts = cluster(context).counts
                publish(context)
        finally:
            session = SparkSession.getActiveSession()
            assert session is not None
            session.stop()
    twice = len(list(Dawdling.folder.glob("*.1")))
    after = Lake.open(str(demo_lake))["groups"].snapshot()
    assert twice == Dawdling.several >= 4
    assert (Dawdling.folder / f"{Dawdling.jobs:03d}.1").exists()  # the last job stages `groups`: an attempt too many
    staged = {path.name for path in (demo_lake / "groups").glob("*.parquet")} - {f.path for f in before.files}
    committed = {file.path for file in after.files}
    assert len(committed) == len(before.files)
    assert len(staged - committed) == 1
    assert after.rows == counts["faces"] == before.rows
    assert after.version == before.version + 1
    assert state(demo_lake) == state(demo_template[0])
    assert run_json("verify", "--lake", str(demo_lake))["ok"]
    what = "both attempts staged, one is in the one commit; equal, verify clean"
    note("Spark: slow tasks run twice (speculation)", what, jobs=Dawdling.jobs, duplicates=twice, lost=0, doubled=0)
