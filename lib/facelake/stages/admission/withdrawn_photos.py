"""Remembers, as keyed hashes, photos of people who have withdrawn that left the corpus: a file that was only renamed or
moved, so that it names nobody any more, is the same photo.

Table `withdrawn_photos` has no names and no digests. Its rows are written for withdrawals of every purpose, also those
that begin later: the run that sees the new name may be for another purpose, or before the date. They hold for the
purposes for which the withdrawal is in force. A newer grant drops them, and an erasure of the subject moves them to the
suppression list.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from facelake.admit import Ledger
from facelake.contracts import WITHDRAWN_PHOTOS, label, references
from facelake.lake.corpora.opening import INDEX
from facelake.lake.data_files import DataFile, plain
from facelake.lake.lake import Lake
from facelake.stages.admission.same_photos import CONTENT

TABLE = "withdrawn_photos"
_NAMED = ["subject_ref", CONTENT]


def remembered(lake: Lake, ledger: Ledger, purpose: str, now: datetime) -> frozenset[str]:
    """Return the keyed hashes of the contents of remembered photos whose subjects have withdrawn.

    Args:
        lake: the lake.
        ledger: with the withdrawals.
        purpose: for which they count.
        now: at which they are in force.
    """
    rows = lake[TABLE].read()
    if not rows.num_rows:
        return frozenset()
    names = _hashes(lake, ledger.withdrawn_subjects(purpose, now))
    return frozenset(rows["content"].filter(pc.is_in(rows["subject"], names)).to_pylist())


def remember(lake: Lake, files: Iterable[DataFile], withdrawn: Collection[str]) -> bool:
    """Remember the photos of people who have withdrawn that decisions name and the corpus has not any more.

    Args:
        lake: the lake; its index has the photos of the corpus.
        files: of table `admissions` that are replaced or removed.
        withdrawn: the subjects who have withdrawn, for whatever purpose and date.

    Returns:
        Whether there were any that were not remembered before.
    """
    names = pa.array(sorted(withdrawn), pa.string())
    parts = (lake["admissions"].file(file, _NAMED) for file in files) if withdrawn else ()
    named = {pair for rows in parts for pair in _named(rows, names)}
    before = lake[TABLE].read()
    known = set(zip(before["subject"].to_pylist(), before["content"].to_pylist(), strict=True))
    named = {pair for pair in named if not known or _hashed(lake, pair) not in known}
    if not named:
        return False
    for _, rows in lake[INDEX].parts(_NAMED):
        named.difference_update(_named(rows, names))
    if found := sorted(_hashed(lake, pair) for pair in named):
        lake[TABLE].append([{"subject": subject, "content": content} for subject, content in found])
    return bool(found)


def _named(rows: pa.Table, names: pa.Array) -> Iterable[tuple[str, str]]:
    """Return (subject, digest) of the photos that name somebody."""
    subjects = references(rows["subject_ref"])
    own = pc.fill_null(pc.and_(pc.is_in(subjects, names), pc.is_valid(rows[CONTENT])), False)
    return zip(subjects.filter(own).to_pylist(), rows[CONTENT].filter(own).to_pylist(), strict=True)


def _hashed(lake: Lake, pair: tuple[str, str]) -> tuple[str, str]:
    return _hash(lake, "subject", pair[0]), _hash(lake, "content", pair[1])


def forget_lifted(lake: Lake, ledger: Ledger, purposes: Iterable[str], now: datetime) -> None:
    """Drop what is remembered of subjects who have withdrawn for no purpose any more, neither now nor later."""
    rows = lake[TABLE].read()
    if rows.num_rows:
        _keep(lake, rows, pc.is_in(rows["subject"], _hashes(lake, ledger.withdrawing_subjects(purposes, now))))


def contents_of_subjects(lake: Lake, subjects: Collection[str]) -> set[str]:
    """Return the keyed hashes of the contents of the remembered photos of some subjects."""
    rows = lake[TABLE].read() if subjects else None
    if rows is None or not rows.num_rows:
        return set()
    return set(rows["content"].filter(pc.is_in(rows["subject"], _hashes(lake, subjects))).to_pylist())


def digests_here(lake: Lake, hashes: Collection[str]) -> set[str]:
    """Return the digests of photos of the corpus whose keyed hashes are among some."""
    found: set[str] = set()
    for _, rows in lake[INDEX].parts([CONTENT]) if hashes else ():
        digests = filter(None, pc.unique(rows[CONTENT]).to_pylist())
        found.update(digest for digest in digests if content_hash(lake, digest) in hashes)
    return found


def forget_subjects(lake: Lake, subjects: Collection[str]) -> int:
    """Drop what is remembered of some subjects; returns the number of photos."""
    rows = lake[TABLE].read() if subjects else None
    if rows is None or not rows.num_rows:
        return 0
    return _keep(lake, rows, pc.invert(pc.is_in(rows["subject"], _hashes(lake, subjects))))


def content_hash(lake: Lake, digest: str) -> str:
    """Return the keyed hash of a photo's digest, as in the table and on the suppression list."""
    return _hash(lake, "content", digest)


def _keep(lake: Lake, rows: pa.Table, kept: pa.ChunkedArray) -> int:
    left = rows.filter(kept)
    if left.num_rows < rows.num_rows:
        lake[TABLE].replace_all(left.cast(plain(WITHDRAWN_PHOTOS)))
    return int(rows.num_rows - left.num_rows)


def _hashes(lake: Lake, subjects: Collection[str]) -> pa.Array:
    return pa.array(sorted(_hash(lake, "subject", name) for name in subjects), pa.string())


def _hash(lake: Lake, kind: str, text: str) -> str:
    return lake.keyed_hash(label(kind, text))
