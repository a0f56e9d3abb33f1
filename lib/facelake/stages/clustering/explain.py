"""explain: why two faces or identities are together or apart, by the figures of the last clustering."""

from __future__ import annotations

from collections import Counter
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
from facelake.contracts import F32, Verdict, reference
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.plural import counted
from facelake.publish.corrections import in_force
from facelake.stages.clustering.calibration_store import Measures, read_measures
from facelake.stages.core.context import Context
from facelake.stages.gallery.absent import FORGOTTEN, without_faces, without_photos
from facelake.stages.gallery.corrections import agreed_parts
from facelake.stages.gallery.face_index import photos_of_subject
from facelake.stages.gallery.versions import FIND_IDENTITY, Gallery, current_gallery, not_active

_LATER_STEP = (
    "no chain of links within their group connects them, so a later step brought them together: the mean similarity of"
    " groups, their overlap, templates normalised within persons, the assignment of single faces, or a correction;"
    " clustering does not record which"
)
_KEPT_APART = (
    "but they are in different groups: another step of clustering keeps them apart, such as the one for faces in the"
    " same photo; clustering does not record which"
)
_REJOINED = (
    "not examined here: clustering also compares the templates of all groups, normalised within persons (step rejoin),"
    " and may join two groups by them"
)
_NAMED = 5  # faces or identities that an error names
_MOST = 4000  # faces of both groups that are compared with each other; larger groups are sampled


@dataclass(frozen=True, slots=True)
class _Members:
    """Faces of one or two groups."""

    ids: list[str]
    group: np.ndarray
    quality: F32
    vectors: F32


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a name stands for.

    Attributes:
        item: the id of a face or an identity; the name itself if it is unknown.
        faces: ids of the faces: one, those of the subject's photos, or those of the identity.
        identities: the identities that have them in the newest gallery.
    """

    item: str
    faces: frozenset[str]
    identities: frozenset[str]


def explain(context: Context, first: str, second: str | None = None) -> dict[str, Any]:
    """Figures and sentences on two faces or identities; one of each kind is allowed.

    A photo stands for its only face, and a subject's reference for the only identity of the subject's photos. A subject
    alone stands for the two identities that have most of the faces in the subject's photos.

    Raises:
        ConfigError: nothing of this name is in the gallery; a photo has several faces, or one of two subjects is in
            several identities; what is given alone is not a subject in several identities; nothing was clustered yet.
    """
    known = read_measures(context.lake)
    first, second = (first, second) if second is not None else _identities_of_subject(context.lake, first)
    asked = {item: _asked(context.lake, item) for item in (first, second)}
    named = [f"{item!r} stands for {found.item}" for item, found in asked.items() if item != found.item]
    sides = asked[first], asked[second]
    first, second = sides[0].item, sides[1].item
    groups = [_group_of(context.lake, side) for side in sides]
    members = _members(context.lake, groups, known, (first, second))
    result: dict[str, Any] = {"first": first, "second": second, "together": groups[0] == groups[1]}
    apart = "in the same group" if groups[0] == groups[1] else "in different groups"
    lines = [*named, *_in_gallery(*sides), f"by the last clustering, without corrections: {apart}"]
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
        lines += _group_texts(both)
    decided = deciding_corrections(context.lake, first, second)
    result |= {"corrections": [row["seq"] for row in decided]}
    if groups[0] != groups[1]:
        lines += [_KEPT_APART] if _same_by_figures(both) and not decided else []
        lines.append(_REJOINED)
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
    return f"{who} says: {effect}. From the run after it was recorded, it decides instead of the similarities"


def _pair_text(pair: FacePair) -> str:
    text = f"cosine similarity of the two faces (1 is the same image): {pair.similarity:.3f}"
    if pair.discount:
        text += f", less {pair.discount:.3f} because faces of poor quality resemble each other"
    return f"{text}. Two faces are linked from {pair.graph_cut:.3f} on; these are {'' if pair.edge else 'not '}linked"


def _path_text(path: Path, cuts: Calibration) -> str:
    steps = len(path.faces) - 1
    if steps == 1:
        return "no chain over other faces of their groups is stronger than this direct link"
    strong = "above" if path.weakest >= cuts.graph_cut else "below"
    limit = f"{strong} the limit of {cuts.graph_cut:.3f}"
    chain = f"the strongest chain between them goes over {counted(steps - 1, 'other face')} of their groups"
    return f"{chain}; its weakest link has a similarity of {path.weakest:.3f}, {limit}"


def _same_by_figures(both: GroupPair) -> bool:
    return both.joins or both.overlap.joins


def _group_texts(both: GroupPair) -> list[str]:
    overlap, (one, other) = both.overlap, both.sizes
    mean = f"mean similarity of the {counted(one, 'face')} of one group with the {counted(other, 'face')} of the other"
    share = f"{both.between / both.reference:.0%} of the similarity within the groups"
    have = "has" if overlap.links == 1 else "have"
    pairs = f"{counted(overlap.links, 'pair')} of a face of each group {have} {overlap.cut:.3f} or more"
    expected = f"two people with that mean similarity would have about {overlap.expected:,.0f}"
    alone = "so they overlap as one person's groups do" if overlap.joins else "this alone does not make them one person"
    verdict = "one person" if _same_by_figures(both) else "two people"
    return [
        f"{mean}: {both.between:.3f} (joined from {both.wanted_between:.3f} on)",
        f"this is {share} (joined from {both.wanted_ratio:.0%} on)",
        f"the most similar pair of a face of each group has {both.strongest:.3f}",
        f"{pairs}; {expected}; {alone}",
        f"by these figures: {verdict}",
    ]


def _in_gallery(one: _Asked, other: _Asked) -> list[str]:
    """Return a sentence on where the newest gallery has the faces; none for faces that came after it."""
    if not one.identities or not other.identities:
        return []
    if one.identities == other.identities:
        return [f"in the gallery: in one identity, {', '.join(sorted(one.identities))}"]
    both = [", ".join(sorted(side.identities)) for side in (one, other)]
    return [f"in the gallery: in different identities, {both[0]} and {both[1]}"]


def _asked(lake: Lake, item: str) -> _Asked:
    """Return what a face, an identity, a photo (its face) or a subject (its identity) stands for.

    Raises:
        ConfigError: a photo has several faces, or a subject is in several identities.
    """
    if (gallery := current_gallery(lake)) is None:
        return _Asked(item, frozenset({item}), frozenset())
    found: list[dict[str, str]] = []
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]):
        named = pc.or_(pc.equal(rows["face_id"], item), pc.equal(rows["identity_id"], item))
        found += rows.filter(named).to_pylist()
    if found:
        return _Asked(item, frozenset(r["face_id"] for r in found), frozenset(r["identity_id"] for r in found))
    photos = pa.concat_arrays([pa.array([item], pa.string()), photos_of_subject(lake, reference(item))])
    faces = _faces_in(gallery, photos)
    homes = Counter(faces["identity_id"].to_pylist())
    ids = frozenset(faces["face_id"].to_pylist())
    if len(ids) == 1:
        return _Asked(next(iter(ids)), ids, frozenset(homes))
    is_photo = len(photos) == 1
    if is_photo and homes:
        rows = faces.slice(0, _NAMED).select(["face_id", "identity_id"]).to_pylist()
        shown = ", ".join(f"{row['face_id']} (in {row['identity_id']})" for row in rows)
        raise ConfigError(
            f"the photo {item!r} has {faces.num_rows} faces", where="explain", next_step=f"give one: {shown}"
        )
    if len(homes) > 1:
        shown = ", ".join(f"{name} ({counted(count, 'face')})" for name, count in homes.most_common(_NAMED))
        what = f"photos of the subject {item!r} have faces in {len(homes)} identities"
        raise ConfigError(what, where="explain", next_step=f"give two of them: {shown}")
    return _Asked(next(iter(homes), item), ids or frozenset({item}), frozenset(homes))


def _faces_in(gallery: Gallery, photos: pa.Array) -> pa.Table:
    """Return face_id and identity_id of the gallery's faces in photos."""
    names = ["face_id", "identity_id", "image_id"]
    parts = [rows.filter(pc.is_in(rows["image_id"], photos)) for rows in gallery.parts("memberships", names)]
    return pa.concat_tables(parts) if parts else pa.table({name: pa.array([], pa.string()) for name in names})


