"""Takes the README's picture of the report:  .venv/bin/python infra/report_picture.py LAKE docs/images/report.png"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_SIZE = {"width": 1100, "height": 720}


def main(lake: str, picture: str) -> None:
    """Open the newest report of a lake in Chromium and save its first screen."""
    page_uri = (Path(lake) / "reports/latest.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport=_SIZE)
        page.goto(page_uri)
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
