"""Recording ledger events: validation, computed dates, import from files."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.contracts import ADMISSIONS, LEDGER, Covers, EventKind, Scope, reference, references
from facelake.errors import ConfigError, Corrupt
from facelake.lake.data_files import plain
from facelake.lake.lake import Lake
from facelake.publish.leases import Ending
from facelake.stages.admission import ledger
from facelake.stages.admission.event_effects import effects
from facelake.stages.admission.ledger import Entry, accept_ledger, evidence_digest, read_ledger, record
from facelake.stages.admission.ledger_head import HEAD, Pin
from facelake.stages.admission.ledger_import import import_ledger
from facelake.stages.admission.withdrawals import LedgerState, last_withdrawal
from facelake.stages.review.visibility import DisplayRights

P = "identity-grouping"
NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(str(tmp_path / "lake"))


def rows(lake: Lake) -> list[dict[str, object]]:
    return list(lake["ledger"].read().sort_by("seq").to_pylist())


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("until", "contact", "destroy", "wanted"),
    [
        (None, "2026-01-31", None, "2029-01-31"),
        ("2027-06-01", "2026-01-31", None, "2027-06-01"),
        ("2031-06-01", "2026-01-31", None, "2029-01-31"),
        ("2031-06-01", "2026-01-31", "2026-12-24", "2026-12-24"),
        (None, "2024-02-29", None, "2027-02-28"),
    ],
)
def test_data_is_deleted_at_the_end_of_the_purpose_or_three_years_after_contact(
    until: str | None, contact: str, destroy: str | None, wanted: str
) -> None:
    moments = [day(text) if text else None for text in (until, contact, destroy)]
    entry = Entry(
        EventKind.GRANT, Scope.SOURCE, "s", (P,), "b",
        valid_until=moments[0], last_contact=moments[1], destroy_by=moments[2],
    )  # fmt: skip
    assert entry.row(1, NOW)["destroy_by"] == day(wanted)


def test_a_grant_ends_three_years_after_the_last_contact(lake: Lake) -> None:
    record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", last_contact=day("2022-01-01"))])
    ledger = read_ledger(lake)
    assert ledger.standing(Scope.SOURCE, "s", P, day("2024-12-31")).admitted
    assert ledger.standing(Scope.SOURCE, "s", P, day("2025-01-01")).reason == "expired"
    record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", last_contact=day("2024-06-01"))])
    assert read_ledger(lake).standing(Scope.SOURCE, "s", P, day("2025-01-01")).admitted


def test_entries_are_recorded_all_or_none(lake: Lake) -> None:
    good = Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b")
    for bad in (Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), " "), Entry(EventKind.WITHDRAW, Scope.SUBJECT, "")):
        with pytest.raises(ConfigError):
            record(lake, [good, bad])
    assert rows(lake) == []


def test_concurrent_records_get_different_sequence_numbers(lake: Lake) -> None:
    def work(name: str) -> None:
        for i in range(4):
            record(Lake.open(lake.uri), [Entry(EventKind.GRANT, Scope.SOURCE, f"{name}{i}", (P,), "b")])

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["seq"] for row in rows(lake)] == list(range(1, 9))


CSV = """source,subject,kind,purposes,basis,exemption,evidence,evidence_sha256,covers,source_class,valid_from,valid_until
school,,,identity-grouping;print,signed release,Art. 9(2)(a),form 12,,everyone_depicted,commissioned,2026-01-01,2027-07-31
,0042,withdraw,,,,,,,,,
,0043,grant,identity-grouping,signed,,,,,,,
both,0044,grant,identity-grouping,signed,,,,,,,
,,grant,identity-grouping,signed,,,,,,,
s1,,grant,,signed,,,,,,,
s2,,grant,identity-grouping,,,,,,,,
s3,,bless,identity-grouping,signed,,,,,,,
s4,,grant,identity-grouping,signed,,,,everyone,,,
s5,,grant,identity-grouping,signed,,,,,scraped,,
s6,,grant,identity-grouping,signed,,,,,,tomorrow,
s7,,grant,identity-grouping,signed,,,,,,2027-01-01,2026-01-01
s8,,grant,identity-grouping,signed,,a,not-a-digest,,,,
s9,,grant,identity-grouping,signed,,a,0000000000000000000000000000000000000000000000000000000000000000,,,,
s10,grant
"""


def test_a_file_of_events(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("\ufeff" + CSV, encoding="utf-8")
    recorded, present, rejected, *_ = import_ledger(lake, str(path))
    assert (recorded, present) == (3, 0)
    assert [item.line for item in rejected] == list(range(5, 17))
    for item, word in zip(
        rejected,
        ["more than one", "no source", "purpose", "basis", "kind", "covers", "source_class", "ISO date", "before",
         "SHA-256", "agree", "fields"],
        strict=True,
    ):  # fmt: skip
        assert word in item.problem, item
    first = rows(lake)[0]
    assert first["purposes"] == ["identity-grouping", "print"]
    assert first["evidence_sha256"] == evidence_digest("form 12")
    assert (first["covers"], first["source_class"]) == ("everyone_depicted", "commissioned")
    assert import_ledger(lake, str(path))[:2] == (0, 3)
    assert len(rows(lake)) == 3


def test_a_parquet_file_of_events(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    table = pa.table({"subject": ["a", "b"], "purposes": [[P], []], "basis": ["x", "x"], "valid_from": [NOW, None]})
    pq.write_table(table, path)
    recorded, _, (bad,), *_ = import_ledger(lake, str(path))
    assert (recorded, bad.line) == (1, 2)
    assert rows(lake)[0]["valid_from"] == NOW


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind;subject\ngrant;a\n", "semicolons"),
        ("person,basis\na,b\n", "unknown column"),
        ("basis,purposes\na,b\n", "no column"),
        ("", "no column"),
    ],
)
def test_a_file_with_unknown_columns_records_nothing(lake: Lake, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        import_ledger(lake, str(path))
    path.write_bytes(b"source,basis\n\xff\xfe\x00,b\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        import_ledger(lake, str(path))
    assert rows(lake) == []


def csv_of(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "lines.csv"
    path.write_text("kind,subject,purposes,basis,last_contact\n" + "\n".join(lines) + "\n")
    return str(path)


WITHDRAW, GRANT = "withdraw,ann,,,", f"grant,ann,{P},signed,"


def standing(lake: Lake) -> str | None:
    return read_ledger(lake).standing(Scope.SUBJECT, "ann", P, datetime.now(UTC)).reason


def test_a_second_withdrawal_by_the_same_file_is_recorded(lake: Lake, tmp_path: Path) -> None:
    path = csv_of(tmp_path, WITHDRAW)
    assert import_ledger(lake, path)[:2] == (1, 0)
    assert import_ledger(lake, path)[:2] == (0, 1)
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "signed again")])
    assert standing(lake) is None
    assert import_ledger(lake, path)[:2] == (1, 0)
    assert standing(lake) == "withdrawn"


def test_a_repeated_grant_does_not_lift_a_withdrawal(lake: Lake, tmp_path: Path) -> None:
    path = csv_of(tmp_path, GRANT)
    import_ledger(lake, path)
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    recorded, present, (line,), *_ = import_ledger(lake, path)
    assert (recorded, present, line.line) == (0, 0, 2)
    assert "does not bring it back" in line.problem
    assert standing(lake) == "withdrawn"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [([WITHDRAW, GRANT, WITHDRAW], "withdrawn"), ([GRANT, WITHDRAW, GRANT], None), ([GRANT, WITHDRAW], "withdrawn")],
)
def test_the_order_of_a_file_counts_and_importing_it_twice_changes_nothing(
    lake: Lake, tmp_path: Path, lines: list[str], reason: str | None
) -> None:
    path = csv_of(tmp_path, *lines)
    assert import_ledger(lake, path)[:2] == (len(lines), 0)
    assert standing(lake) == reason
    assert import_ledger(lake, path) == (0, len(lines), [], [], [])
    assert standing(lake) == reason


@pytest.mark.parametrize(
    "changed", [GRANT + "2026-01-01", f"grant,ann,{P},another release,", f"grant,ann,{P};x,signed,"]
)
@pytest.mark.parametrize("later", [EventKind.WITHDRAW, EventKind.EXPIRE])
def test_a_changed_list_lifts_no_withdrawal(lake: Lake, tmp_path: Path, changed: str, later: EventKind) -> None:
    """The yearly list of everybody, with new dates, still has those who withdrew by letter."""
    import_ledger(lake, csv_of(tmp_path, GRANT))
    record(lake, [Entry(later, Scope.SUBJECT, "ann")])
    bob = f"grant,bob,{P},signed,"
    done = import_ledger(lake, csv_of(tmp_path, changed, bob))
    if later is EventKind.EXPIRE:  # what ended by its date goes on by a new agreement
        assert (done.recorded, done.rejected, standing(lake)) == (2, [], None)
        return
    assert (done.recorded, [item.line for item in done.rejected], standing(lake)) == (1, [2], "withdrawn")
    assert "withdrew on" in done.rejected[0].problem
    again = import_ledger(lake, csv_of(tmp_path, changed, bob), lift_withdrawals=True)
    assert (again.recorded, again.present, again.rejected, standing(lake)) == (1, 1, [], None)


def test_a_list_lifts_no_withdrawal_that_was_recorded_before_also_if_it_has_it(lake: Lake, tmp_path: Path) -> None:
    """A list whose newest event comes first has the withdrawal above the grant that it ended."""
    newest_first = [WITHDRAW, f"grant,ann,{P},signed release,"]
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    done = import_ledger(lake, csv_of(tmp_path, *newest_first))
    assert ([item.line for item in done.rejected], done.present, standing(lake)) == ([3], 1, "withdrawn")
    lifted = import_ledger(lake, csv_of(tmp_path, *newest_first), lift_withdrawals=True)
    assert (lifted.recorded, standing(lake)) == (1, None)
    assert [(item.line, "lifts the withdrawal of 2" in item.problem) for item in lifted.questioned] == [(3, True)]


def test_a_grant_that_lifts_a_withdrawal_of_the_same_new_file_is_pointed_out(lake: Lake, tmp_path: Path) -> None:
    history = [GRANT, WITHDRAW, f"grant,ann,{P},signed again,"]
    done = import_ledger(lake, csv_of(tmp_path, *history))
    assert (done.recorded, standing(lake)) == (3, None)
    assert [(item.line, item.problem) for item in done.questioned] == [
        (4, "this grant of the subject 'ann' lifts the withdrawal of line 3")
    ]


def test_of_equal_lines_each_has_its_own_number(lake: Lake, tmp_path: Path) -> None:
    done = import_ledger(lake, csv_of(tmp_path, WITHDRAW, GRANT, WITHDRAW))
    assert (done.recorded, standing(lake)) == (3, "withdrawn")
    assert [(item.line, item.problem.rpartition(" ")[2]) for item in done.questioned] == [(3, "2")]


def test_a_grant_that_has_ended_lifts_no_withdrawal_and_is_not_said_to(lake: Lake, tmp_path: Path) -> None:
    withdrawn = Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")
    record(lake, [withdrawn])
    ended = Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b", valid_until=datetime(2020, 1, 1, tzinfo=UTC))
    said = list(effects(lake, None, [ended], datetime.now(UTC)))
    assert said == [
        "this grant of the subject 'ann' ended on 2020-01-01: it changes nothing: the withdrawal of this subject stays"
        " in force"
    ]
    record(lake, [ended])
    assert standing(lake) == "withdrawn"


@pytest.mark.parametrize("kind", ["withdraw", "expire"])
def test_a_withdrawal_or_expiry_that_begins_later_is_pointed_out(lake: Lake, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "later.csv"
    path.write_text(f"kind,subject,valid_from\n{kind},ann,2999-12-24\n")
    assert import_ledger(lake, csv_of(tmp_path, GRANT)).questioned == []
    (told,) = import_ledger(lake, str(path)).questioned
    assert told.problem == f"this {kind} of the subject 'ann' takes effect on 2999-12-24 only: until then its photos are processed"  # fmt: skip
    assert standing(lake) is None


def test_a_withdrawal_that_begins_later_is_lifted_by_no_list_and_by_no_grant_unsaid(lake: Lake, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    begins = now + timedelta(days=30)
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann", valid_from=begins)])
    renewed, before = (f"grant,ann,{P},renewed," + until for until in ("", begins.isoformat()))
    done = import_ledger(lake, csv_of(tmp_path, renewed))
    assert (done.recorded, [item.line for item in done.rejected]) == (0, [2])
    assert "withdrew on" in done.rejected[0].problem
    shorter = tmp_path / "shorter.csv"  # a grant that ends before the withdrawal begins stands beside it
    shorter.write_text(f"kind,subject,purposes,basis,valid_until\n{before}\n")
    assert import_ledger(lake, str(shorter))[:3] == (1, 0, [])
    given = Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "renewed")
    assert [text for text in effects(lake, None, [given], now) if "lifts the withdrawal of" in text]
    assert read_ledger(lake).standing(Scope.SUBJECT, "ann", P, begins).reason == "withdrawn"
    lifted = import_ledger(lake, csv_of(tmp_path, renewed), lift_withdrawals=True)
    assert ["lifts the withdrawal of" in item.problem for item in lifted.questioned] == [True]
    assert read_ledger(lake).standing(Scope.SUBJECT, "ann", P, begins).reason != "withdrawn"


def test_the_withdrawal_for_another_purpose_stands_in_no_grants_way(lake: Lake, tmp_path: Path) -> None:
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann", ("feeding-matchers",))])
    assert import_ledger(lake, csv_of(tmp_path, GRANT))[:3] == (1, 0, [])


def test_a_newer_contact_of_the_same_grant_is_recorded(lake: Lake, tmp_path: Path) -> None:
    import_ledger(lake, csv_of(tmp_path, GRANT + "2023-01-01"))
    assert import_ledger(lake, csv_of(tmp_path, GRANT + "2026-01-01"))[:2] == (1, 0)
    assert standing(lake) is None


def test_references_are_recorded_in_one_spelling(lake: Lake) -> None:
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "Zoe\u0308 ", (f" {P}",), "b")])
    assert rows(lake)[0]["key"] == "Zo\u00eb"
    for spelling in ("Zo\u00eb", "Zoe\u0308", "\ufeffZo\u00eb\t"):
        assert read_ledger(lake).standing(Scope.SUBJECT, spelling, P, datetime.now(UTC)).admitted
    assert not read_ledger(lake).standing(Scope.SUBJECT, "zo\u00eb", P, datetime.now(UTC)).admitted


def put_back(lake: Lake, versions: int) -> None:
    """Roll the table back by content, as a restored backup does."""
    kept = lake["ledger"].read().sort_by("seq")
    lake["ledger"].replace_all(kept.slice(0, len(kept) - versions))


@pytest.mark.parametrize("unrelated", [0, 1, 3])
def test_a_rolled_back_ledger_is_noticed_whatever_follows(lake: Lake, unrelated: int) -> None:
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    put_back(lake, 1)
    for i in range(unrelated):
        lake["ledger"].append([Entry(EventKind.GRANT, Scope.SOURCE, f"s{i}", (P,), "b").row(2 + i, NOW)])
    for act in (read_ledger, lambda lake: record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b")])):
        with pytest.raises(Corrupt, match="the ledger was"):
            act(lake)
    accept_ledger(lake)
    assert read_ledger(lake).standing(Scope.SUBJECT, "ann", P, datetime.now(UTC)).admitted


def test_an_edited_event_and_a_missing_pin_are_noticed(lake: Lake) -> None:
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    pin = lake.store.read(HEAD)
    lake.store.delete(HEAD)
    with pytest.raises(Corrupt, match="pin is missing"):
        read_ledger(lake)
    lake.store.write(HEAD, pin)
    (row,) = rows(lake)
    lake["ledger"].replace_all(pa.Table.from_pylist([row | {"basis": "c"}], schema=plain(LEDGER)))
    with pytest.raises(Corrupt, match="changed or rolled back"):
        read_ledger(lake)


@pytest.mark.parametrize("write", [1, 2])
def test_a_crash_between_the_event_and_its_pin_is_no_fault(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    """The pin names the states before and after; a crash before the event, or after it."""
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    write_pin, written = ledger.write_pin, list[Pin]()

    def crash(lake: Lake, *pins: Pin) -> None:
        written.extend(pins)
        if len(written) > 2:
            raise KeyboardInterrupt
        write_pin(lake, *pins)

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_pin", crash)
        if write == 1:
            patch.setattr(type(lake["ledger"]), "append", lambda *_: crash(lake, *written))
        with pytest.raises(KeyboardInterrupt):
            record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    assert standing(lake) == ("withdrawn" if write == 2 else None)
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    assert standing(lake) == "withdrawn"


def test_an_event_that_no_command_recorded_does_not_count(lake: Lake) -> None:
    """Whoever can write the lake's folder could lift a withdrawal by it."""
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    lake["ledger"].append([Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b").row(3, NOW)])
    with pytest.raises(Corrupt, match="events that no command has recorded"):
        read_ledger(lake)
    with pytest.raises(Corrupt, match="events that no command has recorded"):
        record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])


