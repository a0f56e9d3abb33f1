"""The docs say what the code does."""

from __future__ import annotations

import functools
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from facelake.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_table_reference_is_generated() -> None:
    wanted = runpy.run_path(str(ROOT / "infra/tables_doc.py"))["document"]()
    assert (ROOT / "docs/tables.md").read_text() == wanted, "run: .venv/bin/python infra/tables_doc.py > docs/tables.md"


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_links_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"\b((?:infra|jobs|conf|tests|docs|lib)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path
    for command in re.findall(r"facelake ((?:ledger |models |gallery |correct |feed |bench )?[a-z]+)(?= |`|\n)", text):
        if command.split()[0] in (
            "demo",
            "import",
            "nightly",
            "ledger",
            "models",
            "gallery",
            "correct",
            "feed",
            "bench",
            "erase",
            "verify",
            "review",
        ):
            result = CliRunner().invoke(app, [*command.split(), "--help"])
            assert result.exit_code == 0, command
    for option in set(re.findall(r"(?<=\s)(--[a-z][a-z-]+)", " ".join(re.findall(r"`?facelake [^`\n]+", text)))):
        assert option in _all_options(), option


@functools.cache
def _all_options() -> str:
    runner, said = CliRunner(env={"COLUMNS": "300"}), ""
    for command in app.registered_commands:
        said += runner.invoke(app, [command.name or command.callback.__name__, "--help"]).output  # type: ignore[union-attr]
    for group in app.registered_groups:
        for command in group.typer_instance.registered_commands:  # type: ignore[union-attr]
            said += runner.invoke(app, [str(group.name), str(command.name), "--help"]).output
    return said


def test_the_queries_of_the_gallery_page_run(demo_template: tuple[Path, dict[str, Any]]) -> None:
    page = (ROOT / "docs/gallery.md").read_text()
    setting_up = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "duckdb" in block)
    scope: dict[str, Any] = {}
    exec(setting_up.replace("facelake-demo/lake", str(demo_template[0])), scope)
    queries = re.findall(r"```sql\n(.*?)```", page, re.S)
    assert len(queries) == 5
    found = [scope["duckdb"].sql(query).fetchall() for query in queries]
    assert len(found[0]) == 8
    assert found[4][0][1:4] == ("full", 255, 8)


def test_table_of_faults_is_made_of_the_notes() -> None:
    notes = json.loads((ROOT / "docs/faults.json").read_text())
    assert (ROOT / "docs/faults.md").read_text() == runpy.run_path(str(ROOT / "infra/faults_doc.py"))["page"](notes)
    for note in notes:
        assert note["counts"].get("lost", 0) == note["counts"].get("doubled", 0) == 0, note
