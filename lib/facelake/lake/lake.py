"""The lake: its marker, its tables and its other objects (reports, audit, suppression list)."""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from facelake.config import S3Section
from facelake.contracts import LAKE_FORMAT, TABLES
from facelake.errors import ConfigError, Corrupt
from facelake.lake.hash_key import check_value, hashing_key, keyed_hash, read_hash_key
from facelake.lake.ledger_copy import LedgerCopy, refuse_missing_lake
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store, probe
from facelake.lake.suppression import SuppressionList
from facelake.lake.tables import Table

_MARKER = "lake.json"
_SUPPRESSED = "suppressed"
_LOOKS = "suppressed-looks"
_DEMO = "demo.txt"


class Lake:
    """One lake root. Workers open it again from `uri`, `s3` and, if they hash names, `salt`; that is cheap."""

    def __init__(
        self,
        store: ObjectStore,
        s3: S3Section,
        marker: dict[str, Any],
        hash_key: str | None = None,
        ledger_copy: str | None = None,
    ) -> None:
        self.store, self.s3, self.uri = store, s3, store.uri
        self._marker = marker
        self._hashing_key = _hashing_key(store, marker, hash_key)
        self.copy = LedgerCopy(_copies(ledger_copy, s3), self.name) if ledger_copy else None
        self._tables = {name: Table(store, name) for name in TABLES}

    @classmethod
    def create(
        cls, uri: str, s3: S3Section | None = None, hash_key: str | None = None, ledger_copy: str | None = None
    ) -> Lake:
        """Open a lake for writing; an empty or missing root becomes a new lake. The store is probed first.

        Args:
            uri: a directory or s3://bucket/prefix.
            s3: how to reach it.
            hash_key: path of the key of the lake's hashes; made for a new lake if it is missing.
            ledger_copy: folder or s3://bucket/prefix of copies of ledgers outside of the lake.

        Raises:
            ConfigError: the key is missing, or is not that of the lake; by the copies a lake was here that is gone.
            Refused: the store does not honour conditional writes.
            Corrupt: the lake was written by a newer version.
        """
        store = open_store(uri, s3)
        marker = _read_marker(store)
        if marker is None and ledger_copy:  # before the probe, which writes
            refuse_missing_lake(_copies(ledger_copy, s3), store.uri)
        probe(store)
        if marker is None:
            fresh = {
                "format": LAKE_FORMAT,
                "created": datetime.now(UTC).isoformat(),
                "salt": secrets.token_hex(16),
            }
            if hash_key:
                key = read_hash_key(hash_key, create=True)
                fresh["hash_key"] = check_value(key, bytes.fromhex(str(fresh["salt"])))
            store.create(_MARKER, json.dumps(fresh).encode())
            marker = _read_marker(store) or fresh
        lake = cls(store, s3 or S3Section(), marker, hash_key, ledger_copy)
        if lake.copy:
            lake.copy.note_place(store.uri)
        return lake

    @classmethod
    def open(
        cls, uri: str, s3: S3Section | None = None, hash_key: str | None = None, ledger_copy: str | None = None
    ) -> Lake:
        """Open an existing lake without writing.

        Args:
            uri: a directory or s3://bucket/prefix.
            s3: how to reach it.
            hash_key: path of the key of the lake's hashes; None: names cannot be hashed if the lake has one.
            ledger_copy: as for `create`; None: an older lake is not recognised.

        Raises:
            ConfigError: there is no lake at the URI; the key is missing, or is not that of the lake.
            Corrupt: the lake was written by a newer version.
        """
        store = open_store(uri, s3)
        marker = _read_marker(store)
        if marker is None:
            next_step = "check `lake` in the config, or --lake; `facelake import`, `facelake demo` and "
            next_step += "`facelake ledger grant --create-lake` make a lake"
            raise ConfigError("no facelake lake at this URI", where=store.uri, next_step=next_step)
        return cls(store, s3 or S3Section(), marker, hash_key, ledger_copy)

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    @property
    def name(self) -> str:
        """16 hex digits that identify this lake; known to whoever has it, with its key or without."""
        return keyed_hash(bytes.fromhex(self._marker["salt"]), "name of the lake")[:16]

    @property
    def has_key(self) -> bool:
        """Whether names are hashed with a key that is not in the lake."""
        return "hash_key" in self._marker

    @property
    def can_hash(self) -> bool:
        """Whether the lake was opened with the key of its hashes, if it has one."""
        return self._hashing_key is not None

    def mark_as_demo(self) -> None:
        """Mark the lake as a demo, unless anything was recorded or run in it: a lake of real people never becomes a
        demo.
        """
        if self["ledger"].version() < 0 and self["runs"].version() < 0:
            self.store.create(_DEMO, b"made by `facelake demo`\n")

    @property
    def salt(self) -> bytes:
        """The key of `keyed_hash`, a secret if the lake has a key file.

        Raises:
            ConfigError: the lake has a key, and was opened without it.
        """
        if self._hashing_key is None:
            what = "the names that this lake hashes need its key"
            raise ConfigError(what, where="governance.hash_key", next_step="set it to the path of the key file")
        return self._hashing_key

    def keyed_hash(self, value: str) -> str:
        """HMAC-SHA-256 of an identifier under this lake's key; hashes of different lakes are not comparable.

        Raises:
            ConfigError: the lake has a key, and was opened without it.
        """
        return keyed_hash(self.salt, value)

    def suppress(self, values: list[str], hashed: Collection[str] = ()) -> None:
        """Add identifiers (as keyed hashes) to the suppression list: they are never processed again.

        Args:
            values: the identifiers.
            hashed: keyed hashes of further ones.
        """
        if names := sorted({*(self.keyed_hash(value) for value in values), *hashed}):
            self._list(_SUPPRESSED).add(names)

    def suppressed(self) -> frozenset[str]:
        """The suppression list: keyed hashes of the erased identifiers.

        Raises:
            Corrupt: a part of it is missing or was changed, or it is that of another lake.
        """
        return frozenset(self._list(_SUPPRESSED).lines())

    def suppress_looks(self, looks: Collection[tuple[str, ...]]) -> None:
        """Add photos, each by the keyed hashes of its bands (embed/looks.py), to those refused by their looks."""
        if looks:
            self._list(_LOOKS).add(sorted(" ".join(bands) for bands in looks))

    def suppressed_looks(self) -> list[tuple[str, ...]]:
        """The keyed hashes of the bands of each photo that is refused by its looks.

        Raises:
            Corrupt: a part of the list is missing or was changed.
        """
        return [tuple(line.split()) for line in sorted(set(self._list(_LOOKS).lines()))]

    def copy_lists(self) -> None:
        """Bring the copies of both lists outside of the lake up to date."""
        for folder in (_SUPPRESSED, _LOOKS):
            self._list(folder).copy_missing()

    def restore_lists(self) -> int:
        """Add what the copies outside of the lake have and the lists have not; returns the number of lines."""
        return sum(self._list(folder).restore() for folder in (_SUPPRESSED, _LOOKS))

    def suppression_pins(self) -> dict[str, Any]:
        """What the audit trail records of both lists: by folder the number of files and a digest of their names.

        Raises:
            Corrupt: a pin is damaged, or that of another lake.
        """
        pins = {folder: self._list(folder).pin() for folder in (_SUPPRESSED, _LOOKS)}
        return {folder: pin for folder, pin in pins.items() if pin}

    def suppression_faults(self, earlier: dict[str, Any]) -> list[str]:
        """Return what the lists have lost since `suppression_pins` returned something; empty for nothing.

        Raises:
            Corrupt: a pin is damaged, or that of another lake.
        """
        faults = (self._list(folder).fault(pin) for folder, pin in earlier.items() if folder in (_SUPPRESSED, _LOOKS))
        return [fault for fault in faults if fault]

    def _list(self, folder: str) -> SuppressionList:
        return SuppressionList(self.store, folder, self._hashing_key, self.copy)


