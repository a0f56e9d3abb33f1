"""What is delivered twice, contradicts itself or cannot be read admits no photo of a person who has withdrawn.

In every corpus here the source `school` covers everybody, and `anna` has withdrawn.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, Refused
from facelake.events import Notice
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.accepted_clock import AcceptedClock, accept_clock
from facelake.stages.admission.admit import admit
from facelake.stages.admission.ledger import Entry, present_time, record
from facelake.stages.admission.ledger_head import ledger_rows
from facelake.stages.admission.withdrawals import LedgerState
from facelake.stages.core.audit import append_audit, audit_faults
from facelake.stages.review.visibility import DisplayRights
from tests.conftest import run_cli, run_json

P = "identity-grouping"
GRANT = Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")
Build = Callable[[Path], object]
BY_JSON = {"subject_ref": "json.subject", "source_id": {"constant": "school"}}
BY_NAME = {"subject_ref": "subject", "source_id": {"constant": "school"}}


def admitted(
    tmp_path: Path, build: Build, columns: dict[str, Any] | None, kind: str | None, withdrawn: str = "anna"
) -> tuple[list[str | None], list[str]]:
    """The references of the photos that are admitted, and what was noticed."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    build(corpus)
    given: dict[str, Any] = {"corpus.uri": str(corpus)}
    given |= {"corpus.columns": columns} if columns else {}
    given |= {"corpus.kind": kind} if kind else {}
    notices: list[str] = []
    config = load_config(lake=str(tmp_path / "lake"), overrides=given)
    with writing(config, "test", lambda event: notices.append(event.text) if isinstance(event, Notice) else None) as context:  # fmt: skip
        record(context.lake, [GRANT, Entry(EventKind.WITHDRAW, Scope.SUBJECT, withdrawn)])
        context.now = datetime.now(UTC)
        admit(context)
        rows = context.lake["admissions"].read(["subject_ref", "admitted"]).to_pylist()
    return [row["subject_ref"] for row in rows if row["admitted"]], notices


def tar(*members: tuple[str, bytes]) -> Build:
    def build(corpus: Path) -> None:
        with tarfile.open(corpus / "a.tar", "w") as file:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                file.addfile(member, io.BytesIO(content))

    return build


def of(person: object) -> bytes:
    return json.dumps({"subject": person}).encode()


BOB = (("y.jpg", b"2"), ("y.json", of("bob")))
DEEP = b'{"subject": "anna", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ((("x.jpg", b"1"), ("x.json", of("anna")), ("x.json", of("bob"))), "contradicting fields"),
        ((("x.jpg", b"1"), ("x.json", b'{"subject": "anna", "subject": "bob"}')), "unreadable fields"),
        ((("x.jpg", b"1"), ("x.json", b'{"subject": "anna",')), "unreadable fields"),
        ((("x.jpg", b"1"), ("x.json", DEEP)), "unreadable fields"),
        ((("x.jpg", b"1"), ("x.json", of("anna")[:-1] + b" " * (1 << 20) + b"}")), "unreadable fields"),
        ((("x.jpg", b"1"), ("x.json", of(["anna"]))), "unreadable fields"),
        ((("x.jpg", b"1"), ("x.json", of(7.0))), "unreadable fields"),
        ((("x.json", of("anna")), *BOB, ("x.jpg", b"1")), "divided samples"),
        ((("x.jpg", b"1"), *BOB, ("x.json", of("anna"))), "divided samples"),
    ],
)
def test_a_sample_whose_person_is_in_doubt_is_left_out(
    members: tuple[tuple[str, bytes], ...], reason: str, tmp_path: Path
) -> None:
    more = () if set(BOB) <= set(members) else BOB
    people, notices = admitted(tmp_path, tar(*members, *more), BY_JSON, "webdataset")
    assert people == ["bob"]
    assert any(reason in text and "x.jpg" in text for text in notices)


def test_fields_that_no_rule_reads_may_be_anything(tmp_path: Path) -> None:
    columns = {"subject_ref": {"regex": "([a-z]+)-"}, "source_id": {"constant": "school"}}
    members = (("bob-1.jpg", b"1"), ("bob-1.json", b"{"), ("bob-1.json", of("x")))
    assert admitted(tmp_path, tar(*members), columns, "webdataset")[0] == ["bob"]


def listed(*lines: str, name: str = "metadata.jsonl") -> Build:
    def build(corpus: Path) -> None:
        for number in (1, 2):
            (corpus / f"{number}.jpg").write_bytes(b"%d" % number)
        (corpus / name).write_text("\n".join(lines) + "\n")

    return build