def test_a_pin_without_the_key_of_the_hashes_is_refused(tmp_path: Path) -> None:
    keys = [str(tmp_path / name) for name in ("key", "another")]
    lake, other = (Lake.create(str(tmp_path / f"lake{i}"), hash_key=key) for i, key in enumerate(keys))
    for one in (lake, other):
        record(one, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    lake["ledger"].append([Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann").row(2, NOW)])
    body = {"pins": [Pin.of(lake["ledger"].read().sort_by("seq")).as_json()]}
    theirs = json.loads(other.store.read(HEAD))["mac"]
    for mac in ("", theirs, json.loads(lake.store.read(HEAD))["mac"]):
        lake.store.write(HEAD, json.dumps(body | {"mac": mac}).encode())
        with pytest.raises(Corrupt, match="without the key of this lake's hashes"):
            read_ledger(lake)
    accept_ledger(lake)
    assert read_ledger(Lake.open(lake.uri)).standing(Scope.SUBJECT, "ann", P, datetime.now(UTC)).reason == "withdrawn"


@pytest.mark.parametrize("spelling", ["an\u200bn", "\u200eann", "ann\u00ad", "a\ufe0fnn", "\u202bann\u202c"])
def test_invisible_characters_do_not_make_another_person(lake: Lake, spelling: str) -> None:
    assert reference(spelling) == references(pa.array([spelling, None]))[0].as_py() == "ann"
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, spelling)])
    assert standing(lake) == "withdrawn"


