"""Finds subject references that photos of several sources have: the lake takes them for one person.

Two schools may number their pupils alike. One grant, one withdrawal and one erasure then hold for both pupils.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import Config
from facelake.contracts import reference, references
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.stages.admission.known_references import identified
from facelake.stages.core.context import Context

_NAMED = 5


def sources_by_subject(config: Config, lake: Lake, subjects: Collection[str]) -> dict[str, set[str]]:
    """Return the sources of the photos that name some subjects, by reference; subjects without photos are left out."""
    wanted = pa.array(sorted(map(reference, subjects)), pa.string())
    found: dict[str, set[str]] = {}
    for rows in identified(config, lake) if len(wanted) else ():
        names = references(rows["subject_ref"])
        own = pc.fill_null(pc.is_in(names, wanted), False)
        if not pc.any(own).as_py():
            continue
        pairs = pa.table({"subject": names.filter(own), "source": references(rows["source_id"].filter(own))})
        for row in pairs.group_by(["subject", "source"]).aggregate([]).to_pylist():
            if row["source"]:
                found.setdefault(row["subject"], set()).add(row["source"])
    return found


def shared_references(context: Context, source: str, subjects: Collection[str]) -> Iterator[str]:
    """Yield a sentence on the references of imported photos that photos of other sources have, if there are any."""
    found = sources_by_subject(context.config, context.lake, subjects)
    shared = sorted(name for name, sources in found.items() if sources - {reference(source)})
    if shared:
        others = sorted(set().union(*(found[name] for name in shared)) - {reference(source)})
        yield (
            f"{counted(len(shared), 'subject reference')} also in photos of {_listed(others)}: {_listed(shared)}. "
            "Photos with one reference are of one person, who is granted, withdrawn and erased in all of them. "
            "If these are different people, import again with --replace and a --person-prefix"
        )


def of_several_sources(config: Config, lake: Lake, subjects: Collection[str]) -> Iterator[str]:
    """Yield a sentence for each subject whose photos are of several sources."""
    for name, sources in sorted(sources_by_subject(config, lake, subjects).items()):
        if len(sources) > 1:
            listed = _listed(sorted(sources))
            yield f"photos of {len(sources)} sources name the subject {name!r} ({listed}): all of them are meant"


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(repr, list(names)[:_NAMED])) + more
