"""The notes by which a killed erasure is completed.

A note is written before the first row is removed: afterwards nothing else in the lake says which photos, faces and
embeddings must not be found any more. It is encrypted, and named, by keys that are derived from the signing key, which
is not in the lake: whoever reads the lake learns nothing from it. Once the scan has found nothing, the note is replaced
by one that holds only the certificate's content; it is deleted after the certificate was appended.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facelake.erase import Signer
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.erasure.request import Request, Targets

PENDING = "erase-pending"
_NONCE_BYTES = 12
_SETS = ("subjects", "images", "faces", "embeddings", "contents", "pieces", "copies", "others", "places")
_BYTES = ("embeddings", "pieces")


@dataclass(frozen=True, slots=True)
class Note:
    """An erasure that was begun.

    Attributes:
        targets: what it removes; after the scan only the request.
        removed: counts of what was removed so far.
        scan: what the scan reported; None before it.
        erased_before: how many of the references were on the suppression list when the erasure was begun.
    """

    targets: Targets
    removed: dict[str, int] = field(default_factory=dict)
    scan: dict[str, Any] | None = None
    erased_before: int = 0


@dataclass(frozen=True, slots=True)
class Notes:
    """The notes of a lake, for the holder of a signing key."""

    lake: Lake
    signer: Signer

    def key(self, request: Request) -> str:
        """Return the key of the note of a request, which reveals nothing of what is erased."""
        name = hmac.new(self.signer.secret("names of erasure notes"), request.canonical(), hashlib.sha256)
        return f"{PENDING}/{name.hexdigest()[:24]}.bin"

    def write(self, note: Note) -> None:
        """Write a note in place of the earlier one of the same request."""
        body: dict[str, Any] = {name: sorted(_text(value) for value in getattr(note.targets, name)) for name in _SETS}
        body |= {"request": asdict(note.targets.request), "removed": note.removed, "scan": note.scan}
        body["erased_before"] = note.erased_before
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = self._cipher().encrypt(nonce, json.dumps(body).encode(), self.lake.name.encode())
        self.lake.store.write(self.key(note.targets.request), nonce + sealed)

    def read(self, request: Request) -> Note | None:
        """Return the note of a request; None if there is none.

        Raises:
            ConfigError: it is damaged.
        """
        try:
            return self._opened(self.lake.store.read(self.key(request)))
        except FileNotFoundError:
            return None
        except InvalidTag as err:
            ident = self.key(request).rpartition("/")[2].partition(".")[0]
            next_step = f"`facelake erase --cancel {ident}`, then give the command again"
            raise ConfigError(
                "the note of this erasure is damaged", where=self.key(request), next_step=next_step
            ) from err

    def delete(self, request: Request) -> None:
        """Delete the note of a request, with its earlier versions in a versioned bucket."""
        self.lake.store.delete(self.key(request))
        self.lake.store.drop_old_versions(PENDING)

    def unfinished(self) -> Iterator[tuple[str, Note | None]]:
        """Yield (id, note) of every erasure without a certificate; None if another key began it or it is damaged."""
        yield from ((ident, note) for _, ident, note in self._all())

    def keys(self) -> set[str]:
        """Return the keys of all notes that this signing key can read: nothing of a person is in them in clear."""
        return {key for key, _, note in self._all() if note is not None}

    def _all(self) -> Iterator[tuple[str, str, Note | None]]:
        """Yield (key, id, note) of every erasure without a certificate; None if the note cannot be read."""
        for key, ident in pending(self.lake):
            try:
                yield key, ident, self._opened(self.lake.store.read(key))
            except InvalidTag:
                yield key, ident, None

    def _cipher(self) -> AESGCM:
        return AESGCM(self.signer.secret("content of erasure notes"))

    def _opened(self, sealed: bytes) -> Note:
        """Decrypt a note; raises InvalidTag if it is damaged, of another key, or no note at all."""
        if len(sealed) < 2 * _NONCE_BYTES:
            raise InvalidTag
        nonce, rest = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        body: dict[str, Any] = json.loads(self._cipher().decrypt(nonce, rest, self.lake.name.encode()))
        request = {key: tuple(value) if isinstance(value, list) else value for key, value in body["request"].items()}
        targets = Targets(Request(**cast(Any, request)))
        for name in _SETS:
            values = body[name]
            setattr(targets, name, {bytes.fromhex(value) for value in values} if name in _BYTES else set(values))
        return Note(targets, body["removed"], body["scan"], body["erased_before"])


def pending(lake: Lake) -> list[tuple[str, str]]:
    """Return (key, id) of every erasure that was begun and has no certificate yet."""
    return [(item.key, item.key.rpartition("/")[2].partition(".")[0]) for item in lake.store.list(PENDING)]


def cancel(lake: Lake, ident: str | None = None) -> list[str]:
    """Delete the notes of unfinished erasures; returns their ids. What was removed stays removed and suppressed.

    Args:
        lake: the lake.
        ident: id of one; None: the only one.

    Raises:
        ConfigError: there is no such erasure, or there are several and none is named.
    """
    notes = pending(lake)
    chosen = [(key, name) for key, name in notes if ident in (None, name)]
    if not chosen:
        what = f"no unfinished erasure {ident}" if ident else "no unfinished erasure"
        raise ConfigError(what, where=lake.uri, next_step="see `facelake status`")
    if len(chosen) > 1:
        names = ", ".join(name for _, name in notes)
        what = f"there are {len(notes)} unfinished erasures: {names}"
        raise ConfigError(what, where="--cancel", next_step="name one: `facelake erase --cancel ID`")
    for key, _ in chosen:
        lake.store.delete(key)
    lake.store.drop_old_versions(PENDING)
    return [name for _, name in chosen]


def _text(value: str | bytes) -> str:
    return value.hex() if isinstance(value, bytes) else value
