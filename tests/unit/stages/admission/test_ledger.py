"""Recording ledger events: validation, computed dates, import from files."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger import Entry, evidence_digest, read_ledger, record
from facelake.stages.admission.ledger_import import import_ledger

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
    recorded, present, rejected = import_ledger(lake, str(path))
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
    recorded, _, (bad,) = import_ledger(lake, str(path))
    assert (recorded, bad.line) == (1, 2)
    assert rows(lake)[0]["valid_from"] == NOW


@pytest.mark.parametrize(
    ("text", "said"),
    [("person,basis\na,b\n", "unknown column"), ("basis,purposes\na,b\n", "no column"), ("", "no column")],
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
