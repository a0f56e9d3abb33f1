"""Step bound over a work store: crowds of look-alikes are divided; a person whose photos vary as much is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.engines.exchange import LocalExchange
from facelake.stages.clustering.step_results import Grouped, Indexed
from facelake.stages.clustering.steps.dividing import divide_groups
from facelake.stages.clustering.stored import NumberedRows
from tests.unit.cluster.test_crowds import alike
from tests.unit.stages.clustering.test_full import World, clustering_of

CUTS = Calibration(0.4, 0.75, 0.75, 0.8, 0.0, 0.09, "")
LOOK_ALIKES, IN_GROUP, PHOTOS = 90, 30, 30


def test_of_a_crowd_only_photos_of_one_person_stay_together(tmp_path: Path) -> None:
    """Thirty of ninety look-alikes are one group, with a second photo of two of them; a person is the other group."""
    look_alikes, person = alike(LOOK_ALIKES, 0.5, 1), alike(PHOTOS, 0.5, 2, direction=1)
    second = look_alikes[:2] + 0.02 * alike(2, 0.01, 3, direction=2)
    truth = np.concatenate([np.arange(LOOK_ALIKES), np.full(PHOTOS, LOOK_ALIKES), [0, 1]])
    world = World(np.concatenate([look_alikes, person, second]), truth)
    full = clustering_of(world.write(tmp_path / "faces", 1), tmp_path / "work", world.x.shape[1])
    full.run()
    number = full.work.read(NumberedRows, 0).number
    labels = np.empty(len(truth), np.int32)
    labels[number] = np.where(truth < IN_GROUP, 0, truth)
    parts, part = full.work.read(Indexed).parts, full.work.read(Grouped).part
    again = replace(full.work, run="again")  # labels that the run kept in the process are not read again
    found = divide_groups(again, LocalExchange(), parts, labels, part, CUTS)
    groups = [set(np.flatnonzero(found.labels[number] == group)) for group in np.unique(found.labels)]
    wanted = [set(np.flatnonzero(truth == one)) for one in np.unique(truth)]
    assert sorted(map(sorted, groups)) == sorted(map(sorted, wanted))
    assert found.text == "0 groups below the mean similarity and 1 crowds divided"
