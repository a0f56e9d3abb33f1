"""Decodes photos that no worker has decoded yet, in a process that may die of them.

Requests on standard input: the length of the photo in 8 bytes, then the photo. Answers on standard output: the bands of
its perceptual hash, separated by spaces, and a line feed; none for a photo that cannot be decoded.
"""

from __future__ import annotations

import contextlib
import os
import sys

from facelake.child_process import ChildProcess
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.embed.looks import bands_of

_LENGTH = 8


def look_of(data: bytes) -> tuple[str, ...] | None:
    """Return the bands of a photo's perceptual hash (embed/looks.py); None if it cannot be decoded."""
    photo = decode(data, DecodeLimits())
    return bands_of(photo.pixels) if isinstance(photo, Photo) else None


class _LookProcess(ChildProcess):
    """The process; a photo that ends it has no look."""

    def look_of(self, data: bytes) -> tuple[str, ...] | None:
        with self._lock:
            child = self._running()
            assert child.stdin
            assert child.stdout
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(len(data).to_bytes(_LENGTH, "little") + data)
                child.stdin.flush()
                if (answer := child.stdout.readline()).endswith(b"\n"):
                    return tuple(answer.decode().split()) or None
            self._end()
            return None


_PROCESS = _LookProcess(__name__)


def look_of_unseen(data: bytes) -> tuple[str, ...] | None:
    """As `look_of`, in the other process."""
    return _PROCESS.look_of(data)


def serve() -> None:
    """Answer requests until standard input ends; this process's end is an answer too."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    while len(length := sys.stdin.buffer.read(_LENGTH)) == _LENGTH:
        photo = sys.stdin.buffer.read(int.from_bytes(length, "little"))
        answers.write(" ".join(look_of(photo) or ()).encode() + b"\n")
        answers.flush()
