"""Frozen dataclasses of arrays and scalars as bytes and back, for what tasks write and send to each other.

The bytes are a JSON header, in the order of the fields, followed by the raw little-endian values of the arrays. No
pickle is involved: reading needs the class, and bytes that do not fit the annotations of its fields are refused.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Value = TypeVar("Value", bound=DataclassInstance)

_ALIGN = 16
_LONGEST_AXIS = 1 << 48  # what numpy refuses by itself, it refuses with a ValueError below this
_SCALARS = (bool, int, float, str)
_FieldType = np.dtype[Any] | type[Any]


def encode(value: DataclassInstance) -> bytes:
    """Encode a dataclass whose fields are arrays of one element type, scalars or such dataclasses.

    Raises:
        TypeError: a field cannot be encoded, or its value is not of the annotated type.
    """
    arrays: list[np.ndarray] = []
    head = json.dumps(_header(value, arrays), separators=(",", ":")).encode()
    head += b" " * (-(len(head) + 4) % _ALIGN)
    parts = [len(head).to_bytes(4, "little"), head]
    for array in arrays:
        body = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        parts += [body, b"\0" * (-len(body) % _ALIGN)]
    return b"".join(parts)


def decode(kind: type[Value], data: bytes | memoryview) -> Value:
    """Decode an instance of `kind`; its arrays are read-only views into `data`.

    Raises:
        ValueError: the bytes are truncated or not of this class.
    """
    view = memoryview(data).toreadonly()
    start = 4 + int.from_bytes(view[:4], "little")
    try:
        header = json.loads(bytes(view[4:start]))
    except RecursionError as err:
        raise ValueError("header is nested too deeply") from err
    value, end = _value(kind, header, view, start)
    if end != len(view):
        raise ValueError(f"{kind.__name__}: {len(view)} bytes where its header describes {end}")
    return value


@cache
def _layout(kind: type[DataclassInstance]) -> dict[str, _FieldType]:
    """Return the type of each field: a dtype for an array, else a scalar type or a dataclass."""
    hints = get_type_hints(kind)
    return {field.name: _field_type(f"{kind.__name__}.{field.name}", hints[field.name]) for field in fields(kind)}


def _field_type(name: str, hint: object) -> _FieldType:
    if isinstance(hint, type) and (hint in _SCALARS or is_dataclass(hint)):
        return hint
    if get_origin(hint) is np.ndarray:
        elements = get_args(get_args(hint)[1])
        dtype: np.dtype[Any] = np.dtype(elements[0]) if elements and elements[0] is not Any else np.dtype(object)
        if not dtype.hasobject:
            return dtype
    raise TypeError(f"{name}: {hint} is neither an array of one element type nor a scalar nor a dataclass")


def _header(value: DataclassInstance, arrays: list[np.ndarray]) -> dict[str, Any]:
    """Return the header of a value, and append its arrays in the header's order."""
    header: dict[str, Any] = {}
    for name, kind in _layout(type(value)).items():
        content = getattr(value, name)
        if isinstance(kind, np.dtype):
            if not isinstance(content, np.ndarray) or content.dtype != kind:
                got = getattr(content, "dtype", type(content).__name__)
                raise TypeError(f"{type(value).__name__}.{name} is {got}, not an array of {kind}")
            arrays.append(content)
            header[name] = [kind.newbyteorder("<").str, list(content.shape)]
        elif kind in _SCALARS:
            if not _is_scalar(content, kind):
                raise TypeError(f"{type(value).__name__}.{name} is {type(content).__name__}, not {kind.__name__}")
            header[name] = content
        else:
            header[name] = _header(content, arrays)
    return header


def _value(kind: type[Value], header: Any, view: memoryview, at: int) -> tuple[Value, int]:
    """Return the instance that a header describes, and where its arrays end."""
    layout = _layout(kind)
    if not isinstance(header, dict) or header.keys() != layout.keys():
        raise ValueError(f"these bytes are not of {kind.__name__}")
    values: dict[str, Any] = {}
    for name, field_type in layout.items():
        described = header[name]
        if isinstance(field_type, np.dtype):
            values[name], at = _array(f"{kind.__name__}.{name}", field_type, described, view, at)
        elif field_type in _SCALARS:
            if not _is_scalar(described, field_type):
                raise ValueError(f"{kind.__name__}.{name} is not {field_type.__name__}")
            values[name] = described
        else:
            values[name], at = _value(field_type, described, view, at)
    return kind(**values), at


def _array(name: str, dtype: np.dtype[Any], described: Any, view: memoryview, at: int) -> tuple[np.ndarray, int]:
    if not isinstance(described, list) or len(described) != 2 or described[0] != dtype.newbyteorder("<").str:
        raise ValueError(f"{name} is not an array of {dtype}")
    shape = described[1]
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size <= _LONGEST_AXIS for size in shape):
        raise ValueError(f"{name} has no valid shape")
    count = 1
    for size in shape:  # as Python integers, which do not overflow
        count *= size
    end = at + count * dtype.itemsize
    if end > len(view):
        raise ValueError(f"{name}: the buffer ends before the array does")
    array = np.frombuffer(view[at:end], dtype.newbyteorder("<")).reshape(shape)
    return array, end + -(end - at) % _ALIGN


def _is_scalar(content: object, kind: type[Any]) -> bool:
    """Return whether a value is of a scalar type; a bool is no number here."""
    return isinstance(content, kind) and (kind is bool or not isinstance(content, bool))
