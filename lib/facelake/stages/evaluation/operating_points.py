"""Operating points of a gallery for a matcher, measured without labels on the gallery's own faces.

Impostor comparisons are faces against the templates of other identities. Genuine comparisons are faces against the
template of their own identity, computed without the face. The identities are those of the clustering: if a person has
two identities, their faces count as impostors of each other. The thresholds are therefore rather too high than too low.
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

_MAX_IDENTITIES, _MAX_FACES, _MAX_TEMPLATES = 2_000, 4_000, 5_000


def operating_points(context: Context, gallery: Gallery, rows: pa.Table) -> list[dict[str, Any]]:
    """Return the thresholds of a gallery at the standard false match rates.

    Args:
        context: gives the lake.
        gallery: the gallery version.
        rows: its active identities, with their templates.
    """
    generator = np.random.default_rng(gallery.version)
    sizes = rows["size"].to_numpy()
    with_several_faces = np.flatnonzero(sizes > 1)
    chosen = np.sort(generator.permutation(with_several_faces)[:_MAX_IDENTITIES])
    members = gallery.read("memberships", ["face_id", "identity_id"])
    names = rows["identity_id"].take(pa.array(chosen)).combine_chunks()
    members = members.filter(pc.is_in(members["identity_id"], names))
    members = members.take(pa.array(np.sort(generator.permutation(members.num_rows)[: 4 * _MAX_FACES])))
    faces = context.lake["faces"].where("face_id", members["face_id"], ["face_id", "embedding", "quality"])
    faces = faces.join(members, "face_id", join_type="inner").sort_by("face_id")
    vectors, is_valid = embedding_matrix(faces["embedding"])
    label = pc.index_in(faces["identity_id"], names).to_numpy()
    templates = matrix_of(rows["prototype"], vectors.shape[1])
    impostor, genuine = _comparisons(
        vectors[is_valid], faces["quality"].to_numpy()[is_valid], chosen[label[is_valid]], templates, generator
    )
    return [asdict(point) for point in thresholds(impostor, genuine)]


def _comparisons(
    vectors: F32, quality: F32, identity: I64, templates: F32, generator: np.random.Generator
) -> tuple[F32, F32]:
    """Return the similarities of impostor and of genuine comparisons; `identity` (n,) indexes `templates`."""
    weights = np.maximum(quality, 1e-3)[:, None].astype(np.float32)
    sums = np.zeros((len(templates), vectors.shape[1]), np.float32)
    add_sums(weights * vectors, identity.astype(np.int32), sums)
    rest = sums[identity] - weights * vectors
    norm = np.linalg.norm(rest, axis=1)
    has_others = norm > 1e-3
    genuine = np.einsum("ij,ij->i", vectors[has_others], rest[has_others] / norm[has_others, None])
    probes = np.sort(generator.permutation(len(vectors))[:_MAX_FACES])
    against = np.sort(generator.permutation(len(templates))[:_MAX_TEMPLATES])
    similarity = vectors[probes] @ templates[against].T
    impostor = similarity[identity[probes][:, None] != against[None, :]]
    return impostor.astype(np.float32), genuine.astype(np.float32)
