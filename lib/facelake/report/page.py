"""The report page: one HTML file. All values are escaped, and a content security policy forbids every request and every
script except the inline one, which it names by its digest."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from facelake.report.markup import Markup, el, join, named
from facelake.report.model import ReportData
from facelake.report.sections import sections

_CSS = files("facelake.report").joinpath("style.css").read_text("utf-8")
_SCRIPT = files("facelake.report").joinpath("script.js").read_text("utf-8")


def render(data: ReportData) -> str:
    """Return the page as HTML text."""
    parts = list(sections(data))
    links = [el("li", el("a", heading, href=f"#{anchor}")) for anchor, heading, _ in parts]
    origin = join("purpose ", named(data.purpose), " · run ", named(data.run_id), " · lake ", named(data.lake))
    header = el(
        "header",
        el("h1", data.title),
        el("p", origin, f" · {data.created_at}", class_="dim"),
        el("nav", el("ul", *links), aria_label="Sections"),
    )
    body = [
        el("section", el("h2", heading, id=f"{anchor}-title"), content, id=anchor, aria_labelledby=f"{anchor}-title")
        for anchor, heading, content in parts
    ]
    footer = el(
        "footer",
        el("p", "Created by facelake from the tables of the lake. This page makes no network request. The faces on it "
           "are personal data: the page is stored in the lake, an erasure deletes it, and ",
           el("code", "report.contact_sheets: false"), " in the config leaves faces out."),
        class_="dim",
    )  # fmt: skip
    tip = el("div", id="tip", hidden=True, aria_hidden="true")
    skip = el("a", "Skip to the content", href="#content", class_="skip")
    content = el("body", skip, header, el("main", *body, id="content"), footer, tip, el("script", Markup(_SCRIPT)))
    return f'<!doctype html><html lang="en">{_head(data.title)}{content}</html>'


def _head(title: str) -> Markup:
    sources = f"style-src {_digest(_CSS)}; script-src {_digest(_SCRIPT)}; img-src data:"
    policy = f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width,initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        el("style", Markup(_CSS)),
    )


def _digest(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
