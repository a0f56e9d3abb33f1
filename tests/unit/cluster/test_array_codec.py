"""Dataclasses of arrays as bytes: they come back equal, and bytes that do not fit the class are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from facelake.cluster.array_codec import decode, encode
from facelake.contracts import F16, F32, I32, I64, Bool


@dataclass(frozen=True, slots=True)
class Inner:
    weights: F16
    name: str


@dataclass(frozen=True, slots=True)
class Outer:
    count: int
    share: float
    final: bool
    vectors: F32
    inner: Inner
    faces: I32
    chosen: Bool


@dataclass(frozen=True, slots=True)
class OnlyFaces:
    faces: I32


@dataclass(frozen=True, slots=True)
class LongFaces:
    faces: I64


OUTER = Outer(
    7, 0.1, True, np.arange(6, dtype=np.float32).reshape(2, 3), Inner(np.zeros((0, 4), np.float16), "Zoë"),
    np.arange(5, dtype=np.int32), np.array([True, False]),
)  # fmt: skip


def changed(data: bytes, change: Callable[[Any], None]) -> bytes:
    """The bytes with another header."""
    end = 4 + int.from_bytes(data[:4], "little")
    header = json.loads(data[4:end])
    change(header)
    head = json.dumps(header).encode()
    head += b" " * (-(len(head) + 4) % 16)
    return len(head).to_bytes(4, "little") + head + data[end:]


def test_values_come_back_equal_and_read_only() -> None:
    back = decode(Outer, encode(OUTER))
    assert (back.count, back.share, back.final, back.inner.name) == (7, 0.1, True, "Zoë")
    for name in ("vectors", "faces", "chosen"):
        np.testing.assert_array_equal(getattr(back, name), getattr(OUTER, name))
        assert getattr(back, name).dtype == getattr(OUTER, name).dtype
        assert not getattr(back, name).flags.writeable
    assert back.inner.weights.shape == (0, 4)


@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=0, min_side=0, max_dims=3)))
def test_arrays_of_any_shape_come_back(faces: I32) -> None:
    for given_ in (faces, np.asfortranarray(faces), faces.astype(">i4").astype(np.int32)):
        back = decode(OnlyFaces, encode(OnlyFaces(given_))).faces
        assert back.shape == given_.shape
        np.testing.assert_array_equal(back, given_)


def test_equal_values_have_equal_bytes_whatever_the_memory_layout() -> None:
    matrix = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert encode(OnlyFaces(matrix)) == encode(OnlyFaces(np.asfortranarray(matrix)))


@pytest.mark.parametrize(
    "value",
    [
        OnlyFaces(np.zeros(2, np.int64)),
        OnlyFaces([1, 2]),  # type: ignore[arg-type]
        Inner(np.zeros(2, np.float16), 3),  # type: ignore[arg-type]
        Outer(True, 0.1, True, OUTER.vectors, OUTER.inner, OUTER.faces, OUTER.chosen),
    ],
    ids=["wider integers", "a list", "an integer for text", "a bool for an integer"],
)
def test_values_that_do_not_fit_the_annotation_are_not_encoded(value: Any) -> None:
    with pytest.raises(TypeError, match=type(value).__name__):
        encode(value)


def test_classes_whose_fields_could_hold_anything_are_refused() -> None:
    @dataclass(frozen=True)
    class Anything:
        values: npt.NDArray[np.object_]

    @dataclass(frozen=True)
    class Untyped:
        values: np.ndarray

    for value in (Anything(np.zeros(1, np.object_)), Untyped(np.zeros(1))):
        with pytest.raises(TypeError, match="neither an array"):
            encode(value)


def test_bytes_of_another_class_are_refused() -> None:
    with pytest.raises(ValueError, match="not of Inner"):
        decode(Inner, encode(OUTER))
    with pytest.raises(ValueError, match="not an array of int64"):
        decode(LongFaces, encode(OnlyFaces(OUTER.faces)))


@pytest.mark.parametrize("cut", [0, 3, 4, 20, 100, -16, -1])
def test_truncated_bytes_are_refused(cut: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(Outer, encode(OUTER)[:cut])


def test_bytes_after_the_last_array_are_refused() -> None:
    with pytest.raises(ValueError, match="bytes where its header describes"):
        decode(Outer, encode(OUTER) + b"\0" * 16)


@pytest.mark.parametrize(
    "shape",
    [[-1], [1 << 40], [1 << 62, 1 << 62], [1 << 70], [0, 1 << 47, 1 << 47], [2.5], [True], "5", None, [1] * 100],
)
def test_hostile_shapes_are_refused(shape: Any) -> None:
    data = changed(encode(OUTER), lambda header: header["faces"].__setitem__(1, shape))
    with pytest.raises(ValueError):  # noqa: PT011
        decode(Outer, data)


@pytest.mark.parametrize(
    ("name", "value"),
    [("faces", ["|O", [5]]), ("faces", ["<i8", [5]]), ("faces", 5), ("count", "7"), ("count", True), ("inner", [])],
)
def test_hostile_headers_are_refused(name: str, value: Any) -> None:
    data = changed(encode(OUTER), lambda header: header.__setitem__(name, value))
    with pytest.raises(ValueError):  # noqa: PT011
        decode(Outer, data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode(Outer, data)


@given(st.integers(0, len(encode(OUTER)) - 1), st.integers(0, 255))
def test_one_changed_byte_gives_a_value_of_the_class_or_a_refusal(place: int, byte: int) -> None:
    data = bytearray(encode(OUTER))
    data[place] = byte
    try:
        back = decode(Outer, bytes(data))
    except ValueError:
        return
    assert back.faces.dtype == np.int32
    assert type(back.count) is int


def test_a_deeply_nested_header_is_refused() -> None:
    head = b"[" * 200_000
    with pytest.raises(ValueError, match=r"nested|Expecting"):
        decode(Outer, len(head).to_bytes(4, "little") + head)
