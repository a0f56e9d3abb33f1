"""The suppression list: files of keyed hashes, named after their content, and a pin that says which files there are.

A list that was lost in part would admit erased people again, so the pin names every file, and every file's name is a
digest of what is in it. Files are written before the pin names them; a file without a pin that names it counts too. Not
detected here is the loss of files and pin together: `facelake verify` compares the list with the audit trail.
"""

from __future__ import annotations

import hashlib
import json

from facelake.contracts import parse_json
from facelake.errors import Corrupt
from facelake.lake.object_store import ObjectStore

_MOST_PIN_BYTES = 64 << 20
_NEXT = "restore the folder and its pin from a backup: without them erased people would be admitted again"


class SuppressionList:
    """The files of a folder of a lake."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        self._store, self._folder, self._pin = store, folder, f"{folder}-head.json"

    def add(self, lines: list[str]) -> None:
        """Add a file with some lines.

        Raises:
            Corrupt: as `lines`; adding to a list that lost something would hide the loss.
        """
        self.lines()
        pinned = self._pinned()
        if pinned is None:
            self._write_pin(set())  # so that a missing pin is always a fault
        body = "\n".join(lines).encode()
        self._store.write(f"{self._folder}/{_name(body)}", body)
        self._write_pin((pinned or set()) | {_name(body)})

    def lines(self) -> list[str]:
        """Return the lines of all files.

        Raises:
            Corrupt: a file is missing or was changed, or the pin is.
        """
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
        if missing := sorted((pinned or set()) - set(found)):
            what = f"{len(missing)} files of the suppression list are missing"
            raise Corrupt(what, where=f"{self._store.uri}/{self._folder}/{missing[0]}", next_step=_NEXT)
        return [line for name in sorted(found) for line in found[name].splitlines()]

    def _pinned(self) -> set[str] | None:
        where = f"{self._store.uri}/{self._pin}"
        try:
            names = parse_json(self._store.read(self._pin), _MOST_PIN_BYTES)
        except FileNotFoundError:
            return None
        except ValueError as err:
            raise Corrupt("the pin of the suppression list is damaged", where=where, next_step=_NEXT) from err
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise Corrupt("the pin of the suppression list is damaged", where=where, next_step=_NEXT)
        return set(names)

    def _write_pin(self, names: set[str]) -> None:
        self._store.write(self._pin, json.dumps(sorted(names)).encode())


def _name(body: bytes) -> str:
    return f"{hashlib.sha256(body).hexdigest()[:16]}.txt"
