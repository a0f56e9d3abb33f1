"""HTML by construction: text is escaped when it is put in, so no page can forget to."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"br", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any value as HTML text. Lone surrogates, which no page can hold, become question marks."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(str(value).encode("utf-8", "replace").decode(), quote=True))


def join(*parts: object) -> Markup:
    """Parts one after the other; None is nothing."""
    return Markup("".join(text(part) for part in parts if part is not None))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. `class_` is class, `aria_label` is aria-label; True is an attribute without value, None is none."""
    said = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        spelt = key.rstrip("_").replace("_", "-")
        said += f" {spelt}" if value is True else f' {spelt}="{text(value)}"'
    if name in _VOID:
        return Markup(f"<{name}{said}>")
    return Markup(f"<{name}{said}>{join(*children)}</{name}>")


def prose(value: str) -> Markup:
    """Text in which what stands between backticks is code."""
    return join(*(el("code", part) if i % 2 else part for i, part in enumerate(value.split("`"))))


def named(value: object) -> Markup:
    """A name from outside: its direction of writing stays its own."""
    return el("bdi", value)
