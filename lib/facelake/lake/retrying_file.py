"""A file in an object store that is read again when a read fails.

Arrow's S3 reader gives up on an error reply that is longer than the range asked for ("Failed to flush response
stream"), whatever its retry strategy says, and on a truncated reply. Ranges are read one by one, so that each can be
requested again.
"""

from __future__ import annotations

import logging

import pyarrow as pa

from facelake.lake.retries import retrying
from facelake.lake.seekable import SeekableFile

_LOG = logging.getLogger(__name__)
_ATTEMPTS, _FIRST_PAUSE_S = 8, 0.05


class RetryingFile(SeekableFile):
    """A readable, seekable file over an Arrow one.

    Reads raise OSError when eight attempts failed.
    """

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__(int(source.size()))
        self._source = source

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._available(size)
        data = self._read_range(wanted) if wanted else b""
        self._position += len(data)
        return data

    def _read_range(self, wanted: int) -> bytes:
        def read_once() -> bytes:
            data = bytes(self._source.read_at(wanted, self._position))
            if len(data) != wanted:
                raise OSError(f"{len(data)} of {wanted} bytes were received")
            return data

        again = retrying(
            "read",
            attempts=_ATTEMPTS,
            first_pause_s=_FIRST_PAUSE_S,
            when=lambda err: isinstance(err, OSError),
            log=_LOG,
        )
        return again(read_once)

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
