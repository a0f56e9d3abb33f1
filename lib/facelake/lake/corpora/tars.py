"""WebDataset: members of a tar file with one name up to the first dot are a sample. Read by ranges, never unpacked."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pyarrow as pa

from facelake.contracts import parse_json
from facelake.errors import ConfigError
from facelake.lake.corpora.parquet import content_id
from facelake.lake.corpora.rules import Rules, apply_rules, columns_needed, normal_form
from facelake.lake.corpora.selection import LeftOut, Selection, is_photo_name
from facelake.lake.object_store import ObjectStore, StoredObject
from facelake.lake.seekable import SeekableFile

_BLOCK = 8 << 20
_MOST_READ = 64 << 20  # a header that asks for more is hostile
_TEXT_BYTES = 1 << 20  # largest member of text or JSON that is read
_TEXTS = ("txt", "cls", "text", "caption", "id", "key")


@dataclass(slots=True)
class _Sample:
    """Members of one name: photos, and the fields of its texts."""

    key: str = ""
    photos: list[tuple[str, int, int, str]] = field(default_factory=list)
    """name, offset, size, SHA-256"""
    fields: dict[str, Any] = field(default_factory=dict)
    unreadable: bool = False
    """whether there is a text that could not be read"""
    contradicted: set[str] = field(default_factory=set)
    """fields of which two texts give different values"""

    def add_fields(self, fields: dict[str, Any] | None) -> None:
        """Add the fields of a text; None for one that cannot be read."""
        if fields is None:
            self.unreadable = True
            return
        self.contradicted |= {name for name in fields.keys() & self.fields.keys() if fields[name] != self.fields[name]}
        self.fields |= fields

    def fault(self, needed: Sequence[str]) -> str:
        """Why fields cannot be relied on, so that nobody knows whose the photos are; empty if they can."""
        if self.contradicted & set(needed):
            return "with contradicting fields"
        values = [self.fields.get(name) for name in needed]
        missing = self.unreadable and None in values
        return "with unreadable fields" if missing or any(v is not None and _text(v) is None for v in values) else ""


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
        if self._only is not None:
            described = self.store.stat(self._only)
            objects = [described] if described else []
        else:
            objects = [item for item in self.store.list() if self._is_part(item.key)]
        if not objects:
            raise ConfigError("no .tar file", where=self.store.uri, next_step="check corpus.uri and corpus.kind")
        return objects

    def _is_part(self, key: str) -> bool:
        if any(self._selection.why_not_part(part) for part in key.split("/")):
            return False
        if key.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")):
            next_step = "decompress it: photos in it could not be read one by one"
            raise ConfigError("a compressed tar file", where=f"{self.store.uri}/{key}", next_step=next_step)
        return key.endswith(".tar")

    def index(self, path: str) -> pa.Table:
        """The rows of a tar file for table `images`; the whole file is read once, one block at a time.

        Raises:
            ConfigError: it is damaged or truncated.
            Retryable: the store failed.
        """
        where = f"{self.store.uri}/{path}"
        rows: list[tuple[str, int, int, str, dict[str, Any]]] = []
        try:
            samples = list(self._samples(path))
        except (tarfile.TarError, EOFError, UnicodeDecodeError, OverflowError) as err:
            what = f"not a readable tar file (truncated or damaged): {err}"
            raise ConfigError(what, where=where, next_step="replace the file or move it out of the corpus") from err
        needed, times = columns_needed(self._rules), Counter(sample.key for sample in samples)
        for sample in samples:
            fault = needed and (sample.fault(needed) or ("of divided samples" if times[sample.key] > 1 else ""))
            for photo in sample.photos:
                if fault:
                    self.left_out.add(fault, f"{path}/{photo[0]}")
                else:
                    rows.append((*photo, sample.fields))
        return self._table(path, rows)

    def _table(self, path: str, rows: list[tuple[str, int, int, str, dict[str, Any]]]) -> pa.Table:
        names = [f"{path}/{name}" for name, *_ in rows]
        columns = {name: pa.array([_text(row[4].get(name)) for row in rows]) for name in columns_needed(self._rules)}
        table = pa.table(columns or {"": pa.nulls(len(rows))})
        made = apply_rules(self._rules, table, names)
        if "image_id" not in self._rules:
            ids = [content_id(name, digest) for name, _, _, digest, _ in rows]
            made = made.set_column(0, "image_id", normal_form(pa.array(ids, pa.string())))
        made = made.append_column("uri", pa.array([path] * len(rows), pa.string()))
        made = made.append_column("byte_offset", pa.array([row[1] for row in rows], pa.int64()))
        made = made.append_column("size_bytes", pa.array([row[2] for row in rows], pa.int64()))
        return made.append_column("content_sha256", pa.array([row[3] for row in rows], pa.string()))

    def _samples(self, path: str) -> Iterator[_Sample]:
        """Yield the samples of a tar file in order; members of one sample follow each other."""
        sample = _Sample()
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
                key, ending = _split(member.name)
                if key != sample.key:
                    yield sample
                    sample = _Sample(key)
                self._take(tar, member, sample, path, ending)
            _check_end(tar, described.size_bytes)
        yield sample

    def _take(self, tar: tarfile.TarFile, member: tarfile.TarInfo, sample: _Sample, path: str, ending: str) -> None:
        if is_photo_name(member.name):
            if unwanted := self._selection.why_not_path(member.name):
                self.left_out.add(unwanted[0], f"{path}/{member.name}")
                return
            digest = _digest(tar, member)
            sample.photos.append((member.name, member.offset_data, member.size, digest))
            sample.fields |= {"key": sample.key, "__key__": sample.key}
        elif ending in ("json", *_TEXTS):
            sample.add_fields(_fields(ending, _content(tar, member)) if member.size <= _TEXT_BYTES else None)
        else:
            self.left_out.add("not photos", f"{path}/{member.name}")


def _check_end(tar: tarfile.TarFile, size: int) -> None:
    """Raise ReadError unless the file ends with a member or a block of zeros: tarfile stops at damage silently."""
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    rest = tar.fileobj.read(tarfile.BLOCKSIZE) if tar.offset < size else b""
    if rest.strip(b"\0") or 0 < len(rest) < tarfile.BLOCKSIZE or tar.offset > size:
        raise tarfile.ReadError(f"no header at byte {tar.offset}")


def _plain(name: str) -> str:
    """The name of a member without a leading slash or `./`, which `tar -C folder .` writes before every name."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _split(name: str) -> tuple[str, str]:
    """(key, ending) of a member: the name up to the first dot of its last part, and the rest."""
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return f"{folder}{slash}{stem}", ending.lower()


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


def _fields(ending: str, data: bytes) -> dict[str, Any] | None:
    """The fields of a text (by its ending) or of a JSON object (by `json.NAME` and by NAME); None if it is not one."""
    text = data.decode("utf-8", "replace")
    if ending != "json":
        return {ending: text.strip()}
    try:
        body = parse_json(text)
    except ValueError:
        return None
    return _flattened(body, "json.") | _flattened(body, "") if isinstance(body, dict) else None


def _flattened(body: dict[str, Any], prefix: str, depth: int = 4) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in body.items():
        if isinstance(value, dict) and depth:
            fields |= _flattened(value, f"{prefix}{name}.", depth - 1)
        else:
            fields[f"{prefix}{name}"] = value
    return fields


def _text(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None


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
