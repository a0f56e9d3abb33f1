"""Publish on Spark writes the gallery that one process writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from facelake.config import SparkSection
from facelake.engines.spark_session import start_spark
from facelake.errors import ConfigError
from facelake.stages.gallery import version_builder
from tests.unit.stages.gallery.test_version_builder import runs, tables


def test_a_local_master_and_this_process_publish_equal_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_builder, "bits_for", lambda *_: 3)
    monkeypatch.setattr(version_builder, "_ROWS_PER_ITEM", 500)
    alone = tables(runs(tmp_path / "alone"))
    spark = tables(runs(tmp_path / "spark", spark__in_process_below=0, spark__master="local[2]"))
    for name, rows in alone.items():
        assert spark[name].equals(rows), name


def test_a_session_on_another_master_is_not_used_silently() -> None:
    first = start_spark(SparkSection(master="local[2]"))
    second = start_spark(SparkSection(master="local[1]"))
    try:
        assert first.sparkContext._jsc is None, "facelake's own session was stopped"
        assert second.sparkContext.master == "local[1]"
        with pytest.raises(ConfigError, match=r"a Spark session on local\[1\] is active"):
            start_spark(SparkSection(master="local[2]"), app="another")
    finally:
        second.stop()
