"""No dependency may be installed in a version with a known vulnerability that facelake's use could reach."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]

FIRST_SOUND = {
    "onnx": ("1.21.0", "CVE-2025-51480, CVE-2026-27489, CVE-2026-34445: a model file writes or reads other files"),
    "pyarrow": ("23.0.1", "CVE-2026-25087: use after free while an IPC file is read"),
    "pillow": ("12.1.1", "CVE-2026-25990: write out of bounds while a PSD file is decoded"),
    "cryptography": ("46.0.5", "CVE-2026-26007: points outside the subgroup are accepted"),
    "ray": ("2.52.0", "CVE-2025-62593: a web page runs code through the dashboard"),
    "starlette": ("0.49.1", "CVE-2025-62727: quadratic time for a crafted Range header"),
    "imagecodecs": ("2025.3.30", "libjxl below 0.11.1: CVE-2024-11403, CVE-2024-11498"),
    "pillow-heif": ("1.1", "libheif below 1.19.6: null pointers while a photo is decoded"),
}
"""The first version without the named faults. Reviewed 2026-11-26; add a line when an advisory appears."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    chosen = [
        item
        for name in ("heic", "jxl", "torch", "review", "lineage", "tracing", "cluster", "pgvector", "qdrant")
        for item in extras[name]
    ]
    return [Requirement(item) for item in [*PROJECT["dependencies"], *chosen]]


def least(requirement: Requirement) -> Version:
    """The lowest version that a requirement admits; 0 without a lower bound."""
    bounds = [item.version.rstrip(".*") for item in requirement.specifier if item.operator in (">=", "==", "~=")]
    return max(map(Version, bounds), default=Version("0"))


def versions_in(name: str) -> dict[str, Version]:
    lines = re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / name).read_text(), re.M)
    return {re.sub(r"[-_.]+", "-", package).lower(): Version(version) for package, version in lines}


@pytest.mark.parametrize("package", sorted(FIRST_SOUND))
def test_versions_with_known_faults_are_excluded(package: str) -> None:
    sound, faults = Version(FIRST_SOUND[package][0]), FIRST_SOUND[package][1]
    own = [requirement for requirement in requirements() if requirement.name == package]
    assert own
    assert all(least(requirement) >= sound for requirement in own), faults
    for name in ("constraints.txt", "requirements.lock"):
        assert versions_in(name).get(package, sound) >= sound, (name, faults)


def test_every_dependency_has_a_least_version() -> None:
    assert [str(requirement) for requirement in requirements() if least(requirement) == Version("0")] == []
