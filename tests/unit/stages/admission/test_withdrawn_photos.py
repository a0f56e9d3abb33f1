"""A photo of somebody who has withdrawn stays refused when its file is renamed, so that nothing names the person."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.config import Config, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.admission.withdrawn_photos import TABLE
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase

P, OTHER = "identity-grouping", "print"
COLUMNS = {"subject_ref": {"regex": "(person-[0-9]+)"}, "source_id": {"constant": "school"}}


def config_of(folder: Path, kind: str = "files") -> Config:
    corpus = {"corpus.uri": str(folder / "photos"), "corpus.kind": kind, "corpus.columns": COLUMNS}
    return load_config(lake=str(folder / "lake"), overrides=corpus | {"corpus_may_shrink": True})


def opened(folder: Path, purpose: str = P) -> AbstractContextManager[Context]:
    return writing(config_of(folder).model_copy(update={"purpose": purpose}), "test")


def say(folder: Path, kind: str, subject: str | None = None) -> None:
    scope = Scope.SUBJECT if subject else Scope.SOURCE
    facts = {"purposes": (P,), "basis": "b"} if kind == "grant" else {}
    with opened(folder) as context:
        record(context.lake, [Entry(EventKind(kind), scope, subject or "school", **facts)])  # type: ignore[arg-type]


def admitted(folder: Path, purpose: str = P, now: datetime | None = None) -> set[str]:
    """The names of the admitted photos."""
    with opened(folder, purpose) as context:
        context.accept_loss = True
        context.now = now or datetime.now(UTC)
        admit(context)
        rows = context.lake["admissions"].read(["image_id", "admitted"]).to_pylist()
    return {row["image_id"] for row in rows if row["admitted"]}


@pytest.fixture
def school(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for person in (1, 2):
        for number in range(2):
            (photos / f"person-{person}_{number}.jpg").write_bytes(b"%d %d" % (person, number))
    say(tmp_path, "grant")
    assert len(admitted(tmp_path)) == 4
    return tmp_path


@pytest.mark.parametrize("before", [True, False])
def test_a_renamed_photo_stays_refused_until_a_new_grant(school: Path, *, before: bool) -> None:
    """Whether the file is renamed before the run that follows the withdrawal, or after it."""
    say(school, "withdraw", "person-1")
    if not before:
        assert len(admitted(school)) == 2
    (school / "photos/person-1_0.jpg").rename(school / "photos/graduation.jpg")
    others = {"person-2_0.jpg", "person-2_1.jpg"}
    for _ in range(2):
        assert admitted(school) == others
    with opened(school) as context:
        rows = json.dumps(context.lake[TABLE].read().to_pylist())
        assert "person-1" not in rows
        assert context.lake[TABLE].read().num_rows == 1
    say(school, "grant", "person-1")
    assert admitted(school) == others | {"graduation.jpg", "person-1_1.jpg"}
    with opened(school) as context:
        assert context.lake[TABLE].read().num_rows == 0


def test_a_rename_that_the_run_for_another_purpose_sees_first(school: Path) -> None:
    """Who has withdrawn for one purpose stays refused for it, and usable for the other."""
    withdrawn = Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-1", purposes=(P,))
    with opened(school) as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P, OTHER), "b"), withdrawn])
    (school / "photos/person-1_0.jpg").rename(school / "photos/graduation.jpg")
    others = {"person-2_0.jpg", "person-2_1.jpg"}
    for _ in range(2):
        assert admitted(school, OTHER) == others | {"graduation.jpg", "person-1_1.jpg"}
        assert admitted(school) == others
    with opened(school) as context:  # the photo that is there under its name is not remembered
        assert context.lake[TABLE].read().num_rows == 1


def test_a_rename_between_a_withdrawal_and_its_date(school: Path) -> None:
    begins = datetime.now(UTC) + timedelta(days=30)
    with opened(school) as context:
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-1", valid_from=begins)])
    (school / "photos/person-1_0.jpg").rename(school / "photos/graduation.jpg")
    others = {"person-2_0.jpg", "person-2_1.jpg"}
    assert admitted(school) == others | {"graduation.jpg", "person-1_1.jpg"}
    assert admitted(school, now=begins + timedelta(hours=1)) == others
    say(school, "grant", "person-1")
    assert admitted(school, now=begins + timedelta(hours=1)) == others | {"graduation.jpg", "person-1_1.jpg"}
    with opened(school) as context:
        assert context.lake[TABLE].read().num_rows == 0


def test_an_erasure_asks_about_renamed_photos_and_bars_those_that_are_gone(school: Path) -> None:
    say(school, "withdraw", "person-1")
    admitted(school)
    photos = school / "photos"
    (photos / "person-1_0.jpg").rename(photos / "graduation.jpg")
    away = (photos / "person-1_1.jpg").rename(school / "away.jpg")
    admitted(school)
    with opened(school) as context, pytest.raises(ConfigError, match=r"under other ids: graduation\.jpg"):
        erase(context, Request.of(subjects=["person-1"]))
    with opened(school) as context:
        done = erase(context, Request.of(subjects=["person-1"], copies="erase"))
        assert done.left_to_delete == [f"{photos}/graduation.jpg"]
        assert context.lake[TABLE].read().num_rows == 0
    away.rename(photos / "beach.jpg")  # the whole collection was moved by hand, and back
    assert admitted(school) == {"person-2_0.jpg", "person-2_1.jpg", "beach.jpg"}
    with opened(school) as context:  # embedding refuses suppressed contents before it decodes
        digest = next(row for row in context.lake["images"].read().to_pylist() if row["image_id"] == "beach.jpg")
        assert context.lake.keyed_hash(f"content:{digest['content_sha256']}") in context.lake.suppressed()


def test_a_copy_that_is_kept_is_not_barred(school: Path) -> None:
    say(school, "withdraw", "person-1")
    admitted(school)
    (school / "photos/person-1_0.jpg").rename(school / "photos/graduation.jpg")
    admitted(school)
    with opened(school) as context:
        erase(context, Request.of(subjects=["person-1"], copies="keep"))
        digest = next(r for r in context.lake["images"].read().to_pylist() if r["image_id"] == "graduation.jpg")
        assert context.lake.keyed_hash(f"content:{digest['content_sha256']}") not in context.lake.suppressed()
    assert "graduation.jpg" in admitted(school)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("rename"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["withdraw", "grant"]), st.sampled_from(["person-1", "person-2"])),
        st.just(("run", None)),
    ),
    max_size=8,
)


@given(steps)
@settings(max_examples=15)
def test_the_bytes_of_a_withdrawn_person_are_never_admitted(
    tmp_path_factory: pytest.TempPathFactory, steps: list
) -> None:  # type: ignore[type-arg]
    """Unless a run saw them without the person's name before the withdrawal: nothing connects them then."""
    folder = tmp_path_factory.mktemp("lake")
    photos, names = folder / "photos", [f"person-{1 + number % 2}_{number}.jpg" for number in range(4)]
    photos.mkdir()
    for number, name in enumerate(names):
        (photos / name).write_bytes(b"%d" % number)
    say(folder, "grant")
    admitted(folder)
    withdrawn: set[str] = set()
    linked = dict(enumerate(names))  # photos that a run has seen under the person's name last
    for step, what in [*steps, ("run", None)]:
        if step == "rename":
            (photos / names[what]).rename(photos / f"photo-{what}.jpg")
            names[what] = f"photo-{what}.jpg"
        elif step == "run":
            expected = {
                name for number, name in enumerate(names) if linked.get(number, "").partition("_")[0] not in withdrawn
            }
            assert admitted(folder) == expected
            linked = {
                number: old
                for number, old in linked.items()
                if names[number] == old or old.partition("_")[0] in withdrawn
            }
        else:
            say(folder, step, what)
            (withdrawn.add if step == "withdraw" else withdrawn.discard)(what)
