"""Partitions of a configuration: a lake of its own for each source, so that their people never meet.

With `gallery.partition_by: source_id`, every photo of one source lies in the lake `<lake>/partitions/<name>`. It has
its own tables, salt, ledger, audit trail, ids, reviews, exports and leases. Nothing reads two of them at once.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

from facelake.config import Config
from facelake.contracts import reference
from facelake.errors import ConfigError

FOLDER = "partitions"
MARKER = "partition.json"
"""object in a partition's lake that has its name"""
PLACEHOLDER = "{partition}"
_PLAIN = re.compile(r"(?!x-)[a-z0-9][a-z0-9_-]{0,62}")  # lower case only: some file systems ignore case


def in_partition(config: Config) -> Config:
    """Return the configuration of the partition that it names: its lake, and its part of the corpus.

    A configuration without partitions, or of all partitions, is returned unchanged; so is one of a partition's lake.

    Raises:
        ConfigError: a partition is named without `gallery.partition_by`; or the corpus is one that partitions share.
    """
    if config.gallery.partition_by is None:
        if config.partition is not None:
            raise ConfigError(
                f"partition {config.partition!r} is named, and the gallery has none",
                where="partition",
                next_step="set gallery.partition_by: source_id, or leave the partition out",
            )
        return config
    if config.partition is None or is_partition(config):
        return config
    uri = config.corpus.uri
    if uri is not None and PLACEHOLDER not in uri:
        raise ConfigError(
            "partitions would share the corpus",
            where=f"corpus.uri {uri}",
            next_step=f"write {PLACEHOLDER} where the locations of the sources differ, or leave corpus out",
        )
    corpus = config.corpus.model_copy(
        update={"uri": uri and uri.replace(PLACEHOLDER, quote(reference(config.partition), safe=""))}
    )
    name = folder_of(config.partition)
    return config.model_copy(update={"lake": f"{config.lake.rstrip('/')}/{FOLDER}/{name}", "corpus": corpus})


def is_partition(config: Config) -> bool:
    """Whether the lake of the configuration is that of the partition that it names."""
    return config.partition is not None and config.lake.rstrip("/").endswith(f"/{FOLDER}/{folder_of(config.partition)}")


def must_be_one_lake(config: Config) -> None:
    """Check that a configuration is of one lake.

    Raises:
        ConfigError: it has partitions and names none.
    """
    if config.gallery.partition_by is not None and not is_partition(config):
        next_step = "add --partition with the name of a source; `facelake nightly` without it runs all of them"
        raise ConfigError(
            "the gallery is partitioned, and each partition is a lake of its own",
            where=config.lake,
            next_step=next_step,
        )


def all_partitions_uri(config: Config) -> str:
    """Return the root of all partitions, given the configuration of one of them or of all."""
    lake = config.lake.rstrip("/")
    return lake.rpartition(f"/{FOLDER}/")[0] if is_partition(config) else lake


def folder_of(partition: str) -> str:
    """Return the name of a partition's folder; names that a store might change or nest are replaced by a digest.

    Raises:
        ConfigError: the name is empty.
    """
    name = reference(partition)
    if not name:
        raise ConfigError("the name of the partition is empty", where="partition", next_step="give that of a source")
    return name if _PLAIN.fullmatch(name) else "x-" + hashlib.sha256(name.encode()).hexdigest()[:32]


def is_of_partition(config: Config, source: str | None) -> bool:
    """Whether photos of a source belong into the lake of the configuration."""
    return config.partition is None or reference(source or "") == reference(config.partition)
