"""What `import` reads: a folder, a bucket prefix, or a tar file; listed in name order, with a record of what it leaves
out.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from facelake.config import S3Section
from facelake.corpus_config import DEFAULT_EXCLUDE, ColumnRule
from facelake.errors import ConfigError
from facelake.lake.corpora.listing import list_photos
from facelake.lake.corpora.photos import UNREADABLE, PhotoReader, Place
from facelake.lake.corpora.selection import MAGIC, LeftOut, Selection, is_photo_name
from facelake.lake.corpora.tars import TarLayout
from facelake.lake.directory import DirectoryStore
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.store import open_store
from facelake.stages.admission.withdrawn_datasets import MOST_NAMES, SIDECAR_BYTES, SIDECARS

_TWINS = "second files of one name"


@dataclass(frozen=True, slots=True)
class SourcePhoto:
    """A photo that may be imported."""

    path: str
    """relative to the source, in Unicode form NFC"""
    place: Place
    tag: str
    """changes with the file"""
    digest: str | None = None
    """SHA-256, where it is known without reading the photo again"""


def _refuse_whole_disk(folder: Path) -> None:
    """Refuse the root of the disk, a home folder and what is above it: their photos are not of one source.

    Raises:
        ConfigError: it is one of these.
    """
    real, home = folder.resolve(), os.path.expanduser("~")  # which stays as it is where there is no home
    above = {Path(home).resolve(), *Path(home).resolve().parents} if os.path.isabs(home) else set()
    if real == Path(real.anchor) or real in above:
        what = "the root of the disk, your home folder or a folder above it would be imported with every image below"
        next_step = "give the folder that holds the photos of one source"
        raise ConfigError(what, where=str(real), next_step=next_step)


@dataclass(slots=True)
class ImportSource:
    """A folder, bucket prefix or tar file."""

    location: str
    store: ObjectStore
    tar: str | None = None
    follow_links: bool = False
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE
    left_out: LeftOut = field(default_factory=LeftOut)

    @classmethod
    def of(
        cls, location: str, s3: S3Section, *, follow_links: bool = False, exclude: Iterable[str] = DEFAULT_EXCLUDE
    ) -> ImportSource:
        """Open a source.

        Args:
            location: folder, s3:// prefix or tar file.
            s3: how to reach a store.
            follow_links: whether to read what symbolic links lead to.
            exclude: patterns of what is left out, as in section `corpus` of the config.

        Raises:
            ConfigError: no such folder or tar file.
        """
        if location.startswith("s3://"):
            folder, _, name = location.rstrip("/").rpartition("/")
            tar = name if name.lower().endswith(".tar") else None
            return cls(location, open_store(folder if tar else location, s3), tar, follow_links, tuple(exclude))
        path = Path(os.path.expanduser(location.removeprefix("file://")))
        if path.is_file() and path.suffix.lower() == ".tar":
            return cls(str(path), open_store(str(path.parent), s3), path.name, follow_links, tuple(exclude))
        if not path.is_dir():
            next_step = "give a folder with photos, an s3:// prefix or an uncompressed .tar file"
            what = "not a folder or .tar file" if path.exists() else "no such folder"
            raise ConfigError(what, where=str(path), next_step=next_step)
        _refuse_whole_disk(path)
        return cls(str(path), DirectoryStore(str(path)), None, follow_links, tuple(exclude))

    @property
    def _selection(self) -> Selection:
        return Selection(("*",), self.exclude)

    @property
    def name(self) -> str:
        """The last part of the location, the default source_id."""
        if isinstance(self.store, DirectoryStore) and self.tar is None:
            return self.store.root.resolve().name
        return (self.tar or self.location.rstrip("/")).rpartition("/")[2].removesuffix(".tar")

    def files(self) -> list[StoredObject]:
        """The first MOST_NAMES files, photos or not; none of a tar file."""
        if self.tar is not None:
            return []
        return list(
            islice(list_photos(self.store, self._selection, LeftOut(), follow_links=self.follow_links), MOST_NAMES)
        )

    def photos(self) -> Iterator[SourcePhoto]:
        """Yield the photos in name order; what is no photo is recorded in `left_out`."""
        self.left_out = LeftOut()
        if self.tar is not None:
            yield from self._of_tar(self.tar)
            return
        respelled: set[str] = set()
        links = self.follow_links
        for item in list_photos(self.store, self._selection, self.left_out, follow_links=links, to_the_end=True):
            path = unicodedata.normalize("NFC", item.key)
            if path != item.key:
                # one id for two files: replacing the photo of one by the other would put one person for another
                if path in respelled or self._is_another(path, item):
                    self.left_out.add(_TWINS, item.key)
                    continue
                respelled.add(path)
            if self._is_photo(item):
                yield SourcePhoto(path, Place(item.key, item.size_bytes), f"{item.size_bytes}-{item.tag}")

    def _is_another(self, path: str, item: StoredObject) -> bool:
        """Whether there is a file of this name that is not the given one, which some file systems find by any form."""
        other = self.store.stat(path)
        return other is not None and (other.size_bytes, other.tag) != (item.size_bytes, item.tag)

    def _is_photo(self, item: StoredObject) -> bool:
        """Whether a file is a photo, by its suffix or its first bytes."""
        if is_photo_name(item.key):
            return True
        try:
            start = self.store.read_range(item.key, 0, min(4, item.size_bytes))
        except UNREADABLE:
            self.left_out.add("unreadable", item.key)
            return False
        if start.startswith(MAGIC):
            return True
        self.left_out.add("not photos", item.key)
        return False

    def _of_tar(self, tar: str) -> Iterator[SourcePhoto]:
        layout = TarLayout(self.store, self._selection, {"image_id": ColumnRule(regex=r"(?s)^.*$")}, tar)
        described = layout.objects()[0]
        rows = layout.index(tar)
        self.left_out.merge(layout.left_out)
        seen: set[str] = set()
        columns = ("image_id", "uri", "size_bytes", "byte_offset", "content_sha256")
        for path, uri, size, offset, digest in zip(*(rows[name].to_pylist() for name in columns), strict=True):
            inside = path.removeprefix(f"{tar}/")
            if inside in seen:
                self.left_out.add(_TWINS, inside)
                continue
            seen.add(inside)
            yield SourcePhoto(inside, Place(uri, size, offset), f"{described.tag}-{offset}", digest)

    def reader(self, s3: S3Section) -> PhotoReader:
        """Reads the photos in parallel."""
        return PhotoReader(self.store, s3)

    def sidecars(self, files: Iterable[StoredObject]) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of the JSON and YAML files among some, in which a data set may name itself."""
        for item in files:
            if item.key.lower().endswith(SIDECARS) and item.size_bytes <= SIDECAR_BYTES:
                try:
                    yield item.key, self.store.read(item.key)
                except UNREADABLE:
                    continue  # counted with the photos

    def property_text(self) -> str | None:
        """The text of a file named `property`, as packages of withdrawn sets have it."""
        described = None if self.tar else self.store.stat("property")
        return self.store.read("property")[:256].decode("ascii", "replace") if described else None


