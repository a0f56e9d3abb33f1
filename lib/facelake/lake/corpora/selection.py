"""Which files of a folder are photos, and a record of what is left out and why."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
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
THUMBNAILS = frozenset(("@eadir", ".thumbnails", "thumbs", "_thumbs", "thumbnails", "thumbs.db", "#recycle"))
_NAMES_KEPT = 20


@dataclass(slots=True)
class LeftOut:
    """What was left out, counted by reason, with the first names of each."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)
    unread_times: int = 0
    """photos that are read, whose time of capture cannot be"""

    def add(self, reason: str, name: str) -> None:
        """Count one file or folder."""
        self.counts[reason] += 1
        names = self.names.setdefault(reason, [])
        if len(names) < _NAMES_KEPT:
            names.append(name.encode("utf-8", "backslashreplace").decode())

    def merge(self, other: LeftOut) -> None:
        """Add what another reader left out."""
        self.counts.update(other.counts)
        self.unread_times += other.unread_times
        for reason, names in other.names.items():
            self.names[reason] = [*self.names.get(reason, ()), *names][:_NAMES_KEPT]

    def lines(self) -> list[str]:
        """One line per reason: its count and the first names."""
        return [
            f"{count} {reason}: {', '.join(self.names[reason])}{', …' if count > len(self.names[reason]) else ''}"
            for reason, count in sorted(self.counts.items())
        ]


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A pattern of the config. `*` matches any characters, also `/`."""

    forms: tuple[str, ...]
    """with `**/`, which also stands for no folder"""
    by_name: bool
    """matched with each part of a path; others with the path of a file or of a folder above it"""
    folders_only: bool

    @classmethod
    def of(cls, text: str) -> _Pattern:
        """Parse a pattern: `/` or `./` in front bind it to the root, `/` at its end to folders."""
        text = _composed(text)
        dotted, folders_only = text.startswith("./"), text.endswith("/")
        plain = text.removeprefix(".").strip("/") if dotted else text.strip("/")
        forms = {plain, plain.replace("/**/", "/")}
        forms |= {form.removeprefix("**/") for form in forms}
        forms |= {form.removesuffix("/**") for form in forms}
        by_name = "/" not in plain and not dotted and not text.startswith("/")
        return cls(tuple(sorted(forms - {""})), by_name, folders_only)

    def matches(self, path: str, *, folder: bool) -> bool:
        """Whether it matches a path itself, whatever the folders above it."""
        if self.folders_only and not folder:
            return False
        subject = path.rpartition("/")[2] if self.by_name else path
        return any(fnmatchcase(subject, form) for form in self.forms)


@dataclass(frozen=True, slots=True)
class Selection:
    """The patterns of a corpus. One without `/` is matched with each part of a path, others with the path of a file and
    of each folder above it.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    _included: tuple[_Pattern, ...] = field(init=False, repr=False, compare=False)
    _excluded: tuple[_Pattern, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_included", tuple(map(_Pattern.of, self.include)))
        object.__setattr__(self, "_excluded", tuple(map(_Pattern.of, self.exclude)))

    def why_excluded(self, path: str, *, folder: bool = False) -> str | None:
        """The reason to leave out a file or folder whose folders were checked; None to look at it."""
        path = _composed(path)
        if not any(pattern.matches(path, folder=folder) for pattern in self._excluded):
            return None
        name = path.rpartition("/")[2]
        return "thumbnails" if name.lower() in THUMBNAILS else "hidden" if name.startswith(".") else "excluded"

    def excluded(self, path: str) -> tuple[str, str] | None:
        """(reason, the part concerned) to leave out a file by its name, path or folders; None if nothing says so."""
        for part, folder in _upward(path):
            if reason := self.why_excluded(part, folder=folder):
                return reason, part
        return None

    def is_included(self, path: str) -> bool:
        """Whether a pattern of `include` matches a file or a folder above it, or there is none."""
        parts = list(_upward(_composed(path)))
        return not self._included or any(
            pattern.matches(part, folder=folder) for part, folder in parts for pattern in self._included
        )

    def why_not_file(self, path: str) -> str | None:
        """The reason to leave out a photo whose folders were checked; None to read it."""
        if reason := self.why_excluded(path):
            return reason
        if not self.is_included(path):
            return "not included"
        return None if self.include or is_photo_name(path) else "not photos"

    def why_not(self, path: str) -> tuple[str, str] | None:
        """(reason, the part concerned) to leave out a file with photos; None to read it."""
        return self.excluded(path) or (None if self.is_included(path) else ("not included", path))

    def why_not_photo(self, path: str) -> tuple[str, str] | None:
        """(reason, the part concerned) to leave out a photo; None to read it."""
        if unwanted := self.why_not(path):
            return unwanted
        return None if self.include or is_photo_name(path) else ("not photos", path)


def _composed(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _upward(path: str) -> Iterator[tuple[str, bool]]:
    """Yield the folders above a path, outermost first, and the path: each with whether it is a folder."""
    at = path.find("/")
    while at >= 0:
        if at:
            yield path[:at], True
        at = path.find("/", at + 1)
    yield path, False


def is_photo_name(name: str) -> bool:
    """Whether the suffix is that of an image format."""
    dot = name.rfind(".", name.rfind("/") + 1)
    return dot >= 0 and name[dot:].lower() in PHOTO_SUFFIXES
