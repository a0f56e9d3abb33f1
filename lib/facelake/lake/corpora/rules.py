"""Computes the columns of the corpus (image_id, source_id and so on) from what a layout holds."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from facelake.corpus_config import ColumnRule
from facelake.errors import ConfigError

COLUMNS = ("image_id", "source_id", "subject_ref", "source_class", "captured_at")
ROW_COLUMNS = ("subject_ref", "source_class", "captured_at")
"""columns that a file need not have"""
_TIME = pa.timestamp("us", tz="UTC")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNIX = re.compile(r"(\d{9,10}|\d{13}|\d{16})(?:\.\d*)?", re.ASCII)
_EXIF = re.compile(r"(\d{4}):(\d\d):(\d\d)(?=\D|$)(.*)", re.ASCII)
Rules = Mapping[str, ColumnRule]


def columns_needed(rules: Rules) -> list[str]:
    """The top-level columns that the rules read."""
    return sorted({rule.column for rule in rules.values() if rule.column})


def check_names(names: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Check the names of a file's columns: none occurs twice, and none is a wanted one in another spelling.

    `Subject_Ref` would otherwise be no column, and a withdrawal of the persons in it without effect.

    Args:
        names: of the columns.
        wanted: columns that are read if they are there.
        where: the file.

    Raises:
        ConfigError: one of both.
    """
    alike = {_letters(name): name for name in wanted if name not in names}
    for at, name in enumerate(names):
        if name in names[:at]:
            raise ConfigError(f"the column {name!r} occurs twice", where=where, next_step="rewrite the file with one")
        if _letters(name) in alike:
            what = f"there is a column {name!r} and none named {alike[_letters(name)]!r}"
            raise ConfigError(what, where=where, next_step="rename it, or map it: docs/image-stores.md")


def _letters(name: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKC", name).casefold() if c.isalnum())


def apply_rules(rules: Rules, table: pa.Table, paths: str | Sequence[str]) -> pa.Table:
    """The columns COLUMNS (strings, captured_at as timestamp) of each row; null where there is no value.

    Args:
        table: the columns that the rules read; a struct field may be given as a column named by its path.
        paths: of the photos, one per row or one for all, for rules with a regex and no column.

    Raises:
        ConfigError: a column that a rule names is missing, or is no text or number.
    """
    made = {}
    for name in COLUMNS:
        rule = rules.get(name)
        if rule is None:
            made[name] = pa.nulls(table.num_rows, _TIME if name == "captured_at" else pa.string())
        elif name == "captured_at":
            made[name] = _moments(rule, table, paths)
        else:
            made[name] = _texts(name, rule, table, paths)
    made["image_id"] = normal_form(made["image_id"])
    return pa.table(made)


def normal_form(ids: pa.Array) -> pa.Array:
    """Identifiers and paths in Unicode form NFC: one name in its two common forms is one id, and gives one value."""
    if pc.all(pc.string_is_ascii(ids)).as_py() in (True, None):
        return ids
    return pa.array([None if v is None else unicodedata.normalize("NFC", v) for v in ids.to_pylist()], pa.string())


def with_constants(table: pa.Table, constants: Mapping[str, str | None]) -> pa.Table:
    """A table with its partition columns, where it has no values of its own."""
    for name, value in constants.items():
        column = pa.array([value] * table.num_rows, pa.string())
        at = table.schema.get_field_index(name)
        if at < 0:
            table = table.append_column(name, column)
        elif pa.types.is_null(table.schema.field(at).type):
            table = table.set_column(at, name, column)
    return table


def column_at(table: pa.Table, path: str) -> pa.ChunkedArray | None:
    """A column, or the field of a struct that a dotted path names; None if there is none."""
    if path in table.column_names:
        return table[path]
    name, _, rest = path.partition(".")
    if name not in table.column_names:
        return None
    column = table[name]
    for part in rest.split("."):
        if not pa.types.is_struct(column.type) or column.type.get_field_index(part) < 0:
            return None
        column = pc.struct_field(column, part)
    return column


def _found(name: str, rule: ColumnRule, table: pa.Table) -> pa.ChunkedArray:
    column = column_at(table, rule.column or "")
    if column is None:
        what = f"columns.{name}: the corpus has no column {rule.column!r}; it has {', '.join(table.column_names[:12])}"
        raise ConfigError(what, where=f"corpus.columns.{name}", next_step="name a column that exists, or a constant")
    return column


def _texts(name: str, rule: ColumnRule, table: pa.Table, paths: str | Sequence[str]) -> pa.Array:
    rows = table.num_rows
    if rule.constant is not None:
        return pa.array([rule.constant] * rows, pa.string())
    if rule.column is not None:
        texts = _as_text(name, _found(name, rule, table))
    else:
        texts = pa.array([paths] * rows if isinstance(paths, str) else paths, pa.string())
    if rule.regex is None:
        return texts
    pattern = re.compile(unicodedata.normalize("NFC", rule.regex))
    return pa.array([_group(pattern, text) for text in normal_form(texts).to_pylist()], pa.string())


def _group(pattern: re.Pattern[str], text: str | None) -> str | None:
    match = pattern.search(text) if text is not None else None
    if match is None:
        return None
    return (match.group(1) if pattern.groups else match.group(0)) or None


def _as_text(name: str, column: pa.ChunkedArray) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.string())
    if pa.types.is_floating(kind) or not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
    ):
        raise ConfigError(
            f"column {name} is {kind}; it must be text or a whole number",
            where=f"corpus.columns.{name}",
            next_step="name another column",
        )
    made = column.cast(kind).cast(pa.string())
    return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made


def unread_times(rules: Rules, table: pa.Table, made: pa.Table) -> int:
    """The number of rows of which `captured_at` has a value that is no time, by the columns that the rules made."""
    rule = rules.get("captured_at")
    column = column_at(table, rule.column) if rule and rule.column else None
    if column is None:
        return 0
    return int(pc.sum(pc.and_(pc.is_valid(column), pc.is_null(made["captured_at"]))).as_py() or 0)


def _moments(rule: ColumnRule, table: pa.Table, paths: str | Sequence[str]) -> pa.Array:
    column = _found("captured_at", rule, table) if rule.column else None
    if rule.regex:
        column = _texts("captured_at", rule, table, paths)
    elif column is None:
        return pa.array([moment_of(rule.constant)] * table.num_rows, _TIME)
    elif pa.types.is_timestamp(column.type):
        zoned = column if column.type.tz else column.cast(pa.timestamp("us")).cast(_TIME)
        return zoned.cast(_TIME, safe=False).combine_chunks()
    return pa.array([moment_of(value) for value in column.to_pylist()], _TIME)


def moment_of(value: object) -> datetime | None:
    """A moment from a date, a text in ISO or EXIF form, or a Unix time; None if it is none of these: the column is
    optional.

    Whole numbers of 9 or 10, 13 and 16 digits are seconds, milliseconds and microseconds; EXIF has no zone, taken as
    UTC.
    """
    text = str(value).strip().rstrip("\0")
    try:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if unix := _UNIX.fullmatch(text):
            digits = unix.group(1)
            return _EPOCH + timedelta(microseconds=int(digits) * 10 ** (16 - max(len(digits), 10)))
        exif = _EXIF.match(text)
        text = f"{exif[1]}-{exif[2]}-{exif[3]}{exif[4]}" if exif else text
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
