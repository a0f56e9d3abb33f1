"""Writes the index of an export, and for many identities the files that a matcher maps."""

from __future__ import annotations

from pathlib import Path

import faiss
import pyarrow as pa

from facelake.publish.template_files import VectorFiles, Vectors
from facelake.publish.template_index import FLAT_UP_TO, IndexFacts, build_codes, flat_index

INDEX = "index.faiss"


class IndexWriter:
    """Takes the rows of an export part by part, in the order of their ids."""

    def __init__(self, folder: Path, identities: int, flat_up_to: int = FLAT_UP_TO) -> None:
        """`folder`: where the files are written; `identities`: how many come; `flat_up_to`: up to how many are in one
        exact index.
        """
        self._folder = folder
        self._files = VectorFiles(folder) if identities > flat_up_to else None
        self._index: faiss.Index | None = None
        self._ids: list[str] = []
        self._dim = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows with identity_id, prototype and exemplars."""
        self.add_vectors(Vectors.of_rows(rows if self._files else rows.set_column(*_no_exemplars(rows))))

    def add_vectors(self, part: Vectors) -> None:
        """Take identities."""
        self._dim = part.templates.shape[1]
        if self._files:
            self._files.add(part)
            self._ids += part.ids
        elif self._index is None:
            self._index = flat_index(part.templates)
        else:
            self._index.add(part.templates)

    def finish(self) -> tuple[IndexFacts, list[str]]:
        """Write the index; returns what the manifest says of it, and the names of the files."""
        names, facts, index = [INDEX], IndexFacts("flat"), self._index
        if self._files:
            names += self._files.close()
            index, facts = build_codes(Vectors.mapped(self._folder, self._ids, self._dim))
        assert index is not None  # an export has at least one row
        _write(index, self._folder / INDEX)
        return facts, names


def _write(index: faiss.Index, path: Path) -> None:
    """Write an index; FAISS's own files only print what fails when they are closed, such as on a full disk."""
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]


def _no_exemplars(rows: pa.Table) -> tuple[int, str, pa.Array]:
    """Return the column exemplars without values: a flat index does not need them decoded."""
    kind = pa.list_(pa.binary())
    return rows.column_names.index("exemplars"), "exemplars", pa.nulls(rows.num_rows, kind)
