"""Checks in a process of its own that pyarrow can describe the column chunks of a Parquet footer.

For some damaged footers, such as one whose size statistics do not fit its levels, `RowGroupMetaData.column` ends the
process (an exception of C++ that pyarrow does not catch), and for a few `read_metadata` does. A photo that somebody
delivers may be such a file.

Requests on standard input: the length of the footer in 8 bytes, then a file that has nothing else. Answers on standard
output: one byte.
"""

from __future__ import annotations

import contextlib
import io
import sys

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.child_process import ChildProcess

_LENGTH = 8


class DamagedFooter(ValueError):
    """A footer whose column chunks cannot be described."""


class _FooterProcess(ChildProcess):
    """The process that describes footers."""

    def survives(self, footer: bytes) -> bool:
        """Return whether the process can describe the column chunks of a footer and goes on."""
        with self._lock:
            child = self._running()
            assert child.stdin
            assert child.stdout
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(len(footer).to_bytes(_LENGTH, "little") + footer)
                child.stdin.flush()
                if child.stdout.read(1):
                    return True
            self._end()
            return False


_PROCESS = _FooterProcess(__name__)


def check_footer(metadata: pq.FileMetaData) -> None:
    """Check that the column chunks of a file can be described; call before they are.

    Raises:
        DamagedFooter: they cannot.
        OSError, pa.ArrowException: the footer cannot even be written again.
    """
    sink = pa.BufferOutputStream()
    metadata.write_metadata_file(sink)
    _check(sink.getvalue().to_pybytes())


def check_end(data: bytes) -> None:
    """Check that the footer at the end of a file can be read, and its column chunks be described.

    Raises:
        DamagedFooter: it cannot.
        ValueError: there is none.
    """
    size = int.from_bytes(data[-8:-4], "little") + 8
    if len(data) < size:
        raise ValueError("the footer is longer than the file")
    _check(data[-size:])


def _check(footer: bytes) -> None:
    if not _PROCESS.survives(footer):
        raise DamagedFooter("the footer describes a column chunk that cannot be")


def serve() -> None:
    """Answer requests until standard input ends; this process's end is an answer too."""
    while len(length := sys.stdin.buffer.read(_LENGTH)) == _LENGTH:
        body = sys.stdin.buffer.read(int.from_bytes(length, "little"))
        with contextlib.suppress(Exception):  # the caller meets it too, and can catch it
            _describe(pq.read_metadata(io.BytesIO(body)))
        sys.stdout.buffer.write(b"1")
        sys.stdout.buffer.flush()


def _describe(metadata: pq.FileMetaData) -> None:
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            with contextlib.suppress(Exception):
                statistics = chunk.statistics
                _ = chunk.encodings, statistics and statistics.has_min_max and statistics.min_raw
