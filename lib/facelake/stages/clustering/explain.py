"""explain: why two faces or identities are together or apart, by the figures of the last clustering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.cluster.calibrate import Calibration
from facelake.cluster.explain import FacePair, GroupPair, Path, as_dict, face_pair, group_pair, widest_path
from facelake.cluster.nuisance import without
from facelake.contracts import F32, Verdict
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.publish.corrections import in_force
from facelake.stages.clustering.calibration_store import Measures, read_measures
from facelake.stages.core.context import Context
from facelake.stages.gallery.corrections import agreed_parts
from facelake.stages.gallery.versions import FIND_IDENTITY, current_gallery, not_active

_LATER_STEP = (
    "no chain of links inside their group connects them: the mean similarity of groups, their overlap, templates"
    " normalised within persons, the assignment of single faces or a correction brought them together; which of these"
    " is not recorded"
)
_REJOINED = (
    "groups may also be joined by templates normalised within persons (step rejoin), which takes all groups and is not"
    " repeated here"
)
_MOST = 4000  # faces of both groups that are compared with each other; larger groups are sampled


@dataclass(frozen=True, slots=True)
class _Members:
    """Faces of one or two groups."""

    ids: list[str]
    group: np.ndarray
    quality: F32
    vectors: F32


def explain(context: Context, first: str, second: str) -> dict[str, Any]:
    """Figures and sentences on two face ids or two identity ids, one of each kind being allowed.

    Raises:
        ConfigError: an id that is neither a face nor an identity of the gallery, or nothing was clustered yet.
    """
    known = read_measures(context.lake)
    groups = [_group_of(context.lake, item) for item in (first, second)]
    members = _members(context.lake, groups, known, (first, second))
    result: dict[str, Any] = {"first": first, "second": second, "together": groups[0] == groups[1]}
    lines = [f"{'in one group' if groups[0] == groups[1] else 'in two groups'} of the last clustering"]
    at = [members.ids.index(item) for item in (first, second) if item in members.ids]
    if len(at) == 2:
        pair = face_pair(members.vectors[at], members.quality[at], known.gate, known.cuts)
        path = widest_path(members.vectors, members.quality, known.gate, at[0], at[1])
        result |= {"pair": as_dict(pair), "path": as_dict(path) | {"faces": [members.ids[i] for i in path.faces]}}
        lines += pair_texts(pair, path, known.cuts)
        if groups[0] == groups[1] and path.weakest < known.cuts.graph_cut:
            lines.append(_LATER_STEP)
    if groups[0] != groups[1]:
        second_group = (members.group == groups[1]).astype(np.int64)
        both = group_pair(members.vectors, members.quality, second_group, known.gate, known.cuts)
        result |= {"groups": as_dict(both)}
        lines.append(_groups_text(both))
        lines.append(_REJOINED)
    decided = deciding_corrections(context.lake, first, second)
    result |= {"corrections": [row["seq"] for row in decided]}
    lines += [correction_text(row) for row in decided]
    return result | {"said": lines, "calibration": known.cuts.manifest()}


def deciding_corrections(lake: Lake, first: str, second: str) -> list[dict[str, Any]]:
    """Return the corrections in force that decide on two faces or identities."""
    rows = in_force(lake["corrections"].read().to_pylist())
    return deciding(rows, [_faces_of(lake, item) for item in (first, second)]) if rows else []


def deciding(rows: Sequence[Mapping[str, Any]], sides: list[set[str]]) -> list[dict[str, Any]]:
    """Return the corrections that decide on faces of both sides, in either order, instead of scores.

    A correction names all faces of an identity, and others may take some of them out: it decides on a pair only if the
    agreement of all corrections has the pair as the correction wants it.

    Args:
        rows: all corrections in force, oldest first.
        sides: two sets of face ids.
    """
    part = agreed_parts(rows)
    decided = []
    for row in rows:
        a, b = set(row["faces_a"] or ()), set(row["faces_b"] or ())
        for one, other in (sides, sides[::-1]):
            parts_a, parts_b = ({part[face] for face in faces & part.keys()} for faces in (one & a, other & b))
            if parts_a & parts_b if _joins(row) else any(x != y for x in parts_a for y in parts_b):
                decided.append(dict(row))
                break
    return decided


def _faces_of(lake: Lake, item: str) -> set[str]:
    """Return the id itself and, if it is an identity's, the ids of its faces; read file by file."""
    gallery = current_gallery(lake)
    faces = {item}
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]) if gallery else ():
        faces.update(rows["face_id"].filter(pc.equal(rows["identity_id"], item)).to_pylist())
    return faces


