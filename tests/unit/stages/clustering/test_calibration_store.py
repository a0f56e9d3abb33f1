"""What the last full clustering measured is read back, or its absence is reported with a next step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facelake.cluster.array_codec import encode
from facelake.cluster.quality_norm import Gate
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.clustering.calibration_store import MEASURES, Since, StoredMeasures, read_measures, write_since

CUTS = {"edge": 0.4, "ratio": 0.75, "ratio_single": 0.75, "level": 0.7, "impostor_mean": 0.0, "impostor_sd": 0.1}


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(str(tmp_path / "lake"))
    write_since(lake, Since(CUTS | {"evidence": "a test"}, "config", "model", 10))
    return lake


def test_measures_come_back(lake: Lake) -> None:
    stored = StoredMeasures(Gate(np.array([0.5], np.float32), np.eye(2, dtype=np.float32)), np.ones((4, 1), np.float32))
    lake.store.write(MEASURES, encode(stored))
    measures = read_measures(lake)
    assert measures.cuts.edge == 0.4
    np.testing.assert_array_equal(measures.gate.inflation, np.eye(2))
    np.testing.assert_array_equal(measures.directions, np.ones((4, 1)))


@pytest.mark.parametrize("content", [None, b"", b"no measures", b"\x10\0\0\0" + b"{}" + b" " * 14])
def test_missing_or_unreadable_measures_ask_for_a_full_clustering(lake: Lake, content: bytes | None) -> None:
    if content is not None:
        lake.store.write(MEASURES, content)
    with pytest.raises(ConfigError, match="left no readable measures") as error:
        read_measures(lake)
    assert "nightly --rebase" in str(error.value)
