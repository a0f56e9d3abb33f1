"""WebDataset: members of a tar file with one name up to the first dot are a sample. Read by ranges, never unpacked."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import pyarrow as pa

from facelake.errors import ConfigError
from facelake.lake.corpora.listing import TAR_SUFFIXES, is_not_utf8, list_containers, nothing_left
from facelake.lake.corpora.parquet import content_id
from facelake.lake.corpora.rules import Rules, apply_rules, columns_needed, normal_form, unread_times
from facelake.lake.corpora.samples import TEXTS, Fields, Sample, TarPhoto, divided, fields_in, text_of
from facelake.lake.corpora.selection import LeftOut, Selection, is_photo_name
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.seekable import SeekableFile

_BLOCK = 8 << 20
_MOST_READ = 64 << 20  # a header that asks for more is hostile
_TEXT_BYTES = 1 << 20  # largest member of text or JSON that is read


class TarLayout:
    """The tar files under a root; each photo in them is a row, in the order of the file."""

    def __init__(self, store: ObjectStore, selection: Selection, rules: Rules, only: str | None = None) -> None:
        self.store, self._selection, self._rules, self._only = store, selection, rules, only
        self.left_out = LeftOut()

    def objects(self) -> list[StoredObject]:
        """The tar files in key order.

        Raises:
            ConfigError: there are none, or a compressed one.
        """
        self.left_out = LeftOut()
        if self._only is not None:
            described = self.store.stat(self._only)
            objects = [described] if described else []
        else:
            objects = list_containers(self.store, TAR_SUFFIXES, self._selection.excluded, self.left_out)
        if not objects:
            raise nothing_left(".tar", self.left_out, self.store.uri)
        for item in objects:
            if not item.key.lower().endswith(".tar"):
                next_step = "decompress it: photos in it could not be read one by one"
                raise ConfigError("a compressed tar file", where=f"{self.store.uri}/{item.key}", next_step=next_step)
        return objects

    def index(self, path: str) -> pa.Table:
        """The rows of a tar file for table `images`; the whole file is read once, one block at a time.

        Raises:
            ConfigError: it is damaged or truncated.
            Retryable: the store failed.
        """
        where = f"{self.store.uri}/{path}"
        rows: list[tuple[TarPhoto, Fields]] = []
        try:
            samples = list(self._samples(path))
        except (tarfile.TarError, EOFError, UnicodeDecodeError, OverflowError) as err:
            what = f"not a readable tar file (truncated or damaged): {err}"
            raise ConfigError(what, where=where, next_step="replace the file or move it out of the corpus") from err
        needed, times = columns_needed(self._rules), Counter(sample.key for sample in samples)
        for sample in samples:
            for photo, fields in sample.with_fields():
                fault = needed and (fields.fault(needed) or ("of divided samples" if times[sample.key] > 1 else ""))
                if fault:
                    self.left_out.add(fault, f"{path}/{photo.name}")
                else:
                    rows.append((photo, fields))
        return self._table(path, rows)

    def _table(self, path: str, rows: list[tuple[TarPhoto, Fields]]) -> pa.Table:
        names = [f"{path}/{photo.name}" for photo, _ in rows]
        columns = {
            name: pa.array([text_of(fields.values.get(name)) for _, fields in rows], pa.string())
            for name in columns_needed(self._rules)
        }
        table = pa.table(columns or {"": pa.nulls(len(rows))})
        made = apply_rules(self._rules, table, names)
        self.left_out.unread_times += unread_times(self._rules, table, made)
        if "image_id" not in self._rules:
            ids = [content_id(photo.name, photo.digest) for photo, _ in rows]
            made = made.set_column(0, "image_id", normal_form(pa.array(ids, pa.string())))
        made = made.append_column("uri", pa.array([path] * len(rows), pa.string()))
        made = made.append_column("byte_offset", pa.array([photo.offset for photo, _ in rows], pa.int64()))
        made = made.append_column("size_bytes", pa.array([photo.size for photo, _ in rows], pa.int64()))
        return made.append_column("content_sha256", pa.array([photo.digest for photo, _ in rows], pa.string()))

    def _samples(self, path: str) -> Iterator[Sample]:
        """Yield the samples of a tar file in order; members of one sample follow each other."""
        sample = Sample()
        described = self.store.stat(path)
        if described is None:
            raise EOFError("the file was removed while it was read")
        with tarfile.open(fileobj=_Blocks(self.store, path, described.size_bytes), mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member otherwise
                if not member.isreg():
                    if not member.isdir():
                        self.left_out.add("not files", f"{path}/{member.name}")
                    continue
                member.name = _plain(member.name)
                key = divided(member.name)[0]
                if key != sample.key:
                    yield sample
                    sample = Sample(key)
                self._take(tar, member, sample, path)
            _check_end(tar, described.size_bytes)
        yield sample

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, sample: Sample, path: str) -> None:
        _, inner, ending = divided(member.name)
        if is_photo_name(member.name):
            if unwanted := self._unwanted(path, member):
                self.left_out.add(unwanted, f"{path}/{member.name}")
                return
            digest = _digest(tar, member)
            sample.photos.append(TarPhoto(member.name, member.offset_data, member.size, digest, inner))
        elif ending in TEXTS:
            whole = member.size <= _TEXT_BYTES and not member.issparse()
            sample.add_text(inner, ending, fields_in(ending, _content(tar, member)) if whole else None)
        else:
            self.left_out.add("not photos", f"{path}/{member.name}")

    def _unwanted(self, path: str, member: tarfile.TarInfo) -> str | None:
        """The reason to leave out a photo; patterns are matched with its path in the tar file and below the corpus."""
        if is_not_utf8(member.name):
            return "names that are not UTF-8"
        if member.issparse():
            return "sparse, whose bytes are not in one piece"
        names, selection = (f"{path}/{member.name}", member.name), self._selection
        for name in names:
            if unwanted := selection.excluded(name):
                return unwanted[0]
        return None if any(map(selection.is_included, names)) else "not included"


def _check_end(tar: tarfile.TarFile, size: int) -> None:
    """Raise ReadError unless the file ends with a member or with zeros: tarfile stops at damage silently, and at the
    end of the first of several tar files that were put together.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE) if tar.offset < size else b""
    if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE or tar.offset > size:
        raise tarfile.ReadError(f"no header at byte {tar.offset}")
    while rest := tar.fileobj.read(1 << 20):
        if rest.strip(b"\0"):
            raise tarfile.ReadError(f"more data after the end of the archive at byte {tar.offset}; unite with `tar -A`")


