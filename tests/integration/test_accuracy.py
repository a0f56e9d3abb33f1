"""gallery accuracy on few faces: what the counts show, and how many comparisons an operating point needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from facelake.publish.thresholds import FALSE_MATCH_RATES, interval, thresholds
from facelake.stages.evaluation.evidence import Evidence, comparisons_needed, needed_texts
from facelake.stages.evaluation.labels import People
from tests.conftest import run_cli, run_json


@pytest.mark.parametrize("rate", FALSE_MATCH_RATES[:2])
def test_as_many_comparisons_are_needed_as_it_says(rate: float) -> None:
    needed = comparisons_needed(rate)
    for count, known in ((needed - 1, False), (needed, True)):
        [point] = [p for p in thresholds(np.linspace(0, 0.5, count, dtype=np.float32), np.zeros(0)) if p.fmr == rate]
        assert (point.similarity is not None) is known
    shown = {1e-4: "0.0001", 1e-5: "0.00001"}[rate]
    assert any(f"FMR {shown}:" in text for text in needed_texts(needed - 1))
    assert not any(f"FMR {shown}:" in text for text in needed_texts(needed))


def test_more_labels_than_are_compared_are_not_asked_for_without_saying_so() -> None:
    assert [("at most 4,000" in text) for text in needed_texts(0)] == [False, False, True]


def test_errors_are_counted_on_both_sides_of_a_similarity() -> None:
    impostor, genuine = np.float32([0.1, 0.3, 0.5, 0.7]), np.float32([0.4, 0.5, 0.9])
    found = Evidence.of(impostor, genuine, 0.5)
    assert (found.false_matches, found.false_non_matches) == (2, 1)
    assert (found.fmr_low, found.fmr_high) == interval(2, 4)
    assert "2 reach 0.500: a rate of 6.76% to 93.24%" in found.texts()[0]
    assert "at least 0.400 similar; 1 are below 0.500" in found.texts()[1]
    nothing = Evidence.of(impostor[:0], genuine[:0], 0.5)
    assert nothing.texts() == ["no comparison of different people"]
    assert Evidence.of(impostor, genuine, None).false_matches is None


def test_people_are_counted_by_their_identities() -> None:
    pairs = [("ann", "1"), ("ann", "1"), ("bo", "2"), ("bo", "3"), ("cy", "4"), ("di", "4"), ("ed", "5"), ("ed", "4")]
    everyone = ["ann", "bo", "cy", "di", "ed", "flo", "ann"]
    found = People.of(everyone, pairs)  # Ed is divided and mixed
    assert found == People(people=6, absent=1, right=1, divided=2, mixed=3, absent_names=["flo"])
    assert found.in_words().endswith(
        "2 divided between identities, 3 mixed with others, 1 without a face in an identity: flo"
    )
    many = People.of([f"p{number:02d}" for number in range(30)], [("p00", "1")])
    assert many.in_words().endswith("29 without a face in an identity: " + ", ".join(many.absent_names) + " and 9 more")
    assert many.absent_names == [f"p{number:02d}" for number in range(1, 21)]
    assert People.of([], []) == People(0, 0, 0, 0, 0, [])


def test_a_small_lake_is_told_what_its_labels_show(demo_lake: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    rows = [f"album/person-{person}-{i:02d}.jpg,{person}" for person in (1, 2, 3) for i in range(4)]
    labels.write_text("\n".join(["image,person", *rows]))
    found = run_json("gallery", "accuracy", "--labels", str(labels), "--lake", str(demo_lake))
    evidence = found["evidence"]["labels"]
    assert (evidence["impostors"], evidence["genuine"]) == (48, 18)
    assert (evidence["false_matches"], evidence["false_non_matches"]) == (0, 0)
    assert [point["similarity"] for point in found["labels"]["points"]] == [None] * 3
    shown = run_cli("gallery", "accuracy", "--labels", str(labels), "--lake", str(demo_lake)).stdout
    assert "labels: 48 comparisons of different people" in shown
    assert shown.startswith("3 labelled people: 3 in one identity of their own, 0 divided between identities, 0 mixed")
    assert found["labels"]["in_gallery"] == {
        "people": 3,
        "absent": 0,
        "right": 3,
        "divided": 0,
        "mixed": 0,
        "absent_names": [],
    }
    labels.write_text("\n".join(["photo,name", *rows]))
    error = run_json("gallery", "accuracy", "--labels", str(labels), "--lake", str(demo_lake), code=2)["error"]
    assert error["what"] == "the labels need the columns image and person; the first line is 'photo,name'"
    assert error["next"].startswith("rename the columns")
    assert "to count errors at FMR 0.0001: 100,000 comparisons" in shown
    assert not any(line.startswith("labels ") for line in shown.splitlines())  # no rows without a figure
