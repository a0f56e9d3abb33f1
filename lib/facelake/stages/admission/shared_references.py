"""Finds subject references that photos of several sources have: the lake takes them for one person.

Two schools may number their pupils alike. One grant, one withdrawal and one erasure then hold for both pupils.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa

from facelake.contracts import reference
from facelake.plural import counted, first_of
from facelake.stages.admission.known_references import Known, add_sources, identified
from facelake.stages.core.context import Context


def shared_references(context: Context, source: str, subjects: Collection[str]) -> Iterator[str]:
    """Yield a sentence on the references of imported photos that photos of other sources have, if there are any."""
    wanted, found = pa.array(sorted(subjects), pa.string()), dict[str, set[str]]()
    for rows in identified(context.config, context.lake) if subjects else ():
        add_sources(found, rows, wanted)
    shared = sorted(name for name, sources in found.items() if sources - {reference(source)})
    if shared:
        others = sorted(set().union(*(found[name] for name in shared)) - {reference(source)})
        yield (
            f"{counted(len(shared), 'subject reference')} also in photos of {_listed(others)}: {_listed(shared)}. "
            "Photos with one reference are of one person, who is granted, withdrawn and erased in all of them. "
            "If these are different people, import again with --replace and a --person-prefix"
        )


def of_several_sources(known: Known) -> Iterator[str]:
    """Yield a sentence for each subject that was asked for whose photos are of several sources."""
    for name, sources in sorted(known.sources_of.items()):
        if len(sources) > 1:
            listed = _listed(sorted(sources))
            yield f"photos of {len(sources)} sources name the subject {name!r} ({listed}): this concerns all of them"


def _listed(names: Sequence[str]) -> str:
    return first_of([repr(name) for name in names])
