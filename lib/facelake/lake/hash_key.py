"""The secret of a lake's keyed hashes: a file apart from the lake, as the signing key is.

The hashes stand for names that were erased. With the salt alone, which lies in the lake, whoever has the lake can hash
every possible reference and compare; a short reference is found in milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from pathlib import Path

from facelake.erase.key_files import create_key_file
from facelake.errors import ConfigError

_BYTES = 32
_FORM = re.compile(rb"[0-9a-f]{64}\s*")
_NEXT = "restore the file from your backup of keys, or correct governance.hash_key"


def read_hash_key(path: str | Path, *, create: bool = False) -> bytes:
    """Read the key file (64 hex digits); with `create`, a missing one is made, readable by its owner only.

    Raises:
        ConfigError: the file is missing, cannot be read or made, or has another form.
    """
    where = Path(path).expanduser()
    try:
        if create and not where.exists():
            create_key_file(where, secrets.token_hex(_BYTES).encode())
        text = where.read_bytes()
    except OSError as err:
        what = f"the key of this lake's hashes cannot be read: {err.strerror or err}"
        raise ConfigError(what, where=str(where), next_step=_NEXT) from err
    if not _FORM.fullmatch(text):
        raise ConfigError("the file does not contain a key of 64 hex digits", where=str(where), next_step=_NEXT)
    return bytes.fromhex(text.decode())


def keyed_hash(key: bytes, value: str) -> str:
    """Return the HMAC-SHA-256 of an identifier, in hexadecimal."""
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()


def erased_name(key: bytes, labelled: str) -> str:
    """Return what stands in the ledger and in emptied rows for a name that was erased, from its label."""
    return "erased:" + keyed_hash(key, labelled)


def hashing_key(key: bytes, salt: bytes) -> bytes:
    """Return the key of one lake's hashes, so that hashes of two lakes under one key file differ."""
    return hmac.new(key, b"facelake keyed hashes\0" + salt, hashlib.sha256).digest()


def check_value(key: bytes, salt: bytes) -> str:
    """Return what the lake stores to recognise its key; the key cannot be computed from it."""
    return hmac.new(key, b"facelake check value\0" + salt, hashlib.sha256).hexdigest()[:32]
