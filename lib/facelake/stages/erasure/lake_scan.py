"""The search of a whole lake for what was erased, and what it found sorted out."""

from __future__ import annotations

from facelake.erase import Needles
from facelake.errors import Retryable
from facelake.lake.store import every_object, names_without_objects
from facelake.stages.admission.known_references import Known
from facelake.stages.core.context import Context
from facelake.stages.erasure.notes import Notes
from facelake.stages.erasure.places import Hits
from facelake.stages.erasure.request import Targets
from facelake.stages.erasure.scanning import scan_objects

_MOST_SCANS = 3  # if objects are deleted or moved meanwhile


def scan_lake(context: Context, targets: Targets) -> tuple[int, Hits]:
    """Scan every object under the lake's root for what was erased.

    An object that is gone when its turn comes holds nothing; but it may have been moved, to where it was not listed, or
    written again since. So the lake is searched again until every object that was listed could be read.

    Returns:
        The number of objects searched, and the hits.

    Raises:
        Retryable: a task failed, or objects were deleted or moved each time.
        Corrupt: an object was not scanned.
    """
    needles = targets.needles()
    for _ in range(_MOST_SCANS):
        notes = Notes(context.lake, context.signer()).keys()  # encrypted: short names would occur in them by chance
        objects = [item for item in every_object(context.lake.store) if item.key not in notes]
        scanned, counts = scan_objects(context.config, context.lake, objects, needles)
        hits = Hits(targets.biometric_needles())
        for name in names_without_objects(context.lake.store):
            hits.remains |= {name: 1} if needles.in_name(name.encode(errors="surrogateescape")) else {}
        if _sorted_out(context, targets, needles, counts, hits) and scanned == len(objects):
            return scanned, hits
    what = "objects of the lake were deleted or moved each time it was searched"
    next_step = "find the other program that changes the lake's folder, stop it and run again"
    raise Retryable(what, where=context.lake.uri, next_step=next_step)


def _sorted_out(context: Context, targets: Targets, needles: Needles, counts: dict[str, int], hits: Hits) -> bool:
    """Sort the objects in which something was found, as they are now; returns whether all are still there."""
    request, complete = targets.request, True
    if not counts:
        return True
    names = {*request.subjects, *targets.subjects}
    sources = names & set(Known.of(context.config, context.lake).sources)
    kept = request.copies == "keep" or not (request.copies or request.subjects or request.identities)
    for key in counts:
        try:
            data = context.lake.store.read(key)
        except FileNotFoundError:
            complete = False
            continue
        hits.add(key, data, needles, sources)
        if key in hits.remains and key.startswith("corpus/") and key.endswith(".parquet"):
            hits.sort_out_copies(key, data, needles, kept=kept)
    return complete


def residual(context: Context, *needles: Needles) -> tuple[int, dict[str, int]]:
    """Scan every object under the lake's root, as tasks of the engine.

    Args:
        context: of the run.
        needles: what to search for; an object's hits are the most of any.

    Returns:
        The number of objects scanned, and hits by key.

    Raises:
        Retryable: a task failed.
        Corrupt: an object was not scanned.
    """
    return scan_objects(context.config, context.lake, list(every_object(context.lake.store)), *needles)
