"""The request of an erasure, and what the lake holds of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import SEARCHABLE, Bool, label, reference, references
from facelake.csv_columns import other_separator
from facelake.erase import Bounds, Needles
from facelake.errors import ConfigError
from facelake.lake.hash_key import erased_name

_LEAST_ID = 3  # bytes of the id of a photo that is searched for


@dataclass(frozen=True, slots=True)
class Request:
    """What to erase. An identity is erased with every photo that shows it.

    With a purpose, only what was made for it is erased; photos and ledger stay for other purposes. `copies` says what
    happens to the same photos under other ids: erase or keep them; empty: keep them if only photos or sources are
    named, and refuse the request if it is about a person.
    """

    subjects: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    purpose: str | None = None
    copies: str = ""

    @classmethod
    def of(
        cls,
        subjects: Sequence[str] = (),
        images: Sequence[str] = (),
        sources: Sequence[str] = (),
        identities: Sequence[str] = (),
        purpose: str | None = None,
        *,
        copies: str = "",
    ) -> Request:
        """Return a request with its keys in one order, so that equal requests have equal names.

        Raises:
            ConfigError: nothing is named.
        """
        named = [tuple(sorted(set(map(reference, values)))) for values in (subjects, images, sources, identities)]
        if not any(named) or not all(value for values in named for value in values):
            next_step = "give --subject, --image, --source or --identity"
            raise ConfigError("the request names nothing to erase", where="erase", next_step=next_step)
        if purpose is not None and not reference(purpose):
            raise ConfigError(
                "the purpose is empty", where="erase", next_step="name one, or leave --purpose out for all"
            )
        return cls(named[0], named[1], named[2], named[3], purpose and reference(purpose), copies)

    def in_order(self) -> Request:
        """Return the request with its keys in the spelling and order that `of` gives them."""
        return Request.of(self.subjects, self.images, self.sources, self.identities, self.purpose, copies=self.copies)

    def canonical(self) -> bytes:
        """Return what identifies the request, whatever is to be done with copies."""
        body = asdict(self)
        del body["copies"]
        return json.dumps(body).encode()

    def labels(self) -> list[str]:
        """Return labels for the suppression list; hashed, for the certificate."""
        kinds = (("subject", self.subjects), ("source", self.sources), ("image", self.images))
        named = [label(kind, value, self.purpose) for kind, values in kinds for value in values]
        return named + [label("identity", value, self.purpose) for value in self.identities]

    def hidden_sources(self, key: bytes) -> dict[str, str]:
        """Return what stands for each erased source in emptied rows; nothing when only one purpose is erased.

        Args:
            key: of the lake's hashes.
        """
        return {} if self.purpose else {name: erased_name(key, label("source", name)) for name in self.sources}


@dataclass(slots=True)
class Targets:
    """What an erasure removes, as far as the lake holds or held it.

    Attributes:
        request: the request.
        subjects: the spellings under which the lake has its subjects.
        images: ids of the photos.
        faces: ids of the faces.
        embeddings: of the faces; those that a kept copy of a photo has too are left out.
        contents: SHA-256 of the photos, as far as known; those of kept copies are left out.
        pieces: pieces of the photos' bytes, by which the scan finds copies; those of kept copies are left out.
        without_pieces: how many of the photos have none, other than those of which a copy is kept.
        copies: ids of photos that are the same under another id and are kept.
        others: ids of photos that stay although they have a face of an identity of the subjects.
        places: of photos in the operator's own store.
        looks: bands of the photos' perceptual hashes (embed/looks.py); those of kept copies are left out.
        held: whether a photo of the request was found, in the lake or in the operator's own store.
    """

    request: Request
    subjects: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    faces: set[str] = field(default_factory=set)
    embeddings: set[bytes] = field(default_factory=set)
    contents: set[str] = field(default_factory=set)
    pieces: set[bytes] = field(default_factory=set)
    copies: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    looks: set[tuple[str, ...]] = field(default_factory=set)
    without_pieces: int = 0
    held: bool = False

    def hits(self, rows: pa.Table) -> Bool:
        """Return which rows (n,) of a table with image_id, source_id, subject_ref are erased."""
        request = self.request
        hit = is_in(rows["image_id"], self.images)
        wanted = (("image_id", request.images), ("source_id", request.sources), ("subject_ref", request.subjects))
        for column, values in wanted:
            if values:
                hit |= is_in(references(rows[column]), values)
        return hit

    def needles(self) -> Needles:
        """Return what the residual scan searches for: identifiers that do not occur by chance, embeddings, and pieces
        of the photos.

        A subject reference such as "7" occurs in counts and dates everywhere; its images and faces are searched for
        instead, and the columns that held it are rewritten, as are those with the name of an erased source, which is
        often a common word. When only one purpose is erased, photo and subject stay for the others: faces and vectors
        are searched for.
        """
        if self.request.purpose:
            return Needles.of(self.faces, self.embeddings)
        named = {*self.request.subjects, *self.subjects} - self.short_references()
        images = self.images - self.short_ids()
        return Needles.of([*self.faces, *images, *named, *self.contents], self.embeddings, self.pieces)

    def biometric_needles(self) -> Needles:
        """Return those of `needles` that no other data can equal by chance: embeddings and pieces of photos."""
        return Needles.of((), self.embeddings, () if self.request.purpose else self.pieces)

    def short_references(self) -> set[str]:
        """Return the subject references that the residual scan does not search for, since they occur by chance."""
        names = {*self.request.subjects, *self.subjects} if not self.request.purpose else set()
        return {name for name in names if len(name.encode()) < SEARCHABLE}

    def short_ids(self) -> set[str]:
        """Return the ids of photos that the residual scan does not search for, since they occur by chance."""
        return (
            {image for image in self.images if len(image.encode()) < _LEAST_ID} if not self.request.purpose else set()
        )

    def text_needles(self) -> Needles:
        """Return what is taken out of free text that people wrote: `needles`, also as a part of file names, and short
        names unless they are numbers.
        """
        if self.request.purpose:
            return self.needles()
        named = {name for name in (*self.request.subjects, *self.subjects) if name not in self._short_numbers()}
        images = self.images - self.short_ids()
        return Needles.of([*self.faces, *images, *named], bounds=Bounds.WORD)

    def _short_numbers(self) -> set[str]:
        return {name for name in self.short_references() if name.isascii() and not name.isalpha()}


def is_in(column: pa.ChunkedArray, values: Collection[str]) -> Bool:
    """Return per row (n,) whether its value is one of some; false for nulls."""
    found: Bool = np.asarray(pc.fill_null(pc.is_in(column, strings(values)), False), bool)
    return found


def strings(values: Collection[str]) -> pa.Array:
    """Return values as an Arrow array, to look rows up by."""
    return pa.array(sorted(values), pa.string())


def read_keys(path: str) -> dict[str, list[str]]:
    """Read keys to erase, by kind, from a CSV file with the columns kind and key.

    Raises:
        ConfigError: the file cannot be read, or a line has an unknown kind or no key; nothing is erased then.
    """
    kinds = ("subject", "image", "source", "identity")
    keys: dict[str, list[str]] = {kind: [] for kind in kinds}
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)  # a quote that is not closed would hide the lines after it
            names = list(reader.fieldnames or ())
            if problem := other_separator(names):
                raise ConfigError(problem, where=path, next_step="save the file with commas between the columns")
            if not {"kind", "key"} <= set(names):
                what = "the file has no columns kind and key"
                next_step = f"begin it with the line kind,key; kind is one of {', '.join(kinds)}; nothing was erased"
                raise ConfigError(what, where=path, next_step=next_step)
            if len(set(names)) != len(names):
                raise ConfigError("a column occurs twice", where=path, next_step="keep one of them; nothing was erased")
            for row in reader:
                kind, key = (row.get("kind") or "").strip(), (row.get("key") or "").strip()
                if kind not in kinds or not key:
                    what = f"line {reader.line_num} names no {', '.join(kinds)} with a key"
                    raise ConfigError(what, where=path, next_step="correct it; nothing was erased")
                if None in row:  # a second key, or a comma in a name that is not in quotes
                    what = f"line {reader.line_num} has more fields than the header"
                    raise ConfigError(what, where=path, next_step="one key per line, in quotes if it has a comma")
                keys[kind].append(key)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(f"cannot be read: {err}", where=path, next_step="give a CSV file in UTF-8") from err
    return keys
