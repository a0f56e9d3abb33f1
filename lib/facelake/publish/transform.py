"""Cancelable templates: a keyed rotation of embeddings, one per gallery and purpose. Pure.

A rotation preserves every cosine inside a gallery, and so the rankings. Cosines across galleries with different keys
carry no information. A leaked key is replaced by rotating the templates again, without the photos. (Cancelable
biometrics by random orthonormal projection: Teoh, Goh, Ngo, PAMI 2006; here all dimensions are kept.)

Limits: a party that has `dim` templates in both forms can compute the rotation (a linear system). A party that has the
key has the raw templates, and faces can be reconstructed from raw templates (Mai et al., PAMI 2019).
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np

from facelake.contracts import F32, F64
from facelake.errors import ConfigError
from facelake.vectors import unit_rows

_MIN_KEY_BYTES = 16


def rotation(key: bytes, gallery: str, purpose: str, dim: int) -> F64:
    """Return the orthogonal matrix (dim, dim) of a key, gallery and purpose; uniformly distributed over keys.

    It is a product of Householder reflections of normal vectors (Stewart, SIAM J. Numer. Anal. 1980). The normal
    numbers come from SHAKE-256 keyed by HMAC and not from a simulation generator, which would be predictable.

    Raises:
        ConfigError: the key has fewer than 16 bytes.
    """
    if len(key) < _MIN_KEY_BYTES:
        what = f"the template key has {len(key)} bytes, it must have {_MIN_KEY_BYTES} or more"
        raise ConfigError(what, where="template key", next_step="create one with `openssl rand -hex 32`")
    seed = hmac.new(key, f"facelake template\0{gallery}\0{purpose}\0{dim}".encode(), hashlib.sha512).digest()
    normal = _normal(seed, dim * dim).reshape(dim, dim)
    matrix, sign = np.eye(dim), np.ones(dim)
    for k in range(dim - 1):  # apply the reflection that maps the k-th normal vector to the k-th axis
        v = normal[k, : dim - k].copy()
        sign[k] = 1.0 if v[0] >= 0 else -1.0
        v[0] += sign[k] * np.linalg.norm(v)
        v /= np.linalg.norm(v)
        block = matrix[k:, :]
        block -= 2.0 * np.outer(v, v @ block)
    sign[-1] = 1.0 if normal[-1, 0] >= 0 else -1.0
    return np.asarray(matrix * sign[:, None], np.float64)


def rotated(vectors: F32, matrix: F64) -> F32:
    """Return unit vectors (n, dim) rotated by the matrix and normalised again."""
    product = vectors.astype(np.float64) @ matrix.T
    return np.asarray(unit_rows(product), np.float32)


def key_name(key: bytes) -> str:
    """Return 16 hex digits that identify a key without revealing it."""
    return hmac.new(key, b"facelake template key name", hashlib.sha256).hexdigest()[:16]


def read_key(text: str) -> bytes:
    """Return a key from its hex digits.

    Raises:
        ConfigError: the text is not hexadecimal.
    """
    try:
        return bytes.fromhex(text.strip())
    except ValueError:  # the message must not repeat the text, which is a secret
        what = "the template key is not hexadecimal"
        raise ConfigError(what, where="template key", next_step="create one with `openssl rand -hex 32`") from None


def _normal(seed: bytes, count: int) -> F64:
    """Return standard normal numbers (count,) by the Box-Muller transform."""
    raw = hashlib.shake_256(seed).digest(16 * count)
    uniform = (np.frombuffer(raw, "<u8").reshape(2, count).astype(np.float64) + 1.0) / 2.0**64
    return np.asarray(
        np.sqrt(-2.0 * np.log(np.minimum(uniform[0], 1.0))) * np.cos(2.0 * np.pi * uniform[1]), np.float64
    )
