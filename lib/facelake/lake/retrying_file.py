"""A file in an object store that is read again when a read fails.

Arrow's S3 reader gives up on an error reply that is longer than the range asked for ("Failed to flush response
stream"), whatever its retry strategy says, and on a reply that is cut. Ranges are read one by one, so that each can be
asked for again.
"""

from __future__ import annotations

import io
import logging
import time

import pyarrow as pa

_LOG = logging.getLogger(__name__)
_ATTEMPTS, _FIRST_PAUSE_S = 8, 0.05


class PatientFile(io.RawIOBase):
    """A readable file over an Arrow one. Errors: OSError when eight attempts failed."""

    def __init__(self, source: pa.NativeFile) -> None:
        self._source, self._at = source, 0
        self._size = int(source.size())

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._range(wanted) if wanted else b""
        self._at += len(data)
        return data

    def _range(self, wanted: int) -> bytes:
        for attempt in range(_ATTEMPTS):
            try:
                data = bytes(self._source.read_at(wanted, self._at))
            except OSError as err:
                fault: OSError = err
            else:
                if len(data) == wanted:
                    return data
                fault = OSError(f"{len(data)} of {wanted} bytes came")
            _LOG.warning("read failed (attempt %d): %s", attempt + 1, str(fault).splitlines()[0])
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
        raise fault

    def close(self) -> None:
        if not self.closed:
            self._source.close()
        super().close()
