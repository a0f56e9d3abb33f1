"""The residual scan: searches every byte of a stored object, decoded where possible, for erased identifiers.

The cost is linear in the bytes scanned, whatever the number of needles: numpy selects the few offsets whose next eight
bytes begin a needle, and only these are compared. The lookup structures are built once, with the needles.
"""

from __future__ import annotations

import html
import io
import json
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import I64, Bool

_SEARCHED_BYTES = 8192  # binary values up to this length are searched for identifiers; longer ones are photos
_BATCH_BYTES = 64 << 20
_CHUNK = 1 << 20  # bytes per step, so that numpy's intermediate arrays stay in the processor's cache
_NESTED = 4  # levels of archives in archives that are unpacked
_WINDOW = 8
_PHASED = 2 * _WINDOW - 1  # a blob of this length contains a window at a multiple of 8, whatever its offset

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_BINARY = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
_PLAIN = re.compile(r"[0-9A-Za-z_./-]+")  # written the same way in JSON, URLs and HTML
_U64 = npt.NDArray[np.uint64]
_LETTERS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-"
_OPENS = bytes(byte not in _LETTERS + b"./" for byte in range(256))  # bytes after which an identifier may begin
_CLOSES = np.array([byte not in _LETTERS for byte in range(256)])  # bytes before which it may end


@dataclass(frozen=True, slots=True)
class _Windows:
    """A set of 8-byte words with a vectorised membership test."""

    words: _U64
    table: Bool
    shift: np.uint64

    @classmethod
    def of(cls, words: _U64) -> _Windows:
        """From words (n,) in any order. The hash table has 16 slots per word, so that it rejects most other words."""
        words = np.unique(words)
        bits = min(max(16, (16 * len(words)).bit_length()), 26)
        windows = cls(words, np.zeros(1 << bits, bool), np.uint64(64 - bits))
        windows.table[windows._slots(words)] = True
        return windows

    def _slots(self, words: _U64) -> _U64:
        return (words * np.uint64(0x9E3779B97F4A7C15)) >> self.shift  # Fibonacci hashing (Knuth 6.4)

    def where(self, words: _U64) -> I64:
        """Indices (k,) of the words that are in the set, ascending."""
        if not len(self.words):
            return np.zeros(0, np.int64)
        likely = np.flatnonzero(self.table[self._slots(words)])
        at = np.minimum(np.searchsorted(self.words, words[likely]), len(self.words) - 1)
        members: I64 = likely[self.words[at] == words[likely]]
        return members


@dataclass(frozen=True, slots=True)
class _Texts:
    """Identifiers, which match where they are not part of a longer identifier."""

    wanted: frozenset[bytes]
    lengths: tuple[int, ...]
    first: bytes
    prefixes: tuple[tuple[np.uint64, _Windows], ...]

    @classmethod
    def of(cls, wanted: frozenset[bytes]) -> _Texts:
        """Build the search structures: shorter identifiers than a window are grouped by length, the others share a
        group.
        """
        groups: dict[int, list[bytes]] = {}
        for text in wanted:
            groups.setdefault(min(len(text), _WINDOW), []).append(text[:_WINDOW].ljust(_WINDOW, b"\0"))
        prefixes = [
            (np.uint64((1 << 8 * length) - 1), _Windows.of(np.frombuffer(b"".join(texts), "<u8")))
            for length, texts in groups.items()
        ]
        initials = {text[0] for text in wanted}
        lengths = sorted({len(text) for text in wanted})
        return cls(wanted, tuple(lengths), bytes(byte in initials for byte in range(256)), tuple(prefixes))

    def find(self, data: memoryview, edges: I64) -> list[int]:
        """Offsets of identifiers, ascending: the longest one at each offset, without overlaps.

        Args:
            data: concatenated values.
            edges: int64 offsets at which the values begin and the last one ends; matches do not cross them.
        """
        offsets: list[int] = []
        free = 0  # end of the last match
        for start in range(0, len(data), _CHUNK) if self.wanted else ():
            for at, end in zip(*self._likely(data, edges, start), strict=True):
                if at >= free and bytes(data[at:end]) in self.wanted:
                    offsets.append(at)
                    free = end
        return offsets

    def _likely(self, data: memoryview, edges: I64, start: int) -> tuple[list[int], list[int]]:
        """(begins, ends) of candidates that begin in one chunk, ascending by begin, longest first."""
        stop = min(start + _CHUNK, len(data))
        before = bytes(data[start - 1 : stop - 1]) if start else b" " + bytes(data[: stop - 1])
        opens = np.frombuffer(bytearray(before.translate(_OPENS)), np.bool_)
        low, high = np.searchsorted(edges, (start, stop))
        opens[edges[low:high] - start] = True
        piece = bytes(data[start : stop + _WINDOW]).ljust(stop - start + _WINDOW, b"\0")
        places = np.flatnonzero(opens & np.frombuffer(piece[: stop - start].translate(self.first), np.bool_))
        words = np.ndarray((stop - start,), "<u8", piece, strides=(1,))[places]
        kept = [places[windows.where(words & mask)] for mask, windows in self.prefixes]
        begins = np.unique(np.concatenate(kept)) + start
        return self._ended(data, edges, begins) if len(begins) else ([], [])

    def _ended(self, data: memoryview, edges: I64, begins: I64) -> tuple[list[int], list[int]]:
        """(begins, ends) for every begin and every length after which an identifier may end."""
        raw = np.frombuffer(data, np.uint8)
        limits = edges[np.searchsorted(edges, begins, side="right")]
        pairs = []
        for length in self.lengths:
            ends = begins + length
            ok = (ends == limits) | ((ends < limits) & _CLOSES[raw[np.minimum(ends, len(raw) - 1)]])
            pairs.append((begins[ok], ends[ok]))
        starts, ends = (np.concatenate(side) for side in zip(*pairs, strict=True))
        order = np.lexsort((-ends, starts))
        return starts[order].tolist(), ends[order].tolist()


