"""Lists photos by what became of them: refused by admission, rejected by embed, without an outcome yet, or vanished."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Refusal, Reject
from facelake.distinct import among, distinct
from facelake.errors import ConfigError, Corrupt
from facelake.lake.lake import Lake
from facelake.lake.tables import Snapshot
from facelake.plural import counted
from facelake.stages.admission.decision_changes import DECISION_CHANGES, VANISHED
from facelake.stages.core.known_ids import hashed

_KEYS = ("corpus_file", "corpus_row")
_WAITING, _GONE = "not_embedded", "not_in_corpus"
REASONS = tuple(sorted({*map(str, Refusal), *map(str, Reject), _WAITING, _GONE} - {str(Refusal.EMPTIED)}))


class Fate(StrEnum):
    """What became of a photo."""

    REFUSED = "refused"
    REJECTED = "rejected"
    MISSING = "missing"
    VANISHED = "vanished"
    """of which the newest decisions know nothing any more: its file is no longer in the corpus"""


WITHOUT_FACES = (Fate.REFUSED, Fate.REJECTED, Fate.MISSING)
"""fates of photos of the corpus that have no faces in the lake"""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """One photo.

    Attributes:
        image_id: its id; empty if it has none or was erased.
        fate: what became of it.
        reason: why, as in the report's counts.
        detail: one line for the operator; may be empty.
        source_id: its source; empty if it is not known any more.
        corpus_file: the file of the corpus that holds it.
        corpus_row: the row in that file, from 0.
    """

    image_id: str
    fate: Fate
    reason: str
    detail: str
    source_id: str
    corpus_file: str
    corpus_row: int


def list_images(lake: Lake, fates: set[Fate], reason: str | None = None) -> Iterator[ListedImage]:
    """Yield photos of some fates, in the order of the corpus files.

    Rows of the lake's own corpus that an erasure or a replacement emptied are no photos and are left out.

    Args:
        lake: the lake.
        fates: the fates.
        reason: only those with this reason; None: all.

    Raises:
        ConfigError: there is no such reason; or the data files that name vanished photos were deleted.
    """
    if reason is not None and reason not in REASONS:
        near = difflib.get_close_matches(reason, REASONS, n=1)
        hint = f"did you mean {near[0]!r}" if near else f"give one of {', '.join(REASONS)}"
        raise ConfigError(f"there is no reason {reason!r}", where="--reason", next_step=hint)
    return _of_fates(lake, fates, reason)


def _of_fates(lake: Lake, fates: set[Fate], reason: str | None) -> Iterator[ListedImage]:
    every = _refused(lake) if Fate.REFUSED in fates else iter(())
    for image in every:
        if reason in (None, image.reason):
            yield image
    if Fate.REJECTED in fates:
        columns = ["image_id", "reason", "detail", *_KEYS]
        sources = _sources(lake)
        for _, rows in lake["rejects"].parts(columns):
            for row in rows.to_pylist():
                if reason in (None, row["reason"]):
                    row["source_id"] = sources.get((row["corpus_file"], row["corpus_row"]))
                    yield _listed(row, Fate.REJECTED, row["reason"], row["detail"])
    if Fate.MISSING in fates and reason in (None, _WAITING):
        yield from _missing(lake)
    if Fate.VANISHED in fates and reason in (None, _GONE):
        yield from _vanished(lake)


def _sources(lake: Lake) -> dict[tuple[str, int], str]:
    """Return the sources of the rejected photos by their place in the corpus."""
    places: dict[str, list[int]] = {}
    for _, rows in lake["rejects"].parts(list(_KEYS)):
        for row in rows.to_pylist():
            places.setdefault(row["corpus_file"], []).append(row["corpus_row"])
    sources: dict[tuple[str, int], str] = {}
    for _, rows in lake["admissions"].parts(["source_id", *_KEYS]):
        wanted = places.get(rows["corpus_file"][0].as_py(), []) if rows.num_rows else []
        rejected = rows.filter(pc.is_in(rows["corpus_row"], pa.array(wanted, pa.int64())))
        sources |= {(row["corpus_file"], row["corpus_row"]): row["source_id"] for row in rejected.to_pylist()}
    return sources


def _refused(lake: Lake) -> Iterator[ListedImage]:
    for _, rows in lake["admissions"].parts(["image_id", "source_id", "reason", *_KEYS]):
        photos = pc.and_(pc.is_valid(rows["reason"]), pc.not_equal(rows["reason"], str(Refusal.EMPTIED)))
        for row in rows.filter(photos).to_pylist():
            yield _listed(row, Fate.REFUSED, row["reason"], "")


def _missing(lake: Lake) -> Iterator[ListedImage]:
    """Yield admitted photos without faces or reject: the next run embeds them."""
    done: dict[str, list[np.ndarray]] = {}
    for table in ("faces", "rejects"):
        for _, rows in lake[table].parts(list(_KEYS)):
            for name in pc.unique(rows["corpus_file"]).to_pylist():
                own = rows.filter(pc.equal(rows["corpus_file"], name))
                done.setdefault(name, []).append(own["corpus_row"].to_numpy())
    for _, rows in lake["admissions"].parts(["image_id", "source_id", "admitted", *_KEYS]):
        admitted = rows.filter(rows["admitted"])
        if not admitted.num_rows:
            continue
        seen = np.concatenate([np.zeros(0, np.int64), *done.get(admitted["corpus_file"][0].as_py(), [])])
        waiting = pa.array(~np.isin(admitted["corpus_row"].to_numpy(), seen))
        for row in admitted.filter(waiting).to_pylist():
            yield _listed(row, Fate.MISSING, _WAITING, "the next run embeds it")


def _vanished(lake: Lake) -> Iterator[ListedImage]:
    """Yield the photos on which there was a decision before the decisions last changed, and is none now."""
    table = lake["admissions"]
    now = table.snapshot()
    if now.version < 1:
        return
    try:
        before = table.snapshot(now.version - 1)
        kept = {file.path for file in before.files} & {file.path for file in now.files}
        here = [np.zeros(0, np.uint64)]
        for _, rows in table.parts(["image_id"], _without(now, kept)):
            here.append(hashed(rows["image_id"]))
        present = distinct(np.concatenate(here))
        for _, rows in table.parts(["image_id", "source_id", *_KEYS], _without(before, kept)):
            named = rows.filter(pc.is_valid(rows["image_id"]))
            gone = named.filter(pa.array(~among(hashed(named["image_id"]), present)))
            for row in gone.to_pylist():
                yield _listed(row, Fate.VANISHED, _GONE, "the newest decisions know nothing of it")
    except Corrupt as err:
        if not (gone_then := _vanished_last(lake)):
            return
        what = f"the decisions that named the {counted(gone_then, 'photo')} that vanished were deleted, by"
        what += " `facelake vacuum`, an erasure, or a run that removed faces, of these very photos too"
        next_step = "another time give `facelake admit` and this command before `facelake nightly`"
        raise ConfigError(what, where=f"{lake.uri}/admissions", next_step=next_step) from err


def _vanished_last(lake: Lake) -> int:
    """Return how many photos vanished when admissions last counted a change, by the records of runs."""
    runs = lake["runs"].read(["stage", "started_at", "counts"]).sort_by([("started_at", "descending")]).to_pylist()
    for counts in (json.loads(run["counts"]) for run in runs if run["stage"] == "admit"):
        if any(counts.get(name) for name in DECISION_CHANGES):
            return int(counts.get(VANISHED, 0))
    return 0


def _without(snapshot: Snapshot, paths: set[str]) -> Snapshot:
    return Snapshot(snapshot.version, tuple(file for file in snapshot.files if file.path not in paths))


def _listed(row: dict[str, object], fate: Fate, reason: str, detail: str | None) -> ListedImage:
    place = str(row["corpus_file"] or ""), int(str(row["corpus_row"]))
    return ListedImage(
        str(row["image_id"] or ""), fate, reason, detail or "", str(row.get("source_id") or ""), place[0], place[1]
    )
