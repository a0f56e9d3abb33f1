"""Lineages: is this a withdrawn data set, whatever it is called? Pure: names, paths, ids, digests in; an answer out.

A renamed folder keeps the names of its files, a repackaged one keeps its sidecar files, a single file its content. So a
set is known by any of: its name as whole words, the layout of its files, files that lie together, a digest.
Fails closed: an InsightFace package whose identity count is unknown is refused, because withdrawn sets travel in such.

Every answer is the name of an entry, with its parent where it was made from another ("MS1MV2 (of MS-Celeb-1M)"), or
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

UNTOLD = "an InsightFace package whose lineage cannot be told"

_WORD = re.compile(r"[^\W_]+")
_BETWEEN = r"[\x00-/:-@\[-`{-\x7f]*"  # what is neither letter nor digit in ASCII
_NOTHING = r"[^\s\S]"  # a regex that matches no text
_PROPERTY = re.compile(r"\s*(\d{1,9})\s*,\s*\d+\s*,\s*\d+\s*", re.ASCII)
# a shorter alias would be found in too many ordinary names
_SHORTEST_ALIAS, _SHORTEST_WEAK_ALIAS = 4, 3


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Layout(_Part):
    """How a set names its files: a regex that gives it away once `least` different paths match.

    RE2 syntax, because it takes linear time whatever the path: a list from outside cannot stall a night.
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
    """Files that lie together in one folder (base names, `*` allowed).

    With `identities`, one of them must be the first number of the folder's InsightFace `property` file.
    """

    files: list[str] = Field(min_length=1)
    identities: list[int] = []


class Retracted(_Part):
    """One withdrawn set, or one that was made from a withdrawn set. The fields: conf/retracted.yaml."""

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
            raise ValueError(f"{self.name}: its own name must stand in aliases or weak_aliases")
        if self.by is None and self.derived_from is None:
            raise ValueError(f"{self.name}: say who withdrew it, or from which withdrawn set it was made")
        return self


class RetractedList(_Part):
    """conf/retracted.yaml, or an operator's own list."""

    sets: list[Retracted]

    @field_validator("sets")
    @classmethod
    def _unique(cls, value: list[Retracted]) -> list[Retracted]:
        names = [_joined(entry.name) for entry in value]
        twice = [entry.name for entry in value if names.count(_joined(entry.name)) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} stands twice")
        return value


@dataclass(frozen=True, slots=True)
class _Names:
    """Aliases without their separators; their beginnings, outside which reading on can stop; a regex of them all.

    The regex is for ASCII text, and pays no heed to where words end: what it does not find, `found` does not either.
    """

    entry_of: Mapping[str, str]
    beginnings: frozenset[str]
    anywhere: str

    @classmethod
    def build(cls, entries: Iterable[Retracted], *, weak: bool) -> _Names:
        entry_of: dict[str, str] = {}
        for entry in entries:
            for alias in (*entry.aliases, *(entry.weak_aliases if weak else ())):
                other = entry_of.setdefault(_joined(alias), entry.name)
                if other != entry.name:
                    what = f"alias {alias!r} stands for {other!r} and for {entry.name!r}"
                    raise ConfigError(what, where="retracted sets", next_step="leave it to one of them")
        beginnings = frozenset(alias[:end] for alias in entry_of for end in range(1, len(alias) + 1))
        anywhere = "|".join(_BETWEEN.join(map(re.escape, alias)) for alias in entry_of)
        return cls(entry_of, beginnings, anywhere or _NOTHING)

    def found(self, text: str) -> Iterator[str]:
        """Entries whose alias is made of whole consecutive words; from one word on, the longest alias."""
        words = _words(text)
        for start, first in enumerate(words):
            if first not in self.beginnings:
                continue
            joined, entry = "", None
            for word in words[start:]:
                joined += word
                if joined not in self.beginnings:
                    break
                entry = self.entry_of.get(joined, entry)
            if entry is not None:
                yield entry


