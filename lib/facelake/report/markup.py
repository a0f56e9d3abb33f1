"""HTML elements as strings that are escaped when they are built, so that no caller can forget to escape."""

from __future__ import annotations

from html import escape

_VOID = frozenset({"br", "img", "link", "meta"})


class Markup(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Return a value as escaped HTML text. Lone surrogates, which UTF-8 cannot encode, become question marks."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(str(value).encode("utf-8", "replace").decode(), quote=True))


def join(*parts: object) -> Markup:
    """Concatenate the parts; None is skipped."""
    return Markup("".join(text(part) for part in parts if part is not None))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return an element.

    Args:
        attributes: `class_` becomes class, `aria_label` becomes aria-label. True gives an attribute without value;
            None and False give no attribute.
    """
    written = ""
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        html_name = key.rstrip("_").replace("_", "-")
        written += f" {html_name}" if value is True else f' {html_name}="{text(value)}"'
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def prose(value: str) -> Markup:
    """Return text as HTML; parts between backticks become code elements."""
    return join(*(el("code", part) if i % 2 else part for i, part in enumerate(value.split("`"))))


def named(value: object) -> Markup:
    """Return an external name, isolated so that its writing direction does not affect the text around it."""
    return el("bdi", value)
