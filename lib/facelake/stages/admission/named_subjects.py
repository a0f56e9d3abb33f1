"""Whether the rule of the config that says whom a photo shows finds anybody."""

from __future__ import annotations

import json

import pyarrow.compute as pc

from facelake.errors import ConfigError
from facelake.events import Notice
from facelake.lake.corpora.opening import INDEX
from facelake.plural import counted
from facelake.stages.core.context import Context, last_run

WITHOUT_SUBJECT = "without_subject"
_NAMED = 3  # photos that are named


def check_subjects_found(context: Context) -> dict[str, int]:
    """Check the subject references that `corpus.columns.subject_ref` gives, and name photos without one if their number
    has changed.

    Returns:
        `without_subject`, the number of photos without a reference; nothing if there is no such rule.

    Raises:
        ConfigError: its regex matches no photo. A withdrawal or an erasure of a person would find none of their photos.
    """
    rule = context.config.corpus.columns.subject_ref
    if rule is None or rule.constant is not None:
        return {}
    photos, missing = 0, 0
    some: list[str] = []
    for _, rows in context.lake[INDEX].parts(["image_id", "subject_ref"]):
        own = rows.filter(pc.is_valid(rows["image_id"]))
        photos, missing = photos + own.num_rows, missing + own["subject_ref"].null_count
        if own["subject_ref"].null_count and len(some) < _NAMED:
            some += own.filter(pc.is_null(own["subject_ref"]))["image_id"].slice(0, _NAMED).to_pylist()
    shown = ", ".join(some[:_NAMED])
    if photos and missing == photos and rule.regex is not None:  # a column may be empty until people are named
        what = f"the rule finds no person in any of {counted(photos, 'photo')}, such as {shown}"
        next_step = "correct it, or leave it out: no withdrawal and no erasure would find anybody's photos"
        raise ConfigError(what, where="corpus.columns.subject_ref", next_step=next_step)
    earlier = json.loads((last_run(context.lake, "admit") or {}).get("counts", "{}"))
    if missing and missing != earlier.get(WITHOUT_SUBJECT):
        text = f"{counted(missing, 'photo')} of {photos:,} without a subject reference, such as {shown}"
        context.emit(Notice("admit", f"{text}: corpus.columns.subject_ref finds nobody there"))
    return {WITHOUT_SUBJECT: missing}
