"""bench scaling compares one worker with one process, and several with two processes that share the cores."""

from __future__ import annotations

from typing import Any

import pytest

from facelake.bench import scaling


def test_overhead_is_relative_to_processes_under_the_same_load(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, pair, spark = (1.0, 10.0), (1.0, 12.0), {1: (20.0, 38.0), 2: (20.0, 42.0), 4: (20.0, 36.5)}
    asked: list[int] = []

    def child(order: dict[str, Any]) -> dict[str, Any]:
        asked.append(order["workers"])
        local = alone if len(asked) <= 2 else pair
        cpu = spark.get(order["workers"], local)[order["faces"] == 2000]
        return {"groups": 7, "cpu_s": cpu, "seconds": cpu}

    monkeypatch.setattr(scaling, "_child", child)
    found = scaling.scaling((1000, 2000), (1, 2, 4), lambda _: None)
    assert asked == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 4, 4]  # one process; two at once, of either size; then workers
    assert found["overhead_of_more_faces"] == {"1": 1.0, "2": 1.0, "4": 0.5}
    assert all(row["groups"] == 7 for row in found["rows"])
