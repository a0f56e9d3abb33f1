"""Checks the certificate of an erasure without the lake, for whoever received it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from facelake.contracts import parse_json
from facelake.erase import verify
from facelake.errors import ConfigError
from facelake.lake.store import read_text

_FIELDS = ("erasure", "completed_at", "targets_keyed_sha256", "removed", "residual_scan")


@dataclass(frozen=True, slots=True)
class CheckedCertificate:
    """A certificate and what its signature is worth.

    Attributes:
        body: the signed content.
        key: fingerprint of the key that signed it.
        intact: whether the signature fits the content, whoever made it.
        valid: whether it is intact and, if keys were given, signed by one of them.
        pinned: whether keys were given to compare with.
    """

    body: dict[str, Any]
    key: str
    intact: bool
    valid: bool
    pinned: bool


def check_certificate(path: str, keys: Sequence[str]) -> CheckedCertificate:
    """Check the file of an audit record, or of the certificate alone.

    Args:
        path: of the file, or s3://.
        keys: fingerprints of the controller's keys; empty: any key is accepted, which proves integrity only.

    Raises:
        ConfigError: the file cannot be read, or holds no certificate.
    """
    try:
        record = parse_json(read_text(path))
    except OSError as err:
        what = f"cannot be read: {err.strerror or err}"
        raise ConfigError(what, where=path, next_step="give the file of a certificate") from err
    except ValueError as err:
        what = "this is no certificate, or one that was changed: it is not JSON"
        raise ConfigError(what, where=path, next_step="give the file in audit/ that `facelake erase` named") from err
    inner = record.get("body", record) if isinstance(record, dict) else None
    if not isinstance(inner, dict) or not all(name in inner for name in _FIELDS):
        next_step = "give the file in audit/ that `facelake erase` named"
        raise ConfigError("this is not the certificate of an erasure", where=path, next_step=next_step)
    signature = inner.get("signature")
    body = {name: value for name, value in inner.items() if name != "signature"}
    intact = verify(body, signature, None)
    valid = any(verify(body, signature, key) for key in keys or (None,))
    key = str(signature.get("key", "")) if isinstance(signature, dict) else ""
    return CheckedCertificate(body, key, intact, valid, bool(keys))