def _hashing_key(store: ObjectStore, marker: dict[str, Any], path: str | None) -> bytes | None:
    """The key of a lake's hashes: from its key file if it has one, else its salt; None if the file is not given.

    Raises:
        ConfigError: the file is missing or that of another lake, or the lake has no key.
    """
    salt, wanted = bytes.fromhex(marker["salt"]), marker.get("hash_key")
    if wanted is None and path is None:
        return salt
    if wanted is None:
        what, next_step = "this lake was made without governance.hash_key", "remove it from the config"
        raise ConfigError(what, where=store.uri, next_step=f"{next_step}, or import the photos into a new lake")
    if path is None:
        return None
    key = read_hash_key(path)
    if not hmac.compare_digest(check_value(key, salt), str(wanted)):
        what = "the key in governance.hash_key is not that of this lake: erased people would be admitted again"
        raise ConfigError(what, where=path, next_step="restore the key that was made with the lake")
    return hashing_key(key, salt)


def has_lake(store: ObjectStore) -> bool:
    """Whether there is a lake at the root of a store."""
    return store.tag(_MARKER) is not None


def is_demo(store: ObjectStore) -> bool:
    """Whether the lake under this root was created by `facelake demo`."""
    return store.tag(_DEMO) is not None


def _read_marker(store: ObjectStore) -> dict[str, Any] | None:
    try:
        marker = dict(json.loads(store.read(_MARKER)))
        written = int(marker["format"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OverflowError) as err:
        raise Corrupt(
            "the lake's marker is damaged", where=f"{store.uri}/{_MARKER}", next_step="restore the marker from a backup"
        ) from err
    except (IsADirectoryError, NotADirectoryError) as err:
        raise ConfigError("the lake's root is not a directory", where=store.uri, next_step="correct --lake") from err
    if written > LAKE_FORMAT:
        what = f"the lake has format {written}, this version of facelake writes format {LAKE_FORMAT}"
        raise Corrupt(what, where=store.uri, next_step="upgrade facelake")
    return marker


def _copies(place: str, s3: S3Section | None) -> ObjectStore:
    """Return the root of the copies of ledgers."""
    return open_store(os.path.expanduser(place), s3)
