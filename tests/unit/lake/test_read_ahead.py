"""read_ahead: order, errors, and what happens when the caller stops."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from facelake.lake.read_ahead import read_ahead


def test_values_come_in_order() -> None:
    assert list(read_ahead(range(100))) == list(range(100))
    assert list(read_ahead([])) == []
    assert list(read_ahead([None, False, 0])) == [None, False, 0]


def test_the_next_value_is_made_while_the_caller_works() -> None:
    made = [threading.Event() for _ in range(3)]

    def values() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    reading = read_ahead(values())
    assert next(reading) == 0
    assert made[1].wait(10)
    assert not made[2].is_set()


def test_an_error_comes_after_the_values_before_it() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    reading = read_ahead(values())
    assert next(reading) == 1
    with pytest.raises(OSError, match="disk"):
        next(reading)


def test_no_more_than_one_further_value_is_made_for_a_caller_that_stops() -> None:
    made: list[int] = []

    def values() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    reading = read_ahead(values())
    next(reading)
    reading.close()
    assert len(made) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("facelake-read-ahead")]
