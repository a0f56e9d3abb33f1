"""Finds the columns of an Iceberg table in its data files, which keep the names that they were written with.

The id of a field stays when a column is renamed, and a column that is dropped and added again has another one. A file
read by names would lose references to persons, or bring removed ones back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from facelake.errors import ConfigError
from facelake.lake.corpora.rules import column_at

_ID = b"PARQUET:field_id"
_NEXT = "rewrite the table's data files with Iceberg, or set the property schema.name-mapping.default"


@dataclass(frozen=True, slots=True)
class FieldIds:
    """The columns of a table by field id."""

    ids: Mapping[str, int]
    """of the current columns and fields of structs, by their paths"""
    names: Mapping[str, int] = field(default_factory=dict)
    """ids by the paths in files that have no ids: the table's name mapping"""
    renamed: bool = False
    """whether the table had other columns before, so that names tell nothing without a name mapping"""

    def paths_in(self, schema: pa.Schema, where: str) -> dict[str, str]:
        """Where a file has the current columns: its paths, by those of the table.

        Raises:
            ConfigError: the file has no ids, or not for all of its columns, and the table does not say what they are.
        """
        stored = dict(_stored_ids(schema, ""))
        without = [path for path, number in stored.items() if number is None]
        if len(without) == len(stored):
            if self.renamed and not self.names:
                what = "the file has no field ids, and columns of the Iceberg table were added, renamed or removed"
                raise ConfigError(what, where=where, next_step=_NEXT)
            known = self.names or self.ids
            stored = {path: known.get(path) for path in stored}
        elif without:
            what = f"columns of the file have no field ids: {', '.join(without[:12])}"
            raise ConfigError(what, where=where, next_step=_NEXT)
        by_id = {number: path for path, number in stored.items() if number is not None}
        return {path: by_id[number] for path, number in self.ids.items() if number in by_id}


def _stored_ids(fields: pa.Schema | pa.StructType, prefix: str) -> Iterator[tuple[str, int | None]]:
    """Yield the path and id of each column and field of a struct; lists and maps hold no columns."""
    for one in fields:
        number = (one.metadata or {}).get(_ID)
        yield prefix + one.name, None if number is None else int(number)
        if pa.types.is_struct(one.type):
            yield from _stored_ids(one.type, f"{prefix}{one.name}.")


def current_columns(table: pa.Table, paths: Mapping[str, str], wanted: Sequence[str]) -> pa.Table:
    """The wanted columns of a file under their current paths; those that it lacks are null."""
    made = {name: column_at(table, paths[name]) if name in paths else None for name in wanted}
    return pa.table({name: pa.nulls(table.num_rows) if found is None else found for name, found in made.items()})
