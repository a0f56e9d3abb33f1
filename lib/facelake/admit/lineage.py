"""Recognition of withdrawn data sets by names, paths, image ids and content digests. Pure functions, no input or
output.

Renaming a folder does not change the names of its files, repackaging keeps sidecar files, and a single file keeps its
content. A set is therefore recognised by any of: its name as whole words, the layout of its file names, files that
occur together in one folder, a content digest.
Fails closed: an InsightFace package whose identity count is unknown is refused, because withdrawn data sets are
distributed in this form.

Every result is the name of an entry, with its parent set if it was derived from one ("MS1MV2 (of MS-Celeb-1M)"), or
None. Facts and their sources: conf/retracted.yaml.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from facelake.errors import ConfigError

UNKNOWN_PACKAGE = "an InsightFace package of unknown lineage"

_WORD = re.compile(r"[^\W_]+")
_BETWEEN = r"[\x00-/:-@\[-`{-\x7f]*"  # ASCII characters that are neither letters nor digits
_NOTHING = r"[^\s\S]"  # a regex that matches no text
_PROPERTY = re.compile(r"\s*(\d{1,9})\s*,\s*\d+\s*,\s*\d+\s*", re.ASCII)
# shorter aliases would match too many ordinary names
_SHORTEST_ALIAS, _SHORTEST_WEAK_ALIAS = 4, 3


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(_Part):
    """How a set names its files: a regex that identifies the set once at least `least` different paths match.

    RE2 syntax, because it matches in linear time: a list from a third party cannot stall a run.
    """

    regex: str
    what: str = Field(min_length=1)
    least: int = Field(1, ge=1)

    @field_validator("regex")
    @classmethod
    def _usable(cls, value: str) -> str:
        try:
            matches_all = _matches(pa.array([""]), value)[0].as_py()
        except pa.ArrowInvalid as err:
            raise ValueError(f"not a regular expression in RE2 syntax: {err}") from err
        if matches_all:
            raise ValueError("matches every path")
        return value


class Marker(_Part):
    """Files that occur together in one folder (base names, `*` allowed).

    With `identities`, one of them must be the first number of the folder's InsightFace `property` file.
    """

    files: list[str] = Field(min_length=1)
    identities: list[int] = []


class Retracted(_Part):
    """A withdrawn data set, or one derived from it. conf/retracted.yaml describes the fields."""

    name: str = Field(min_length=1)
    withdrawn: str | None = Field(pattern=r"^\d{4}(-\d{2}){0,2}$")
    by: str | None
    why: str = Field(min_length=1)
    source: str = Field(min_length=1)
    aliases: list[str] = []
    weak_aliases: list[str] = []
    derived_from: str | None = None
    layouts: list[Layout] = []
    markers: list[Marker] = []
    content_sha256: list[str] = []

    @field_validator("content_sha256")
    @classmethod
    def _digests(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch("[0-9a-f]{64}", digest) for digest in value):
            raise ValueError("a digest is 64 lower-case hex digits")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Retracted:
        for aliases, shortest in ((self.aliases, _SHORTEST_ALIAS), (self.weak_aliases, _SHORTEST_WEAK_ALIAS)):
            short = [alias for alias in aliases if len(_joined(alias)) < shortest]
            if short:
                raise ValueError(f"{self.name}: alias {short[0]!r} is shorter than {shortest} letters and digits")
        if _joined(self.name) not in map(_joined, (*self.aliases, *self.weak_aliases)):
            raise ValueError(f"{self.name}: its own name must be one of aliases or weak_aliases")
        if self.by is None and self.derived_from is None:
            raise ValueError(
                f"{self.name}: set `by` (who withdrew it) or `derived_from` (the withdrawn set it was made from)"
            )
        return self


class RetractedList(_Part):
    """The content of conf/retracted.yaml or of an operator's own list."""

    sets: list[Retracted]

    @field_validator("sets")
    @classmethod
    def _unique(cls, value: list[Retracted]) -> list[Retracted]:
        names = [_joined(entry.name) for entry in value]
        repeated = [entry.name for entry in value if names.count(_joined(entry.name)) > 1]
        if repeated:
            raise ValueError(f"{repeated[0]!r} occurs twice")
        return value


