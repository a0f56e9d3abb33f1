"""Wheel and sdist: built, their contents, and the installed wheel in an environment without the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
import yaml

import facelake
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def build(folder: Path, out: Path, *targets: str) -> list[Path]:
    """Build wheel, sdist or both from a source tree, as pip does but without an isolated environment."""
    kinds = [argument for target in targets for argument in ("-t", target)]
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out), *kinds]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    return sorted(out.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    (sdist,) = build(ROOT, folder / "sdist", "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    (wheel,) = build(source, folder / "wheel", "wheel")
    return sdist, wheel


@pytest.fixture(scope="module")
def installed(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of an environment with the wheel; its dependencies are those of the tests, to save minutes."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(built[1])], check=True, capture_output=True, timeout=120)
    site = sysconfig.get_path("purelib", "venv", vars={"base": str(home)})
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin"


def run(folder: Path, bin_: Path, *command: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [str(bin_ / command[0]), *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_json(folder: Path, bin_: Path, *command: str) -> dict[str, Any]:
    return dict(json.loads(run(folder, bin_, "facelake", *command, "--json").splitlines()[-1]))


def test_the_version_is_in_one_place(built: tuple[Path, Path]) -> None:
    version = facelake.__version__
    assert "version" not in PROJECT["project"]
    assert [path.name for path in built] == [f"facelake-{version}.tar.gz", f"facelake-{version}-py3-none-any.whl"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    for path in (ROOT / "infra").rglob("*"):
        if path.suffix in (".yaml", "") and path.is_file():
            tags = re.findall(r"\bfacelake(?:-spark)?:(\d+\.\d+\.\d+)", path.read_text(errors="ignore"))
            assert set(tags) <= {version}, path


def test_the_wheel_contains_the_package_its_data_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        meta = Parser().parsestr(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))).decode())
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "lib/facelake", "conf"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    wanted = {name.removeprefix("lib/") if name.startswith("lib/") else f"facelake/{name}" for name in tracked}
    assert names == wanted
    assert {"facelake/py.typed", "facelake/conf/models/opencv.yaml", "facelake/report/script.js"} <= names
    assert meta["License-Expression"] == "Apache-2.0"
    assert meta["Requires-Python"] == "<3.14,>=3.11"
    assert meta.get_payload().startswith("# facelake")


def test_the_sdist_contains_no_tests_and_no_environment(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as sdist:
        top = {name.split("/")[1] for name in sdist.getnames() if "/" in name}
    assert top == {
        "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "conf", "constraints.txt", "docs", "jobs", "lib",
        "pyproject.toml", "requirements.lock", ".gitignore",
    }  # fmt: skip


def test_a_new_user_of_the_wheel_gets_to_their_first_photos(installed: Path, tmp_path: Path) -> None:
    where = run(tmp_path, installed, "python", "-c", "import facelake; print(facelake.__file__)").strip()
    assert where.startswith(str(installed.parent)), "the checkout was imported"
    assert run(tmp_path, installed, "facelake", "--version").strip() == f"facelake {facelake.__version__}"
    assert "opencv" in [model["name"] for model in run_json(tmp_path, installed, "models", "list")["models"]]
    run_json(tmp_path, installed, "init", "my.yaml", "--lake", "lake", "--dpia", "D-1")
    photos = str(ROOT / "docs" / "images")
    pictures = len(list((ROOT / "docs" / "images").glob("*.png")))
    assert run_json(tmp_path, installed, "import", photos, "-c", "my.yaml", "--basis", "x")["imported"] == pictures
    code = "import facelake; print(facelake.open(config='my.yaml').admit().stage('admit').counts['admitted'])"
    assert run(tmp_path, installed, "python", "-c", code).strip() == str(pictures)


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    assert run_json(tmp_path, installed, "demo", "--lake", "lake")["identities"] == 8


def test_the_lock_has_every_dependency_with_hashes_in_the_tested_versions() -> None:
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    locked = dict(re.match(r"([\w.-]+)==([\w.+]+)", entry).groups() for entry in entries)  # type: ignore[union-attr]
    assert all("--hash=sha256:" in entry for entry in entries)
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    )
    plain = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    assert {name: version for name, version in locked.items() if plain.get(name, version) != version} == {}
    needed = {re.match(r"[\w-]+", item)[0].lower() for item in PROJECT["project"]["dependencies"]}  # type: ignore[index]
    assert needed <= set(locked), "run: bash infra/lock.sh"
