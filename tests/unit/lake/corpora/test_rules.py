"""Values of columns by the rules of the config."""

from __future__ import annotations

import unicodedata
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from facelake.corpus_config import ColumnRule
from facelake.lake.corpora.rules import apply_rules, moment_of, unread_times
from tests.corpora import listed


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_a_regex_sees_names_in_one_unicode_form(stored: str, written: str, tmp_path: Path) -> None:
    """A copy by way of a Mac decomposes letters, of which `\\w` matches the first part only."""
    for name in ("José_1.jpg", "Zoë_2.jpg", "Ann_3.jpg"):
        (tmp_path / unicodedata.normalize(stored, name)).write_bytes(b"photo")
    columns = {"source_id": {"constant": "s"}, "subject_ref": {"regex": r"(\w+)_\d\.jpg$"}}
    assert {row["subject_ref"] for row in listed(tmp_path, columns=columns)[0]} == {"José", "Zoë", "Ann"}
    columns["subject_ref"] = {"regex": unicodedata.normalize(written, "^(José|Zoë)")}
    assert {row["subject_ref"] for row in listed(tmp_path, columns=columns)[0]} == {"José", "Zoë", None}


def test_a_regex_on_a_column_sees_one_unicode_form() -> None:
    table = pa.table({"who": [unicodedata.normalize("NFD", "José 1"), None]})
    rules = {"subject_ref": ColumnRule(column="who", regex=r"^(\w+)")}
    assert apply_rules(rules, table, "p")["subject_ref"].to_pylist() == ["José", None]


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2024-06-01T12:30:00+02:00", datetime(2024, 6, 1, 10, 30, tzinfo=UTC)),
        ("20240601", datetime(2024, 6, 1, tzinfo=UTC)),
        (date(2024, 6, 1), datetime(2024, 6, 1, tzinfo=UTC)),
        ("2024:06:01 12:30:00", datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        ("2024:06:01 12:30:00\0", datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        ("2024:06:01", datetime(2024, 6, 1, tzinfo=UTC)),
        (1717245000, datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        ("1717245000", datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        (1717245000.25, datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        (1717245000000, datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        (1717245000000000, datetime(2024, 6, 1, 12, 30, tzinfo=UTC)),
        (999999999, datetime(2001, 9, 9, 1, 46, 39, tzinfo=UTC)),
        ("0000:00:00 00:00:00", None),
        ("last summer", None),
        (None, None),
    ],
)
def test_a_time_of_capture_is_read_in_its_usual_forms(value: object, moment: datetime | None) -> None:
    assert moment_of(value) == moment


def test_a_time_of_capture_may_be_in_the_name(tmp_path: Path) -> None:
    (tmp_path / "20240601_ann.jpg").write_bytes(b"photo")
    columns = {"source_id": {"constant": "s"}, "captured_at": {"regex": r"^(\d{8})_"}}
    ((row,), _) = listed(tmp_path, columns=columns)
    assert row["captured_at"] == datetime(2024, 6, 1, tzinfo=UTC)


def test_times_that_cannot_be_read_are_counted() -> None:
    rules = {"captured_at": ColumnRule(column="at")}
    table = pa.table({"at": ["2024:06:01 12:00:00", "last summer", None, "soon"]})
    made = apply_rules(rules, table, "p")
    assert (unread_times(rules, table, made), unread_times({}, table, made)) == (2, 0)
