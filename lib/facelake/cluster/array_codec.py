"""Named arrays as bytes and back, for what tasks hand each other: raw values behind a JSON header, never pickle."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

_ALIGN = 16


def pack(**arrays: np.ndarray) -> bytes:
    """Arrays of any shape and of plain numeric dtype, little-endian."""
    parts, header = [], {}
    for name, array in arrays.items():
        header[name] = [array.dtype.newbyteorder("<").str, list(array.shape)]
        body = np.ascontiguousarray(array).tobytes()
        parts.append(body + b"\0" * (-len(body) % _ALIGN))
    head = json.dumps(header).encode()
    head += b" " * (-(len(head) + 4) % _ALIGN)
    return b"".join([len(head).to_bytes(4, "little"), head, *parts])


def unpack(data: Any) -> dict[str, np.ndarray]:
    """Read-only views into `data` (bytes-like).

    Raises:
        ValueError: the bytes are cut short or not ours.
    """
    view = memoryview(data)
    at = 4 + int.from_bytes(view[:4], "little")
    header = json.loads(bytes(view[4:at]))
    out = {}
    for name, (kind, shape) in header.items():
        dtype = np.dtype(kind)
        if dtype.hasobject:
            raise ValueError("not plain numbers")
        count = int(np.prod(shape, dtype=np.int64))
        out[name] = np.frombuffer(view, dtype, count, at).reshape(shape)
        at += count * dtype.itemsize + -(count * dtype.itemsize) % _ALIGN
    return out