@dataclass(frozen=True, slots=True)
class _Names:
    """Aliases without separators, their prefixes, at which a search can stop early, and a regex that matches any of
    them.

    The regex is a prefilter for ASCII text that ignores word boundaries: it matches wherever `find` would.
    """

    entry_of: Mapping[str, str]
    prefixes: frozenset[str]
    anywhere: str

    @classmethod
    def build(cls, entries: Iterable[Retracted], *, weak: bool) -> _Names:
        entry_of: dict[str, str] = {}
        for entry in entries:
            for alias in (*entry.aliases, *(entry.weak_aliases if weak else ())):
                other = entry_of.setdefault(_joined(alias), entry.name)
                if other != entry.name:
                    what = f"alias {alias!r} belongs to both {other!r} and {entry.name!r}"
                    raise ConfigError(what, where="retracted sets", next_step="remove it from one of them")
        prefixes = frozenset(alias[:end] for alias in entry_of for end in range(1, len(alias) + 1))
        anywhere = "|".join(_BETWEEN.join(map(re.escape, alias)) for alias in entry_of)
        return cls(entry_of, prefixes, anywhere or _NOTHING)

    def find(self, text: str) -> Iterator[str]:
        """Entries whose alias consists of consecutive whole words of the text; at each word the longest alias wins."""
        words = _words(text)
        for start, first in enumerate(words):
            if first not in self.prefixes:
                continue
            joined, entry = "", None
            for word in words[start:]:
                joined += word
                if joined not in self.prefixes:
                    break
                entry = self.entry_of.get(joined, entry)
            if entry is not None:
                yield entry


