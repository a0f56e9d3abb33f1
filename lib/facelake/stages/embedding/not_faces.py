"""Regions of photos that a reviewer marked as not a face: they get no row in `faces`, whatever model detects them.

A mark is a correction of kind `not_a_face` with the content digest of the photo and the box, so that it also holds for
copies of the photo and for boxes of later models. When a mark is added or undone, the outcomes of the photos concerned
are removed, and embed makes them again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Verdict
from facelake.embed.not_faces import Regions
from facelake.lake.lake import Lake
from facelake.publish.corrections import in_force
from facelake.stages.core.context import Context, last_details
from facelake.stages.embedding.outcomes import remove_outcomes
from facelake.stages.embedding.progress import OUTCOMES

_APPLIED = "not_faces"
"""key of the applied marks in the details of an embed run"""
_COLUMNS = ["seq", "kind", "undoes", "contents", "boxes"]


@dataclass(frozen=True, slots=True)
class Marks:
    """The marks in force, and those that the last embed run applied.

    Attributes:
        rows: all marks ever recorded (columns of table `corrections`), by seq.
        valid: seq of those that are not undone.
        applied: seq of those that the last embed run applied.
    """

    rows: Mapping[int, Mapping[str, Any]]
    valid: frozenset[int]
    applied: frozenset[int]

    @classmethod
    def of(cls, lake: Lake) -> Marks:
        """Read both."""
        stored = lake["corrections"].read(_COLUMNS).to_pylist()
        rows = {row["seq"]: row for row in stored if row["kind"] == Verdict.NOT_A_FACE}
        numbers = last_details(lake, "embed").get(_APPLIED)
        applied = frozenset(numbers) if isinstance(numbers, list) else frozenset()
        return cls(rows, frozenset(row["seq"] for row in in_force(stored)) & rows.keys(), applied)

    @property
    def changed(self) -> frozenset[int]:
        """Marks that were recorded or undone since they were applied."""
        return self.valid ^ self.applied

    def regions(self) -> Regions:
        """What is marked as not a face."""
        boxes: dict[str, list[list[float]]] = defaultdict(list)
        for content, box in self._places(self.valid):
            boxes[content].append(box)
        return {content: np.array(marked, np.float32).reshape(-1, 4) for content, marked in boxes.items()}

    def reopen(self, context: Context) -> None:
        """Remove the outcomes of photos whose marks changed, so that they are embedded again."""
        contents = pa.array(sorted({content for content, _ in self._places(self.changed)}), pa.string())
        if not len(contents):
            return
        columns = ("content_sha256",)
        remove_outcomes(context, OUTCOMES, columns, lambda rows: pc.invert(pc.is_in(rows["content_sha256"], contents)))

    def photos_to_reopen(self, lake: Lake) -> int:
        """Return how many admitted photos have marks that changed."""
        contents, found = {content for content, _ in self._places(self.changed)}, 0
        for _, rows in lake["admissions"].parts(["admitted", "content_sha256"]) if contents else ():
            marked = pc.is_in(rows["content_sha256"], pa.array(sorted(contents), pa.string()))
            found += pc.sum(pc.and_(marked, rows["admitted"])).as_py() or 0
        return found

    def details(self) -> dict[str, object]:
        """What an embed run that applied the marks records, if there are any."""
        return {_APPLIED: sorted(self.valid)} if self.valid else {}

    def _places(self, numbers: Iterable[int]) -> Iterator[tuple[str, list[float]]]:
        """Yield content digest and box of each region of some marks; an erased mark has none."""
        for number in sorted(numbers):
            row = self.rows.get(number, {})
            yield from zip(row.get("contents") or (), row.get("boxes") or (), strict=True)