@pytest.mark.parametrize(
    ("lines", "people"),
    [
        (('{"file_name": "1.jpg", "subject": "bob"}', '{"file_name": "1.jpg", "subject": "anna"}'), []),
        (('{"file_name": "1.jpg", "subject": "anna"}', '{"file_name": "1.jpg", "subject": "bob"}'), []),
        (('{"file_name": "1.jpg", "subject": "bob"}', '{"file_name": "./1.jpg", "subject": "anna"}'), []),
        (('{"file_name": "1.jpg", "subject": "bob"}', '{"file_name": "1.jpg", "subject": "bob"}'), ["bob"]),
        (('{"file_name": "1.jpg", "subject": "\\u200banna "}', '{"file_name": "2.jpg", "subject": "bob"}'), ["bob"]),
    ],
)
def test_a_photo_that_is_listed_twice(lines: tuple[str, ...], people: list[str], tmp_path: Path) -> None:
    assert admitted(tmp_path, listed(*lines), BY_NAME, "manifest")[0] == people


@pytest.mark.parametrize(
    ("lines", "name", "text"),
    [
        (['{"file_name": "1.jpg", "subject": "anna", "subject": "bob"}'], "metadata.jsonl", "'subject' occurs twice"),
        (['{"file_name": "1.jpg", "subject": ["anna"]}'], "metadata.jsonl", "must be text"),
        (
            ['{"file_name": "1.jpg", "subject": 7}', '{"file_name": "2.jpg", "subject": "a"}'],
            "m.jsonl",
            "cannot be read",
        ),
        (["file,subject,subject", "1.jpg,anna,bob"], "m.csv", "'subject' occurs twice"),
        (["file,subject,Subject_Ref", "1.jpg,bob,anna"], "m.csv", ""),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(lines: list[str], name: str, text: str, tmp_path: Path) -> None:
    if not text:  # the operator has said which column it is
        assert admitted(tmp_path, listed(*lines, name=name), BY_NAME, "manifest")[0] == ["bob"]
        return
    with pytest.raises(ConfigError, match=text):
        admitted(tmp_path, listed(*lines, name=name), BY_NAME, "manifest")


@pytest.mark.parametrize("person", ["NA", "null", "NaN", "N/A"])
def test_a_reference_that_looks_like_no_value_is_one(person: str, tmp_path: Path) -> None:
    build = listed("file,subject", f"1.jpg,{person}", "2.jpg,bob", name="m.csv")
    assert admitted(tmp_path, build, BY_NAME, "manifest", person)[0] == ["bob"]


def parquet(corpus: Path, number: int, **columns: Any) -> None:
    made = {"image_id": [f"i{number}"], "image": [b"%d" % number], "source_id": ["school"]} | columns
    pq.write_table(pa.table({name: values for name, values in made.items() if values}), corpus / f"{number}.parquet")


def files_of(first: dict[str, Any], second: dict[str, Any]) -> Build:
    def build(corpus: Path) -> None:
        parquet(corpus, 1, **first)
        parquet(corpus, 2, **second)

    return build


def delta_of(first: dict[str, Any], second: dict[str, Any]) -> Build:
    def build(corpus: Path) -> None:
        for number, more in enumerate((first, second)):
            rows = {"image_id": [f"i{number}"], "image": [b"%d" % number], "source_id": ["school"]} | more
            write_deltalake(str(corpus), pa.table(rows), mode="append", schema_mode="merge")

    return build


def csv_of(first: dict[str, Any], second: dict[str, Any]) -> Build:
    def build(corpus: Path) -> None:
        for number, more in enumerate((first, second)):
            (corpus / f"{number}.jpg").write_bytes(b"%d" % number)
            names, values = zip(*(("source_id", "school"), *((n, v[0]) for n, v in more.items())), strict=True)
            text = f"uri,{','.join(names)}\n{number}.jpg,{','.join(values)}\n"
            (corpus / f"{number}.csv").write_text(text)

    return build


HUGGING = {"image": [{"bytes": b"x", "path": "x.jpg"}], "image_id": None}


@pytest.mark.parametrize("make", [files_of, delta_of, csv_of])
def test_a_column_that_the_first_file_lacks_counts(make: Callable[..., Build], tmp_path: Path) -> None:
    build = make({}, {"subject_ref": ["anna"]})
    assert admitted(tmp_path, build, None, {csv_of: "manifest", delta_of: "delta"}.get(make))[0] == [None]


@pytest.mark.parametrize("name", ["Subject_Ref", "SUBJECT-REF", "subject ref", "\uff53ubject_ref", "sourceClass"])
@pytest.mark.parametrize("make", [files_of, csv_of])
def test_a_column_in_another_spelling_is_not_overlooked(name: str, make: Callable[..., Build], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and none named"):
        admitted(tmp_path, make({}, {name: ["anna"]}), None, {csv_of: "manifest"}.get(make))


def test_a_column_of_the_class_that_the_first_file_lacks_counts(tmp_path: Path) -> None:
    assert admitted(tmp_path, files_of({}, {"source_class": ["cctv"]}), None, None)[0] == [None]


def test_hugging_face_shards_may_differ_in_columns(tmp_path: Path) -> None:
    build = files_of(HUGGING, {"image": [{"bytes": b"y", "path": "y.jpg"}], "image_id": None, "subject_ref": ["anna"]})
    assert admitted(tmp_path, build, None, "huggingface")[0] == [None]


def test_rows_that_a_delta_table_has_dropped_stay_dropped(tmp_path: Path) -> None:
    def build(corpus: Path) -> None:
        rows = {"image_id": ["a", "b"], "image": [b"1", b"2"], "source_id": ["school"] * 2, "subject_ref": ["carl", "bob"]}  # fmt: skip
        write_deltalake(str(corpus), pa.table(rows))
        DeltaTable(str(corpus)).delete("subject_ref = 'carl'")

    assert admitted(tmp_path, build, None, "delta")[0] == ["bob"]


@pytest.mark.parametrize("others", [["bob", None, "anna"], ["anna", "bob", None]])
def test_the_same_bytes_under_another_name_or_none_are_the_same_photo(others: list[str | None], tmp_path: Path) -> None:
    def build(corpus: Path) -> None:
        rows = {"image_id": ["a", "b", "c", "d"], "image": [b"1"] * 3 + [b"2"], "source_id": ["school"] * 4}
        pq.write_table(pa.table(rows | {"subject_ref": [*others, "bob"]}), corpus / "p.parquet")

    people, _ = admitted(tmp_path, build, None, None)
    assert people == ["bob"]


def test_the_same_bytes_leave_no_more_before_the_next_run(tmp_path: Path) -> None:
    rows = {"image_id": ["a", "b", "c"], "image": [b"1", b"1", b"2"], "source_id": ["school"] * 3}
    (tmp_path / "corpus").mkdir()
    pq.write_table(pa.table(rows | {"subject_ref": ["anna", None, "bob"]}), tmp_path / "corpus/p.parquet")
    config = load_config(lake=str(tmp_path / "lake"), overrides={"corpus.uri": str(tmp_path / "corpus")})
    with writing(config, "test") as context:
        record(context.lake, [GRANT])
        assert admit(context).counts["admitted"] == 3
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "anna")])
        barred = LedgerState.of(context.lake).barred_images(P, datetime.now(UTC))
        assert sorted(barred.to_pylist()) == ["a", "b"]
        photos = context.lake["admissions"].read().sort_by("image_id")
        assert DisplayRights.of(context.lake, P).may_show(photos, photos).tolist() == [False, False, True]
        record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "anna", (P,), "b")])
        assert len(LedgerState.of(context.lake).barred_images(P, datetime.now(UTC))) == 0
        record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "anna")])
        admit(context)  # and no more: the faces are still there
        for among in (None, pa.array(["a", "c"])):
            barred = LedgerState.of(context.lake).barred_images(P, datetime.now(UTC), among)
            assert sorted(barred.to_pylist()) == ["a", "b"][: 1 if among else 2]