class Lineages:
    """An index of the withdrawn data sets.

    Args:
        entries: of one or several lists; entries of the same name are merged: aliases, layouts, markers and digests
            are united, the other fields are those of the first one.

    Raises:
        ConfigError: an unknown parent, a circular derivation, or an alias that belongs to two entries.
    """

    def __init__(self, entries: Iterable[Retracted]) -> None:
        self._entries = _merged(entries)
        self._labels = {name: self._label(entry) for name, entry in self._entries.items()}
        self._names = {label: name for name, label in self._labels.items()}
        self._strong = _Names.build(self._entries.values(), weak=False)
        self._any = _Names.build(self._entries.values(), weak=True)
        layouts = [(layout, entry.name) for entry in self._entries.values() for layout in entry.layouts]
        self._layouts = sorted(layouts, key=lambda pair: pair[0].least)
        self._any_layout = "|".join(f"(?:{layout.regex})" for layout, _ in self._layouts) or _NOTHING
        self._contents = {digest: entry.name for entry in self._entries.values() for digest in entry.content_sha256}

    def in_name(self, text: str) -> str | None:
        """The first set whose strong alias occurs in `text` as whole words, ignoring case and separators."""
        return self._labelled(next(self._strong.find(text), None))

    def declared(self, text: str) -> str | None:
        """As `in_name`, but with weak aliases too: only for text that declares a data set."""
        return self._labelled(next(self._any.find(text), None))

    def in_path(self, path: str) -> str | None:
        """The set that one path or image_id identifies, by a name in it or by a layout that needs one match only."""
        return self.in_ids([path])[0]

    def in_ids(self, ids: Sequence[str | None]) -> list[str | None]:
        """The set that each image_id (or relative path) identifies.

        Args:
            ids: in any order, None where there is none. A layout's `least` different matches are counted over all of
                them, so pass a whole source, not single rows.

        Returns:
            One result per id, in the order of the ids.
        """
        column = _column(ids)
        labels: list[str | None] = [None] * len(ids)
        # names come last and override layouts, which derived sets share
        for row, entry in itertools.chain(self._by_layout(column), self._by_name(column)):
            labels[row] = self._labels[entry]
        return labels

    def in_folder(self, relative_paths: Iterable[str], property_text: str | None) -> str | None:
        """The set that a folder to be imported is recognised as.

        Args:
            relative_paths: of every file in the folder, photos or not, separated by `/`.
            property_text: content of the file named `property`, None if there is none.

        Returns:
            As `in_name`, or UNKNOWN_PACKAGE.
        """
        paths = list(relative_paths)
        folders = _folders(paths)
        count = _PROPERTY.fullmatch(property_text or "")
        identities = int(count.group(1)) if count else None
        known = self._by_marker(folders, identities) or next(filter(None, self.in_ids(paths)), None)
        if known is None and (count or any(map(_holds_records, folders))):
            return UNKNOWN_PACKAGE
        return known

    def by_content(self, sha256: str) -> str | None:
        """The set that contains a file with this SHA-256 (hex)."""
        return self._labelled(self._contents.get(sha256.lower()))

    def of_card(self, withdrawn_lineage: Sequence[str], training_data: str) -> tuple[str, ...]:
        """Canonical names of the sets that a model card declares or mentions in its training data, without repetition.

        A declared name without an entry is kept unchanged. Negations are not understood: a text that denies the use of
        a set counts as a mention, which the operator must resolve.
        """
        declared = [entry for text in withdrawn_lineage for entry in list(self._any.find(text)) or [text]]
        return tuple(dict.fromkeys((*declared, *self._any.find(training_data))))

    def why(self, name: str) -> str:
        """One line for an error message: who withdrew the set, when, why, and the source.

        Args:
            name: a result of this class, or a canonical name.
        """
        entry = self._entries.get(self._names.get(name, name))
        if entry is None:
            return (
                _WHY_UNKNOWN_PACKAGE
                if name == UNKNOWN_PACKAGE
                else f"{name} is declared as withdrawn, but no list contains it"
            )
        withdrawn, derivation = entry, ""
        while withdrawn.by is None:
            withdrawn = self._entries[str(withdrawn.derived_from)]
            derivation = f" is made from {withdrawn.name}: {entry.why}. {withdrawn.name}"
        when = withdrawn.withdrawn or "date unclear"
        source = entry.source if entry is withdrawn else f"{entry.source}; {withdrawn.source}"
        return f"{entry.name}{derivation} was withdrawn by {withdrawn.by} ({when}): {withdrawn.why}. Source: {source}"

    def _by_name(self, column: pa.Array) -> Iterator[tuple[int, str]]:
        """(row, entry) for rows with a strong alias. A regex preselects the few rows that are parsed word by word."""
        # that regex does not cover letters outside ASCII, which may end a word or fold into other letters
        candidates = pc.or_(_matches(column, self._strong.anywhere), pc.invert(pc.string_is_ascii(column)))
        rows = _rows(candidates)
        for row, text in zip(rows.tolist(), column.take(rows).to_pylist(), strict=True):
            entry = next(self._strong.find(text), None)
            if entry is not None:
                yield row, entry

    def _by_layout(self, column: pa.Array) -> Iterator[tuple[int, str]]:
        """(row, entry) for layouts with enough matches; the layout with the lowest `least` wins, then the first in
        the list.
        """
        rows = _rows(_matches(column, self._any_layout))
        suspects, free = column.take(rows), np.ones(len(rows), bool)
        for layout, entry in self._layouts:
            if not free.any():
                return
            hits = _matches(suspects, layout.regex)
            if layout.least > 1 and pc.count_distinct(suspects.filter(hits)).as_py() < layout.least:
                continue
            matched = free & hits.to_numpy(zero_copy_only=False)
            free &= ~matched
            yield from ((row, entry) for row in rows[matched].tolist())

    def _by_marker(self, folders: Iterable[set[str]], identities: int | None) -> str | None:
        for files in folders:
            for entry in self._entries.values():
                for marker in entry.markers:
                    complete = all(_contains(files, name.lower()) for name in marker.files)
                    if complete and (not marker.identities or identities in marker.identities):
                        return self._labels[entry.name]
        return None

    def _labelled(self, entry: str | None) -> str | None:
        return None if entry is None else self._labels[entry]

    def _label(self, entry: Retracted) -> str:
        """The name with its parent; walks up to the root and reports missing parents and circular derivations."""
        seen, ancestor = [entry.name], entry
        while ancestor.derived_from is not None:
            parent = self._entries.get(ancestor.derived_from)
            if parent is None or parent.name in seen:
                what = f"{ancestor.name!r} is derived from {ancestor.derived_from!r}, which is " + (
                    "not in any list" if parent is None else "derived from it"
                )
                raise ConfigError(what, where="retracted sets", next_step="correct derived_from")
            seen.append(parent.name)
            ancestor = parent
        return entry.name if entry.derived_from is None else f"{entry.name} (of {entry.derived_from})"


