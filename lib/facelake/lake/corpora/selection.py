"""Which files of a folder are photos, and a record of what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

_FORMATS = (
    *("jpg", "jpeg", "jpe", "jfif", "mpo", "png", "apng", "webp", "gif", "bmp", "tif", "tiff", "avif", "avifs"),
    *("heic", "heif", "hif", "jp2", "jxl", "ppm", "pgm", "tga"),
    *("nef", "cr2", "cr3", "arw", "dng", "raf", "orf", "rw2"),
)
PHOTO_SUFFIXES = frozenset(f".{name}" for name in _FORMATS)
"""Not all of these can be decoded; embed rejects those with a reason."""
MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
"""First bytes of common image formats."""
THUMBNAILS = frozenset(("@eadir", ".thumbnails", "thumbs.db", "#recycle"))
_NAMES_KEPT = 20


@dataclass(slots=True)
class LeftOut:
    """What was left out, counted by reason, with the first names of each."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one file or folder."""
        self.counts[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < _NAMES_KEPT:
            names.append(name.encode("utf-8", "backslashreplace").decode())

    def merge(self, other: LeftOut) -> None:
        """Add what another reader left out."""
        self.counts.update(other.counts)
        for reason, names in other.names.items():
            self.names[reason] = [*self.names.get(reason, ()), *names][:_NAMES_KEPT]

    def lines(self) -> list[str]:
        """One line per reason: its count and the first names."""
        return [
            f"{count} {reason}: {', '.join(self.names[reason])}{', …' if count > len(self.names[reason]) else ''}"
            for reason, count in sorted(self.counts.items())
        ]


@dataclass(frozen=True, slots=True)
class Selection:
    """The patterns of a corpus. A pattern with `/` is matched with the whole path, others with each part of it."""

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def why_not_part(self, name: str) -> str | None:
        """The reason to leave out a file or folder of this name, whatever its type; None to look at it."""
        for pattern in self.exclude:
            if "/" not in pattern and fnmatchcase(name, pattern):
                if name.lower() in THUMBNAILS:
                    return "thumbnails"
                return "hidden" if name.startswith(".") else "excluded"
        return None

    def why_not(self, path: str) -> str | None:
        """The reason to leave out a file, of a relative path whose folders were checked; None to read it."""
        name = path.rpartition("/")[2]
        if reason := self.why_not_part(name):
            return reason
        if any("/" in pattern and fnmatchcase(path, pattern) for pattern in self.exclude):
            return "excluded"
        if self.include:
            chosen = any(fnmatchcase(path if "/" in pattern else name, pattern) for pattern in self.include)
            return None if chosen else "not included"
        return None if is_photo_name(name) else "not photos"

    def why_not_path(self, path: str) -> tuple[str, str] | None:
        """(reason, the part concerned) to leave out a path with its folders; None to read it."""
        parts = path.split("/")
        for depth, part in enumerate(parts[:-1], 1):
            if reason := self.why_not_part(part):
                return reason, "/".join(parts[:depth])
        reason = self.why_not(path)
        return (reason, path) if reason else None


def is_photo_name(name: str) -> bool:
    """Whether the suffix is that of an image format."""
    dot = name.rfind(".")
    return dot >= 0 and name[dot:].lower() in PHOTO_SUFFIXES