def test_a_clock_that_was_set_back_after_a_run_brings_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was recorded in the ledger since the grant: only the run knows how late it is."""
    later = datetime.now(UTC) + timedelta(days=10)

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return later

    (tmp_path / "corpus").mkdir()
    parquet(tmp_path / "corpus", 1)
    config = load_config(lake=str(tmp_path / "lake"), overrides={"corpus.uri": str(tmp_path / "corpus")})
    with writing(config, "test") as context:
        ends = datetime.now(UTC) + timedelta(days=5)
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b", valid_until=ends)])
        assert admit(context).counts["admitted"] == 1
        context.accept_loss = True
        with monkeypatch.context() as patch:
            patch.setattr("facelake.stages.core.context.datetime", Later)
            context.now = later
            assert admit(context).counts["admitted"] == 0
        context.now = datetime.now(UTC)
        assert admit(context).counts["admitted"] == 0


@pytest.mark.parametrize("kind", [EventKind.GRANT, EventKind.WITHDRAW])
@pytest.mark.parametrize("purpose", ["*", " ", "--", "\u200b"])
def test_no_sign_stands_for_all_purposes(kind: EventKind, purpose: str) -> None:
    with pytest.raises(ConfigError, match="a purpose is empty"):
        Entry(kind, Scope.SUBJECT, "anna", (P, purpose), "b").check()


def test_the_config_has_the_purpose_in_the_ledgers_spelling(tmp_path: Path) -> None:
    assert load_config(overrides={"purpose": " identity-grouping\u200b "}).purpose == P
    with pytest.raises(ConfigError, match="purpose"):
        load_config(overrides={"purpose": "*"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("purpose: a\npurpose: b\n", "'purpose' occurs twice"),
        ("governance:\n  dpia: A\n  dpia: B\n", "'dpia' occurs twice"),
        ("purpose: a\n'purpose': b\n", "'purpose' occurs twice"),
        ("purpose: a\n---\npurpose: b\n", "more than one document"),
    ],
)
def test_a_config_says_everything_once(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        load_config(str(tmp_path / "c.yaml"))


def test_a_clock_that_was_far_ahead_does_not_end_every_grant_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails closed until the operator says which clock is right; what the event states stays in force."""

    class Far(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime(2099, 1, 1, tzinfo=tz)

    (tmp_path / "corpus").mkdir()
    parquet(tmp_path / "corpus", 1, subject_ref=["bob"])
    parquet(tmp_path / "corpus", 2, subject_ref=["anna"])
    lake = str(tmp_path / "lake")
    config = load_config(lake=lake, overrides={"corpus.uri": str(tmp_path / "corpus")})
    with writing(config, "test") as context:
        record(context.lake, [GRANT])
        assert admit(context).counts["admitted"] == 2
        with monkeypatch.context() as patch:
            patch.setattr("facelake.stages.admission.ledger.datetime", Far)
            record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "anna")])
        with pytest.raises(Refused, match="expired"):
            admit(context)
    refused = run_cli("ledger", "accept", "--clock", "--lake", lake)
    assert (refused.returncode, "not confirmed" in refused.stderr) == (2, True)
    accepted = run_json("ledger", "accept", "--clock", "--yes", "--lake", lake)
    assert (accepted["events"], accepted["runs"]) == ([2], [])
    with writing(config, "test") as context:
        assert audit_faults(context.lake) == []
        counts = admit(context).counts
        assert (counts["admitted"], counts["refused_withdrawn"]) == (1, 1)
        with monkeypatch.context() as patch:  # a later event counts again
            patch.setattr("facelake.stages.admission.ledger.datetime", Far)
            record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "zoe", (P,), "b")])
        with pytest.raises(Refused, match="expired"):
            admit(context)
        context.lake.store.write("clock-accepted.json", b"{")
        with pytest.raises(Refused, match="expired"):
            admit(context)


@pytest.mark.parametrize("forged", ["a list", "the record of another kind", "a record without a signature"])
def test_a_file_of_accepted_times_that_no_signed_record_names_counts_for_nothing(tmp_path: Path, forged: str) -> None:
    """Written by hand it would make a grant hold again that has ended, under a clock that was set back."""
    lake = Lake.create(str(tmp_path / "lake"))
    config = load_config(lake=lake.uri)
    now = datetime.now(UTC)
    record(lake, [GRANT])
    with writing(config, "test") as context:
        store = context.lake.store
        rows = {"events": [1], "runs": [], "leases": []}
        kind, sign = (
            ("review" if "kind" in forged else "clock-accepted"),
            None if "signature" in forged else context.sign,
        )
        key = append_audit(lake, kind, rows, sign)
        store.write("clock-accepted.json", json.dumps(rows if forged == "a list" else {"record": key}).encode())
        assert AcceptedClock.of(lake) == AcceptedClock()
        earlier = now - timedelta(days=20)
        assert present_time(lake, ledger_rows(lake)[0], earlier) > earlier
        assert accept_clock(context, earlier).events == (1,)
        assert AcceptedClock.of(lake).events == (1,)
        assert present_time(lake, ledger_rows(lake)[0], earlier) == earlier
