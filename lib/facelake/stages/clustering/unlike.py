"""Says that two identities look like different people: whoever merges them may have mistyped one of the ids."""

from __future__ import annotations

from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32
from facelake.lake.lake import Lake
from facelake.stages.clustering.calibration_store import read_since
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import require_gallery

_DEVIATIONS = 2.0
"""Templates are means of several faces, which are more alike than two faces: what is below is clearly unlike."""


def unlike(lake: Lake, one: str | None, other: str | None) -> str | None:
    """Return a sentence if the templates of two identities are as alike as random faces of different people; None if
    they are more alike, or if nothing was measured of the corpus.

    Args:
        lake: the lake.
        one, other: ids of active identities.
    """
    since = read_since(lake)
    if since is None or "impostor_mean" not in since.cuts:
        return None
    templates: list[F32] = []
    for rows in require_gallery(lake).parts("identities", ["identity_id", "prototype"]):
        own = rows.filter(pc.is_in(rows["identity_id"], pa.array([one, other], pa.string())))["prototype"].drop_null()
        templates += [matrix_of(own.slice(at, 1), len(own[at]))[0] for at in range(len(own))]
    if len(templates) != 2:
        return None
    first, second = templates
    similarity = float(np.dot(first, second))
    mean, deviation = (cast(float, since.cuts[name]) for name in ("impostor_mean", "impostor_sd"))
    usual = mean + _DEVIATIONS * deviation
    if similarity >= usual:
        return None
    return (
        f"the templates of {one} and {other} have a similarity of {similarity:.2f}, which is usual for different "
        "people. If an id is mistyped, undo this correction"
    )