def pair_texts(pair: FacePair, path: Path, cuts: Calibration) -> list[str]:
    """Return sentences on the similarity of two faces, and on the strongest connection between them."""
    return [_pair_text(pair), _path_text(path, cuts)]


def _joins(row: Mapping[str, Any]) -> bool:
    return row["kind"] in (Verdict.MERGE, Verdict.CONFIRM)


def correction_text(row: dict[str, Any]) -> str:
    """Return a sentence on the effect of a correction between two faces or identities."""
    effect = "one person" if _joins(row) else "two people"
    reason = f" ({row['reason']})" if row["reason"] else ""
    who = f"correction {row['seq']} ({row['kind']}) by {row['reviewer']}{reason}"
    return f"{who} says: {effect}. It decides, whatever the scores, from the run after it was recorded"


def _pair_text(pair: FacePair) -> str:
    text = f"the two faces have cosine similarity {pair.similarity:.3f}"
    if pair.discount:
        text += f", reduced by {pair.discount:.3f} because faces of poor quality resemble each other"
    side = "so they are linked" if pair.edge else "so they are not linked"
    return f"{text}; faces are linked from {pair.graph_cut:.3f} on, {side}"


def _path_text(path: Path, cuts: Calibration) -> str:
    steps = len(path.faces) - 1
    way = "one link" if steps == 1 else f"{steps} links over other faces"
    strong = "above" if path.weakest >= cuts.graph_cut else "below"
    limit = f"{strong} the limit of {cuts.graph_cut:.3f}"
    return f"the strongest connection between them takes {way}; its weakest link is {path.weakest:.3f}, {limit}"


def _groups_text(both: GroupPair) -> str:
    text = f"the groups of {both.sizes[0]} and {both.sizes[1]} faces have a mean similarity of {both.between:.3f}"
    text += f" (joined from {both.wanted_between:.3f} on), {both.between / both.reference:.0%} of the similarity within"
    text += f" them (joined from {both.wanted_ratio:.0%} on); their most similar pair has {both.strongest:.3f}"
    overlap = both.overlap
    text += f". {overlap.links} of their pairs have {overlap.cut:.3f} or more, where two people with that mean have"
    text += (
        f" {overlap.expected:.1f}{', so they overlap' if overlap.joins else ', too few or of too few faces to overlap'}"
    )
    return f"{text}: {'one person by these figures' if both.joins or overlap.joins else 'two people'}"


def _group_of(lake: Lake, item: str) -> int:
    face = min(_faces_of(lake, item) - {item}, default=item)
    for _, part in lake["groups"].parts(["face_id", "group_id"]):
        of_face = part.filter(pc.equal(part["face_id"], face))
        if of_face.num_rows:
            return int(of_face["group_id"][0].as_py())
    if (gallery := current_gallery(lake)) and (replaced := not_active(gallery, item)).next_step != FIND_IDENTITY:
        raise replaced  # it names the identity with which this one was merged
    next_step = "give a face_id or identity_id of this gallery (`facelake gallery show` lists them)"
    raise ConfigError(f"neither a face nor an identity here: {item!r}", where="explain", next_step=next_step)


def _members(lake: Lake, groups: list[int], known: Measures, asked: tuple[str, str]) -> _Members:
    wanted = pa.array(sorted(set(groups)), pa.int64())
    parts = [part.filter(pc.is_in(part["group_id"], wanted)) for _, part in lake["groups"].parts()]
    chosen = pa.concat_tables(parts).sort_by("face_id")
    if chosen.num_rows > _MOST:
        keep = columns.chosen(columns.keys(chosen["face_id"]), 0, _MOST / chosen.num_rows)
        keep |= np.isin(chosen["face_id"].to_numpy(zero_copy_only=False), asked)
        chosen = chosen.filter(pa.array(keep))
    faces = [
        part.filter(pc.is_in(part["face_id"], chosen["face_id"].combine_chunks()))
        for _, part in lake["faces"].parts(["face_id", "quality", "embedding"])
    ]
    table = pa.concat_tables(faces).join(chosen, "face_id").sort_by("face_id")
    vectors, _ = columns.vectors(table["embedding"], columns.dimension(table["embedding"]))
    quality = table["quality"].to_numpy().astype(np.float32)
    group = table["group_id"].to_numpy()
    return _Members(table["face_id"].to_pylist(), group, quality, without(vectors, known.directions))
