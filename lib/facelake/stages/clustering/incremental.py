"""Incremental clustering: new faces join existing groups, form new ones or cause groups to be joined; the rest stays.

Existing groups are read from the gallery's identities (means and exemplars), not from their faces: only new faces are
read. An identity that lost a few faces keeps its mean until publish computes it from the remaining ones; one that lost
many is taken apart, and its faces are placed anew. Spark is not started.

A run clusters all faces again instead when the lake is small, when the model or the settings of clustering changed, on
a schedule, after many additions and removals, or when the similarity of different people has drifted since the last
full clustering.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster import columns
from facelake.cluster.by_group import ByGroup
from facelake.cluster.increment import Arrived, ExemplarBlock, Standing, place
from facelake.cluster.nuisance import without
from facelake.contracts import F32, GROUPS, I64, Bool, Receipt
from facelake.distinct import distinct
from facelake.lake.data_files import plain
from facelake.lake.read_ahead import read_ahead
from facelake.stages.clustering.calibration_store import Measures, Since, read_measures, read_since, write_since
from facelake.stages.core.context import Context, must_add_up
from facelake.stages.gallery.corrections import corrections_digest
from facelake.stages.gallery.face_keys import IdNumbers
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.stored_faces import StoredFaces
from facelake.stages.gallery.versions import Gallery, current_gallery

_RELEASED = 0.25  # share of its faces that an identity must lose for the rest to be placed anew
_AT_ONCE = 0.1  # share of faces that may come in one night
_DRIFT_PAIRS = 20_000
_DRIFT_FACES, _DRIFT_GROUPS = 200, 50  # fewer say nothing about drift
_ROWS_PER_FILE = 1_000_000  # of the groups table

_COLUMNS = ["identity_id", "status", "size", "cohesion", "weight"]


@dataclass(slots=True)
class Increment:
    """A night about to be placed."""

    context: Context
    gallery: Gallery
    since: Since
    faces: StoredFaces
    """every face of today"""
    home: I64
    """(n,) row of its identity among `identities`, or -1 for a face that came"""
    identities: pa.Table
    """active ones, by id, without vectors"""
    rank: I64
    """(identities,) row among `identities` of each active one, in the order of the gallery's files"""
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
    faces = StoredFaces.all_of(context.lake, files)
    stored = gallery.read("identities", _COLUMNS).filter(pc.field("status") == "active")
    order = pc.sort_indices(stored["identity_id"])
    rank = np.empty(stored.num_rows, np.int64)
    rank[order.to_numpy()] = np.arange(stored.num_rows)
    identities = stored.take(order)
    names = IdNumbers.of(identities["identity_id"], f"{context.lake.uri}/identities")
    home = np.full(len(faces), -1, np.int64)
    gone = np.zeros(identities.num_rows, np.int64)
    for members in gallery.parts("memberships", ["face_id", "identity_id"]):
        identity = names.find(members["identity_id"])
        at = faces.find(members["face_id"])
        home[at[at >= 0]] = identity[at >= 0]
        gone += np.bincount(identity[at < 0], minlength=len(gone))
    return Increment(context, gallery, since, faces, home, identities, rank, gone)


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
    seed = context.config.cluster.seed
    left, retried = _released(night, home, measures)
    new = np.flatnonzero(home < 0)
    arrived, sound, raw = _arrived(night, new, measures)
    exemplars = _Exemplars.of(night, left, arrived.vectors, measures)
    standing = _standing(night, left, len(new), exemplars, measures)
    placed = place(standing, arrived, measures.gate, measures.cuts, seed)
    drift = exemplars.drift()
    if drift > context.config.gallery.full_at_drift:
        return None
    row_of = np.cumsum(left) - 1  # identities that are taken apart or are gone have no row
    group = np.where(home >= 0, placed.into[np.maximum(row_of[np.maximum(home, 0)], 0)], -1)
    group[new[sound]] = placed.labels
    alone = np.flatnonzero(group < 0)
    group[alone] = int(group.max(initial=-1)) + 1 + np.arange(len(alone))
    score = np.ones(len(group), np.float32)
    joined = placed.labels < int(left.sum())
    score[new[sound][joined]] = _scores(night, left, placed.labels[joined], raw[joined])
    _write_groups(night, group, score)
    write_since(context.lake, night.since.another_night(come, gone, corrections_digest(context.lake)))
    brought = placed.into != np.arange(len(placed.into))
    counts = {
        "faces": len(group),
        "groups": len(distinct(group)),
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


def _write_groups(night: Increment, group: I64, score: F32) -> None:
    """Replace the groups table by the group (n,) and the score (n,) of each face."""
    table = night.context.lake["groups"]
    staged: list[Receipt] = []
    waiting: list[pa.Table] = []
    for number, ids in night.faces.ids():
        rows = [ids, pa.array(group[number]), pa.array(score[number])]
        waiting.append(pa.table(rows, schema=plain(GROUPS)))
        if sum(part.num_rows for part in waiting) >= _ROWS_PER_FILE:
            staged.append(table.stage(pa.concat_tables(waiting)))
            waiting = []
    if waiting:
        staged.append(table.stage(pa.concat_tables(waiting)))
    must_add_up("cluster", ("faces", len(night.faces)), ("grouped", sum(receipt.rows for receipt in staged)))
    night.context.check_lease()
    table.commit(staged, table.snapshot().files)


def _released(night: Increment, home: I64, measures: Measures) -> tuple[Bool, int]:
    """Which identities stay groups (identities,), and how many singletons are placed again.

    Faces of identities that lost many faces or were corrected since, and singletons near such an identity, are placed
    again (home becomes -1).
    """
    size = _sizes(night)
    apart = (night.gone > 0) & (night.gone >= _RELEASED * (size + night.gone)) & (size > 0)
    undone = set(night.since.corrections) - set(corrections_digest(night.context.lake))
    apart[_corrected_since(night, undone)] = True  # they are grouped as if the correction had never been recorded
    near = _retried(night, size, measures)
    home[np.isin(home, np.flatnonzero(apart | near))] = -1
    return (size > 0) & ~apart & ~near, int(near.sum())


def _sizes(night: Increment) -> I64:
    """Faces (identities,) that each identity still has."""
    return np.asarray(night.identities["size"].to_numpy() - night.gone, np.int64)


def _standing(night: Increment, left: Bool, new: int, exemplars: _Exemplars, measures: Measures) -> Standing:
    """The existing groups, by their stored means; with room for the groups of so many new faces."""
    size, number = _sizes(night), np.cumsum(left) - 1
    cohesion, weight = (night.identities[name].to_numpy().astype(np.float32) for name in ("cohesion", "weight"))
    sums = np.zeros((int(left.sum()) + new, night.faces.dim), np.float32)
    for at, means in _stored_means(night, left):
        sums[number[at]] = without(means, measures.directions) * (cohesion[at] * size[at])[:, None]
    bins = measures.gate.bins((weight / np.maximum(size + night.gone, 1))[left])
    return Standing(sums, size[left], bins, lambda: read_ahead(exemplars.blocks()))


def _stored_means(night: Increment, wanted: Bool) -> Iterator[tuple[I64, F32]]:
    """Yield the numbers (k,) of wanted identities and their templates (k, dim) as stored, file by file."""
    for at, rows in _active_rows(night, ["prototype"]):
        yield at[wanted[at]], matrix_of(rows["prototype"], night.faces.dim)[wanted[at]]


def _active_rows(night: Increment, names: list[str]) -> Iterator[tuple[I64, pa.Table]]:
    """Yield the numbers (k,) of active identities and these columns of their rows, file by file."""
    start = 0
    for rows in night.gallery.parts("identities", ["status", *names]):
        active = rows.filter(pc.equal(rows["status"], "active"))
        yield night.rank[start : start + active.num_rows], active
        start += active.num_rows


def _scores(night: Increment, left: Bool, labels: I64, vectors: F32) -> F32:
    """Cosine (m,) of vectors (m, dim) to the stored mean of the group that each joined."""
    out = np.zeros(len(labels), np.float32)
    by_group, number = ByGroup.of(labels, int(left.sum())), np.cumsum(left) - 1
    for at, means in _stored_means(night, left):
        rows, group = by_group.members(number[at])
        out[rows] = np.einsum("ij,ij->i", vectors[rows], means[group])
    return out


@dataclass(slots=True)
class _Exemplars:
    """Reads the exemplars of the identities that stay, file by file, and compares some with new faces on the way.

    Attributes:
        night: the run.
        left: (identities,) which stay.
        measures: of the last full clustering.
        arrived: (m, dim) new faces.
        drawn: the groups of pairs of a new face and an exemplar, whose similarity tells whether faces drifted.
        face: (pairs,) the new face of each pair.
        which: (pairs,) a random number that chooses the exemplar.
        cosines: of the pairs that were read.
    """

    night: Increment
    left: Bool
    measures: Measures
    arrived: F32
    drawn: ByGroup
    face: I64
    which: I64
    cosines: list[F32]

    @classmethod
    def of(cls, night: Increment, left: Bool, arrived: F32, measures: Measures) -> _Exemplars:
        """Draw the pairs; none where too few faces or groups are there to say anything."""
        most = night.context.config.gallery.exemplars
        weight = np.minimum(_sizes(night)[left], most).cumsum()
        pairs = _DRIFT_PAIRS if len(arrived) >= _DRIFT_FACES and len(weight) >= _DRIFT_GROUPS else 0
        generator = np.random.default_rng(night.context.config.cluster.seed)
        face = generator.integers(0, max(len(arrived), 1), pairs)
        group = np.searchsorted(weight, generator.integers(0, max(int(weight[-1:].sum()), 1), pairs), side="right")
        which = generator.integers(0, 1 << 30, pairs)
        return cls(night, left, measures, arrived, ByGroup.of(group, len(weight)), face, which, [])

    def blocks(self) -> Iterator[ExemplarBlock]:
        """Yield the exemplars of every group that stays; those of faces that are gone are left out."""
        night, number = self.night, np.cumsum(self.left) - 1
        for at, active in _active_rows(night, ["exemplars", "exemplar_faces"]):
            owner = np.repeat(np.arange(len(at)), pc.list_value_length(active["exemplars"]).to_numpy())
            kept = self.left[at[owner]] & (night.faces.find(pc.list_flatten(active["exemplar_faces"])) >= 0)
            stored = pc.list_flatten(active["exemplars"]).filter(pa.array(kept))
            vectors, _ = columns.vectors(stored, night.faces.dim)
            here = np.flatnonzero(self.left[at])
            first = np.searchsorted(owner[kept], np.append(here, len(at)))
            block = ExemplarBlock(number[at[here]], without(vectors, self.measures.directions), first)
            self._compare(block)
            yield block

    def _compare(self, block: ExemplarBlock) -> None:
        pairs, group = self.drawn.members(block.groups)
        shown = np.diff(block.first)[group]
        pairs, group, shown = pairs[shown > 0], group[shown > 0], shown[shown > 0]
        chosen = block.vectors[block.first[group] + self.which[pairs] % shown]
        self.cosines.append(np.einsum("ij,ij->i", self.arrived[self.face[pairs]], chosen))

    def drift(self) -> float:
        """How far the similarity of new faces and random exemplars lies from that of different people in the last full
        clustering, in its standard deviations. Call after `blocks` was read.
        """
        cosine = np.concatenate([np.zeros(0, np.float32), *self.cosines])
        if not len(cosine):
            return 0.0
        cuts = self.measures.cuts
        return float(abs(np.median(cosine) - cuts.impostor_mean) / max(cuts.impostor_sd, 1e-3))


def _retried(night: Increment, size: I64, measures: Measures) -> Bool:
    """Identities of one face that lie near one that a correction since has changed: they are placed again."""
    out = np.zeros(len(size), bool)
    changed = _corrected_since(night, set(corrections_digest(night.context.lake)) - set(night.since.corrections))
    if not len(changed):
        return out
    corrected = np.isin(np.arange(len(size)), changed)
    near = np.concatenate([means for _, means in _stored_means(night, corrected)])
    for at, means in _stored_means(night, (size == 1) & (night.gone == 0) & ~corrected):
        out[at[(means @ near.T).max(axis=1, initial=-1) >= measures.cuts.attach]] = True
    return out


def _corrected_since(night: Increment, seqs: set[int]) -> I64:
    """Identities (ascending) that now hold faces of these corrections."""
    if not seqs:
        return np.zeros(0, np.int64)
    stored = night.context.lake["corrections"].read(["seq", "faces_a", "faces_b"])
    stored = stored.filter(pc.is_in(stored["seq"], pa.array(sorted(seqs)))).to_pylist()
    spoken = {face for row in stored for face in (*(row["faces_a"] or ()), *(row["faces_b"] or ()))}
    at = night.faces.find(pa.array(sorted(spoken), pa.string()))
    found = distinct(night.home[at[at >= 0]])
    return np.asarray(found[found >= 0], np.int64)


def _arrived(night: Increment, new: I64, measures: Measures) -> tuple[Arrived, Bool, F32]:
    """The new faces whose vector is sound, which those are, and their vectors as stored."""
    wanted = np.zeros(len(night.faces), bool)
    wanted[new] = True
    vectors = np.zeros((len(new), night.faces.dim), np.float32)
    quality, photo = np.zeros(len(new), np.float32), np.zeros(len(new), np.int64)
    for at, rows in night.faces.rows(wanted, ["quality", "embedding", "image_id"]):
        place_ = np.searchsorted(new, at)
        vectors[place_], _ = columns.vectors(rows["embedding"], night.faces.dim)
        quality[place_] = np.nan_to_num(rows["quality"].to_numpy().astype(np.float32))
        photo[place_] = columns.keys(rows["image_id"])
    poor = (quality == 0) | (quality < night.context.config.cluster.min_quality)  # 0: landmarks not confirmed
    sound = (np.linalg.norm(vectors, axis=1) > 0.5) & ~poor
    raw = vectors[sound]
    projected = without(raw, measures.directions)
    return Arrived(projected, measures.gate.bins(quality[sound]), photo[sound]), sound, raw
