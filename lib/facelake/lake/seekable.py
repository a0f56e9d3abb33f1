"""The position of a read-only file whose bytes come from a store."""

from __future__ import annotations

import io


class SeekableFile(io.RawIOBase):
    """A readable, seekable file of known size; subclasses read from `_position` and advance it."""

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def _available(self, size: int | None) -> int:
        """The number of bytes that a read of `size` bytes (None or negative: all) returns."""
        available = max(self._size - self._position, 0)
        return available if size is None or size < 0 else min(size, available)
