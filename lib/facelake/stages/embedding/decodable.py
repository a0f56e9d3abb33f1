"""Photos that an earlier run could not decode because a decoder was not installed are tried again once it is."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from facelake.embed.formats import FORMATS, NEEDS_HEIF, NEEDS_JXL
from facelake.stages.core.context import Context
from facelake.stages.embedding.carry import reopen


def reopen_decodable(context: Context) -> None:
    """Remove the rejects of photos whose decoder is installed on this host by now, so that they are embedded again."""
    details = [detail for name, detail in (("HEIF", NEEDS_HEIF), ("JXL", NEEDS_JXL)) if name in FORMATS]
    if not details:
        return
    table = context.lake["rejects"]
    corpus_files = set[str]()

    def keep(rows: pa.Table) -> pa.Array:
        decodable = pc.is_in(rows["detail"], pa.array(details))
        corpus_files.update(rows["corpus_file"].filter(decodable).to_pylist())
        return pc.invert(decodable)

    context.check_lease()
    table.rewrite(table.snapshot().files, ["detail", "corpus_file"], keep)
    reopen(context, corpus_files)
