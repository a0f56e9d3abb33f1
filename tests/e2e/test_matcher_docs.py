"""The recipes of docs/matcher.md, run as they stand, with the address of a database of this host."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from facelake.cli import app
from facelake.embedder import Embedder
from facelake.matcher import Gallery
from tests.conftest import ROOT
from tests.e2e.test_handbook import blocks
from tests.e2e.test_london import assessed
from tests.e2e.test_match import photos_of

SECTIONS = {"postgresql": "pgvector", "qdrant": "Qdrant", "milvus": "Milvus", "lancedb": "LanceDB"}


@pytest.fixture(scope="module")
def probe(demo_template: tuple[Path, dict[str, Any]]) -> Any:
    """The embedding of a photo of one person."""
    photos = photos_of(demo_template[0])
    name = next(name for name in sorted(photos) if name and "person-2-" in name)
    (photo,) = Embedder().embed([photos[name]])
    return photo.faces[0].embedding.astype("float32")


def recipe(section: str) -> list[str]:
    """The blocks of a section: the command, and the search in Python."""
    text = (ROOT / "docs/matcher.md").read_text()
    return blocks(text.split(f"### {section}\n")[1].split("\n### ")[0])


def places(kind: str, folder: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What stands in the recipe, and the same on this host."""
    if kind == "postgresql":
        _, url = request.getfixturevalue("pg_folder")
        return {"postgresql://facelake@db/faces?table": f"{url}&table", "postgresql://facelake@db/faces": url}
    if kind == "qdrant":
        return {"qdrant://qdrant:6333": f"qdrant://{folder}/q", 'host="qdrant", port=6333': f'path="{folder}/q"'}
    if kind == "milvus":
        return {"milvus://milvus:19530": f"milvus://{folder}/m.db", "http://milvus:19530": f"{folder}/m.db"}
    return {"/srv/gate": f"{folder}/lance"}


def in_process(*arguments: str) -> dict[str, Any]:
    """The JSON result of a command, run in this process, which saves its start."""
    done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(("kind", "block"), [("postgresql", 1), ("qdrant", 2)])
def test_exemplars_are_compared_as_in_an_export(
    kind: str, block: int, probe: Any, demo_lake: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command, search = recipe("Exemplars")[0], recipe("Exemplars")[block]
    lake, to = str(demo_lake), {"qdrant": "qdrant://qdrant:6333?table=gate"}
    command = command.replace("postgresql://facelake@db/faces?table=gate", to.get(kind, "postgresql://facelake@db/faces?table=exact"))  # fmt: skip
    search = search.replace("FROM gate", "FROM exact")
    for theirs, ours in places(kind, tmp_path, request).items():
        command, search = command.replace(theirs, ours), search.replace(theirs, ours)
    assert in_process(*shlex.split(command)[1:], "--lake", lake)["state"] == "copied"
    out = str(tmp_path / "export")
    in_process("gallery", "export", "--out", out, "--purpose", "identity-grouping", "--recipient", "x", "--lake", lake)
    gallery = Gallery.open(out)
    for claim in gallery.identity_ids[:3]:
        values: dict[str, Any] = {"probe": probe, "claim": claim}
        exec(compile(search, kind, "exec"), values)
        (wanted,) = gallery.verify(probe[None], [claim], gallery.model_digest, exemplars=True)
        assert values["similarity"] == pytest.approx(float(wanted), abs=1e-4)


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_recipe_fills_and_searches(
    kind: str, probe: Any, demo_lake: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    command, search = recipe(SECTIONS[kind])
    for theirs, ours in places(kind, tmp_path, request).items():
        command, search = command.replace(theirs, ours), search.replace(theirs, ours)
    lake = str(demo_lake)
    assert in_process(*shlex.split(command)[1:], "--lake", lake)["state"] == "copied"
    values: dict[str, Any] = {"probe": probe}
    exec(compile(search, SECTIONS[kind], "exec"), values)
    assert len(values["matches"]) == 5
    out = str(tmp_path / "export")
    in_process("gallery", "export", "--out", out, "--purpose", "identity-grouping", "--recipient", "x", "--lake", lake)
    gallery = Gallery.open(out)
    wanted = gallery.search(probe[None], gallery.model_digest, k=5).identity_ids[0]
    found = re.findall(r"id-[a-z2-7]{16}", str(values["matches"]))
    assert list(dict.fromkeys(found)) == wanted


def test_the_example_of_a_nightly_sync(demo_lake: Path, tmp_path: Path) -> None:
    config = assessed(tmp_path)
    Path(config).write_text(Path(config).read_text() + f"lake: {demo_lake}\n")
    script = str(ROOT / "docs/examples/nightly_sync.py")
    url = f"lancedb://{tmp_path}/lance?table=gate"
    command = [sys.executable, script, config, url, "gate-7", "identity-grouping"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"gallery 1: \d+ identities, 0 deleted\n", done.stdout)
    assert len(Path(script).read_text().splitlines()) <= 42
