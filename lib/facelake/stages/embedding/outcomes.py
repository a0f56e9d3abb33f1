"""Removes outcomes of photos, so that those that are still admitted are embedded again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from facelake.lake.data_files import DataFile
from facelake.stages.core.context import Context
from facelake.stages.embedding.progress import Recorded

_RECORDED = ("corpus_file", "row_start", "row_end", "admitted_digest")


def reopen(context: Context, corpus_files: set[str], outdated: set[Recorded] | None = None) -> None:
    """Remove the progress rows of these corpus files, so that their chunks are compared with the tables again; and
    rows that are outdated.
    """
    files, keys = pa.array(sorted(corpus_files), pa.string()), pa.array(_texts(outdated or set()), pa.string())
    if not len(files) and not len(keys):
        return

    def keep(rows: pa.Table) -> pa.Array:
        columns = [pc.cast(rows[name], pa.string()) for name in _RECORDED]
        outdated = pc.is_in(pc.binary_join_element_wise(*columns, "\t"), keys)
        return pc.invert(pc.or_(outdated, pc.is_in(rows["corpus_file"], files)))

    table = context.lake["chunks"]
    table.rewrite(table.snapshot().files, _RECORDED, keep)


def _texts(rows: set[Recorded]) -> list[str]:
    return sorted("\t".join(map(str, row)) for row in rows)


def remove_outcomes(
    context: Context, tables: Sequence[str], columns: Sequence[str], keep: Callable[[pa.Table], pa.Array]
) -> int:
    """Remove rows of outcomes; photos that are still admitted are embedded again. Returns the number of rows.

    The progress rows go first: a run that is killed in between must not leave photos without an outcome that count as
    done.

    Args:
        context: of the run.
        tables: of OUTCOMES.
        columns: that `keep` needs.
        keep: as for `Table.rewrite`.
    """
    concerned: dict[str, list[DataFile]] = {name: [] for name in tables}
    corpus_files = set[str]()
    for name in tables:
        for file, rows in context.lake[name].parts([*columns, "corpus_file"]):
            gone = pc.invert(keep(rows))
            if pc.any(gone).as_py():
                concerned[name].append(file)
                corpus_files.update(rows["corpus_file"].filter(gone).to_pylist())
    context.check_lease()
    reopen(context, corpus_files)
    return sum(context.lake[name].rewrite(files, columns, keep) for name, files in concerned.items())
