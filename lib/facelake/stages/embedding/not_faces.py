"""Regions of photos that a reviewer marked as not a face: they get no row in `faces`, whatever model detects them.

A mark is a correction of kind `not_a_face` with the content digest of the photo and the box, so that it also holds for
copies of the photo and for boxes of later models. When a mark is added or undone, the outcomes of the photos concerned
are removed, and embed makes them again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Verdict
from facelake.embed.not_faces import Regions
from facelake.lake.lake import Lake
from facelake.publish.corrections import in_force
from facelake.stages.core.context import Context, last_details
from facelake.stages.embedding.carry import reopen
from facelake.stages.embedding.progress import OUTCOMES

MARKS = "not_faces"
"""key of the applied marks in the details of an embed run"""


def regions_of(rows: Iterable[Mapping[str, Any]]) -> Regions:
    """The marked regions of rows of table `corrections`."""
    boxes: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        for content, box in zip(row["contents"] or (), row["boxes"] or (), strict=True):
            boxes[content].append(box)
    return {content: np.array(marked, np.float32).reshape(-1, 4) for content, marked in boxes.items()}


def marks_in_force(lake: Lake) -> list[dict[str, Any]]:
    """The corrections of kind `not_a_face` that are not undone."""
    rows = in_force(lake["corrections"].read().to_pylist())
    return [dict(row) for row in rows if row["kind"] == Verdict.NOT_A_FACE]


def reopen_marked(context: Context, marks: list[dict[str, Any]]) -> int:
    """Remove the outcomes of photos whose marks changed since the last embed run; returns the rows removed."""
    now, before = {row["seq"] for row in marks}, applied_marks(context.lake)
    changed = now ^ before
    if not changed:
        return 0
    stored = context.lake["corrections"].read().to_pylist()
    contents = pa.array(sorted(regions_of(row for row in stored if row["seq"] in changed)), pa.string())
    columns, corpus_files, removed = ["content_sha256", "corpus_file"], set[str](), 0

    def keep(rows: pa.Table) -> pa.Array:
        marked = pc.is_in(rows["content_sha256"], contents)
        corpus_files.update(rows["corpus_file"].filter(marked).to_pylist())
        return pc.invert(marked)

    for name in OUTCOMES:
        context.check_lease()
        removed += context.lake[name].rewrite(context.lake[name].snapshot().files, columns, keep)
    reopen(context, corpus_files)
    return removed


def applied_marks(lake: Lake) -> set[int]:
    """The numbers of the marks that the last embed run applied."""
    numbers = last_details(lake, "embed").get(MARKS, [])
    return set(numbers) if isinstance(numbers, list) else set()
