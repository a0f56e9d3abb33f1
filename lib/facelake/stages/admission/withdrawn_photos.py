"""Remembers, as keyed hashes, photos of people who have withdrawn that left the corpus: a file that was only renamed or
moved, so that it names nobody any more, is the same photo.

Table `withdrawn_photos` has no names and no digests. Its rows hold as long as the withdrawal is in force: a newer grant
drops them, and an erasure of the subject moves them to the suppression list.
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


def remember(lake: Lake, files: Iterable[DataFile], withdrawn: Collection[str], present: Collection[str]) -> int:
    """Remember the photos of people who have withdrawn that decisions name and the corpus has not any more.

    Args:
        lake: the lake.
        files: of table `admissions` that are replaced or removed.
        withdrawn: the subjects who have withdrawn.
        present: digests of their photos in the corpus.

    Returns:
        The number of photos that were not remembered before.
    """
    if not withdrawn:
        return 0
    names, there = pa.array(sorted(withdrawn), pa.string()), pa.array(sorted(present), pa.string())
    found: set[tuple[str, str]] = set()
    for file in files:
        rows = lake["admissions"].file(file, ["subject_ref", CONTENT])
        subjects = references(rows["subject_ref"])
        gone = pc.and_(
            pc.is_in(subjects, names), pc.and_(pc.is_valid(rows[CONTENT]), pc.invert(pc.is_in(rows[CONTENT], there)))
        )
        gone = pc.fill_null(gone, False)
        pairs = zip(subjects.filter(gone).to_pylist(), rows[CONTENT].filter(gone).to_pylist(), strict=True)
        found.update((_hash(lake, "subject", subject), _hash(lake, "content", digest)) for subject, digest in pairs)
    before = lake[TABLE].read()
    found -= set(zip(before["subject"].to_pylist(), before["content"].to_pylist(), strict=True))
    if found:
        lake[TABLE].append([{"subject": subject, "content": content} for subject, content in sorted(found)])
    return len(found)


def forget_lifted(lake: Lake, ledger: Ledger, purposes: Iterable[str], now: datetime) -> None:
    """Drop what is remembered of subjects whose withdrawal is in force for none of the purposes any more."""
    rows = lake[TABLE].read()
    if not rows.num_rows:
        return
    standing = {name for purpose in purposes for name in ledger.withdrawn_subjects(purpose, now)}
    _keep(lake, rows, pc.is_in(rows["subject"], _hashes(lake, standing)))


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
