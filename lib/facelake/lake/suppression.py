"""The suppression list: files of keyed hashes, named after their content, and a pin that says which files there are.

A list that was lost in part would admit erased people again, so the pin names every file, and every file's name is a
digest of what is in it. Files are written before the pin names them; a file without a pin that names it counts too. The
pin has a MAC by the key of the lake's hashes: who lacks that key cannot write another pin, and a list does not fit a
lake whose marker was replaced, in which its hashes mean nobody. Without a key file the key is the salt in the marker,
which whoever can write has, too. Not detected here is the loss of files and pin together, or an older state of both:
the audit trail pins the lists, and `facelake verify` compares.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

from facelake.contracts import parse_json
from facelake.errors import Corrupt
from facelake.lake.ledger_copy import LedgerCopy
from facelake.lake.object_store import ObjectStore

_MOST_PIN_BYTES = 64 << 20
_NEXT_MARKER = "restore lake.json, or the folder and its pin, from a backup: else erased people would be admitted again"
_NEXT_COPY = "`facelake ledger restore` puts back what the copy outside of the lake has"
_NEXT = "restore the folder and its pin from a backup: without them erased people would be admitted again"


class SuppressionList:
    """The files of a folder of a lake."""

    def __init__(self, store: ObjectStore, folder: str, key: bytes | None, copy: LedgerCopy | None = None) -> None:
        """Name the list.

        Args:
            store: of the lake.
            folder: of the files.
            key: of the lake's hashes; None: the MAC is not checked, and nothing can be added.
            copy: outside of the lake; the list must have its files, and added ones are copied.
        """
        self._store, self._folder, self._key, self._copy = store, folder, key, copy
        self._pin = f"{folder}-head.json"

    def add(self, lines: list[str]) -> None:
        """Add a file with some lines.

        Raises:
            Corrupt: as `lines`; adding to a list that lost something would hide the loss.
        """
        self.lines()
        self._add("\n".join(lines).encode())

    def _add(self, body: bytes) -> None:
        pinned = self._pinned()
        if pinned is None:
            self._write_pin([])  # so that a missing pin is always a fault
        self._store.write(f"{self._folder}/{_name(body)}", body)
        self._write_pin(list(dict.fromkeys([*(pinned or []), _name(body)])))
        if self._copy:
            self._copy.write_file(self._folder, _name(body), body)

    def lines(self) -> list[str]:
        """Return the lines of all files.

        Raises:
            Corrupt: a file is missing or was changed, or the pin is; or the pin was not written with the key; or the
                copy outside of the lake has more.
        """
        copied = self._copy.names(self._folder) if self._copy else set()  # before the list, which others may add to
        pinned, found = self._pinned(), {}
        for item in self._store.list(self._folder):
            body = self._store.read(item.key)
            name = item.key.rpartition("/")[2]
            if name != _name(body):
                where = f"{self._store.uri}/{item.key}"
                raise Corrupt("the suppression list was changed", where=where, next_step=_NEXT)
            found[name] = body.decode()
        if found and pinned is None:
            pinned = self._pinned()  # the first file may have been added meanwhile
        if found and pinned is None:
            what = "the pin of the suppression list is missing"
            raise Corrupt(what, where=f"{self._store.uri}/{self._pin}", next_step=_NEXT)
        if missing := sorted(set(pinned or ()) - set(found)):
            what = f"{len(missing)} files of the suppression list are missing"
            raise Corrupt(what, where=f"{self._store.uri}/{self._folder}/{missing[0]}", next_step=_NEXT)
        if missing := sorted(copied - set(found)):
            what = f"the lake is older than the copy of its ledger: {len(missing)} files of {self._folder} are missing"
            raise Corrupt(what, where=f"{self._store.uri}/{self._folder}/{missing[0]}", next_step=_NEXT_COPY)
        return [line for name in sorted(found) for line in found[name].splitlines()]

    def copy_missing(self) -> None:
        """Copy the files that the copy outside of the lake has not."""
        if self._copy:
            copied = self._copy.names(self._folder)
            for item in self._store.list(self._folder):
                if (name := item.key.rpartition("/")[2]) not in copied:
                    self._copy.write_file(self._folder, name, self._store.read(item.key))

    def restore(self) -> int:
        """Add the files that only the copy outside of the lake has; returns the number of their lines.

        Raises:
            Corrupt: one was changed.
        """
        if self._copy is None:
            return 0
        here, lines = {item.key.rpartition("/")[2] for item in self._store.list(self._folder)}, 0
        for name in sorted(self._copy.names(self._folder) - here):
            body = self._copy.file(self._folder, name)
            if name != _name(body):
                what = "a file of the copied suppression list was changed"
                raise Corrupt(what, where=f"{self._copy.uri}/{self._folder}/{name}", next_step=_NEXT)
            self._add(body)
            lines += len(body.splitlines())
        return lines

    def pin(self) -> dict[str, Any] | None:
        """Return the number of files, and a digest of their names in the order of adding; None for no list.

        Raises:
            Corrupt: as `lines`, as far as the pin is concerned.
        """
        names = self._pinned()
        return None if names is None else {"files": len(names), "digest": _digest(names)}

    def fault(self, earlier: dict[str, Any]) -> str | None:
        """Return what is wrong with a list of which `pin` returned something earlier; None if it begins with that.

        Raises:
            Corrupt: as `pin`.
        """
        names, count = self._pinned() or [], int(earlier["files"])
        if len(names) < count:
            return f"{self._folder} has {len(names)} files, and had {count}"
        return None if _digest(names[:count]) == earlier["digest"] else f"files of {self._folder} were replaced"

    def _pinned(self) -> list[str] | None:
        """Return the names of the files in the order of adding; None if there is no pin."""
        where = f"{self._store.uri}/{self._pin}"
        try:
            pin = parse_json(self._store.read(self._pin), _MOST_PIN_BYTES)
            names, mac = [str(name) for name in pin["files"]], str(pin["mac"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as err:
            raise Corrupt("the pin of the suppression list is damaged", where=where, next_step=_NEXT) from err
        if self._key is not None and not hmac.compare_digest(mac.encode(), self._mac(names, self._key).encode()):
            what = "the pin of the suppression list, or the marker lake.json, was replaced: they do not belong together"
            raise Corrupt(what, where=where, next_step=_NEXT_MARKER)
        return names

    def _write_pin(self, names: list[str]) -> None:
        assert self._key is not None
        self._store.write(self._pin, json.dumps({"files": names, "mac": self._mac(names, self._key)}).encode())

    def _mac(self, names: list[str], key: bytes) -> str:
        return hmac.new(key, json.dumps(["suppression list", self._folder, names]).encode(), hashlib.sha256).hexdigest()


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _name(body: bytes) -> str:
    return f"{hashlib.sha256(body).hexdigest()[:16]}.txt"
