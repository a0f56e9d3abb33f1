"""The copy of a lake's ledger and suppression lists that is kept outside of it, by which an older lake is recognised.

A lake that was restored from a backup has the consent of that day: withdrawals and erasures since then are unknown to
it. Everything in it fits together, so that nothing inside of it tells. Beside the lake's own objects every command
therefore writes, under <copy>/<name of the lake>/:

    ledger.bin          the events, encrypted with a key derived from that of the lake's hashes
    ledger-head.json    their pin, as in the lake
    suppressed/, suppressed-looks/    the files of the lists, which are hashes
    audit-head.json     the head of the audit trail

and under <copy>/places/ for each URI of a lake, hashed, its name: a new lake is not made where one was before, as when
a disk is not mounted.

Each is written after the lake's own one, so that the copy is never ahead of the lake.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
import secrets
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facelake.contracts import parse_json
from facelake.errors import ConfigError, Corrupt, Retryable
from facelake.lake.object_store import ObjectStore

_LEDGER, _PIN, _AUDIT = "ledger.bin", "ledger-head.json", "audit-head.json"
_NONCE_BYTES = 12
_MOST_PIN_BYTES = 1 << 20
_PLACES = "places"
_NEXT_PLACE = "check governance.ledger_copy; the next command that writes brings a copy that is behind up to date"
_NEXT = "restore it from a backup; or delete it, if the lake is known to be the newest: the next command makes it again"


def refuse_missing_lake(store: ObjectStore, uri: str) -> None:
    """Refuse to make a lake where one was before.

    Args:
        store: root of the setting `governance.ledger_copy`.
        uri: of the lake that is not there.

    Raises:
        ConfigError: one was.
    """
    key = _place(uri)
    if store.stat(key) is not None:
        what = "there was a lake here, and it is gone: it was moved or deleted, or its disk is not mounted"
        next_step = f"mount it, or name its new place in `lake`; if it was deleted for good, delete {store.uri}/{key}"
        raise ConfigError(what, where=uri, next_step=next_step)


def count_lakes(store: ObjectStore) -> int:
    """Return how many lakes have had their copy in a store, the root of the setting `governance.ledger_copy`."""
    return sum(1 for _ in store.list(_PLACES))


def _place(uri: str) -> str:
    whole = uri if "://" in uri else os.path.realpath(uri)
    return f"{_PLACES}/{hashlib.sha256(whole.rstrip('/').encode()).hexdigest()[:32]}"


class LedgerCopy:
    """The copy of one lake."""

    def __init__(self, store: ObjectStore, name: str) -> None:
        """`store`: root of the setting `governance.ledger_copy`; `name`: of the lake."""
        self._store, self._name = store, name
        self.uri = f"{store.uri.rstrip('/')}/{name}"

    def note_place(self, uri: str) -> None:
        """Note where the lake is."""
        key = _place(uri)
        with self._reached():
            if self._store.stat(key) is None:
                self._store.write(key, self._name.encode())

    def pin(self) -> Any | None:
        """Return the pin of the copied ledger as JSON; None if nothing was copied yet.

        Raises:
            Corrupt: it is damaged.
        """
        data = self._read(_PIN)
        try:
            return None if data is None else parse_json(data, _MOST_PIN_BYTES)
        except ValueError as err:
            raise self.damaged() from err

    def ledger(self, key: bytes) -> pa.Table:
        """Return the copied events.

        Raises:
            Corrupt: they are missing or damaged, or were encrypted with another key.
        """
        sealed = self._read(_LEDGER) or b""
        try:
            data = _cipher(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], self._name.encode())
        except (InvalidTag, ValueError) as err:
            raise self.damaged(_LEDGER) from err
        return pq.read_table(io.BytesIO(data))

    def write_ledger(self, rows: pa.Table, pin: dict[str, Any], key: bytes) -> None:
        """Replace the copied events and their pin."""
        content = io.BytesIO()
        pq.write_table(rows, content)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = _cipher(key).encrypt(nonce, content.getvalue(), self._name.encode())
        self._write(_LEDGER, nonce + sealed)
        self._write(_PIN, json.dumps(pin).encode())

    def drop_old_versions(self) -> None:
        """Delete what a versioned bucket keeps of replaced objects."""
        with self._reached():
            self._store.drop_old_versions(self._name)

    def names(self, folder: str) -> set[str]:
        """Return the names of the copied files of a list."""
        with self._reached():
            return {item.key.rpartition("/")[2] for item in self._store.list(f"{self._name}/{folder}")}

    def file(self, folder: str, name: str) -> bytes:
        """Return one copied file of a list."""
        with self._reached():
            return self._store.read(f"{self._name}/{folder}/{name}")

    def write_file(self, folder: str, name: str, body: bytes) -> None:
        """Copy a file of a list."""
        self._write(f"{folder}/{name}", body)

    def audit_head(self) -> bytes | None:
        """Return the copied head of the audit trail; None if there is none."""
        return self._read(_AUDIT)

    def write_audit_head(self, data: bytes) -> None:
        """Replace the copied head of the audit trail."""
        self._write(_AUDIT, data)

    def _read(self, key: str) -> bytes | None:
        with self._reached():
            try:
                return self._store.read(f"{self._name}/{key}")
            except FileNotFoundError:
                return None

    def _write(self, key: str, data: bytes) -> None:
        with self._reached():
            self._store.write(f"{self._name}/{key}", data)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Raise Retryable with a next step if the place cannot be read or written."""
        try:
            yield
        except (OSError, Retryable) as err:
            reason = err.what if isinstance(err, Retryable) else err.strerror or err
            what = f"the copy of the ledger cannot be reached: {reason}"
            raise Retryable(what, where=self.uri, next_step=_NEXT_PLACE) from err

    def damaged(self, key: str = _PIN) -> Corrupt:
        """Return the error for an object that cannot be read, by default the pin."""
        return Corrupt("the copy of the ledger is damaged", where=f"{self.uri}/{key}", next_step=_NEXT)


def _cipher(key: bytes) -> AESGCM:
    return AESGCM(hmac.new(key, b"facelake copy of the ledger", hashlib.sha256).digest())
