"""Photos that are decoded in another process during an erasure."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from facelake.child_process import ChildProcess
from facelake.stages.erasure.decoding import _PROCESS, look_of, look_of_unseen


def photo(seed: int, side: int = 300) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).resize((side, side)).save(sink, "JPEG")
    return sink.getvalue()


def test_the_other_process_sees_the_same_and_what_cannot_be_decoded_has_no_look() -> None:
    for data in (photo(1), photo(2, 2000)):
        look = look_of_unseen(data)
        assert look is not None
        assert len(look) == 32
        assert look == look_of(data)
    for data in (b"", b"no photo", photo(1)[:200]):
        assert look_of_unseen(data) is None
    assert look_of_unseen(photo(3)) == look_of(photo(3))


def test_a_process_that_ended_is_started_again() -> None:
    assert look_of_unseen(photo(1))
    child = _PROCESS._child
    assert child is not None
    child.kill()
    child.wait()
    assert look_of_unseen(photo(1)) == look_of(photo(1))
    assert _PROCESS._child is not child


def test_a_photo_that_ends_the_process_has_no_look() -> None:
    process = ChildProcess("os")  # which has no function `serve`, so that the process ends without an answer
    assert process.ask(photo(1)) is None
    assert process._child is None
