"""Samples of WebDataset: photos of a tar file, and the fields of the texts that belong to each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from facelake.contracts import parse_json

TEXTS = ("json", "txt", "cls", "text", "caption", "id", "key")
"""endings of members whose fields rules read"""


@dataclass(slots=True)
class Fields:
    """The fields of the texts of a sample."""

    values: dict[str, Any] = field(default_factory=dict)
    unreadable: bool = False
    """whether there is a text that could not be read"""
    contradicted: set[str] = field(default_factory=set)
    """fields of which two texts give different values"""
    elsewhere: set[str] = field(default_factory=set)
    """endings of texts that may be the photo's, by their names"""

    def add(self, values: dict[str, Any] | None) -> None:
        """Add the fields of a text; None for one that cannot be read."""
        if values is None:
            self.unreadable = True
            return
        self.contradicted |= {name for name in values.keys() & self.values.keys() if values[name] != self.values[name]}
        self.values |= values

    def fault(self, needed: Sequence[str]) -> str:
        """Why fields cannot be relied on, so that nobody knows whose the photos are; empty if they can."""
        if self.contradicted & set(needed):
            return "with contradicting fields"
        values = [self.values.get(name) for name in needed]
        if (self.unreadable and None in values) or any(v is not None and text_of(v) is None for v in values):
            return "with unreadable fields"
        missing = {name for name, value in zip(needed, values, strict=True) if value is None}
        elsewhere = missing if "json" in self.elsewhere else missing & self.elsewhere
        return "with fields of another name" if elsewhere else ""

    def copy(self) -> Fields:
        """Another one with the same fields."""
        return replace(self, values=dict(self.values), contradicted=set(self.contradicted))


@dataclass(frozen=True, slots=True)
class TarPhoto:
    """A photo in a tar file."""

    name: str
    offset: int
    size: int
    digest: str
    """SHA-256"""
    inner: str
    """what is between the first and the last dot of its name"""


@dataclass(slots=True)
class Sample:
    """Members whose names are equal up to the first dot."""

    key: str = ""
    photos: list[TarPhoto] = field(default_factory=list)
    fields: Fields = field(default_factory=Fields)
    """of texts with one dot in their names, which are every photo's"""
    dotted: dict[str, list[tuple[str, dict[str, Any] | None]]] = field(default_factory=dict)
    """ending and fields of the others, by what is between the first and the last dot"""

    def add_text(self, inner: str, ending: str, values: dict[str, Any] | None) -> None:
        """Add a text; None for one that cannot be read."""
        if inner:
            self.dotted.setdefault(inner, []).append((ending, values))
        else:
            self.fields.add(values)

    def with_fields(self) -> Iterator[tuple[TarPhoto, Fields]]:
        """Yield each photo with the fields of the sample's texts and of those with its whole name up to the suffix.

        By WebDataset's rule `2024.06.01-anna.json` is a field of a sample `2024`; here it is the text of
        `2024.06.01-anna.jpg`. A text whose name fits no photo exactly may be that of any photo with a similar name.
        """
        photos = {photo.inner for photo in self.photos}
        endings = {inner: {ending for ending, _ in texts} for inner, texts in self.dotted.items()}
        stray = {ending for inner, found in endings.items() if inner not in photos for ending in found}
        longer: dict[str, set[str]] = {}
        for inner, found in endings.items():
            for shorter in _shorter(inner):
                longer.setdefault(shorter, set()).update(found)
        for photo in self.photos:
            made = self.fields.copy()
            made.add({"key": self.key, "__key__": self.key})
            for _, values in self.dotted.get(photo.inner, ()):
                made.add(values)
            made.elsewhere = stray.union(
                longer.get(photo.inner, ()), *(endings.get(name, ()) for name in _shorter(photo.inner))
            )
            yield photo, made


def _shorter(inner: str) -> list[str]:
    """The names that are left when parts between dots are taken from the end."""
    parts = inner.split(".") if inner else []
    return [".".join(parts[:count]) for count in range(len(parts))]


def divided(name: str) -> tuple[str, str, str]:
    """(key, inner, ending) of a member: the name up to the first dot of its last part, up to the last one, and the
    rest.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    inner, _, ending = rest.rpartition(".")
    return f"{folder}{slash}{stem}", inner, ending.lower()


def fields_in(ending: str, data: bytes) -> dict[str, Any] | None:
    """The fields of a text (by its ending) or of a JSON object (by `json.NAME` and by NAME); None if it is not one."""
    text = data.decode("utf-8", "replace")
    if ending != "json":
        return {ending: text.strip()}
    try:
        body = parse_json(text)
    except ValueError:
        return None
    return _flattened(body, "json.") | _flattened(body, "") if isinstance(body, dict) else None


def _flattened(body: dict[str, Any], prefix: str, depth: int = 4) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if isinstance(value, dict) and depth:
            fields |= _flattened(value, f"{prefix}{name}.", depth - 1)
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def text_of(value: Any) -> str | None:
    """The text of a field; None if it is neither text nor a whole number."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None
