"""Says why a photo or a person of the lake has no face in the gallery."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Scope, label, references
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.plural import counted

_COLUMNS = ["image_id", "subject_ref", "admitted", "reason"]
FORGOTTEN = "of photos that have left the corpus the lake keeps no name"
"""added where a name is not known"""


def without_faces(lake: Lake, name: str) -> ConfigError | None:
    """Return the error for a photo id or subject reference whose photos were decided; None if there are none.

    Args:
        lake: the lake.
        name: in Unicode form NFC, as the admissions have it.
    """
    outcomes: Counter[str] = Counter()
    admitted: list[str] = []
    is_photo = False
    for _, rows in lake["admissions"].parts(_COLUMNS):
        own = rows.filter(pc.or_kleene(pc.equal(rows["image_id"], name), pc.equal(rows["subject_ref"], name)))
        is_photo = is_photo or bool(pc.any(pc.equal(own["image_id"], name)).as_py())
        outcomes.update(f"refused ({reason})" for reason in own["reason"].drop_null().to_pylist())
        admitted += own["image_id"].filter(own["admitted"]).to_pylist()
    for _, rows in lake["rejects"].parts(["image_id", "reason"]) if admitted else ():
        own = rows.filter(pc.is_in(rows["image_id"], pa.array(admitted, pa.string())))
        outcomes.update(f"rejected ({reason})" for reason in own["reason"].to_pylist())
    if not outcomes and not admitted:
        return None
    waiting = len(admitted) - sum(count for text, count in outcomes.items() if text.startswith("rejected"))
    if waiting > 0:
        outcomes["not processed by a run yet"] += waiting
    why = ", ".join(text if is_photo else f"{counted(count, 'photo')} {text}" for text, count in outcomes.most_common())
    what = f"{'photo' if is_photo else 'subject'} {name!r} has no face in the gallery: {why}"
    return ConfigError(what, where=lake.uri, next_step="`facelake images` lists such photos with details")


def without_photos(lake: Lake, name: str) -> ConfigError | None:
    """Return the error for a subject reference that only the ledger has, as when its photos have left the corpus; None
    if no event names it: a sweep purges what the lake knew of such photos, and an erasure the name in the ledger.

    Args:
        lake: the lake.
        name: in Unicode form NFC.
    """
    events = lake["ledger"].read(["scope", "key", "purposes"])
    of_subjects = events.filter(pc.equal(events["scope"], str(Scope.SUBJECT)))
    own = of_subjects.filter(pc.equal(references(of_subjects["key"]), name))
    if not (count := own.num_rows):
        return None
    named = sorted({purpose for purposes in own["purposes"].to_pylist() for purpose in purposes or ()})
    suppressed = lake.suppressed() if lake.can_hash else frozenset()
    for purpose in named if suppressed else ():
        if lake.keyed_hash(label(Scope.SUBJECT, name, purpose)) in suppressed:
            next_step = "other purposes are not affected; see `facelake ledger list`"
            return ConfigError(f"subject {name!r} was erased for {purpose!r}", where=lake.uri, next_step=next_step)
    what = f"subject {name!r}: no photo in the corpus names it; the ledger has {counted(count, 'event')} for it"
    next_step = "see `facelake ledger list`; if it has photos, check `corpus` in the config and run `facelake nightly`"
    return ConfigError(what, where=lake.uri, next_step=next_step)
