"""The names of a lake's partitions: one small object each beside their lakes, so that no lake has to be listed."""

from __future__ import annotations

import json

from facelake.config import Config
from facelake.contracts import reference
from facelake.errors import ConfigError
from facelake.lake.lake import Lake, has_lake
from facelake.lake.store import open_store
from facelake.partitions import MARKER, all_partitions_uri, folder_of, in_partition, must_be_one_lake

NAMES = "partition-names"


def create_lake(config: Config) -> Lake:
    """Open a lake for writing, and create it if it is missing; a partition's name is recorded.

    Raises:
        ConfigError: the config names no partition of several; or photos of all sources lie in one lake already.
        Refused: the store does not honour conditional writes.
    """
    must_be_one_lake(config)
    if config.partition is not None:
        root = open_store(all_partitions_uri(config), config.s3)
        if has_lake(root):
            raise ConfigError(
                "this lake was made without partitions, and has people of several sources in one gallery",
                where=root.uri,
                next_step="import the photos into a lake at another place, with gallery.partition_by from the start",
            )
        name = reference(config.partition)
        root.create(f"{NAMES}/{folder_of(name)}.json", json.dumps({"partition": name}).encode())
    _must_name_partition(config)
    lake = Lake.create(config.lake, config.s3, config.governance.hash_key, config.governance.ledger_copy)
    if config.partition is not None:
        lake.store.create(MARKER, json.dumps({"partition": reference(config.partition)}).encode())
    return lake


def open_lake(config: Config) -> Lake:
    """Open an existing lake without writing.

    Raises:
        ConfigError: there is no lake, or the config names no partition of several.
    """
    must_be_one_lake(config)
    _must_name_partition(config)
    return Lake.open(config.lake, config.s3, config.governance.hash_key, config.governance.ledger_copy)


def _must_name_partition(config: Config) -> None:
    """Check that a partition's lake is not opened by its own path, which would let photos of other sources in.

    Raises:
        ConfigError: the config does not name the partition that the lake is of.
    """
    store = open_store(config.lake, config.s3)
    try:
        name = json.loads(store.read(MARKER))["partition"]
    except (FileNotFoundError, NotADirectoryError):  # opening a file as a lake is refused later, with a reason
        return
    if config.partition is None or reference(config.partition) != name:
        raise ConfigError(
            f"this is the lake of partition {name!r} of a partitioned gallery",
            where=config.lake,
            next_step="name the lake of the whole gallery, with gallery.partition_by and --partition",
        )


def partitions_of(config: Config) -> dict[str, Config]:
    """Return the configuration of every partition that exists, by name in order; empty if the lake has none."""
    store = open_store(all_partitions_uri(config), config.s3)
    names = sorted(str(json.loads(store.read(item.key))["partition"]) for item in store.list(NAMES))
    return {name: in_partition(config.model_copy(update={"partition": name})) for name in names}
