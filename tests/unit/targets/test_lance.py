"""The LanceDB target in a folder."""

from __future__ import annotations

import subprocess
import sys
import warnings
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np

from facelake.targets.lance import LanceTarget
from facelake.targets.location import Location
from facelake.targets.target import TargetRows


def test_writing_does_not_warn_of_other_writers(tmp_path: Path) -> None:
    target = LanceTarget(Location.parse(f"lancedb://{tmp_path}?table=gate"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target.write_record({"gallery_version": 1})
        target.write_record({"gallery_version": 2})
    assert target.read_record() == {"gallery_version": 2}


def test_making_a_table_prints_no_warning_of_the_library(tmp_path: Path) -> None:
    """In a process of its own: the library reads the level when it is imported, and writes from outside Python."""
    code = (
        "from facelake.targets.location import Location\n"
        "from facelake.targets.opening import open_target\n"
        f"with open_target(Location.parse('lancedb://{tmp_path}/db?table=faces')) as target:\n"
        "    target.write_record({'gallery_version': 1})\n"
        "    print('made')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "made\n"
    assert done.stderr == ""


def test_a_table_opened_as_the_docs_say_finds_nobody_who_was_deleted(tmp_path: Path) -> None:
    target, vectors = LanceTarget(Location.parse(f"lancedb://{tmp_path}?table=gate")), np.eye(4, dtype=np.float32)
    tags = {"lease_id": "l", "purpose": "p", "expires_at": "2030-01-01T00:00:00+00:00", "model_digest": "m"}
    target.create(4)
    target.upsert(TargetRows([f"id-{i}" for i in range(4)], vectors, np.ones(4, np.int64), tags), fresh=True)
    table = lancedb.connect(tmp_path, read_consistency_interval=timedelta(0)).open_table("gate")

    def nearest() -> str:
        found = table.search(vectors[3], vector_column_name="template").distance_type("dot").limit(1).to_list()
        return str(found[0]["identity_id"])

    assert nearest() == "id-3"
    target.delete(["id-3"])
    assert nearest() != "id-3"
    target.compact()
    assert nearest() != "id-3"