@pytest.mark.parametrize("end", ["9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_a_date_that_nothing_could_read_is_not_recorded(lake: Lake, tmp_path: Path, end: str) -> None:
    path = tmp_path / "lines.csv"
    path.write_text(f"kind,subject,purposes,basis,valid_until\ngrant,ann,{P},b,{end}\ngrant,bob,{P},b,9999-12-31\n")
    recorded, _, (line,), *_ = import_ledger(lake, str(path))
    assert (recorded, line.line) == (1, 2)
    assert "out of range" in line.problem
    with pytest.raises(ConfigError, match="out of range"):
        Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b", valid_until=datetime.fromisoformat(end))
    assert len(rows(lake)) == 1


def test_a_contact_in_the_future_does_not_put_off_the_destruction(lake: Lake, tmp_path: Path) -> None:
    recorded, _, lines, *_ = import_ledger(lake, csv_of(tmp_path, GRANT + "2090-01-01", GRANT + "9998-01-01"))
    assert (recorded, [line.line for line in lines]) == (0, [2, 3])
    assert "in the future" in lines[0].problem


def test_a_repeated_grant_does_not_lift_a_withdrawal_behind_another_new_line(lake: Lake, tmp_path: Path) -> None:
    """A new event of the same person in the file does not make its old grant a new one."""
    import_ledger(lake, csv_of(tmp_path, GRANT))
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "ann")])
    recorded, _, (line,), *_ = import_ledger(lake, csv_of(tmp_path, "expire,ann,,,", GRANT))
    assert (recorded, line.line) == (1, 3)
    assert standing(lake) == "withdrawn"


