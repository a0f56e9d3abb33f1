"""Signatures under certificates and audit records: ed25519 (RFC 8032) over canonical JSON.

A signature carries its public key, so that anybody can check it. That shows only that the body is what the holder of
the key signed: who holds it is told by the fingerprint, which the controller makes known by another way.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from facelake.errors import ConfigError

_ALGORITHM = "ed25519"
_FIELDS = {"algorithm", "key", "public_key", "signature"}
_NEXT = (
    "give governance.signing_key a path that can be written, or an ed25519 key "
    "(openssl genpkey -algorithm ed25519 -out PATH)"
)


@dataclass(frozen=True, slots=True)
class Signer:
    """The holder of a private key."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load_or_create(cls, path: str | Path) -> Signer:
        """The key in a PEM file (PKCS8, not encrypted); a file that does not exist is made, readable by its owner only.

        Raises:
            ConfigError: the file cannot be read or made, or holds no ed25519 key.
        """
        where = Path(path).expanduser()
        try:
            if not where.exists():
                _create(where)
            found = load_pem_private_key(where.read_bytes(), password=None)
        except OSError as err:
            what = f"the signing key cannot be read or made: {err.strerror or err}"
            raise ConfigError(what, where=str(where), next_step=_NEXT) from err
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:  # TypeError: encrypted
            what = "the file holds no PEM private key that is readable without a password"
            raise ConfigError(what, where=str(where), next_step=_NEXT) from err
        if not isinstance(found, Ed25519PrivateKey):
            raise ConfigError("the signing key is not an ed25519 key", where=str(where), next_step=_NEXT)
        return cls(found)

    @property
    def public_pem(self) -> str:
        """The public key (SubjectPublicKeyInfo), to be handed out."""
        return self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name the public key."""
        return _fingerprint(self._private.public_key().public_bytes_raw())

    def sign(self, body: Mapping[str, Any]) -> dict[str, str]:
        """The signature of a JSON object: algorithm, key (fingerprint), public_key and signature (base64).

        Raises:
            ValueError, TypeError: the body is no JSON.
        """
        return {
            "algorithm": _ALGORITHM,
            "key": self.fingerprint,
            "public_key": _text(self._private.public_key().public_bytes_raw()),
            "signature": _text(self._private.sign(_canonical(body))),
        }

    def verify(self, body: Mapping[str, Any], signature: object) -> bool:
        """Did this key sign the body?"""
        return verify(body, signature, key=self.fingerprint)


def verify(body: Mapping[str, Any], signature: object, key: str | None = None) -> bool:
    """Is it a signature of the body by the key that it carries? Malformed input is no signature, not an error.

    Args:
        key: fingerprint that the key must have; None: any key, so that only the body's integrity is shown.
    """
    if not isinstance(signature, Mapping) or set(signature) != _FIELDS or signature["algorithm"] != _ALGORITHM:
        return False
    try:
        raw, signed = _bytes(signature["public_key"]), _bytes(signature["signature"])
        if signature["key"] != _fingerprint(raw) or key not in (None, signature["key"]):
            return False
        Ed25519PublicKey.from_public_bytes(raw).verify(signed, _canonical(body))
    except (ValueError, TypeError, RecursionError, InvalidSignature):
        return False
    return True


def _create(path: Path) -> None:
    """Make a key file that is whole from its first moment; one that another process made first is left alone."""
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".key-") as file:  # made with mode 0600
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
        try:
            os.link(file.name, path)
        except FileExistsError:
            return


def _canonical(body: Mapping[str, Any]) -> bytes:
    """One spelling of each JSON value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="surrogatepass")  # JSON allows half a surrogate pair


def _fingerprint(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:32]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    """Strict base64: one text for each value, so that an edited character is always a fault."""
    raw = base64.b64decode(text, validate=True)
    if _text(raw) != text:
        raise binascii.Error("not canonical")
    return raw
