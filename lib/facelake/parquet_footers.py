"""Checks in a process of its own that pyarrow can describe the column chunks of a Parquet footer.

For some damaged footers, such as one whose size statistics do not fit its levels, `RowGroupMetaData.column` ends the
process (an exception of C++ that pyarrow does not catch), and for a few `read_metadata` does. A photo that somebody
delivers may be such a file.
"""

from __future__ import annotations

import contextlib
import io

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.child_process import ChildProcess, serve_lines


class DamagedFooter(ValueError):
    """A footer whose column chunks cannot be described."""


_PROCESS = ChildProcess(__name__)


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
    if _PROCESS.ask(footer) is None:
        raise DamagedFooter("the footer describes a column chunk that cannot be")


def serve() -> None:
    """Answer requests, each a file that has nothing but a footer; this process's end is an answer too."""
    serve_lines(_tried)


def _tried(footer: bytes) -> bytes:
    with contextlib.suppress(Exception):  # the caller meets it too, and can catch it
        _describe(pq.read_metadata(io.BytesIO(footer)))
    return b""


def _describe(metadata: pq.FileMetaData) -> None:
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            with contextlib.suppress(Exception):
                statistics = chunk.statistics
                _ = chunk.encodings, statistics and statistics.has_min_max and statistics.min_raw
