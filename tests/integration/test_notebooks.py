"""The notebooks run from top to bottom on the demo lake, and none is stored with outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def test_the_start_page_lists_every_notebook_once_in_their_order() -> None:
    page = (ROOT / "docs/notebooks/README.md").read_text()
    rows = re.findall(r"^\| (\d)\. \[(.+?)\]\((\w+)\.ipynb\)", page, re.M)
    assert [int(number) for number, _, _ in rows] == [1, 2, 3]
    assert sorted(stem for _, _, stem in rows) == [path.stem for path in NOTEBOOKS]
    for _, title, stem in rows:
        first = nbformat.read(ROOT / f"docs/notebooks/{stem}.ipynb", as_version=4).cells[0]
        assert first.source.splitlines()[0] == f"# {title}"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_a_notebook_runs_and_is_stored_without_outputs(
    path: Path, demo_template: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear the outputs"
    monkeypatch.setenv("LAKE", str(demo_template[0]))
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    shown = [output for cell in code for output in cell.outputs if output.output_type == "execute_result"]
    assert len(shown) >= len(code) - 1
    assert f"identities={demo_template[1]['identities']}" in code[0].outputs[0]["data"]["text/plain"]
