"""A run that would lose much of the gallery by a slip stops before anything is removed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope, SourceClass
from facelake.errors import Refused
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context
from facelake.stages.embedding.corpus_size import corpus_size
from facelake.stages.embedding.pending import Pending

P = "identity-grouping"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    """A lake with 10 admitted photos: 7 of source `school`, 3 of source `club`."""
    with writing(load_config(lake=str(tmp_path / "lake")), "a custodian") as context:
        names = ["school"] * 7 + ["club"] * 3
        rows = [
            {"image_id": f"{s}/{i}", "image": b"x", "source_id": s, "subject_ref": f"p{i}"} for i, s in enumerate(names)
        ]
        write_corpus_file(context, rows)
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, source, (P,), "b") for source in ("school", "club")])
        assert admit(context).counts["admitted"] == 10
        yield context


def admitted(context: Context) -> int:
    return sum(context.lake["admissions"].read(["admitted"])["admitted"].to_pylist())


def test_a_class_that_was_recorded_stops_the_run_and_is_named(context: Context) -> None:
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b", source_class=SourceClass.CCTV)])
    with pytest.raises(Refused, match=r"source_class 7.*Next: check the classes"):
        admit(context)
    assert admitted(context) == 10


def test_a_mistyped_purpose_stops_the_run(context: Context) -> None:
    config, files = context.config, len(list(context.lake.store.list("admissions")))
    context.config = config.model_copy(update={"purpose": "advertising"})
    with pytest.raises(Refused, match=r"10 of 10 .*other_purpose 10.*'advertising'.*identity-grouping"):
        admit(context)
    assert (admitted(context), len(list(context.lake.store.list("admissions")))) == (10, files)
    context.accept_loss = True
    assert admit(context).counts["admitted"] == 0


def test_a_mistyped_purpose_stops_the_run_where_a_withdrawal_was_lifted_for_the_right_one(context: Context) -> None:
    """The new grant names its purposes, so that the withdrawal stands for the mistyped one."""
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, source) for source in ("school", "club")])
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, source, (P,), "b") for source in ("school", "club")])
    context.now = datetime.now(UTC)
    assert admit(context).counts["admitted"] == 10
    context.config = context.config.model_copy(update={"purpose": "identity-groupin"})
    corpus = corpus_size(context.config, context.lake)
    assert Pending.of(context.lake, corpus, context.config, context.now, 0).stops
    with pytest.raises(Refused, match=r"10 of 10 .*withdrawn 10.*'identity-groupin'.*identity-grouping"):
        admit(context)
    assert admitted(context) == 10


def test_a_grant_that_has_ended_already_stops_the_run(context: Context) -> None:
    ended = Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b", valid_until=YESTERDAY)
    record(context.lake, [ended])
    context.now = datetime.now(UTC)
    with pytest.raises(Refused, match=r"7 of 10 .*expired 7; most of them of source 'school'"):
        admit(context)
    assert admitted(context) == 10


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_the_share_is_configurable(context: Context, share: float) -> None:
    context.config = context.config.model_copy(update={"most_lost": share})
    record(context.lake, [Entry(EventKind.EXPIRE, Scope.SOURCE, "club")])
    context.now = datetime.now(UTC)
    if share < 0.3:
        with pytest.raises(Refused, match="3 of 10"):
            admit(context)
    else:
        assert admit(context).counts["admitted"] == 7


def test_withdrawals_take_effect_whatever_their_share(context: Context) -> None:
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, source) for source in ("school", "club")])
    context.now = datetime.now(UTC)
    assert admit(context).counts["refused_withdrawn"] == 10


def test_a_clock_that_was_set_back_admits_nothing_that_has_expired(context: Context) -> None:
    record(context.lake, [Entry(EventKind.EXPIRE, Scope.SOURCE, "club")])
    ends = datetime.now(UTC)
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "club", (P,), "b", valid_until=ends)])
    record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "other", (P,), "b")])
    context.accept_loss, context.now = True, ends - timedelta(days=30)
    assert admit(context).counts["admitted"] == 7
