"""Hands files to a recipient: into a local folder or an s3:// prefix, with a signed manifest that comes last.

A reader that finds no manifest, or files that differ from it, knows that a delivery is unfinished.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.config import Config, S3Section
from facelake.contracts import parse_json
from facelake.engines.scratch import temporary_folder
from facelake.errors import ConfigError, FacelakeError, Undelivered
from facelake.lake.data_files import encoding
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.core.outside import must_be_outside

MANIFEST = "manifest.json"
_FIXED = frozenset({"index.faiss", "model_card.json"})
_ONE_SLASH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/(?!/)")  # a URL with a slash too few
_PARTIAL = ".partial-"  # folder of a delivery that is being written; one that was killed is removed by the next
_FORMER = re.compile(r"(?:identities|changes)-\d{5}\.parquet|templates\.f32|exemplars\.f16|exemplar_starts\.i64")
_ROW_GROUP = 2_048
_PART_ROWS = 131_072


class Delivery:
    """Files that are being written for a recipient, and the place where they go."""

    def __init__(self, place: ObjectStore | Path, folder: Path) -> None:
        """`place`: a store to upload to, or a folder of the same file system; `folder`: where files are written."""
        self._place, self.folder = place, folder
        self._digests: dict[str, str] = {}
        self.begun = False
        """whether something was changed at the place"""

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of the files by name."""
        return dict(self._digests)

    def add(self, name: str) -> None:
        """Add a file that was written to `folder`."""
        self._digests[name] = _digest(self.folder / name)

    def write_rows(self, stem: str, parts: Iterable[pa.Table]) -> int:
        """Write rows as Parquet files `stem-00000.parquet` and so on, of a bounded number of rows each.

        Returns:
            The number of rows.
        """
        writer: pq.ParquetWriter | None = None
        name, number, in_file, total = "", 0, 0, 0
        slices = (rows.slice(at, _PART_ROWS) for rows in parts for at in range(0, rows.num_rows, _PART_ROWS))
        for part in slices:
            if writer is not None and in_file + part.num_rows > _PART_ROWS:
                writer.close()
                self.add(name)
                writer, number, in_file = None, number + 1, 0
            if writer is None:
                name = f"{stem}-{number:05d}.parquet"
                writer = pq.ParquetWriter(self.folder / name, part.schema, **encoding(part.schema))
            writer.write_table(part, row_group_size=_ROW_GROUP)
            in_file, total = in_file + part.num_rows, total + part.num_rows
        if writer is not None:
            writer.close()
            self.add(name)
        return total

    def hand_over(self, context: Context, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Sign the manifest, record it in the audit trail, then move the files to their place, the manifest last.

        Args:
            context: whose key signs.
            kind: of the audit record.
            manifest: without the files.

        If that fails, what was moved is removed again: without a manifest it is no delivery, but it is of people.

        Returns:
            The manifest with files and signature.

        Raises:
            Undelivered: it failed, and what was moved could not be removed.
        """
        try:
            return self._hand_over(context, kind, manifest)
        except BaseException as err:  # also an interrupt
            self._take_back(err)
            raise

    def _hand_over(self, context: Context, kind: str, manifest: dict[str, Any]) -> dict[str, Any]:
        signed = manifest | {"files": self.files}
        signed["signature"] = context.sign(signed)
        append_audit(context.lake, kind, signed, context.sign)  # before the data leaves
        (self.folder / MANIFEST).write_text(json.dumps(signed, indent=1))
        self.begun = True
        self._remove([MANIFEST])  # a delivery that is being replaced is not valid meanwhile
        for name in self._digests:
            self._move(name)
        self._remove(sorted(self._former() - set(self._digests)))
        self._move(MANIFEST)
        return signed

    def _take_back(self, why: BaseException) -> None:
        """Remove everything of a delivery that failed; that which it was to replace is incomplete as well."""
        if not self.begun:
            return
        try:
            self._remove([MANIFEST])
            self._remove(sorted(self._former() | set(self._digests)))
        except (OSError, FacelakeError) as err:
            what = f"the files could not be handed over ({_line(why)}), nor those removed that were: {_line(err)}"
            raise Undelivered(what, where=str(self._place), next_step="delete what is there of them") from why

    def _move(self, name: str) -> None:
        file = self.folder / name
        if isinstance(self._place, Path):
            file.chmod(0o600)
            file.replace(self._place / name)
        else:
            self._place.upload(name, file)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            if isinstance(self._place, Path):
                (self._place / name).unlink(missing_ok=True)
            else:
                self._place.delete(name)

    def _former(self) -> set[str]:
        """Return files of an earlier delivery to the same place that a later one may not have."""
        return {name for name in _names(self._place) if _FORMER.fullmatch(name)}


def check_place(uri: str, config: Config) -> None:
    """Check that files can be handed over there; writes nothing.

    Raises:
        ConfigError: it is neither a folder nor s3://, it is a file, or it is inside the lake or the corpus.
    """
    if _ONE_SLASH.match(uri):
        what = f"{uri} has one slash after {uri.partition(':')[0]}:, and would be a folder of that name"
        raise ConfigError(what, where="--out", next_step="write s3://bucket/prefix, or ./ before the name of a folder")
    if "://" in uri and not uri.startswith(("s3://", "file://")):
        what = f"cannot write files to {uri.partition('://')[0]}://"
        raise ConfigError(what, where="--out", next_step="give a folder or s3://bucket/prefix")
    if not uri.startswith("s3://") and (out := _folder(uri)).exists() and not out.is_dir():
        raise ConfigError("there is a file already", where=str(out), next_step="give a folder to write to")
    must_be_outside(uri, config, "--out")


def check_free(uri: str, kind: str, config: Config) -> str | None:
    """Check that a delivery to this place replaces at most an earlier delivery of its kind, and nothing of others.

    Args:
        uri: a folder, or s3://bucket/prefix.
        kind: `export` or `changes`.
        config: says where the lake and the store are.

    Returns:
        The lease of the earlier delivery; None if there is none that was finished.

    Raises:
        ConfigError: as `check_place`; or there are files of the same names that are not of such a delivery.
    """
    check_place(uri, config)
    there = read_manifest(uri, config.s3)
    if there is None:
        names = _names(_place(uri, config.s3))
        if any(_FORMER.fullmatch(name) for name in names):
            return None  # a delivery that was killed before its manifest
        if foreign := sorted(_FIXED & names):
            raise _not_free(uri, f"the files {', '.join(foreign)} there are not of an export")
        return None
    if "lease_id" not in there:
        raise _not_free(uri, f"the file {MANIFEST} there is not of an export")
    if (found := str(there.get("kind", "export"))) != kind:
        raise _not_free(uri, f"the files of another kind ({found}) under {there['lease_id']} are there")
    return str(there["lease_id"])


def _not_free(uri: str, what: str) -> ConfigError:
    return ConfigError(f"{what}, and would be overwritten", where=uri, next_step="give an empty folder or prefix")


@contextmanager
def delivery(uri: str, s3: S3Section, lake_uri: str) -> Iterator[Delivery]:
    """Open a delivery to a local folder or s3://bucket/prefix that was checked; files that were not handed over are
    removed.

    What a killed process leaves of it, the next erasure in the lake removes.

    Raises:
        OSError: the disk is full, for example; it names the place.
    """
    try:
        with _opened(uri, s3, lake_uri) as files:
            yield files
    except OSError as err:
        err.filename = err.filename or uri
        raise


@contextmanager
def _opened(uri: str, s3: S3Section, lake_uri: str) -> Iterator[Delivery]:
    if uri.startswith("s3://"):
        with temporary_folder(lake_uri, prefix="delivery-") as folder:
            yield Delivery(open_store(uri, s3), folder)
        return
    out = _folder(uri)
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(f"{_PARTIAL}*"):
        if leftover.is_symlink():
            leftover.unlink()
        else:
            shutil.rmtree(leftover)
    with temporary_folder(lake_uri, out, _PARTIAL) as partial:
        yield Delivery(out, partial)


def read_manifest(uri: str, s3: S3Section) -> dict[str, Any] | None:
    """Return the manifest of the delivery at a place, unchecked; None if there is none, empty if it is not one."""
    try:
        manifest = parse_json(open_store(uri if uri.startswith("s3://") else str(_folder(uri)), s3).read(MANIFEST))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) else {}


def place_manifest(uri: str, s3: S3Section, manifest: dict[str, Any]) -> None:
    """Write a signed manifest to a place, instead of one that is there; the other files stay."""
    data = json.dumps(manifest, indent=1).encode()
    if uri.startswith("s3://"):
        open_store(uri, s3).write(MANIFEST, data)
        return
    out = _folder(uri)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=out) as partial:
        file = Path(partial, MANIFEST)
        file.write_bytes(data)
        file.chmod(0o600)
        file.replace(out / MANIFEST)


def _place(uri: str, s3: S3Section) -> ObjectStore | Path:
    return open_store(uri, s3) if uri.startswith("s3://") else _folder(uri)


def _names(place: ObjectStore | Path) -> set[str]:
    if isinstance(place, Path):
        return {file.name for file in place.iterdir()} if place.is_dir() else set()
    return {item.key for item in place.list()}


def _folder(uri: str) -> Path:
    return Path(uri.removeprefix("file://")).expanduser()


def _line(err: BaseException) -> str:
    what = err.what if isinstance(err, FacelakeError) else str(err)
    return (what.strip().splitlines() or [type(err).__name__])[0]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
