"""Named Arrow tables as bytes and back: Arrow IPC streams behind a JSON header."""

from __future__ import annotations

import json

import pyarrow as pa


def pack_tables(**tables: pa.Table) -> bytes:
    """Pack tables of any schema."""
    bodies = [_stream(table) for table in tables.values()]
    header = json.dumps({name: len(body) for name, body in zip(tables, bodies, strict=True)}).encode()
    return b"".join([len(header).to_bytes(4, "little"), header, *bodies])


def unpack_tables(data: bytes | memoryview | pa.Buffer) -> dict[str, pa.Table]:
    """Return the tables that `pack_tables` packed; their values are views into `data`.

    Raises:
        ValueError: the bytes were truncated or are not of `pack_tables`.
    """
    view = memoryview(data)
    at = 4 + int.from_bytes(view[:4], "little")
    header = json.loads(bytes(view[4:at]))
    out = {}
    for name, size in header.items():
        with pa.ipc.open_stream(pa.py_buffer(view[at : at + size])) as reader:
            out[name] = reader.read_all()
        at += size
    return out


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
