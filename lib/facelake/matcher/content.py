"""Reads and checks what the files of an export hold: a signature says who wrote them, not that they fit together."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from facelake.errors import Corrupt
from facelake.matcher.copy_files import CheckedFiles
from facelake.matcher.identities import Identities, identities_of
from facelake.matcher.manifests import INDEX
from facelake.publish.template_files import Vectors
from facelake.publish.template_index import IndexFacts, facts_of, read_index

DAMAGED = (ValueError, OSError, RuntimeError, LookupError, TypeError, AttributeError, AssertionError)
"""what the readers of Parquet, FAISS and mapped files raise for content that is none of theirs"""
_KINDS: dict[str, type[faiss.Index]] = {"flat": faiss.IndexFlatIP, "codes": faiss.IndexLSH}
_SHOWN = 200  # characters of a library's message


def damaged(err: Exception, where: str, next_step: str) -> Corrupt:
    """Return the error for files that cannot be used, with the first line of what was raised."""
    line = (str(err).strip().splitlines() or [type(err).__name__])[0][:_SHOWN]
    return Corrupt(f"the files cannot be used: {line}", where=where, next_step=next_step)


def read_identities(files: CheckedFiles, manifest: dict[str, Any], uri: str) -> Identities:
    """Read or map the identities of an export.

    Raises:
        Corrupt: the files do not hold the same identities, or none.
    """
    try:
        facts = facts_of(manifest)
        index = read_index(files.folder / INDEX)
        if facts.kind == "flat":
            parts = [Vectors.of_rows(rows) for rows in files.parts("identities")]
            vectors = Vectors.concat(parts, index.d)
        else:
            names = [rows["identity_id"].to_pylist() for rows in files.parts("identities", ["identity_id"])]
            vectors = Vectors.mapped(files.folder, [name for part in names for name in part], index.d)
        _check(vectors, index, facts)
    except DAMAGED as err:
        raise damaged(err, uri, "export again") from err
    return identities_of(vectors, index, facts)


def _check(vectors: Vectors, index: faiss.Index, facts: IndexFacts) -> None:
    """Check that an index is of its kind and of these vectors, and that these are what they should be.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(index, _KINDS[facts.kind]):
        raise ValueError(f"the index is not one of kind {facts.kind}")
    if index.ntotal != len(vectors.ids):
        raise ValueError(f"the index has {index.ntotal} identities, the table {len(vectors.ids)}")
    if vectors.templates.shape[1] != index.d:
        raise ValueError(f"the index has {index.d} dimensions, the table {vectors.templates.shape[1]}")
    if not all(isinstance(name, str) for name in vectors.ids) or len(set(vectors.ids)) != len(vectors.ids):
        raise ValueError("identity ids are missing or repeated")
    if vectors.starts[0] != 0 or (np.diff(vectors.starts) < 0).any():
        raise ValueError("the lists of exemplars do not follow one another")
    if facts.kind == "codes" and facts.candidates < 1:
        raise ValueError("the manifest gives no number of candidates")
    if facts.kind == "flat" and not np.isfinite(vectors.templates).all():  # others are mapped, and not read here
        raise ValueError("templates are not finite")
