"""Lists photos by what became of them: refused by admission, rejected by embed, or without an outcome yet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.lake.lake import Lake

_KEYS = ("corpus_file", "corpus_row")


class Fate(StrEnum):
    """What became of a photo."""

    REFUSED = "refused"
    REJECTED = "rejected"
    MISSING = "missing"


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

    Args:
        lake: the lake.
        fates: the fates.
        reason: only those with this reason; None: all.
    """
    every = _refused(lake) if Fate.REFUSED in fates else iter(())
    for image in every:
        if reason in (None, image.reason):
            yield image
    if Fate.REJECTED in fates:
        columns = ["image_id", "reason", "detail", *_KEYS]
        for _, rows in lake["rejects"].parts(columns):
            for row in rows.to_pylist():
                if reason in (None, row["reason"]):
                    yield _listed(row, Fate.REJECTED, row["reason"], row["detail"])
    if Fate.MISSING in fates and reason is None:
        yield from _missing(lake)


def _refused(lake: Lake) -> Iterator[ListedImage]:
    for _, rows in lake["admissions"].parts(["image_id", "source_id", "reason", *_KEYS]):
        for row in rows.filter(pc.is_valid(rows["reason"])).to_pylist():
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
            yield _listed(row, Fate.MISSING, "not_embedded", "the next run embeds it")


def _listed(row: dict[str, object], fate: Fate, reason: str, detail: str | None) -> ListedImage:
    place = str(row["corpus_file"] or ""), int(str(row["corpus_row"]))
    return ListedImage(
        str(row["image_id"] or ""), fate, reason, detail or "", str(row.get("source_id") or ""), place[0], place[1]
    )
