"""A demo lake with a wrong merge and a duplicate identity, and simulated runs over it, for tests of the review page."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import load_config
from facelake.nightly import writing
from facelake.stages.core.context import Context
from facelake.stages.gallery.analytics import analyse
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery

PURPOSE = "identity-grouping"
_PORTRAIT = re.compile(r"album/(person-\d)-\d\d\.jpg")


@dataclass(frozen=True, slots=True)
class World:
    """The true identities in the lake."""

    merged: str
    """the identity that holds person-1 and person-2"""
    twins: tuple[str, str]
    """two identities that are both person-3"""
    of_person: dict[str, list[str]]
    """face ids of the portraits of each person"""


def spoil(lake: Path) -> World:
    """Merge person-1 with person-2, split person-3 in two, and publish that."""
    with writing(load_config(lake=str(lake)), "test") as context:
        faces = context.lake["faces"].read(["face_id", "image_id"]).to_pylist()
        of_person: dict[str, list[str]] = {}
        for row in faces:
            if match := _PORTRAIT.fullmatch(row["image_id"]):
                of_person.setdefault(match[1], []).append(row["face_id"])
        simulate_run(context, of_person)
        home = identity_of_face(context)
        merged = {home[face] for name in ("person-1", "person-2") for face in of_person[name]}
        assert len(merged) == 1
        twins = sorted({home[face] for face in of_person["person-3"]})
        assert len(twins) == 2
        return World(merged.pop(), (twins[0], twins[1]), of_person)


def simulate_run(context: Context, of_person: dict[str, list[str]], shift: int = 0, without: str = "") -> None:
    """Simulate a run with the same wrong groups under other numbers, perhaps without one face; publish and analyse."""
    table = context.lake["groups"]
    rows = table.read()
    group = dict(zip(rows["face_id"].to_pylist(), rows["group_id"].to_pylist(), strict=True))
    portraits = {name: [face for face in faces if face in group] for name, faces in of_person.items()}
    number = {name: Counter(group[face] for face in faces).most_common(1)[0][0] for name, faces in portraits.items()}
    for face, home in group.items():
        group[face] = number["person-1"] if home == number["person-2"] else home
    for face in sorted(portraits["person-3"])[::2]:
        group[face] = 900
    column = pa.array([group[face] + shift for face in rows["face_id"].to_pylist()])
    rows = rows.set_column(rows.schema.get_field_index("group_id"), "group_id", column)
    table.replace_all(rows.filter(pc.not_equal(rows["face_id"], without)))
    publish(context)
    assert analyse(context)


def identity_of_face(context: Context) -> dict[str, str]:
    """Return the identity of each face in the newest gallery."""
    gallery = current_gallery(context.lake)
    assert gallery is not None
    columns = gallery.read("memberships", ["face_id", "identity_id"]).columns
    return dict(zip(*(column.to_pylist() for column in columns), strict=True))