@dataclass(frozen=True, slots=True)
class _Blobs:
    """Byte strings that match at any offset. All have at least `_PHASED` bytes, or all are shorter.

    For long ones every eighth window is read: their first 8 windows are all indexed, and one of them lies at a multiple
    of 8. For short ones only the first window is indexed, and the windows at every offset are read.
    """

    wanted: frozenset[bytes]
    lengths: tuple[int, ...]
    windows: _Windows
    known: int
    read: int

    @classmethod
    def of(cls, wanted: frozenset[bytes], known: int, read: int) -> _Blobs:
        """Index the first `known` windows of each blob; `find` reads windows at 0..read-1 after each multiple of 8."""
        heads = b"".join(blob[: known + _WINDOW - 1] for blob in wanted)
        rows = np.frombuffer(heads, np.uint8).reshape(-1, known + _WINDOW - 1)
        words = [np.ascontiguousarray(rows[:, phase : phase + _WINDOW]).view("<u8").ravel() for phase in range(known)]
        lengths = sorted({len(blob) for blob in wanted})
        return cls(wanted, tuple(lengths), _Windows.of(np.concatenate(words)), known, read)

    def find(self, data: memoryview) -> set[tuple[int, int]]:
        """(begin, end) of every occurrence."""
        spans: set[tuple[int, int]] = set()
        for start in range(0, len(data), _CHUNK) if self.wanted else ():
            piece = data[start : start + _CHUNK + _WINDOW]
            for offset in range(min(self.read, len(piece) - _WINDOW + 1)):
                words = np.frombuffer(piece, "<u8", (len(piece) - offset) // _WINDOW, offset)
                for at in (self.windows.where(words) * _WINDOW + offset + start).tolist():
                    spans.update(self._around(data, at))
        return spans

    def _around(self, data: memoryview, at: int) -> Iterator[tuple[int, int]]:
        """(begin, end) of the blobs that have the window at this offset among their indexed windows."""
        for begin in range(max(0, at - self.known + 1), at + 1):
            for end in (begin + length for length in self.lengths):
                if end <= len(data) and bytes(data[begin:end]) in self.wanted:
                    yield begin, end


@dataclass(frozen=True, slots=True)
class Needles:
    """Byte strings that must not occur in any stored object: identifiers and embeddings."""

    texts: Collection[bytes] = ()
    blobs: Collection[bytes] = ()
    _texts: _Texts = field(init=False, repr=False, compare=False)
    _blobs: tuple[_Blobs, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        long = frozenset(blob for blob in self.blobs if len(blob) >= _PHASED)
        short = frozenset(blob for blob in self.blobs if _WINDOW <= len(blob) < _PHASED)
        object.__setattr__(self, "_texts", _Texts.of(frozenset(text for text in self.texts if text)))
        object.__setattr__(self, "_blobs", (_Blobs.of(long, _WINDOW, 1), _Blobs.of(short, 1, _WINDOW)))

    @classmethod
    def of(cls, texts: Iterable[str], blobs: Iterable[bytes] = ()) -> Needles:
        """From identifiers and stored embeddings (little-endian float16; those shorter than 8 bytes are ignored).

        Identifiers are also searched for in the spellings of JSON, URLs and HTML, embeddings also as float32.
        """
        halves = {bytes(blob) for blob in blobs if len(blob) >= _WINDOW}
        wide = {np.frombuffer(blob, "<f2").astype("<f4").tobytes() for blob in halves if len(blob) % 2 == 0}
        return cls(frozenset(form for text in texts if text for form in _written(text)), frozenset(halves | wide))

    def in_text(self, data: memoryview, edges: I64) -> list[int]:
        """Offsets of identifiers in the concatenated values that `edges` delimits."""
        return self._texts.find(data, edges)

    def in_bytes(self, data: memoryview) -> set[tuple[int, int]]:
        """(begin, end) of every embedding."""
        return {span for blobs in self._blobs for span in blobs.find(data)}

    def in_name(self, name: bytes) -> bool:
        """Whether a path contains an identifier, which may begin after a slash or a dot here."""
        wanted, lengths = self._texts.wanted, self._texts.lengths
        begins = [at for at in range(len(name)) if at == 0 or _CLOSES[name[at - 1]]]
        spans = ((at, at + length) for at in begins for length in lengths if at + length <= len(name))
        return any(name[at:end] in wanted and (end == len(name) or _CLOSES[name[end]]) for at, end in spans)


def _written(text: str) -> set[bytes]:
    """The spellings of an identifier in JSON (ASCII or not), URLs and HTML."""
    raw = text.encode(errors="surrogateescape")  # command-line arguments need not be UTF-8
    if _PLAIN.fullmatch(text):
        return {raw}
    forms = {quote(raw), html.escape(text), json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    return {raw} | {form.encode(errors="surrogateescape") for form in forms}


def scan(name: str, data: bytes, needles: Needles) -> int:
    """The number of occurrences in one stored object: in its name, its unpacked bytes and, for Parquet, every value.

    In a Parquet file, values that equal or contain a needle are counted. What cannot be decoded is searched as raw
    bytes.
    """
    if not (needles.texts or needles.blobs):
        return 0
    spellings = {form.encode(errors="surrogateescape") for form in (name, unquote(name))}
    return any(map(needles.in_name, spellings)) + _in_object(name, data, needles, _NESTED)


def _in_object(name: str, data: bytes, needles: Needles, depth: int) -> int:
    if name.endswith(".parquet") or data[:4] == b"PAR1":
        return _in_parquet(data, needles)
    inside = 0
    for member, content in _unpacked(data) if depth else ():
        inside += needles.in_name(member.encode(errors="surrogateescape"))
        inside += _in_object(member, content, needles, depth - 1)
    return max(inside, _in_raw(data, needles))  # uncompressed members are in both counts


def _in_raw(data: bytes, needles: Needles) -> int:
    view = memoryview(data)
    return len(needles.in_text(view, np.array([0, len(view)]))) + len({begin for begin, _ in needles.in_bytes(view)})


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the members of a gzip, zstd or zip object; none if it is of another type or unreadable."""
    if data[:2] == b"\x1f\x8b":
        yield "", _stream(data, "gzip")
    elif data[:4] == b"\x28\xb5\x2f\xfd":
        yield "", _stream(data, "zstd")
    elif data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                for member in archive.infolist():
                    yield member.filename, archive.read(member)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError):
            return  # damaged, encrypted or of a method that Python lacks


def _stream(data: bytes, codec: str) -> bytes:
    """The content of a compressed stream, up to the first damage."""
    blocks = []
    with pa.CompressedInputStream(pa.BufferReader(data), codec) as stream:
        try:
            while block := stream.read(1 << 16):
                blocks.append(block)
        except (pa.ArrowException, OSError):
            pass  # truncated: the readable part is searched
    return b"".join(blocks)


def _in_parquet(data: bytes, needles: Needles) -> int:
    hits = 0
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            for batch in file.iter_batches(batch_size=_batch_rows(file.metadata)):
                hits += sum(_in_values(leaf, needles) for column in batch.columns for leaf in _leaves(column))
            hits += _in_footer(file, data, needles)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return max(hits, _in_raw(data, needles))
    return hits


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """The number of rows for which a batch of photos fits into memory."""
    size = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return int(min(max(_BATCH_BYTES * metadata.num_rows // max(size, 1), 64), 1 << 16))


def _in_footer(file: pq.ParquetFile, data: bytes, needles: Needles) -> int:
    """Hits in key-value metadata, column names and statistics; in the raw footer if these have none.

    They are decoded, because in the footer a string follows its length, and a length byte can look like a letter.
    """
    metadata = file.metadata
    values = {name.encode() for name in metadata.schema.names}
    for pairs in [metadata.metadata, file.schema_arrow.metadata, *(f.metadata for f in file.schema_arrow)]:
        values.update(part for pair in (pairs or {}).items() for part in pair)
    end = 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            begin = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
            end = max(end, begin + chunk.total_compressed_size)
            statistics = chunk.statistics
            if statistics is not None and statistics.has_min_max:
                values.update(v for v in (statistics.min_raw, statistics.max_raw) if isinstance(v, bytes))
    # page indexes lie between the last column and the footer
    return _in_values(pa.array(sorted(values), pa.large_binary()), needles) or _in_raw(data[end:], needles)


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """The arrays of plain values of a column, nested types unpacked."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        yield from _leaves(column.storage)
    elif pa.types.is_struct(kind):
        for i in range(kind.num_fields):
            yield from _leaves(column.field(i))
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_nested(kind):  # every list type
        yield from _leaves(column.flatten())
    elif pa.types.is_dictionary(kind):
        yield from _leaves(column.dictionary)
    else:
        yield column


def _in_values(leaf: pa.Array, needles: Needles) -> int:
    """The number of values that equal or contain a needle; in a numeric array the number of embeddings."""
    kind = leaf.type
    if pa.types.is_primitive(kind):
        return _in_numbers(leaf, needles) if kind.bit_width >= 8 else 0
    text, binary = any(is_kind(kind) for is_kind in _TEXT), any(is_kind(kind) for is_kind in _BINARY)
    if not (text or binary):
        return 0
    values = leaf.cast(pa.large_binary())
    data, edges = _packed(values)
    spans = np.array(sorted(needles.in_bytes(data)), np.int64).reshape(-1, 2)
    at = np.searchsorted(edges, spans[:, 0], side="right") - 1
    hit = set(at[spans[:, 1] <= edges[at + 1]].tolist())
    searched = np.flatnonzero(np.diff(edges) <= (_SEARCHED_BYTES if binary else len(data)))
    if len(searched) < len(values):
        data, edges = _packed(values.take(pa.array(searched)))
    at = np.searchsorted(edges, needles.in_text(data, edges), side="right") - 1
    return len(hit.union(searched[at].tolist()))


def _in_numbers(leaf: pa.Array, needles: Needles) -> int:
    """The number of embeddings stored as lists of numbers; float64 is narrowed, since Python widens half precision."""
    leaf = leaf.cast(pa.float32(), safe=False) if pa.types.is_float64(leaf.type) else leaf
    width = leaf.type.bit_width // 8
    buffer = leaf.buffers()[1]
    data = memoryview(buffer)[leaf.offset * width : (leaf.offset + len(leaf)) * width] if buffer else memoryview(b"")
    return len({begin for begin, _ in needles.in_bytes(data)})


def _packed(values: pa.Array) -> tuple[memoryview, I64]:
    """The bytes of all values of a large_binary array, and the offsets (n + 1,) that delimit them."""
    if not len(values):
        return memoryview(b""), np.zeros(1, np.int64)
    _, offsets, data = values.buffers()
    edges = np.frombuffer(offsets, np.int64)[values.offset : values.offset + len(values) + 1]
    first, last = int(edges[0]), int(edges[-1])
    return memoryview(data or b"")[first:last], edges - first