def _plain(name: str) -> str:
    """The name of a member without a leading slash or `./`, which `tar -C folder .` writes before every name."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    file = tar.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f"{member.name} cannot be read")
    return file


def _digest(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    digest, length = sha256(), 0
    file = _reader(tar, member)
    while block := file.read(1 << 20):
        digest.update(block)
        length += len(block)
    if length != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return digest.hexdigest()


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    return bytes(_reader(tar, member).read())


class _Blocks(SeekableFile):
    """A seekable file over an object that is read in blocks of 8 MB, each once if read in order."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        super().__init__(size)
        self._store, self._key = store, key
        self._start, self._block = 0, b""

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._available(size)
        if wanted > _MOST_READ:
            raise tarfile.ReadError(f"a header of {wanted} bytes")
        parts = []
        while wanted:
            part = self._within(wanted)
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def _within(self, wanted: int) -> bytes:
        """Bytes at the position, up to the end of a block."""
        at = self._position - self._start
        if not 0 <= at < len(self._block):
            self._start, at = self._position, 0
            self._block = self._store.read_range(self._key, self._start, min(_BLOCK, self._size - self._start))
            if not self._block:
                raise EOFError("the file became shorter while it was read")
        part = self._block[at : at + wanted]
        self._position += len(part)
        return part
