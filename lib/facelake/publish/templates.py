"""Templates of identities: the quality-weighted mean of their faces, exemplars, core faces and scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.contracts import F16, F32, F64, I64, Bool
from facelake.publish.prototypes import add_weighted, core_faces, exemplars, means_of, weight_of
from facelake.vectors import encode_embeddings, unit_rows

CORE = 5
"""Faces of an identity that decide where its id goes."""
_CANDIDATES = 24  # faces per identity among which exemplars are chosen, besides the exemplars that it has


@dataclass(frozen=True, slots=True)
class FaceVectors:
    """Faces whose vectors are read, ordered by group, then key.

    Attributes:
        group: (m,) group of each face.
        ids: (m,) face ids.
        vectors: (m, dim) unit vectors.
        quality: (m,) quality in 0..1.
    """

    group: I64
    ids: list[str]
    vectors: F32
    quality: F32


@dataclass(frozen=True, slots=True)
class KnownTemplates:
    """Templates of previous identities whose faces are all in one group now, so that their vectors are not read.

    Attributes:
        group: (k,) the group that holds them.
        template: (k, dim) unit means.
        cohesion: (k,) weighted mean similarity of the faces to the mean.
        weight: (k,) sum of the faces' weights.
        exemplars: for each its exemplars' vectors (float16 little-endian bytes).
        exemplar_faces: for each the face ids of its exemplars.
    """

    group: I64
    template: F32
    cohesion: F32
    weight: F32
    exemplars: list[list[bytes]]
    exemplar_faces: list[list[str]]

    @classmethod
    def none(cls, dim: int) -> KnownTemplates:
        """Return no templates."""
        empty = np.zeros(0, np.float32)
        return cls(np.zeros(0, np.int64), np.zeros((0, dim), np.float32), empty, empty, [], [])


@dataclass(frozen=True, slots=True)
class Templates:
    """What represents groups 0..count-1.

    Attributes:
        template: (count, dim) unit quality-weighted means; zero for a group without faces.
        cohesion: (count,) quality-weighted mean cosine of the faces to the mean.
        weight: (count,) sum of weights.
        score: (m,) cosine of each read face to its group's mean.
        exemplars: per group its exemplars as (face id, float16 vector bytes), the most similar to the mean first.
    """

    template: F32
    cohesion: F32
    weight: F64
    score: F32
    exemplars: dict[int, list[tuple[str, bytes]]]


def represent(faces: FaceVectors, known: KnownTemplates, count: int, most_exemplars: int) -> Templates:
    """Compute templates of groups from faces and from templates that stand for further faces.

    Args:
        faces: the faces that are read.
        known: templates whose faces are not read.
        count: number of groups.
        most_exemplars: exemplars per group at most.
    """
    dim = faces.vectors.shape[1]
    sums, total = np.zeros((count, dim)), np.zeros(count)
    length = known.cohesion * known.weight  # of the sum of the weighted faces that a template stands for
    add_weighted(known.template, length, known.group, sums, np.zeros(count))
    np.add.at(total, known.group, known.weight.astype(float))
    add_weighted(faces.vectors, weight_of(faces.quality), faces.group, sums, total)
    template, cohesion = means_of(sums, total)
    score = np.einsum("ij,ij->i", faces.vectors, template[faces.group]) if len(faces.group) else np.zeros(0, np.float32)
    chosen = _choose_exemplars(faces, known, template, cohesion, most_exemplars)
    return Templates(template, cohesion, total, score.astype(np.float32), chosen)


def core_of(group: I64, score: F32) -> Bool:
    """Return the core faces (n,) of each group: those with the highest scores; of equal ones the first."""
    return core_faces(group, score, CORE)


def _choose_exemplars(
    faces: FaceVectors, known: KnownTemplates, template: F32, cohesion: F32, most: int
) -> dict[int, list[tuple[str, bytes]]]:
    candidate = core_faces(faces.group, np.zeros(len(faces.group), np.float32), _CANDIDATES)
    at = np.flatnonzero(candidate)
    names = [faces.ids[i] for i in at]
    group = faces.group[at]
    vectors: F16 = faces.vectors[at].astype(np.float16)
    quality = faces.quality[at]
    earlier = [
        (int(known.group[i]), face, body)
        for i in range(len(known.group))
        for face, body in zip(known.exemplar_faces[i], known.exemplars[i], strict=True)
    ]
    if earlier:
        group = np.concatenate([group, np.array([g for g, _, _ in earlier], np.int64)])
        names += [face for _, face, _ in earlier]
        kept = np.frombuffer(b"".join(body for _, _, body in earlier), "<f2").reshape(len(earlier), -1)
        vectors = np.concatenate([vectors, kept.astype(np.float16)])
        quality = np.concatenate([quality, np.ones(len(earlier), np.float32)])
    if not len(group):
        return {}
    order = np.lexsort((np.array(names, object).astype(str), group))
    unit = unit_rows(vectors[order].astype(np.float32), least=1e-9)
    chosen = exemplars(unit, weight_of(quality[order]), group[order], template, cohesion, most)
    similarity = np.einsum("ij,ij->i", unit[chosen], template[group[order][chosen]])
    picked = order[chosen]
    best_first = picked[np.lexsort((-similarity, group[picked]))]
    bodies = encode_embeddings(vectors[best_first])
    out: dict[int, list[tuple[str, bytes]]] = {}
    for place, owner, body in zip(best_first.tolist(), group[best_first].tolist(), bodies, strict=True):
        out.setdefault(owner, []).append((names[place], body))
    return out
