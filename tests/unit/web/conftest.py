"""Review pages over the demo lake with a wrong merge and a duplicate identity."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.review_world import World, spoil
from tests.unit.web.review_pages import Page, open_page


@pytest.fixture(scope="package")
def spoiled(demo_template: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, World]:
    lake = Path(shutil.copytree(demo_template[0], tmp_path_factory.mktemp("spoiled") / "lake"))
    return lake, spoil(lake)


@pytest.fixture(scope="package")
def shared_page(spoiled: tuple[Path, World], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page for tests that do not change the lake."""
    lake = Path(shutil.copytree(spoiled[0], tmp_path_factory.mktemp("read-only") / "lake"))
    with open_page(lake, spoiled[1]) as page:
        yield page


@pytest.fixture
def page(spoiled: tuple[Path, World], tmp_path: Path) -> Iterator[Page]:
    """A page for tests that change the lake."""
    with open_page(Path(shutil.copytree(spoiled[0], tmp_path / "lake")), spoiled[1]) as page:
        yield page