def test_a_clock_that_was_set_back_lets_nothing_leave_that_has_expired(lake: Lake) -> None:
    ends = datetime.now(UTC)
    record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", valid_until=ends)])
    row = dict.fromkeys(ADMISSIONS.names) | {
        "image_id": "s/1",
        "source_id": "s",
        "admitted": True,
        "covers": "everyone_depicted",
    }
    lake["admissions"].append([row])
    state, before = LedgerState.of(lake), ends - timedelta(days=30)
    assert state.barred_images(P, before).to_pylist() == ["s/1"]
    rights = DisplayRights.of(lake, P)
    assert rights.newest is not None
    assert rights.newest >= ends
    record(lake, [Entry(EventKind.EXPIRE, Scope.SOURCE, "s")])
    ending = last_withdrawal(LedgerState.of(lake).rows, P, before)
    assert ending is not None
    assert ending.seq == 2


def test_the_end_of_a_grant_by_its_date_is_owed_like_an_expiry(lake: Lake) -> None:
    """Unless the source or subject has another grant; recipients of exports hold templates of the person."""
    start, end = day("2026-01-01"), day("2026-11-01")

    def ending(purpose: str = P) -> Ending | None:
        return last_withdrawal(LedgerState.of(lake).rows, purpose, datetime.now(UTC))

    long = Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", valid_from=start)
    record(lake, [long, Entry(EventKind.GRANT, Scope.SUBJECT, "bo", (P,), "b", valid_until=day("2099-01-01"))])
    assert ending() is None
    short = Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P, "print"), "b", valid_from=start, valid_until=end)
    record(lake, [short])
    assert ending() == ending("print") == Ending(end, 0, end)
    assert ending("other") is None
    record(lake, [Entry(EventKind.GRANT, Scope.SUBJECT, "ann", (P,), "b")])
    assert ending() is None  # it was renewed
    assert ending("print") == Ending(end, 0, end)
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "bo")])
    withdrawn = ending("print")
    assert withdrawn is not None
    assert (withdrawn.at > end, withdrawn.seq) == (True, 5)


