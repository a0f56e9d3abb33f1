"""The report in a real browser: it shows, asks nothing of the network, and complains of nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def test_report_in_chromium(demo_template: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: bash infra/test.sh installs it"
    requests: list[str] = []
    complaints: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for scheme in ("light", "dark"):
            page = browser.new_page(color_scheme=scheme, viewport={"width": 1100, "height": 900})
            page.on("request", lambda request: requests.append(request.url))
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(f"file://{demo_template[0]}/reports/latest.html")
            assert page.title() == "facelake: gallery 1"
            heads = page.locator(".head b").all_inner_texts()
            assert heads[0] == "280"
            text = page.inner_text("body")
            for word in ("no basis", "other purpose", "withdrawn", "expired", "no face", "unreadable", "empty"):
                assert word in text
            assert page.locator("svg").count() == 3
            sizes = page.eval_on_selector_all(".sheet img", "all => all.map(i => i.naturalWidth)")
            assert len(sizes) > 50
            assert set(sizes) == {96}
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.set_viewport_size({"width": 380, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            page.screenshot(path=tmp_path / f"{scheme}.png")
        browser.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:///", "data:"))] == []
