"""The LanceDB target in a folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from facelake.targets.lance import LanceTarget
from facelake.targets.location import Location


def test_writing_does_not_warn_of_other_writers(tmp_path: Path) -> None:
    target = LanceTarget(Location.parse(f"lancedb://{tmp_path}?table=gate"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target.write_record({"gallery_version": 1})
        target.write_record({"gallery_version": 2})
    assert target.read_record() == {"gallery_version": 2}