def _identities_of_subject(lake: Lake, subject: str) -> tuple[str, str]:
    """Return the two identities that have most of the faces in a subject's photos, of equal ones the first.

    Raises:
        ConfigError: it is not a subject in several identities.
    """
    photos, gallery = photos_of_subject(lake, reference(subject)), current_gallery(lake)
    homes = Counter(_faces_in(gallery, photos)["identity_id"].to_pylist() if gallery else ())
    if len(homes) < 2:
        what = f"{subject!r} is not a subject with photos in several identities"
        raise ConfigError(what, where="explain", next_step="give a second face, identity, photo or subject, too")
    one, other = sorted(homes, key=lambda name: (-homes[name], name))[:2]
    return one, other


def _group_of(lake: Lake, asked: _Asked) -> int:
    """Return the group of the first of the faces.

    Raises:
        ConfigError: no face of the newest clustering is meant.
    """
    face, item = min(asked.faces), asked.item
    for _, part in lake["groups"].parts(["face_id", "group_id"]):
        of_face = part.filter(pc.equal(part["face_id"], face))
        if of_face.num_rows:
            return int(of_face["group_id"][0].as_py())
    if (gallery := current_gallery(lake)) and (replaced := not_active(gallery, item)).next_step != FIND_IDENTITY:
        raise replaced  # it says when this identity ended, and with which it was merged
    if absent := without_faces(lake, reference(item)) or without_photos(lake, reference(item)):
        raise absent
    next_step = "give a face, an identity, a photo or a subject of this gallery (`facelake gallery show` lists them)"
    what = f"neither a face nor an identity, photo or subject of the gallery: {item!r}; {FORGOTTEN}"
    raise ConfigError(what, where="explain", next_step=next_step)


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
