"""Templates that can be revoked: a keyed rotation of embeddings, one per gallery and purpose. Pure.

A rotation leaves every cosine inside a gallery as it is, so rankings are the same; across galleries with different keys
cosines say nothing. A key that leaked is replaced by another one and the templates are rotated on, without the photos.
(Cancelable biometrics by random orthonormal projection: Teoh, Goh, Ngo, PAMI 2006, here without losing dimensions.)

What it does not protect against: who holds `dim` templates in both forms has the rotation (a linear system); who has
the key has raw templates, and from raw templates faces can be reconstructed (Mai et al., PAMI 2019).
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np

from facelake.contracts import F32, F64
from facelake.errors import ConfigError
from facelake.vectors import unit_rows

_LEAST_KEY_BYTES = 16


def rotation(key: bytes, gallery: str, purpose: str, dim: int) -> F64:
    """An orthogonal matrix (dim, dim), uniformly distributed, that key, gallery and purpose determine.

    Products of Householder reflections of normal vectors (Stewart, SIAM J. Numer. Anal. 1980). The normal numbers come
    from SHAKE-256 keyed by HMAC, not from a generator that was made for simulations.

    Raises:
        ConfigError: a key of less than 16 bytes.
    """
    if len(key) < _LEAST_KEY_BYTES:
        what = f"the template key has {len(key)} bytes, it must have {_LEAST_KEY_BYTES} or more"
        raise ConfigError(what, where="template key", next_step="make one with `openssl rand -hex 32`")
    seed = hmac.new(key, f"facelake template\0{gallery}\0{purpose}\0{dim}".encode(), hashlib.sha512).digest()
    normal = _normal(seed, dim * dim).reshape(dim, dim)
    matrix, sign = np.eye(dim), np.ones(dim)
    for k in range(dim - 1):
        v = normal[k, : dim - k].copy()
        sign[k] = 1.0 if v[0] >= 0 else -1.0
        v[0] += sign[k] * np.linalg.norm(v)
        v /= np.linalg.norm(v)
        block = matrix[k:, :]
        block -= 2.0 * np.outer(v, v @ block)
    sign[-1] = 1.0 if normal[-1, 0] >= 0 else -1.0
    return np.asarray(matrix * sign[:, None], np.float64)


def rotated(vectors: F32, matrix: F64) -> F32:
    """Unit vectors (n, dim) under the rotation, of unit norm again."""
    turned = vectors.astype(np.float64) @ matrix.T
    return np.asarray(unit_rows(turned), np.float32)


def key_name(key: bytes) -> str:
    """16 hex digits by which a key can be told from another one; they do not help to guess it."""
    return hmac.new(key, b"facelake template key name", hashlib.sha256).hexdigest()[:16]


def read_key(text: str) -> bytes:
    """A key as hex digits.

    Raises:
        ConfigError: it is not.
    """
    try:
        return bytes.fromhex(text.strip())
    except ValueError:  # (the text itself is a secret and is not repeated)
        what = "the template key is not written in hex digits"
        raise ConfigError(what, where="template key", next_step="make one with `openssl rand -hex 32`") from None


def _normal(seed: bytes, count: int) -> F64:
    """Standard normal numbers (count,) by Box and Muller."""
    raw = hashlib.shake_256(seed).digest(16 * count)
    uniform = (np.frombuffer(raw, "<u8").reshape(2, count).astype(np.float64) + 1.0) / 2.0**64
    return np.asarray(
        np.sqrt(-2.0 * np.log(np.minimum(uniform[0], 1.0))) * np.cos(2.0 * np.pi * uniform[1]), np.float64
    )
