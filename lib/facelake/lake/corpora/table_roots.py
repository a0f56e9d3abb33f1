"""Finds Delta and Iceberg tables, whose files must not be read one by one: they include deleted rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from facelake.errors import ConfigError
from facelake.lake.object_store import StoredObject

METADATA_SUFFIXES = (".metadata.json", ".metadata.json.gz")


def refuse_tables(objects: Iterable[StoredObject], uri: str) -> Iterator[StoredObject]:
    """Yield listed objects; a file of a table with a log shows that the folder must not be read file by file.

    Raises:
        ConfigError: there is a Delta or Iceberg table. Its files include rows that were deleted from the table.
    """
    for item in objects:
        folder, _, name = item.key.rpartition("/")
        is_delta = f"/{folder}/".find("/_delta_log/") >= 0
        is_iceberg = folder.rpartition("/")[2] == "metadata" and name.endswith(METADATA_SUFFIXES)
        if is_delta or is_iceberg:
            kind = "Delta" if is_delta else "Iceberg"
            table = folder.rpartition("/")[0]
            raise ConfigError(
                f"the corpus contains a {kind} table, whose files include deleted rows",
                where=f"{uri}/{table}".rstrip("/"),
                next_step=f"set corpus.uri to the table's folder and corpus.kind to {kind.lower()}",
            )
        yield item
