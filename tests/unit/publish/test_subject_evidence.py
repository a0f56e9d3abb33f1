"""Contradictions of subject references and identities, against a count by dictionaries, and the questions about them."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.contracts import I64
from facelake.publish.analytics import Stats, doubts
from facelake.publish.subject_evidence import Conflicts, Evidence, subject_doubts

PHOTOS = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), max_size=40)


def evidence_of(photos: list[tuple[int, int]]) -> Evidence:
    pairs = np.array(photos, np.int64).reshape(-1, 2)
    return Evidence.of(pairs[:, 0], pairs[:, 1])


def as_dict(conflicts: Conflicts, member: I64, evidence: Evidence) -> dict[int, dict[int, int]]:
    return {
        int(group): {int(member[row]): int(evidence.photos[row]) for row in conflicts.parts(number)}
        for number, group in enumerate(conflicts.group)
    }


@given(PHOTOS)
def test_conflicts_are_the_groups_with_several_parts(photos: list[tuple[int, int]]) -> None:
    evidence = evidence_of(photos)
    by_subject: dict[int, Counter[int]] = defaultdict(Counter)
    by_identity: dict[int, Counter[int]] = defaultdict(Counter)
    for subject, identity in photos:
        by_subject[subject][identity] += 1
        by_identity[identity][subject] += 1
    joined, divided = evidence.joined(), evidence.divided()
    assert as_dict(joined, evidence.subject, evidence) == {k: dict(v) for k, v in by_identity.items() if len(v) > 1}
    assert as_dict(divided, evidence.identity, evidence) == {k: dict(v) for k, v in by_subject.items() if len(v) > 1}
    for conflicts, counts in ((joined, by_identity), (divided, by_subject)):
        assert conflicts.apart.tolist() == [
            counts[group].total() - max(counts[group].values()) for group in conflicts.group.tolist()
        ]
        assert conflicts.photos.tolist() == [counts[group].total() for group in conflicts.group.tolist()]
        assert conflicts.apart.tolist() == sorted(conflicts.apart.tolist(), reverse=True)
        for number in range(len(conflicts)):
            parts = evidence.photos[conflicts.parts(number)].tolist()
            assert parts == sorted(parts, reverse=True)


def photos_of(counts: dict[tuple[int, int], int]) -> Evidence:
    return evidence_of([pair for pair, count in counts.items() for _ in range(count)])


def test_an_identity_of_two_subjects_is_asked_about_and_most_where_both_have_as_many() -> None:
    evidence = photos_of({(7, 0): 6, (8, 0): 6, (9, 1): 39, (8, 1): 1})
    half, stray = [d for d in subject_doubts(evidence, np.array([12, 40]), set(), 9) if d.kind == "two_people"]
    assert (half.identity, half.other, half.faces, half.doubt) == (0, -1, 12, 1.0)
    assert half.reason == "its photos with one face name 2 subjects (6 and 6 photos)"
    assert (stray.identity, stray.doubt) == (1, 2 / 40)  # probably one wrong reference
    many = photos_of({(subject, 0): 10 - subject for subject in range(7)})
    [doubt] = [d for d in subject_doubts(many, np.array([49]), set(), 9) if d.kind == "two_people"]
    assert doubt.reason == "its photos with one face name 7 subjects (10, 9, 8, 7, 6 and fewer photos)"


def test_identities_of_one_subject_are_asked_about_unless_another_subject_prevails_there() -> None:
    evidence = photos_of({(7, 3): 10, (7, 1): 4, (7, 2): 1, (8, 2): 20})
    size = np.array([0, 5, 25, 12])
    [doubt] = [d for d in subject_doubts(evidence, size, set(), 9) if d.kind == "same_person"]
    assert (doubt.identity, doubt.other, doubt.faces, doubt.doubt) == (1, 3, 5, 1.0)
    assert doubt.reason == "photos with one face that name the same subject are in both (10 and 4 photos)"
    kinds = [d.kind for d in subject_doubts(evidence, size, {(1, 3)}, 9)]
    assert kinds == ["two_people"]  # a reviewer has said that 1 and 3 are two people


def test_the_number_of_questions_is_bounded() -> None:
    shattered = photos_of({(7, identity): 1 for identity in range(50)})
    assert len(subject_doubts(shattered, np.ones(50, np.int64), set(), 9)) == 5
    pairs = photos_of({(subject, 2 * subject + side): 3 for subject in range(50) for side in (0, 1)})
    assert len(subject_doubts(pairs, np.ones(100, np.int64), set(), 9)) == 9


def test_a_question_for_two_reasons_is_asked_once() -> None:
    stats = Stats(
        np.array([5, 5]), np.array([0.9, 0.9], np.float32), np.array([1, 0], np.int32),
        np.array([0.9, 0.9], np.float32), np.array([0, 0]),
    )  # fmt: skip
    [by_figures] = doubts(stats, set(), 9)
    by_subject = subject_doubts(photos_of({(7, 0): 4, (7, 1): 3}), stats.size, set(), 9)
    [both] = doubts(stats, set(), 9, by_subject)
    assert both.doubt == max(by_figures.doubt, 1.0)
    assert both.other == by_figures.other
    assert both.reason == f"{by_subject[0].reason}; {by_figures.reason}"
