"""Where the custodian's subject references and the identities contradict each other. Pure.

The evidence is photos that name a subject and in which exactly one face was found: in a photo of several people nothing
says which of the faces is the named subject's. Such a photo can still mislead: it may carry the wrong reference, or the
subject's own face may not have been found; one person may also have two references. So a contradiction is a question
for a person, never a correction by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from facelake.contracts import F64, I64
from facelake.publish.analytics import Doubt

_MIN_SHARE = 0.5  # of an identity's photos that name the subject, from which the subject's identities may be one person
_MAX_OTHERS = 5  # identities per subject that are asked about, those of most photos
_MAX_COUNTS = 5  # counts in the reason of a question


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Groups of evidence with more than one part; those with most photos outside their largest part first.

    Attributes:
        by_identity: whether the groups are identities and the parts subjects; else the other way round.
        group: (m,) the identity or subject.
        photos: (m,) its photos.
        apart: (m,) its photos outside its largest part: at least so many are of somebody else, or elsewhere.
        start: (m,) where its rows begin in `rows`.
        end: (m,) where they end.
        rows: (k,) rows of the evidence; within a group those of most photos first.
    """

    by_identity: bool
    group: I64
    photos: I64
    apart: I64
    start: I64
    end: I64
    rows: I64

    def __len__(self) -> int:
        return len(self.group)

    def parts(self, number: int) -> I64:
        """Return the rows of the evidence of a group, those of most photos first."""
        return self.rows[self.start[number] : self.end[number]]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Photos of one face that name a subject, counted by subject and identity; arrays (k,).

    Attributes:
        subject: a key of the subject's reference.
        identity: number of the identity.
        photos: number of photos.
    """

    subject: I64
    identity: I64
    photos: I64

    @classmethod
    def of(cls, subject: I64, identity: I64) -> Evidence:
        """Count photos, given the subject and the identity of each (n,)."""
        order = np.lexsort((identity, subject))
        subject, identity = subject[order], identity[order]
        first = np.flatnonzero(_is_first(subject) | _is_first(identity))
        return cls(subject[first], identity[first], np.diff(np.append(first, len(order))))

    def joined(self) -> Conflicts:
        """Return the identities with photos of several subjects: perhaps several people in one identity."""
        return _conflicts(self.identity, self.photos, by_identity=True)

    def divided(self) -> Conflicts:
        """Return the subjects with photos in several identities: perhaps one person in several identities."""
        return _conflicts(self.subject, self.photos, by_identity=False)


def _is_first(ordered: I64) -> np.ndarray:
    """Return whether each value (n,) differs from the one before it."""
    first = np.ones(len(ordered), bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return first


def _conflicts(group: I64, photos: I64, *, by_identity: bool) -> Conflicts:
    rows = np.lexsort((-photos, group))
    start = np.flatnonzero(_is_first(group[rows]))
    end = np.append(start, len(rows))[1:]
    total = np.add.reduceat(photos[rows], start) if len(start) else np.zeros(0, np.int64)
    apart = total - photos[rows[start]]
    several = np.flatnonzero(end - start > 1)
    order = several[np.lexsort((group[rows[start[several]]], -total[several], -apart[several]))]
    group = group[rows[start[order]]]
    return Conflicts(by_identity, group, total[order], apart[order], start[order], end[order], rows)


def subject_doubts(evidence: Evidence, size: I64, settled: set[tuple[int, int]], most: int) -> list[Doubt]:
    """Return questions for a reviewer about the contradictions of most photos.

    Args:
        evidence: the identities are positions in `size`.
        size: (identities,) faces of each.
        settled: pairs (low, high) of identities that a correction states to be two people.
        most: number of identities and of subjects that are asked about.
    """
    return [*_two_people(evidence, size, most), *_same_person(evidence, size, settled, most)]


def _two_people(evidence: Evidence, size: I64, most: int) -> Iterator[Doubt]:
    joined = evidence.joined()
    for number in range(min(most, len(joined))):
        counts = evidence.photos[joined.parts(number)].tolist()
        shown = [f"{count:,}" for count in counts[:_MAX_COUNTS]]
        last = shown.pop() if len(counts) <= _MAX_COUNTS else "fewer"
        reason = f"its photos with one face name {len(counts):,} subjects ({', '.join(shown)} and {last} photos)"
        doubt = min(1.0, 2 * int(joined.apart[number]) / int(joined.photos[number]))  # half and half is most doubtful
        identity = int(joined.group[number])
        yield Doubt("two_people", identity, -1, doubt, int(size[identity]), reason)


def _same_person(evidence: Evidence, size: I64, settled: set[tuple[int, int]], most: int) -> Iterator[Doubt]:
    """Yield a question for the largest identity of a subject and each other one that is mostly of this subject."""
    share: F64 = evidence.photos / np.bincount(evidence.identity, evidence.photos)[evidence.identity]
    divided, seen = evidence.divided(), set(settled)
    for number in range(min(most, len(divided))):
        rows = divided.parts(number)
        main, *others = rows[share[rows] >= _MIN_SHARE].tolist() or [-1]
        for other in others[:_MAX_OTHERS]:
            pair = sorted((int(evidence.identity[main]), int(evidence.identity[other])))
            if (pair[0], pair[1]) in seen:
                continue
            seen.add((pair[0], pair[1]))
            counts = " and ".join(f"{int(evidence.photos[row]):,}" for row in (main, other))
            reason = f"photos with one face that name the same subject are in both ({counts} photos)"
            doubt = float(min(share[main], share[other]))
            yield Doubt("same_person", pair[0], pair[1], doubt, int(size[pair].min()), reason)
