"""Photos that an earlier run could not decode because a decoder was not installed are tried again once it is."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from facelake.embed.formats import FORMATS, NEEDS_HEIF, NEEDS_JXL
from facelake.stages.core.context import Context
from facelake.stages.embedding.outcomes import remove_outcomes


def reopen_decodable(context: Context) -> None:
    """Remove the rejects of photos whose decoder is installed on this host by now, so that they are embedded again."""
    details = [detail for name, detail in (("HEIF", NEEDS_HEIF), ("JXL", NEEDS_JXL)) if name in FORMATS]
    if not details:
        return
    wanted = pa.array(details)
    remove_outcomes(context, ("rejects",), ("detail",), lambda rows: pc.invert(pc.is_in(rows["detail"], wanted)))
