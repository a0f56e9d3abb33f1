"""Incremental clustering: new faces join existing groups, form new ones or cause groups to be joined; the rest stays.

Existing groups are read from the gallery's identities (means and exemplars), not from their faces; only new faces, and
those of identities that lost some, are read. Spark is not started.

A run clusters all faces again instead when the lake is small, when the model or the settings of clustering changed, on
a schedule, after many additions and removals, or when the similarity of different people has drifted since the last
full clustering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.cluster.increment import Arrived, Standing, place
from facelake.cluster.labels import add_sums
from facelake.cluster.nuisance import without
from facelake.contracts import F32, GROUPS, I64, Bool
from facelake.lake.tables import plain
from facelake.publish.matching import places
from facelake.stages.clustering.calibration_store import Measures, Since, read_measures, read_since, write_since
from facelake.stages.core.context import Context, must_add_up
from facelake.stages.gallery.corrections import corrections_digest
from facelake.stages.gallery.face_vectors import FacesById
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import Gallery, current_gallery

_RELEASED = 0.25  # share of its faces that an identity must lose for the rest to be placed anew
_AT_ONCE = 0.1  # share of faces that may come in one night
_DRIFT_PAIRS = 20_000

_COLUMNS = ["identity_id", "status", "size", "prototype", "cohesion", "weight"]


@dataclass(slots=True)
class Increment:
    """A night about to be placed."""

    context: Context
    gallery: Gallery
    since: Since
    faces: FacesById
    """every face of today"""
    home: I64
    """(n,) row of its identity among `identities`, or -1 for a face that came"""
    identities: pa.Table
    """active ones, by id"""
    gone: I64
    """(identities,) faces that each lost"""


def plan_increment(context: Context, files: tuple[str, ...], total: int) -> tuple[Increment | None, str]:
    """The work of an incremental run; or None, and why all faces must be clustered again."""
    config, since, gallery = context.config, read_since(context.lake), current_gallery(context.lake)
    if context.rebase:
        return None, "requested by --rebase"
    if total <= config.gallery.full_below:
        return None, f"the lake has {total:,} faces, incremental runs begin above gallery.full_below"
    if gallery is None or since is None or "edge" not in since.cuts:
        return None, "no clustering was recorded before"
    if since.model_digest != context.model_digest or gallery.row["model_digest"] != context.model_digest:
        return None, "the model changed"
    if since.config != config.digest("cluster"):
        return None, "the settings of clustering changed"
    if since.nights >= config.gallery.full_every_nights:
        return None, f"due after {since.nights} incremental runs (gallery.full_every_nights)"
    night = _night(context, gallery, since, files)
    come, gone = int((night.home < 0).sum()), int(night.gone.sum())
    if since.come + since.gone + come + gone > config.gallery.full_at_growth * since.faces or come > _AT_ONCE * total:
        return None, f"{since.come + come:,} faces were added and {since.gone + gone:,} removed since the last one"
    if not pc.all(pc.is_valid(night.identities["weight"])).as_py():
        return None, "the gallery was made by an earlier version"
    return night, ""


def _night(context: Context, gallery: Gallery, since: Since, files: tuple[str, ...]) -> Increment:
    table, wanted = context.lake["faces"], set(files)
    snapshot = table.snapshot()
    ids = pa.concat_arrays([c for f in snapshot.files if f.path in wanted for c in table.file(f, ["face_id"])[
        "face_id"].chunks] or [pa.array([], pa.string())])  # fmt: skip
    ids = ids.take(pc.sort_indices(ids))
    identities = gallery.read("identities", _COLUMNS).filter(pc.field("status") == "active").sort_by("identity_id")
    members = gallery.read("memberships", ["face_id", "identity_id"])
    names = identities["identity_id"].combine_chunks()
    who = pc.index_in(members["identity_id"], names).to_numpy().astype(np.int64)
    dim = len(identities["prototype"][0]) if identities.num_rows else 0
    faces = FacesById.of(context.lake, ids, files, dim)
    at = faces.find(members["face_id"])
    home = np.full(len(ids), -1, np.int64)
    home[at[at >= 0]] = who[at >= 0]
    gone = np.bincount(who[at < 0], minlength=identities.num_rows).astype(np.int64)
    return Increment(context, gallery, since, faces, home, identities, gone)


@dataclass(frozen=True, slots=True)
class Placed:
    """What an incremental clustering records of itself."""

    counts: dict[str, int]
    details: dict[str, object]


def run_increment(night: Increment) -> Placed | None:
    """Place what came and commit the groups; None when faces drifted, so that all must be clustered again."""
    context, measures = night.context, read_measures(night.context.lake)
    home = night.home.copy()
    come, gone = int((home < 0).sum()), int(night.gone.sum())
    standing, means, left, retried = _standing(night, home, measures)
    new = np.flatnonzero(home < 0)
    arrived, sound, raw = _arrived(night, new, measures)
    drift = _drift(standing, arrived, measures, context.config.cluster.seed)
    if drift > context.config.gallery.full_at_drift:
        return None
    placed = place(standing, arrived, measures.gate, measures.cuts, context.config.cluster.seed)
    row_of = np.cumsum(left) - 1  # identities that are taken apart or are gone have no row
    group = np.where(home >= 0, placed.into[np.maximum(row_of[np.maximum(home, 0)], 0)], -1)
    group[new[sound]] = placed.labels
    alone = np.flatnonzero(group < 0)
    group[alone] = int(group.max(initial=-1)) + 1 + np.arange(len(alone))
    score = np.ones(len(group), np.float32)
    joined = placed.labels < len(standing.size)
    score[new[sound][joined]] = np.einsum("ij,ij->i", raw[joined], means[placed.labels[joined]])
    table = pa.table([night.faces.ids, pa.array(group), pa.array(score)], schema=plain(GROUPS))
    must_add_up("cluster", ("faces", len(night.faces.ids)), ("grouped", table.num_rows))
    context.check_lease()
    context.lake["groups"].replace_all(table)
    write_since(context.lake, night.since.another_night(come, gone, corrections_digest(context.lake)))
    brought = placed.into != np.arange(len(placed.into))
    counts = {
        "faces": len(group),
        "groups": len(np.unique(group)),
        "set_aside": int((~sound).sum()),
        "came": come,
        "went": gone,
        "placed_anew": len(new) - come,
        "retried": retried,
        "joined": int(joined.sum()),
        "groups_brought_together": int(brought.sum()),
        "nights_since_full": night.since.nights + 1,
    }
    return Placed(counts, {"mode": "increment", "drift_sds": round(float(drift), 3)})


def _standing(night: Increment, home: I64, measures: Measures) -> tuple[Standing, F32, Bool, int]:
    """The existing groups, their means as stored, which identities they are, and how many faces are retried.

    Faces of identities that lost many faces, and singletons near an identity that was corrected since, are placed again
    (home becomes -1).
    """
    table, dim = night.identities, night.faces.dim
    size = table["size"].to_numpy().astype(np.int64) - night.gone
    apart = (night.gone > 0) & (night.gone >= _RELEASED * (size + night.gone)) & (size > 0)
    undone = set(night.since.corrections) - set(corrections_digest(night.context.lake))
    apart[_corrected_since(night, undone)] = True  # they are grouped as if the correction had never been recorded
    means = matrix_of(table["prototype"], dim)
    near = _retried(night, means, size, measures)
    home[np.isin(home, np.flatnonzero(apart | near))] = -1
    left = (size > 0) & ~apart & ~near
    cohesion, weight = (table[name].to_numpy().astype(np.float32) for name in ("cohesion", "weight"))
    lost = left & (night.gone > 0)
    sums = without(means, measures.directions) * (cohesion * size)[:, None]
    wanted = (home >= 0) & lost[np.maximum(home, 0)]
    sums[lost] = 0
    for at, vectors, _ in night.faces.vectors(wanted) if wanted.any() else ():
        add_sums(without(vectors, measures.directions), home[at].astype(np.int32), sums)
    exemplars, owner = _exemplars(night, left, measures)
    first = np.searchsorted(owner, np.arange(int(left.sum()) + 1)).astype(np.int64)
    bins = measures.gate.bins((weight / np.maximum(size + night.gone, 1))[left])
    standing = Standing(sums[left].astype(np.float32), size[left], bins, exemplars, first)
    return standing, means[left], left, int(near.sum())


def _exemplars(night: Increment, left: Bool, measures: Measures) -> tuple[F32, I64]:
    """Return exemplars (m, dim) of the identities that remain, and the number (m,) of each one's identity among them.

    Read file by file: the exemplars of 300,000 identities pass what one Arrow array can hold.
    """
    names, number = night.identities["identity_id"].combine_chunks(), np.cumsum(left) - 1
    vectors, owners = [np.zeros((0, night.faces.dim), np.float32)], [np.zeros(0, np.int64)]
    for rows in night.gallery.parts("identities", ["identity_id", "status", "exemplars", "exemplar_faces"]):
        active = rows.filter(pc.equal(rows["status"], "active"))
        count = pc.list_value_length(active["exemplars"]).to_numpy().astype(np.int64)
        owner = np.repeat(places(active["identity_id"], names), count)
        kept = left[owner] & (night.faces.find(pc.list_flatten(active["exemplar_faces"])) >= 0)
        found, _ = columns.vectors(pc.list_flatten(active["exemplars"]).filter(pa.array(kept)), night.faces.dim)
        vectors.append(without(found, measures.directions))
        owners.append(number[owner[kept]])
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(vectors)[order], owner[order]


def _retried(night: Increment, means: F32, size: I64, measures: Measures) -> Bool:
    """Identities of one face that lie near one that a correction since has changed: they are looked at again."""
    out = np.zeros(len(size), bool)
    changed = _corrected_since(night, set(corrections_digest(night.context.lake)) - set(night.since.corrections))
    single = np.setdiff1d(np.flatnonzero((size == 1) & (night.gone == 0)), changed)
    if len(changed):
        close = means[single] @ means[changed].T
        out[single[close.max(axis=1, initial=-1) >= measures.cuts.attach]] = True
    return out


def _corrected_since(night: Increment, seqs: set[int]) -> I64:
    """Identities (ascending) that now hold faces of these corrections."""
    if not seqs:
        return np.zeros(0, np.int64)
    stored = night.context.lake["corrections"].read(["seq", "faces_a", "faces_b"])
    stored = stored.filter(pc.is_in(stored["seq"], pa.array(sorted(seqs)))).to_pylist()
    spoken = {face for row in stored for face in (*(row["faces_a"] or ()), *(row["faces_b"] or ()))}
    at = night.faces.find(pa.array(sorted(spoken), pa.string()))
    found = np.unique(night.home[at[at >= 0]])
    return np.asarray(found[found >= 0], np.int64)


def _arrived(night: Increment, new: I64, measures: Measures) -> tuple[Arrived, Bool, F32]:
    """The new faces whose vector is sound, which those are, and their vectors as stored."""
    wanted = np.zeros(len(night.faces.ids), bool)
    wanted[new] = True
    vectors = np.zeros((len(new), night.faces.dim), np.float32)
    quality = np.zeros(len(new), np.float32)
    for at, found, good in night.faces.vectors(wanted) if len(new) else ():
        place_ = np.searchsorted(new, at)
        vectors[place_], quality[place_] = found, good
    poor = (quality == 0) | (quality < night.context.config.cluster.min_quality)  # 0: landmarks not confirmed
    sound = (np.linalg.norm(vectors, axis=1) > 0.5) & ~poor
    images = _photos(night, new[sound])
    raw = vectors[sound]
    projected = without(raw, measures.directions)
    return Arrived(projected, measures.gate.bins(quality[sound]), images), sound, raw


def _photos(night: Increment, at: I64) -> I64:
    """A key (m,) of the photo of each face."""
    table, ids = night.context.lake["faces"], night.faces.ids.take(pa.array(at))
    found = table.where("face_id", pa.chunked_array([ids]), ["face_id", "image_id"])
    photos = found["image_id"].combine_chunks().take(pc.index_in(ids, found["face_id"].combine_chunks()))
    return columns.keys(photos)


def _drift(standing: Standing, arrived: Arrived, measures: Measures, seed: int) -> float:
    """How far different people's mean similarity, of new faces and exemplars, lies from what it was, in its sds."""
    if len(arrived.vectors) < 200 or len(standing.size) < 50:
        return 0.0
    generator = np.random.default_rng(seed)
    a = generator.integers(0, len(arrived.vectors), _DRIFT_PAIRS)
    b = generator.integers(0, len(standing.exemplars), _DRIFT_PAIRS)
    cosine = np.einsum("ij,ij->i", arrived.vectors[a], standing.exemplars[b])
    return float(abs(np.median(cosine) - measures.cuts.impostor_mean) / max(measures.cuts.impostor_sd, 1e-3))
