"""Photos with the same bytes as a photo of a person who has withdrawn.

A photo that is delivered twice, once with the reference of that person and once without it or with another one, shows
the person both times.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Ledger
from facelake.contracts import references

CONTENT = "content_sha256"


def withdrawn_contents(parts: Iterable[pa.Table], ledger: Ledger, purpose: str, now: datetime) -> pa.Array:
    """Return the digests of the photos of people who have withdrawn, each once.

    Args:
        parts: subject_ref and content_sha256 of photos; not read if nobody has withdrawn.
        ledger: with the withdrawals.
        purpose: for which they count.
        now: at which they are in force.
    """
    names = pa.array(sorted(ledger.withdrawn_subjects(purpose, now)), pa.string())
    found = [contents_of(rows, names) for rows in parts] if len(names) else []
    return pc.unique(pa.concat_arrays([pa.array([], pa.string()), *found]))


def contents_of(rows: pa.Table, subjects: pa.Array) -> pa.Array:
    """Return the digests of the photos of some subjects."""
    theirs = pc.fill_null(pc.is_in(references(rows["subject_ref"]), subjects), False)
    return rows[CONTENT].filter(theirs).combine_chunks().cast(pa.string()).drop_null()