_WHY_UNKNOWN_PACKAGE = (
    "an InsightFace package (.rec, .idx, property) does not record the origin of its photos, and MS-Celeb-1M, "
    "VGGFace2 and "
    "MegaFace have been redistributed in this form since their withdrawal. Source: conf/retracted.yaml"
)


def _words(text: str) -> list[str]:
    """Runs of letters and digits after Unicode folding: full-width letters, ligatures and case are unified."""
    return _WORD.findall(text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold())


def _joined(text: str) -> str:
    return "".join(_words(text))


def _matches(column: pa.Array, regex: str) -> pa.Array:
    """Per text whether the regex matches somewhere in it; false for null."""
    return pc.fill_null(pc.match_substring_regex(column, regex, ignore_case=True), False)


def _rows(mask: pa.Array) -> np.ndarray:
    """Numbers of the rows whose mask is true."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _column(ids: Sequence[str | None]) -> pa.Array:
    """The ids as an Arrow column, with `\\` replaced by `/`."""
    try:
        column = pa.array(ids, pa.large_string())
    except UnicodeEncodeError:  # a file name that is not UTF-8
        clean = [text and text.encode("utf-8", "replace").decode() for text in ids]
        column = pa.array(clean, pa.large_string())
    return pc.replace_substring(column, "\\", "/")


def _folders(paths: Iterable[str]) -> list[set[str]]:
    """The lower-case file names of each folder."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, _, name = path.replace("\\", "/").rpartition("/")
        folders[folder].add(name.lower())
    return list(folders.values())


def _contains(files: set[str], pattern: str) -> bool:
    return pattern in files or ("*" in pattern and any(fnmatchcase(file, pattern) for file in files))


def _holds_records(files: set[str]) -> bool:
    """Whether there is a RecordIO pair, x.rec with x.idx: the form in which InsightFace packages store photos."""
    return any(name.endswith(".rec") and name.removesuffix(".rec") + ".idx" in files for name in files)


def _merged(entries: Iterable[Retracted]) -> dict[str, Retracted]:
    """Entries by name, in their order; entries of the same name are merged."""
    merged: dict[str, Retracted] = {}
    for entry in entries:
        first = merged.get(entry.name)
        merged[entry.name] = entry if first is None else first.model_copy(update=_united(first, entry))
    return merged


def _united(first: Retracted, second: Retracted) -> dict[str, object]:
    return {
        "aliases": [*first.aliases, *second.aliases],
        "weak_aliases": [*first.weak_aliases, *second.weak_aliases],
        "layouts": [*first.layouts, *second.layouts],
        "markers": [*first.markers, *second.markers],
        "content_sha256": [*first.content_sha256, *second.content_sha256],
    }
