"""At which similarity a matcher of this gallery errs how often: measured on the gallery's own faces, without labels.

Impostors are faces against the prototypes of other identities; genuine comparisons are faces against the prototype of
their own identity made without them. The identities are those that clustering found: a person who is two identities
counts as an impostor of himself, which makes the similarities told here too high rather than too low.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.cluster.labels import add_sums
from facelake.contracts import F32, I64
from facelake.publish.thresholds import thresholds
from facelake.stages.core.context import Context
from facelake.stages.gallery.range_tasks import matrix_of
from facelake.stages.gallery.versions import Gallery
from facelake.vectors import embedding_matrix

_IDENTITIES, _FACES, _PROTOTYPES = 2_000, 4_000, 5_000


def operating_points(context: Context, gallery: Gallery, rows: pa.Table) -> list[dict[str, Any]]:
    """Thresholds of a gallery's rows (identities with prototypes) at the usual false match rates."""
    generator = np.random.default_rng(gallery.version)
    sizes = rows["size"].to_numpy()
    several = np.flatnonzero(sizes > 1)
    chosen = np.sort(generator.permutation(several)[:_IDENTITIES])
    members = gallery.read("memberships", ["face_id", "identity_id"])
    names = rows["identity_id"].take(pa.array(chosen)).combine_chunks()
    members = members.filter(pc.is_in(members["identity_id"], names))
    members = members.take(pa.array(np.sort(generator.permutation(members.num_rows)[: 4 * _FACES])))
    faces = context.lake["faces"].where("face_id", members["face_id"], ["face_id", "embedding", "quality"])
    faces = faces.join(members, "face_id", join_type="inner").sort_by("face_id")
    vectors, sound = embedding_matrix(faces["embedding"])
    label = pc.index_in(faces["identity_id"], names).to_numpy()
    prototypes = matrix_of(rows["prototype"], vectors.shape[1])
    impostor, genuine = _comparisons(
        vectors[sound], faces["quality"].to_numpy()[sound], chosen[label[sound]], prototypes, generator
    )
    return [asdict(point) for point in thresholds(impostor, genuine)]


def _comparisons(
    vectors: F32, quality: F32, identity: I64, prototypes: F32, generator: np.random.Generator
) -> tuple[F32, F32]:
    """Similarities of impostors and of genuine pairs; `identity` (n,) is each face's row of `prototypes`."""
    weights = np.maximum(quality, 1e-3)[:, None].astype(np.float32)
    sums = np.zeros((len(prototypes), vectors.shape[1]), np.float32)
    add_sums(weights * vectors, identity.astype(np.int32), sums)
    rest = sums[identity] - weights * vectors
    norm = np.linalg.norm(rest, axis=1)
    alone = norm > 1e-3
    genuine = np.einsum("ij,ij->i", vectors[alone], rest[alone] / norm[alone, None])
    probes = np.sort(generator.permutation(len(vectors))[:_FACES])
    against = np.sort(generator.permutation(len(prototypes))[:_PROTOTYPES])
    similarity = vectors[probes] @ prototypes[against].T
    impostor = similarity[identity[probes][:, None] != against[None, :]]
    return impostor.astype(np.float32), genuine.astype(np.float32)
