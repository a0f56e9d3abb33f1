"""Labels that the driver shares with all tasks, and sums of the vectors of groups, which tasks compute and read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from facelake.cluster.array_codec import decode, encode
from facelake.cluster.labels import add_sums, canonical
from facelake.contracts import F32, I32, I64
from facelake.distinct import distinct
from facelake.engines.exchange import Block, Exchange
from facelake.stages.clustering.messages import PartSums
from facelake.stages.clustering.stored import GroupSums, SharedLabels
from facelake.stages.clustering.work import Work

_CHUNK = 4096  # groups per object of sums
ROWS_AT_ONCE = 20_000  # vectors that a task converts to float32 at once


@dataclass(frozen=True, slots=True)
class SharedGroups:
    """Labels in the work store, and what the driver knows of the groups."""

    name: str
    row: I32
    """(groups,) row of each group among the sums, -1 if it has none"""
    size: I64
    """(groups,) number of faces"""

    @property
    def summed(self) -> I32:
        """The groups (n,) that have sums, in the order of their rows."""
        groups = np.flatnonzero(self.row >= 0).astype(np.int32)
        return groups[np.argsort(self.row[groups], kind="stable")]

    def joined(self, labels: I32, number: npt.NDArray[np.integer]) -> I32:
        """Return the labels (F,) after groups that have sums were joined.

        Args:
            labels: (F,) labels before.
            number: (n,) of the joined group that each row of sums is part of.
        """
        _, first, part = np.unique(number, return_index=True, return_inverse=True)
        group = np.arange(len(self.size), dtype=np.int32)
        group[self.summed] = self.summed[first[part]]
        return canonical(group[labels])


@dataclass(frozen=True, slots=True)
class SumTasks:
    """Adds up the vectors of groups."""

    work: Work
    labels: str

    def add(self, part: int) -> Iterator[Block]:
        """Send a part's share of the sums to the chunks of their rows."""
        faces, vectors = self.work.faces_of_part(part)
        shared = self.work.shared(SharedLabels, self.labels)
        row = shared.row[shared.labels[faces]]
        rows = distinct(row[row >= 0]).astype(np.int32)
        if not len(rows):
            return
        sums = np.zeros((len(rows), self.work.dim), np.float32)
        for start in range(0, len(faces), ROWS_AT_ONCE):
            of_batch = row[start : start + ROWS_AT_ONCE]
            place = np.where(of_batch >= 0, np.searchsorted(rows, of_batch), -1).astype(np.int32)
            add_sums(vectors[start : start + ROWS_AT_ONCE].astype(np.float32), place, sums)
        chunk = rows // _CHUNK
        starts = np.flatnonzero(np.diff(chunk, prepend=-1))
        for begin, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            yield int(chunk[begin]), encode(PartSums(part, rows[begin:end], sums[begin:end]))

    def total(self, chunk: int, blocks: list[bytes]) -> Iterator[Block]:
        """Write the sums of one chunk of groups, added in the order of the parts."""
        sums = np.zeros((_CHUNK, self.work.dim), np.float32)
        for share in sorted((decode(PartSums, block) for block in blocks), key=lambda share: share.part):
            sums[share.rows % _CHUNK] += share.sums
        self.work.write(GroupSums(sums), chunk)
        yield chunk, b""


def share_labels(work: Work, name: str, labels: I32, part: I32, summed: I32) -> SharedGroups:
    """Write labels where tasks read them.

    Args:
        work: the work store.
        name: of the labels.
        labels: (F,) group of each face.
        part: (F,) part where each face is at home.
        summed: groups that get a row among the sums; groups near each other get rows near each other.
    """
    size = np.bincount(labels).astype(np.int64)
    row = np.full(len(size), -1, np.int32)
    if len(summed):
        home = np.empty(len(size), np.int32)
        home[labels[::-1]] = part[::-1]  # of its first face
        row[summed[np.argsort(home[summed], kind="stable")]] = np.arange(len(summed))
    work.write(SharedLabels(labels, row, size.astype(np.int32)), name)
    return SharedGroups(name, row, size)


def sum_groups(work: Work, exchange: Exchange, parts: int, groups: SharedGroups) -> None:
    """Replace the sums in the work store by those of these groups."""
    for name in work.names(GroupSums):
        work.delete(GroupSums, name)
    tasks = SumTasks(work, groups.name)
    exchange.run(range(parts), tasks.add, tasks.total, keys=parts)


def all_sums(work: Work, exchange: Exchange, parts: int, groups: SharedGroups) -> F32:
    """Add up the vectors of groups and return the sums (n, dim), in the order of their rows."""
    sum_groups(work, exchange, parts, groups)
    return np.concatenate([of_chunk for _, of_chunk in sums_in_order(work, groups)])


def sums_in_order(work: Work, groups: SharedGroups) -> Iterator[tuple[I32, F32]]:
    """Yield groups (n,) in the order of their rows, and their sums (n, dim), one stored object at a time."""
    by_row = groups.summed
    for first in range(0, len(by_row), _CHUNK):
        of_chunk = by_row[first : first + _CHUNK]
        yield of_chunk, work.read(GroupSums, first // _CHUNK).sums[: len(of_chunk)]


def sums_of(work: Work, row: I32) -> F32:
    """Return the sums (n, dim) of groups by their rows (n,); zero where the row is below 0."""
    out = np.zeros((len(row), work.dim), np.float32)
    for chunk in distinct(row[row >= 0] // _CHUNK):
        places = np.flatnonzero((row >= 0) & (row // _CHUNK == chunk))
        out[places] = work.read(GroupSums, int(chunk)).sums[row[places] % _CHUNK]
    return out
