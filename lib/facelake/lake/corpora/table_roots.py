"""Finds Delta and Iceberg tables, whose files must not be read one by one: they include deleted rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from facelake.config import S3Section
from facelake.errors import ConfigError, Unreachable
from facelake.lake.directory import DirectoryStore
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.store import open_store

METADATA_SUFFIXES = (".metadata.json", ".metadata.json.gz")
_LOOKED_AT = 5000  # objects of a folder `metadata` in a bucket


def table_at(store: ObjectStore) -> str | None:
    """The kind of the table whose folder a store is, also of one whose log is empty; None if it is none."""
    if isinstance(store, DirectoryStore):
        return _table_in(str(store.root))
    if next(iter(store.list("_delta_log")), None) is not None:
        return "delta"
    metadata = islice(store.list("metadata"), _LOOKED_AT)
    is_iceberg = any(_is_metadata(item.key) for item in metadata) or store.stat("metadata/version-hint.text")
    return "iceberg" if is_iceberg else None


def refuse_inside_table(store: ObjectStore, s3: S3Section) -> None:
    """Refuse a folder that is a part of a Delta or Iceberg table; looks at the folders above it only.

    Raises:
        ConfigError: a folder above it is a table's.
    """
    for above in _above(store):
        with contextlib.suppress(Unreachable):  # an account may be allowed to list the corpus alone
            kind = _table_in(above) if isinstance(store, DirectoryStore) else table_at(open_store(above, s3))
            if kind is not None:
                raise part_of_table(kind, above, store.uri)


def part_of_table(kind: str, table: str, where: str) -> ConfigError:
    """The error for files of a table that would be read without its log."""
    what = f"the corpus is a part of {_article(kind)} table, whose files include deleted rows"
    next_step = f"set corpus.uri to {table} and corpus.kind to {kind}, or move the photos out of the table's folder"
    return ConfigError(what, where=where, next_step=next_step)


def refuse_tables(objects: Iterable[StoredObject], uri: str) -> Iterator[StoredObject]:
    """Yield listed objects; a file of a table with a log shows that the folder must not be read file by file.

    Raises:
        ConfigError: there is a Delta or Iceberg table. Its files include rows that were deleted from the table.
    """
    for item in objects:
        folder = item.key.rpartition("/")[0]
        is_delta = f"/{folder}/".find("/_delta_log/") >= 0
        is_iceberg = folder.rpartition("/")[2] == "metadata" and _is_metadata(item.key)
        if is_delta or is_iceberg:
            kind = "delta" if is_delta else "iceberg"
            table = folder.rpartition("/")[0]
            raise ConfigError(
                f"the corpus contains {_article(kind)} table, whose files include deleted rows",
                where=f"{uri}/{table}".rstrip("/"),
                next_step=f"set corpus.uri to the table's folder and corpus.kind to {kind}",
            )
        yield item


def _article(kind: str) -> str:
    return "a Delta" if kind == "delta" else "an Iceberg"


def _is_metadata(key: str) -> bool:
    return key.endswith(METADATA_SUFFIXES)


def _table_in(folder: str) -> str | None:
    if os.path.isdir(os.path.join(folder, "_delta_log")):
        return "delta"
    try:
        with os.scandir(os.path.join(folder, "metadata")) as entries:
            return "iceberg" if any(_is_metadata(entry.name) for entry in entries) else None
    except OSError:
        return None


def _above(store: ObjectStore) -> Iterator[str]:
    """Yield the folders above a store's, nearest first; in a bucket up to its root."""
    if isinstance(store, DirectoryStore):
        for path in dict.fromkeys((store.root, Path(os.path.realpath(store.root)))):
            yield from map(str, path.parents)
        return
    scheme, _, place = store.uri.partition("://")
    bucket, *folders = place.strip("/").split("/")
    for depth in range(len(folders) - 1, -1, -1):
        yield f"{scheme}://{'/'.join([bucket, *folders[:depth]])}"