@dataclass(frozen=True, slots=True)
class Naming:
    """How the path of a photo gives its subject reference.

    Attributes:
        pattern: regex of --person-from; None: photos get no reference.
        prefix: put before each reference, where two sources number people alike.
    """

    pattern: re.Pattern[str] | None = None
    prefix: str = ""

    def subject(self, path: str) -> str | None:
        """Return the subject reference in the path of a photo below its folder; None if the pattern does not match."""
        found = subject_in(path, self.pattern) if self.pattern else None
        return self.prefix + found if found else None


def naming_of(person_from: str | None, person_prefix: str = "") -> Naming:
    """Return how photos are named.

    Raises:
        ConfigError: --person-from is invalid or has no group, or there is a prefix without it.
    """
    pattern = _compiled(person_from)
    if person_prefix and pattern is None:
        what = "there are no subject references that it could be put before"
        raise ConfigError(what, where="--person-prefix", next_step="give --person-from too")
    return Naming(pattern, unicodedata.normalize("NFC", person_prefix))


def _compiled(person_from: str | None) -> re.Pattern[str] | None:
    if not person_from:
        return None
    try:
        pattern = re.compile(unicodedata.normalize("NFC", person_from))  # as the paths
    except re.error as err:
        raise ConfigError(
            f"not a regular expression: {err}", where="--person-from", next_step="correct the regular expression"
        ) from err
    if not pattern.groups:
        what = f"{person_from!r} does not say which part of the name is the subject reference"
        raise ConfigError(what, where="--person-from", next_step=r"put that part in parentheses, as in '^(\d+)_'")
    return pattern


def count_photos(origin: ImportSource, pattern: re.Pattern[str] | None) -> int:
    """Return the number of photos of a source.

    Raises:
        ConfigError: no name of a photo matches the pattern.
    """
    total, first, matched = 0, "", pattern is None
    for photo in origin.photos():
        total, first = total + 1, first or photo.path
        matched = matched or (pattern is not None and subject_in(photo.path, pattern) is not None)
    if total and not matched:
        what = f"the regular expression matches none of the {total} photos, for example {first!r}"
        next_step = (
            "correct it: it is searched in the file's name, or in the path below the folder if it contains a `/` "
        )
        next_step += r"(one folder per person: '^([^/]+)/'). Nothing was imported"
        raise ConfigError(what, where="--person-from", next_step=next_step)
    return total


def subject_in(path: str, pattern: re.Pattern[str]) -> str | None:
    """Return the subject reference in the path of a photo below its folder; None if the pattern does not match."""
    match = pattern.search(path if "/" in pattern.pattern else path.rpartition("/")[2])
    return match.group(1) if match else None
