"""Error rates of a matcher by similarity threshold, measured on the gallery's own faces, without labels.

Impostor comparisons are faces against the templates of other identities; genuine comparisons are faces against the
template of their own identity computed without them. Identities are those that clustering found: a person who is in two
identities counts as their own impostor, which makes the reported thresholds too high rather than too low.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster.labels import add_sums
from facelake.contracts import F32, I64
from facelake.publish.matching import places
from facelake.publish.thresholds import thresholds
from facelake.stages.core.context import Context
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import Gallery
from facelake.vectors import embedding_matrix

_IDENTITIES, _FACES, _TEMPLATES = 2_000, 4_000, 5_000
_LEAST_NORM = 1e-3  # of the sum of an identity's other faces


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Similarities of a sample of a gallery."""

    impostor: F32
    """(n,) of different identities"""
    genuine: F32
    """(m,) of faces with their own identity; empty if no identity has several faces"""

    def points(self) -> list[dict[str, Any]]:
        """Return thresholds at the usual false match rates."""
        return [asdict(point) for point in thresholds(self.impostor, self.genuine)]


def compared(context: Context, gallery: Gallery, rows: pa.Table) -> Comparisons:
    """Compare a sample of the gallery with itself.

    A gallery in which no identity has several faces has no genuine comparisons: their rates are None then, and
    impostors are templates against each other.

    Args:
        context: of the run.
        gallery: the gallery version.
        rows: its identities that count, with identity_id and size.
    """
    generator = np.random.default_rng(gallery.version)
    chosen = np.sort(generator.permutation(np.flatnonzero(rows["size"].to_numpy() > 1))[:_IDENTITIES])
    ids = rows["identity_id"].combine_chunks()
    names = ids.take(pa.array(chosen))
    members = _members(gallery, names)
    members = members.take(pa.array(np.sort(generator.permutation(members.num_rows)[: 4 * _FACES])))
    faces = context.lake["faces"].where("face_id", members["face_id"], ["face_id", "embedding", "quality"])
    faces = faces.join(members, "face_id", join_type="inner").sort_by("face_id")
    probes = np.sort(generator.permutation(faces.num_rows)[:_FACES])
    against = np.sort(generator.permutation(len(ids))[:_TEMPLATES])
    templates = _templates(gallery, ids.take(pa.array(against)))
    if not faces.num_rows:
        impostor = (templates @ templates.T)[np.triu_indices(len(templates), 1)]
        return Comparisons(impostor.astype(np.float32), np.zeros(0, np.float32))
    vectors, sound = embedding_matrix(faces["embedding"])
    identity = chosen[places(faces["identity_id"], names)]
    genuine = _genuine(vectors[sound], faces["quality"].to_numpy()[sound], identity[sound])
    probes = probes[sound[probes]]
    similarity = vectors[probes] @ templates.T
    impostor = similarity[identity[probes][:, None] != against[None, :]]
    return Comparisons(impostor.astype(np.float32), genuine)


def _members(gallery: Gallery, names: pa.Array) -> pa.Table:
    """Return face_id and identity_id of the faces of some identities, read file by file, by face id."""
    parts = [pa.table({"face_id": pa.array([], pa.string()), "identity_id": pa.array([], pa.string())})]
    for rows in gallery.parts("memberships", ["face_id", "identity_id"]) if len(names) else ():
        parts.append(rows.filter(pc.is_in(rows["identity_id"], names)))
    return pa.concat_tables(parts).sort_by("face_id")


def _templates(gallery: Gallery, names: pa.Array) -> F32:
    """Return the templates (n, dim) of some active identities, read file by file."""
    parts = [
        rows.filter(pc.is_in(rows["identity_id"], names))
        for rows in gallery.parts("identities", ["identity_id", "prototype"])
    ]
    found = pa.concat_tables(parts)
    found = found.take(pa.array(places(names, found["identity_id"])))
    return matrix_of(found["prototype"], len(found["prototype"][0]))


def _genuine(vectors: F32, quality: F32, identity: I64) -> F32:
    """Return the similarity (m,) of each face to the mean of the other sampled faces of its identity, if it has any."""
    _, label = np.unique(identity, return_inverse=True)
    weights = np.maximum(quality, 1e-3)[:, None].astype(np.float32)
    sums = np.zeros((int(label.max(initial=-1)) + 1, vectors.shape[1]), np.float32)
    add_sums(weights * vectors, label.astype(np.int32), sums)
    rest = sums[label] - weights * vectors
    norm = np.linalg.norm(rest, axis=1)
    others = norm > _LEAST_NORM
    similarity: F32 = np.einsum("ij,ij->i", vectors[others], rest[others] / norm[others, None])
    return similarity.astype(np.float32)