def test_an_end_that_is_recorded_late_is_owed_by_recipients_since_then(lake: Lake) -> None:
    """An export of this morning holds people whose grant ends as of the beginning of today."""
    begin, end = day("2026-01-01"), day("2026-11-01")

    def ending() -> Ending | None:
        return last_withdrawal(LedgerState.of(lake).rows, P, datetime.now(UTC))

    first = Entry(EventKind.GRANT, Scope.SOURCE, "ended-before-it-came", (P,), "b", valid_from=begin, valid_until=end)
    record(lake, [first, Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", valid_from=begin)])
    assert ending() == Ending(end, 0, end)
    before = datetime.now(UTC)
    record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", valid_until=end)])
    found = ending()
    assert found is not None
    assert (found.at >= before, found.seq) == (True, 3)


def test_a_grant_for_the_named_after_one_for_everyone_is_owed(lake: Lake) -> None:
    """Recipients hold templates of bystanders, whose faces the next run removes."""
    wide = Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", covers=Covers.EVERYONE)
    narrow = Entry(EventKind.GRANT, Scope.SOURCE, "s", (P,), "b", covers=Covers.NAMED)
    record(lake, [Entry(EventKind.GRANT, Scope.SOURCE, "t", (P,), "b", covers=Covers.NAMED), wide])
    assert last_withdrawal(LedgerState.of(lake).rows, P, datetime.now(UTC)) is None
    record(lake, [narrow])
    found = last_withdrawal(LedgerState.of(lake).rows, P, datetime.now(UTC))
    assert found is not None
    assert found.seq == 3
    assert last_withdrawal(LedgerState.of(lake).rows, "other", datetime.now(UTC)) is None


def test_a_quote_that_is_not_closed_hides_no_lines(lake: Lake, tmp_path: Path) -> None:
    path = tmp_path / "lines.csv"
    path.write_text(f'kind,purposes,basis,subject\ngrant,{P},b,"ann\nwithdraw,,,bob\n')
    with pytest.raises(ConfigError, match="cannot be read"):
        import_ledger(lake, str(path))
    assert rows(lake) == []