class Lineages:
    """The withdrawn sets, ready to be looked for.

    Args:
        entries: of one or several lists; of the same name, aliases, layouts, markers and digests are united and the
            first one's facts stand.

    Raises:
        ConfigError: a parent that is no entry, sets made from one another in a circle, an alias of two entries.
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
        """The first set whose strong alias stands in `text` as whole words, whatever case and separators."""
        return self._labelled(next(self._strong.found(text), None))

    def declared(self, text: str) -> str | None:
        """As `in_name`, with the weak aliases: only for text that declares a data set."""
        return self._labelled(next(self._any.found(text), None))

    def in_path(self, path: str) -> str | None:
        """The set that one path or image_id gives away, by a name in it or by a layout that needs no second match."""
        return self.in_ids([path])[0]

    def in_ids(self, ids: Sequence[str | None]) -> list[str | None]:
        """Per image_id (or relative path) the set that it gives away.

        Args:
            ids: in any order, null where there is none. The batch over which a layout's `least` different ids are
                counted: give a whole source, not its rows one by one.

        Returns:
            As many answers as ids, in their order.
        """
        column = _column(ids)
        found: list[str | None] = [None] * len(ids)
        for row, entry in itertools.chain(self._by_layout(column), self._by_name(column)):
            found[row] = self._labels[entry]  # a name says more than a layout that derivatives share
        return found

    def in_folder(self, relative_paths: Iterable[str], property_text: str | None) -> str | None:
        """The set that a folder to be imported gives away.

        Args:
            relative_paths: of every file in it, photo or not, with `/`.
            property_text: what a file named `property` says, null when there is none.
        """
        paths = list(relative_paths)
        folders = _folders(paths)
        count = _PROPERTY.fullmatch(property_text or "")
        identities = int(count.group(1)) if count else None
        known = self._by_marker(folders, identities) or next(filter(None, self.in_ids(paths)), None)
        if known is None and (count or any(map(_holds_records, folders))):
            return UNTOLD
        return known

    def by_content(self, sha256: str) -> str | None:
        """The set to which a file of this digest (hex) is known to belong."""
        return self._labelled(self._contents.get(sha256.lower()))

    def of_card(self, withdrawn_lineage: Sequence[str], training_data: str) -> tuple[str, ...]:
        """Canonical names of the sets that a model card declares or names in its training data, each once.

        A declared name that is no entry is kept as it is. A text that denies a set names it too: it is for a person to
        read.
        """
        declared = [entry for text in withdrawn_lineage for entry in list(self._any.found(text)) or [text]]
        return tuple(dict.fromkeys((*declared, *self._any.found(training_data))))

    def why(self, name: str) -> str:
        """One line for an error message: who withdrew the set, when, why, and the source.

        Args:
            name: an answer of this class, or a canonical name.
        """
        entry = self._entries.get(self._names.get(name, name))
        if entry is None:
            return _WHY_UNTOLD if name == UNTOLD else f"{name} is said to be withdrawn, but is in no list"
        withdrawn, made = entry, ""
        while withdrawn.by is None:
            withdrawn = self._entries[str(withdrawn.derived_from)]
            made = f" is made from {withdrawn.name}: {entry.why}. {withdrawn.name}"
        when = withdrawn.withdrawn or "date unclear"
        source = entry.source if entry is withdrawn else f"{entry.source}; {withdrawn.source}"
        return f"{entry.name}{made} was withdrawn by {withdrawn.by} ({when}): {withdrawn.why}. Source: {source}"

    def _by_name(self, column: pa.Array) -> Iterator[tuple[int, str]]:
        """Rows with a strong alias and its set. A regex finds the few that are worth being read word by word."""
        # whether a letter outside ASCII ends a word or folds into another is not for that regex to know
        worth = pc.or_(_matches(column, self._strong.anywhere), pc.invert(pc.string_is_ascii(column)))
        rows = _rows(worth)
        for row, text in zip(rows.tolist(), column.take(rows).to_pylist(), strict=True):
            entry = next(self._strong.found(text), None)
            if entry is not None:
                yield row, entry

    def _by_layout(self, column: pa.Array) -> Iterator[tuple[int, str]]:
        """Rows and their sets, of layouts that matched often enough; the clearest, then the first, decides."""
        rows = _rows(_matches(column, self._any_layout))
        suspects, free = column.take(rows), np.ones(len(rows), bool)
        for layout, entry in self._layouts:
            if not free.any():
                return
            hits = _matches(suspects, layout.regex)
            if layout.least > 1 and pc.count_distinct(suspects.filter(hits)).as_py() < layout.least:
                continue
            given = free & hits.to_numpy(zero_copy_only=False)
            free &= ~given
            yield from ((row, entry) for row in rows[given].tolist())

    def _by_marker(self, folders: Iterable[set[str]], identities: int | None) -> str | None:
        for files in folders:
            for entry in self._entries.values():
                for marker in entry.markers:
                    together = all(_among(files, name.lower()) for name in marker.files)
                    if together and (not marker.identities or identities in marker.identities):
                        return self._labels[entry.name]
        return None

    def _labelled(self, entry: str | None) -> str | None:
        return None if entry is None else self._labels[entry]

    def _label(self, entry: Retracted) -> str:
        """Name and parent, after a walk up to the root that finds missing parents and circles."""
        seen, above = [entry.name], entry
        while above.derived_from is not None:
            parent = self._entries.get(above.derived_from)
            if parent is None or parent.name in seen:
                what = f"{above.name!r} is derived from {above.derived_from!r}, which is " + (
                    "no entry" if parent is None else "derived from it"
                )
                raise ConfigError(what, where="retracted sets", next_step="correct derived_from")
            seen.append(parent.name)
            above = parent
        return entry.name if entry.derived_from is None else f"{entry.name} (of {entry.derived_from})"


_WHY_UNTOLD = (
    "an InsightFace package (.rec, .idx, property) does not say of whom its photos are, and MS-Celeb-1M, VGGFace2 and "
    "MegaFace are passed on as such since they were withdrawn. Source: conf/retracted.yaml"
)


def _words(text: str) -> list[str]:
    """Runs of letters and digits, folded: full-width letters, ligatures and case make no other word."""
    return _WORD.findall(text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold())


def _joined(text: str) -> str:
    return "".join(_words(text))


def _matches(column: pa.Array, regex: str) -> pa.Array:
    """True per text in which the regex is found; null is no text."""
    return pc.fill_null(pc.match_substring_regex(column, regex, ignore_case=True), False)


def _rows(mask: pa.Array) -> np.ndarray:
    """Numbers of the rows that are true."""
    return np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))


def _column(ids: Sequence[str | None]) -> pa.Array:
    """The ids as an Arrow column, with `/` between folders."""
    try:
        column = pa.array(ids, pa.large_string())
    except UnicodeEncodeError:  # a file name that is not UTF-8
        clean = [text and text.encode("utf-8", "replace").decode() for text in ids]
        column = pa.array(clean, pa.large_string())
    return pc.replace_substring(column, "\\", "/")


def _folders(paths: Iterable[str]) -> list[set[str]]:
    """Per folder the lower-case names of its files."""
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, _, name = path.replace("\\", "/").rpartition("/")
        folders[folder].add(name.lower())
    return list(folders.values())


def _among(files: set[str], pattern: str) -> bool:
    return pattern in files or ("*" in pattern and any(fnmatchcase(file, pattern) for file in files))


def _holds_records(files: set[str]) -> bool:
    """A RecordIO pair, x.rec with x.idx: how InsightFace packages hold their photos."""
    return any(name.endswith(".rec") and name.removesuffix(".rec") + ".idx" in files for name in files)


def _merged(entries: Iterable[Retracted]) -> dict[str, Retracted]:
    """Entries by name, in their order; those of the same name as one."""
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
