"""Signatures under certificates and audit records: ed25519 (RFC 8032) over canonical JSON.

A signature contains its public key, so that anyone can verify it. That proves only that the holder of the key signed
the
body: the holder is identified by the fingerprint, which the controller publishes through another channel.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from facelake.erase.key_files import create_key_file
from facelake.errors import ConfigError

_ALGORITHM = "ed25519"
_FIELDS = {"algorithm", "key", "public_key", "signature"}
_NEXT = (
    "set governance.signing_key to a writable path or to an ed25519 key (openssl genpkey -algorithm ed25519 -out PATH)"
)


@dataclass(frozen=True, slots=True)
class Signer:
    """An ed25519 private key that signs JSON objects."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load_or_create(cls, path: str | Path) -> Signer:
        """Load a PEM file (PKCS8, not encrypted); a missing file is created with a new key, readable by its owner only.

        Raises:
            ConfigError: the file cannot be read or created, or does not contain an ed25519 key.
        """
        where = Path(path).expanduser()
        try:
            if not where.exists():
                _create(where)
            private = load_pem_private_key(where.read_bytes(), password=None)
        except OSError as err:
            what = f"the signing key cannot be read or created: {err.strerror or err}"
            raise ConfigError(what, where=str(where), next_step=_NEXT) from err
        except (ValueError, TypeError, UnsupportedAlgorithm) as err:  # TypeError: the key is encrypted
            what = "the file does not contain a PEM private key without a password"
            raise ConfigError(what, where=str(where), next_step=_NEXT) from err
        if not isinstance(private, Ed25519PrivateKey):
            raise ConfigError("the signing key is not an ed25519 key", where=str(where), next_step=_NEXT)
        return cls(private)

    @property
    def public_pem(self) -> str:
        """The public key in PEM form (SubjectPublicKeyInfo), for publication."""
        return self._private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def fingerprint(self) -> str:
        """32 hex digits: the start of the SHA-256 of the raw public key."""
        return _fingerprint(self._private.public_key().public_bytes_raw())

    def sign(self, body: Mapping[str, Any]) -> dict[str, str]:
        """The signature of a JSON object: algorithm, key (fingerprint), public_key and signature (base64).

        Raises:
            ValueError, TypeError: the body cannot be written as JSON.
        """
        return {
            "algorithm": _ALGORITHM,
            "key": self.fingerprint,
            "public_key": _text(self._private.public_key().public_bytes_raw()),
            "signature": _text(self._private.sign(_canonical(body))),
        }

    def secret(self, use: str) -> bytes:
        """32 bytes that only the holder of the key can compute, for one use; by HKDF (RFC 5869)."""
        derived = HKDF(hashes.SHA256(), 32, salt=None, info=f"facelake {use}".encode())
        return derived.derive(self._private.private_bytes_raw())

    def verify(self, body: Mapping[str, Any], signature: object) -> bool:
        """Whether this key signed the body."""
        return verify(body, signature, key=self.fingerprint)


def verify(body: Mapping[str, Any], signature: object, key: str | None = None) -> bool:
    """Whether `signature` is a valid signature of the body by the key that it contains. Malformed input gives False.

    Args:
        key: required fingerprint of the key; None: any key, which proves the integrity of the body only.
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
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    create_key_file(path, pem)


def _canonical(body: Mapping[str, Any]) -> bytes:
    """The canonical form of a JSON value: sorted keys, no spaces, UTF-8."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="surrogatepass")  # JSON allows unpaired surrogates


def _fingerprint(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:32]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    """Decode strict base64, which has one text per value, so that every edited character is detected."""
    raw = base64.b64decode(text, validate=True)
    if _text(raw) != text:
        raise binascii.Error("not canonical")
    return raw
