"""Links between large groups, counted among sampled faces of both.

A face's list of neighbours holds the nearest ones only. In a group of many more faces than a list is long they are all
of that group, so that links to another part of the same person are missing from the lists, however many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.cluster.edges import Known
from facelake.cluster.neighbours import Search
from facelake.cluster.overlap import Links
from facelake.contracts import F16, F32, I32, I64, Bool

_MOST, _LEAST, _MOST_BYTES = (
    64,
    16,
    1 << 28,
)  # sampled faces of a group; bytes of all sampled vectors, unless _LEAST need more
_LISTED = Search().k
_LEAST_LISTED = 4  # links that the lists have: without any, two groups are not worth a comparison


@dataclass(frozen=True, slots=True)
class Sample:
    """Sampled faces (m,) of groups, ascending by group, then face."""

    group: I32
    face: I32
    vectors: F16
    """(m, dim)"""


def faces_per_group(groups: int, dim: int) -> int:
    """Return how many faces of each group are sampled, on the mean."""
    return int(np.clip(_MOST_BYTES // (2 * dim * max(groups, 1)), _LEAST, _MOST))


def sampled(faces: I32, size: I64, wanted: int) -> Bool:
    """Return which faces (n,) are in the sample of their group; the choice depends on the face's number only.

    Args:
        size: (n,) faces of the group of each.
        wanted: faces of a group, on the mean.
    """
    step = np.maximum(-(-size // wanted), 1).astype(np.uint64)
    scattered = (faces.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)
    return np.asarray(scattered % step == 0)


def too_long_for_lists(links: Links, size: I64) -> Bool:
    """Return which pairs (pairs,) have links, but may have many more than the lists of both groups show.

    Args:
        size: (groups,) faces of each group.
    """
    smaller = np.minimum(size[links.group], size[links.other])
    return np.asarray((smaller > _LISTED) & (links.links >= _LEAST_LISTED))


def recounted(links: Links, size: I64, sample: Sample, known: Known, cut: float) -> Links:
    """Estimate the links of pairs of groups, and the most of one face, from the sample; never less than was listed.

    Args:
        links: as the lists have them.
        size: (groups,) faces of each group.
        sample: of all these groups.
        known: normalisation of cosines.
        cut: cosine from which a pair of faces is a link.
    """
    start = np.searchsorted(sample.group, np.arange(len(size) + 1))
    count, most = links.links.copy(), links.most.copy()
    for i, (low, high) in enumerate(zip(links.group.tolist(), links.other.tolist(), strict=True)):
        own, other = slice(start[low], start[low + 1]), slice(start[high], start[high + 1])
        strong = _values(sample, own, other, known) >= cut
        if strong.size:
            count[i] = max(count[i], round(float(strong.mean()) * int(size[low]) * int(size[high])))
            of_own, of_other = strong.mean(1).max() * size[high], strong.mean(0).max() * size[low]
            most[i] = max(most[i], int(np.ceil(max(of_own, of_other))))
    return Links(links.group, links.other, count, most)


def _values(sample: Sample, own: slice, other: slice, known: Known) -> F32:
    """Return the normalised cosines of all pairs of two slices of the sample."""
    cosine = sample.vectors[own].astype(np.float32) @ sample.vectors[other].astype(np.float32).T
    a, b = sample.face[own], sample.face[other]
    flat = known.value(np.repeat(a, len(b)), np.tile(b, len(a)), cosine.ravel().astype(np.float16))
    return flat.reshape(cosine.shape)
