"""The docs say what the code does."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import typer.main

from facelake.cli import app
from facelake.config import Config
from facelake.lake.lake import Lake

ROOT = Path(__file__).parents[2]
UsageError: Any = typer.BadParameter.__mro__[1]  # typer carries a click of its own
TREE: Any = typer.main.get_command(app)
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "docs/notebooks/README.md",
]


def test_table_reference_is_generated() -> None:
    wanted = runpy.run_path(str(ROOT / "infra/tables_doc.py"))["document"]()
    assert (ROOT / "docs/tables.md").read_text() == wanted, "run: .venv/bin/python infra/tables_doc.py > docs/tables.md"


def test_configuration_reference_is_generated() -> None:
    wanted = runpy.run_path(str(ROOT / "infra/config_doc.py"))["document"]()
    made_by = "run: .venv/bin/python infra/config_doc.py > docs/configuration.md"
    assert (ROOT / "docs/configuration.md").read_text() == wanted, made_by
    for line in wanted.splitlines():
        assert not re.search(r"\|\s*\|$", line), f"a key without a meaning: {line}"


def test_the_configuration_reference_has_every_key() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    for section, keys in Config().model_dump().items():
        if isinstance(keys, dict) and section != "accept_lineage":
            part = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
            assert re.findall(r"^\| `(\w+)`", part, re.M) == list(keys)
        else:
            assert f"| `{section}` |" in page.split("\n## model\n")[0]


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == {page.name for page in (ROOT / "docs").glob("*.md")} - {
        "index.md"
    }


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_links_exist(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)", (page.parent / target if target else page).read_text(), re.M)
            assert anchor[1:] in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, anchor
    for path in re.findall(r"\b((?:infra|jobs|conf|tests|docs|lib)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=[p.name for p in PAGES])
def test_commands_are_those_of_the_command_line(page: Path) -> None:
    """In blocks a command must parse as it stands; inside a line, its name and options must exist."""
    for line, whole in commands_of(page.read_text()):
        if whole:
            assert parse(line).params, line
        else:
            command, _, rest = resolve(shlex.split(line, comments=True))
            known = {option for parameter in command.params for option in parameter.opts} | SHELL
            assert {word.split("=")[0] for word in rest if word.startswith("-")} <= known | {"--help"}, line


@pytest.mark.parametrize(
    "line", ["erase --subjects a", "ledger grant --until", "feed nothing", "correct undo x", "gallery export --out a"]
)
def test_the_check_of_commands_finds_what_is_wrong(line: str) -> None:
    with pytest.raises((KeyError, UsageError)):
        parse(line)


def test_commands_are_found_in_blocks_and_in_lines() -> None:
    text = "a `facelake nightly -c x` b\n\n    $ x\n    .venv/bin/facelake erase --subject \\\n a --yes   # b\n"
    assert list(commands_of(text)) == [("erase --subject   a --yes   # b", True), ("nightly -c x", False)]


def parse(line: str) -> click.Context:
    """The line as the command line would take it."""
    command, path, rest = resolve([WORDS.sub("1", word) for word in shlex.split(line, comments=True)])
    return command.make_context(" ".join(path), rest)


WORDS = re.compile(r"^(?:[A-Z][A-Z]*|[A-Z]+\.\.\.)$")
"""words that stand for something"""
SHELL = {"--install-completion", "--show-completion"}
_END = re.compile(r"\s(?:\||\|\||&&|;|>)\s.*")


def commands_of(text: str) -> Iterator[tuple[str, bool]]:
    """Arguments of every `facelake` in the text, and whether it stands in a block (fenced or indented)."""
    text = re.sub(r"\\\n", " ", text)
    for line in text.splitlines():
        if found := re.match(r"(?: {4}|\s*\$ )(?:.*\s)?(?:\.venv/bin/)?facelake\s+(?!=)([a-z-].*)", line):
            yield _END.sub("", " " + found[1]).strip(), True
    for inside in re.findall(r"(?<!`)`(?:\.venv/bin/)?facelake ([a-z-][^`]*)`", text):
        yield _END.sub("", " " + " ".join(inside.split())).strip(), False


def resolve(words: list[str]) -> tuple[click.Command, list[str], list[str]]:
    """The command that the words name, its path, and what is left of the words; KeyError: there is none."""
    command = TREE
    path: list[str] = []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        command = command.commands[words[0]]
        path.append(words[0])
        words = words[1:]
    return command, path, words


def test_the_queries_of_the_gallery_page_run(demo_lake: Path) -> None:
    page = (ROOT / "docs/gallery.md").read_text()
    setting_up = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "duckdb" in block)
    table = Lake.open(str(demo_lake))["identities"]
    unpinned = table.read().slice(0, 1).to_pylist()  # as a run leaves it that is killed before it publishes
    table.append([row | {"identity_id": "id-of-nobody", "size": 999} for row in unpinned])
    scope: dict[str, Any] = {}
    exec(setting_up.replace("facelake-demo/lake", str(demo_lake)), scope)
    queries = re.findall(r"```sql\n(.*?)```", page, re.S)
    assert len(queries) == 6
    found = [scope["duckdb"].sql(query).fetchall() for query in queries]
    assert [len(rows) for rows in found[:2]] == [8, 8]
    assert sum(size for _, size, _ in found[0]) == 255
    assert found[5][0][1:4] == ("full", 255, 8)
    assert scope["duckdb"].sql("SELECT count(*) FROM identities").fetchall() == [(8,)]


def test_table_of_faults_is_made_of_the_notes() -> None:
    notes = json.loads((ROOT / "docs/faults.json").read_text())
    assert (ROOT / "docs/faults.md").read_text() == runpy.run_path(str(ROOT / "infra/faults_doc.py"))["page"](notes)
    for note in notes:
        assert note["counts"].get("lost", 0) == note["counts"].get("doubled", 0) == 0, note


def texts_of(path: Path) -> Iterator[str]:
    """String constants of a module that are no docstrings; in formatted ones a word stands for each value."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "WORD" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_command_that_a_message_names_exists() -> None:
    """`facelake ...` in messages and help: the command and its options exist."""
    named = 0
    for path in sorted((ROOT / "lib").rglob("*.py")):
        for text in texts_of(path):
            for inside in re.findall(r"`(?:\.venv/bin/)?facelake ([a-zW-][^`]*)`", text):
                if inside.startswith("WORD"):  # the name of any command
                    continue
                command, words, rest = resolve(shlex.split(" ".join(inside.split()).replace("...", "WORD")))
                assert words or inside == "--help", f"{path}: {inside}"
                known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
                assert {word.split("=")[0] for word in rest if word.startswith("-")} <= known, f"{path}: {inside}"
                takes = [p for p in command.params if p.param_type_name == "argument"]
                if not takes:
                    values = [word for word in rest if not word.startswith("-")]
                    options = [word for word in rest if word.startswith("-")]
                    assert len(values) <= len(options), f"{path}: {inside} takes no argument"
                named += 1
    assert named > 40


def test_the_docs_name_the_takeover_time_of_the_code() -> None:
    from facelake.lake.lease import takeover_s

    for page in ("bad-night.md", "operations.md"):
        assert f"{takeover_s():.0f} seconds" in (ROOT / "docs" / page).read_text()
