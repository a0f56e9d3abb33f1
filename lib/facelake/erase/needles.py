"""What the residual scan searches for, with the structures by which it finds any number of needles in one pass.

Numpy selects the few offsets whose next eight bytes begin a needle, and only these are compared.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from facelake.contracts import I64, Bool
from facelake.distinct import distinct, union
from facelake.erase.spellings import embedding_forms, piece_forms, text_blobs, text_forms

_CHUNK = 1 << 20  # bytes per step, so that numpy's intermediate arrays stay in the processor's cache
_WINDOW = 8
_PHASED = 2 * _WINDOW - 1  # a blob of this length contains a window at a multiple of 8, whatever its offset
_U64 = npt.NDArray[np.uint64]
_ALPHANUMERIC = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTERS = _ALPHANUMERIC + b"_-"
_CONTROLS = bytes({*range(32)} - set(b"\t\n\r"))  # which stand in no text


class Bounds(StrEnum):
    """Where an identifier counts as found."""

    WHOLE = "whole"
    """where no letter, digit, `_` or `-` is beside it, and no slash or dot before it: ids of photos begin with their
    source, so that a path that ends with an id is another photo's; one such byte may be before it after a control
    character, as the length of a text in IPTC, EXIF or Thrift is"""
    PATH = "path"
    """as before, and after a slash: also at the end of a longer path"""
    WORD = "word"
    """where no ASCII letter or digit is beside it: also as part of the name of a file; and as before after a length"""
    ANYWHERE = "anywhere"
    """also inside of longer words, such as digits inside of a digest"""

    @property
    def inner(self) -> tuple[bytes, bytes]:
        """The bytes after which an identifier may not begin, and those before which it may not end."""
        if self is Bounds.WHOLE:
            return _LETTERS + b"./", _LETTERS
        if self is Bounds.PATH:
            return _LETTERS + b".", _LETTERS
        return (_ALPHANUMERIC, _ALPHANUMERIC) if self is Bounds.WORD else (b"", b"")


@dataclass(frozen=True, slots=True)
class _Windows:
    """A set of 8-byte words with a vectorised membership test."""

    words: _U64
    table: Bool
    shift: np.uint64

    @classmethod
    def of(cls, words: _U64) -> _Windows:
        """From words (n,) in any order. The hash table has 16 slots per word, so that it rejects most other words."""
        words = distinct(words)
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
    opens: bytes
    controls: bytes
    closes: Bool

    @classmethod
    def of(cls, wanted: frozenset[bytes], bounds: Bounds) -> _Texts:
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
        first = bytes(byte in initials for byte in range(256))
        before, after = bounds.inner
        opens = bytes(byte not in before for byte in range(256))
        controls = bytes(byte in _CONTROLS for byte in range(256))
        closes = np.array([byte not in after for byte in range(256)])
        return cls(wanted, tuple(lengths), first, tuple(prefixes), opens, controls, closes)

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
        opens = np.frombuffer(bytearray(before.translate(self.opens)), np.bool_)
        opens |= self._after_length(data, edges, start, stop)
        low, high = np.searchsorted(edges, (start, stop))
        opens[edges[low:high] - start] = True
        piece = bytes(data[start : stop + _WINDOW]).ljust(stop - start + _WINDOW, b"\0")
        places = np.flatnonzero(opens & np.frombuffer(piece[: stop - start].translate(self.first), np.bool_))
        words = np.ndarray((stop - start,), "<u8", piece, strides=(1,))[places]
        kept = [places[windows.where(words & mask)] for mask, windows in self.prefixes]
        begins = union(*kept) + start
        return self._ended(data, edges, begins) if len(begins) else ([], [])

    def _after_length(self, data: memoryview, edges: I64, start: int, stop: int) -> Bool:
        """Whether the byte two before each of start..stop-1 is a control character of the same value."""
        before = bytes(data[max(start - 2, 0) : stop - 2]) if stop > 2 else b""
        controls = np.frombuffer(bytearray(before.rjust(stop - start, b" ").translate(self.controls)), np.bool_)
        low, high = np.searchsorted(edges, (start - 1, stop - 1))
        first = edges[low:high] + 1 - start  # the byte two before is of the value before
        controls[first[first >= 0]] = False
        return controls

    def _ended(self, data: memoryview, edges: I64, begins: I64) -> tuple[list[int], list[int]]:
        """(begins, ends) for every begin and every length after which an identifier may end."""
        raw = np.frombuffer(data, np.uint8)
        limits = edges[np.searchsorted(edges, begins, side="right")]
        pairs = []
        for length in self.lengths:
            ends = begins + length
            ok = (ends == limits) | ((ends < limits) & self.closes[raw[np.minimum(ends, len(raw) - 1)]])
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
    lengths: dict[bytes, tuple[int, ...]]
    """by the first window: numbers in texts have many lengths, and their windows occur by chance"""
    windows: _Windows
    known: int
    read: int

    @classmethod
    def of(cls, wanted: frozenset[bytes], known: int, read: int) -> _Blobs:
        """Index the first `known` windows of each blob; `find` reads windows at 0..read-1 after each multiple of 8."""
        heads = b"".join(blob[: known + _WINDOW - 1] for blob in wanted)
        rows = np.frombuffer(heads, np.uint8).reshape(-1, known + _WINDOW - 1)
        words = [np.ascontiguousarray(rows[:, phase : phase + _WINDOW]).view("<u8").ravel() for phase in range(known)]
        lengths: dict[bytes, tuple[int, ...]] = {}
        for head, length in {(blob[:_WINDOW], len(blob)) for blob in wanted}:
            lengths[head] = (*lengths.get(head, ()), length)
        return cls(wanted, lengths, _Windows.of(np.concatenate(words)), known, read)

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
            for end in (begin + length for length in self.lengths.get(bytes(data[begin : begin + _WINDOW]), ())):
                if end <= len(data) and bytes(data[begin:end]) in self.wanted:
                    yield begin, end


@dataclass(frozen=True, slots=True)
class Needles:
    """Byte strings that must not occur in any stored object: identifiers and embeddings.

    Attributes:
        texts: identifiers.
        blobs: embeddings, pieces of photos, and encoded identifiers.
        bounds: where an identifier counts as found.
    """

    texts: Collection[bytes] = ()
    blobs: Collection[bytes] = ()
    bounds: Bounds = Bounds.WHOLE
    made_of: tuple[tuple[str, ...], tuple[bytes, ...], tuple[bytes, ...]] | None = field(
        default=None, repr=False, compare=False
    )
    """what `of` was given: a tenth of the forms, from which another process makes them again"""
    _texts: _Texts = field(init=False, repr=False, compare=False)
    _blobs: tuple[_Blobs, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        long = frozenset(blob for blob in self.blobs if len(blob) >= _PHASED)
        short = frozenset(blob for blob in self.blobs if _WINDOW <= len(blob) < _PHASED)
        object.__setattr__(self, "_texts", _Texts.of(frozenset(text for text in self.texts if text), self.bounds))
        object.__setattr__(self, "_blobs", (_Blobs.of(long, _WINDOW, 1), _Blobs.of(short, 1, _WINDOW)))

    @classmethod
    def of(
        cls,
        texts: Iterable[str],
        blobs: Iterable[bytes] = (),
        pieces: Iterable[bytes] = (),
        *,
        bounds: Bounds = Bounds.WHOLE,
    ) -> Needles:
        """From identifiers, stored embeddings (little-endian float16; those shorter than 8 bytes are ignored) and
        pieces of encoded photos, in the forms of `spellings`.
        """
        names, blobs, pieces = [text for text in texts if text], list(blobs), list(pieces)
        encoded = {form for name in names for form in text_blobs(name)}
        vectors = {form for blob in blobs for form in embedding_forms(bytes(blob))}
        photos = {form for piece in pieces for form in piece_forms(bytes(piece))}
        written = frozenset(form for name in names for form in text_forms(name))
        made_of = tuple(names), tuple(map(bytes, blobs)), tuple(map(bytes, pieces))
        return cls(written, frozenset(encoded | vectors | photos), bounds, made_of)

    def __reduce__(self) -> tuple[object, ...]:
        """Send to other processes what it was made of: the tables for searching are up to 64 MiB."""
        whole = self.made_of is None
        parts = (frozenset(self.texts), frozenset(self.blobs)) if whole else self.made_of
        return _received, (pickle.dumps((whole, parts, self.bounds)),)

    def in_text(self, data: memoryview, edges: I64) -> list[int]:
        """Offsets of identifiers in the concatenated values that `edges` delimits."""
        return self._texts.find(data, edges)

    def in_bytes(self, data: memoryview) -> set[tuple[int, int]]:
        """(begin, end) of every embedding."""
        return {span for blobs in self._blobs for span in blobs.find(data)}

    def redacted(self, text: str, mark: str = "[erased]") -> str:
        """Return a text with a mark in place of every identifier."""
        data = text.encode(errors="surrogateescape")
        kept, end = [], 0
        for at in self.in_text(memoryview(data), np.array([0, len(data)])):
            kept += [data[end:at], mark.encode()]
            longest = reversed(self._texts.lengths)
            end = next(at + n for n in longest if data[at : at + n] in self._texts.wanted and self._ends(data, at + n))
        return b"".join([*kept, data[end:]]).decode(errors="surrogateescape")

    def in_name(self, name: bytes) -> bool:
        """Whether a path contains an identifier, which may begin after a slash or a dot here."""
        wanted, lengths, closes = self._texts.wanted, self._texts.lengths, self._texts.closes
        begins = [at for at in range(len(name)) if at == 0 or closes[name[at - 1]]]
        spans = ((at, at + length) for at in begins for length in lengths if at + length <= len(name))
        return any(name[at:end] in wanted and self._ends(name, end) for at, end in spans)

    def _ends(self, data: bytes, at: int) -> bool:
        """Whether an identifier may end here."""
        return at == len(data) or (at < len(data) and bool(self._texts.closes[data[at]]))


@lru_cache(maxsize=2)
def _received(packed: bytes) -> Needles:
    """Return needles that were sent; a worker makes the tables once and not for every task."""
    whole, parts, bounds = pickle.loads(packed)  # noqa: S301  from the driver, as the task itself
    if whole:
        texts, blobs = parts
        return Needles(texts, blobs, bounds)
    return Needles.of(*parts, bounds=bounds)
