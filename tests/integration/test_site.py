"""The documentation site: built without a warning, complete, searchable from a folder, nothing from other hosts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright

import facelake.api
from tests.conftest import ROOT
from tests.unit.test_docs import TREE


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(["bash", "infra/docs.sh", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


def test_a_link_or_anchor_to_nothing_stops_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for name in ("docs", "infra/site", "conf"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "Makefile", "infra/docs.sh"):
        shutil.copy(ROOT / name, copy / name)
    (copy / "lib").symlink_to(ROOT / "lib")
    (copy / ".venv").symlink_to(ROOT / ".venv")
    page = copy / "docs" / "limits.md"
    page.write_text(page.read_text() + "\n[a](start.md#no-such-heading) and [b](no-such-page.md)\n")
    done = subprocess.run(["bash", "infra/docs.sh"], cwd=copy, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "no-such-page.md" in done.stderr
    assert "no-such-heading" in done.stderr


def test_every_page_is_there_with_all_commands_and_public_names(site: Path) -> None:
    assert {page.stem for page in (ROOT / "docs").glob("*.md")} <= {page.stem for page in site.glob("*.html")}
    commands, api = (site / "cli.html").read_text(), (site / "api.html").read_text()
    for name, command in TREE.commands.items():
        for path in [name, *(f"{name}-{inner}" for inner in getattr(command, "commands", ()))]:
            assert f'id="facelake-{path}"' in commands, path
    for name in (*facelake.api.__all__, "Lake.gallery", "Feed.export", "Corrections.merge"):
        assert re.search(rf'id="facelake\.api(\.\w+)*\.{re.escape(name)}"|id="[\w.]*\.{re.escape(name)}"', api), name


def test_it_is_read_and_searched_from_a_folder_without_a_network(site: Path) -> None:
    asked: list[str] = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())
        page.locator("input.md-search__input").click()
        page.locator("input.md-search__input").press_sequentially("residual scan")
        expect(page.locator(".md-search-result__item a").first).to_be_visible(timeout=15_000)
        browser.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    for path in site.glob("*.html"):
        assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css|woff2?|png|svg)', path.read_text()), path
