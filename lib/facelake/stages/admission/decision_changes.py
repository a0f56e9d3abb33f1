"""How many photos are new, gone, erased, newly refused or newly allowed since the decisions before."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import DataFileName, Refusal
from facelake.distinct import among, distinct
from facelake.lake.data_files import read_file
from facelake.lake.lake import Lake
from facelake.stages.admission.withdrawals import was_erased
from facelake.stages.core.known_ids import U64, hashed

ADDED, VANISHED = "added", "vanished"
NEWLY_WITHDRAWN, NEWLY_REFUSED, NEWLY_ADMITTED = "newly_withdrawn", "newly_refused", "newly_admitted"
NEWLY_ERASED = "newly_erased"
DECISION_CHANGES = (ADDED, VANISHED, NEWLY_ERASED, NEWLY_WITHDRAWN, NEWLY_REFUSED, NEWLY_ADMITTED)
_REFUSED, _WITHDRAWN, _ADMITTED = range(3)
_COLUMNS = ["image_id", "reason"]
_NAMES = {"image": "image_id", "source": "source_id", "subject": "subject_ref"}


@dataclass(frozen=True, slots=True)
class _Photos:
    """Hashes (n,) of the ids of photos, ascending and each once, with the decision on each."""

    ids: U64
    decisions: npt.NDArray[np.int8]

    @classmethod
    def of(cls, tables: Iterable[pa.Table]) -> _Photos:
        """Read rows with the columns _COLUMNS; of a repeated id the admitted photo counts."""
        ids, decisions = [np.zeros(0, np.uint64)], [np.zeros(0, np.int8)]
        for rows in tables:
            named = rows.filter(pc.is_valid(rows["image_id"]))
            ids.append(hashed(named["image_id"]))
            withdrawn = pc.fill_null(pc.equal(named["reason"], Refusal.WITHDRAWN), False).to_numpy()
            refused = np.where(withdrawn, _WITHDRAWN, _REFUSED)
            decisions.append(np.where(pc.is_null(named["reason"]).to_numpy(), _ADMITTED, refused).astype(np.int8))
        return cls._in_order(np.concatenate(ids), np.concatenate(decisions))

    @classmethod
    def joined(cls, parts: Sequence[_Photos]) -> _Photos:
        """Return the photos of all parts."""
        ids = np.concatenate([np.zeros(0, np.uint64), *(part.ids for part in parts)])
        return cls._in_order(ids, np.concatenate([np.zeros(0, np.int8), *(part.decisions for part in parts)]))

    @classmethod
    def _in_order(cls, ids: U64, decisions: npt.NDArray[np.int8]) -> _Photos:
        order = np.lexsort((-decisions, ids))
        ids, decisions = ids[order], decisions[order]
        first = np.append(True, ids[1:] != ids[:-1]) if len(ids) else np.zeros(0, bool)
        return cls(ids[first], decisions[first])

    def split(self, others: _Photos) -> tuple[_Photos, _Photos]:
        """Return the photos that `others` has too, and those that it has not."""
        shared = among(self.ids, others.ids)
        return _Photos(self.ids[shared], self.decisions[shared]), _Photos(self.ids[~shared], self.decisions[~shared])


def decision_changes(lake: Lake, before: Sequence[str], after: Sequence[str], purpose: str) -> Counter[str]:
    """Compare the decisions of an admission with those that they replace; counts photos by DECISION_CHANGES.

    Photos are compared by id, file by file, so that only those that are in another corpus file than before are in
    memory together.

    Args:
        lake: whose store has the files.
        before: paths of the data files of table `admissions` that are replaced.
        after: paths of those that replace them; kept files are in neither.
        purpose: of the decisions.
    """
    counts: Counter[str] = Counter()
    paths: dict[str, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, files in enumerate((before, after)):
        for path in files:
            paths[DataFileName.parse(path).corpus][side].append(path)
    left: tuple[list[_Photos], list[_Photos]] = ([], [])
    for pair in paths.values():
        was, now = (_Photos.of(read_file(lake.store, "admissions", path, _COLUMNS) for path in own) for own in pair)
        for side, rest in enumerate(_compared(was, now, counts)):
            left[side].append(rest)
    gone, new = _compared(_Photos.joined(left[0]), _Photos.joined(left[1]), counts)
    erased = _erased(lake, before, gone.ids, purpose)
    return +(counts + Counter({VANISHED: len(gone.ids) - erased, NEWLY_ERASED: erased, ADDED: len(new.ids)}))


def _erased(lake: Lake, paths: Sequence[str], ids: U64, purpose: str) -> int:
    """Return how many photos of some decisions are on the suppression list; the decisions after no longer name them."""
    suppressed = lake.suppressed() if len(ids) else frozenset[str]()
    found = [np.zeros(0, np.uint64)]
    for path in paths if suppressed else ():
        rows = read_file(lake.store, "admissions", path, list(_NAMES.values()))
        hashes = hashed(rows["image_id"])
        own = np.flatnonzero(among(hashes, ids))
        names = ([(kind, row[column]) for kind, column in _NAMES.items()] for row in rows.take(own).to_pylist())
        found.append(hashes[own][[was_erased(lake, suppressed, each, purpose) for each in names]])
    return len(distinct(np.concatenate(found)))


def _compared(was: _Photos, now: _Photos, counts: Counter[str]) -> tuple[_Photos, _Photos]:
    """Count the turned decisions on photos of both sides; returns the photos of only the first, and of the second."""
    (both, gone), (again, new) = was.split(now), now.split(was)
    lost = both.decisions == _ADMITTED
    counts[NEWLY_WITHDRAWN] += int((lost & (again.decisions == _WITHDRAWN)).sum())
    counts[NEWLY_REFUSED] += int((lost & (again.decisions == _REFUSED)).sum())
    counts[NEWLY_ADMITTED] += int((~lost & (again.decisions == _ADMITTED)).sum())
    return gone, new
