"""The LanceDB target in a folder."""

from __future__ import annotations

import subprocess
import sys
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
