"""The files of a delivery, whose signature and digests are checked before they are used."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.contracts import parse_json
from facelake.engines.scratch import process_folder
from facelake.erase import verify as signature_fits
from facelake.errors import ConfigError, Corrupt
from facelake.lake.object_store import ObjectStore
from facelake.matcher.manifests import is_file_name

_PIECE = 16 * 2**20


def signed_manifest(store: ObjectStore, keys: Collection[str]) -> dict[str, Any]:
    """Return a manifest whose signature fits.

    Args:
        store: with the delivery.
        keys: fingerprints of the keys that may have signed; empty: any.

    Raises:
        ConfigError: there is no delivery.
        Corrupt: the signature is missing or does not fit, or is by another key.
    """
    try:
        manifest = parse_json(store.read("manifest.json"))
        body = {name: value for name, value in manifest.items() if name != "signature"}
        files, signature = manifest["files"], manifest.get("signature")
        if not isinstance(files, dict) or not all(map(is_file_name, files)):
            raise ValueError("files")
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError) as err:
        found = (
            "has no manifest.json" if isinstance(err, FileNotFoundError) else "has a manifest.json that is not of one"
        )
        what = f"no gallery export: the folder {found}"
        next_step = "give the folder that `gallery export` or `feed changes` wrote"
        raise ConfigError(what, where=store.uri, next_step=next_step) from err
    if not any(signature_fits(body, signature, key) for key in keys or (None,)):
        what = "the manifest is not signed" if signature is None else "the signature does not fit the manifest"
        next_step = "do not use the copy; have it exported again"
        if keys and signature_fits(body, signature, None):
            what = "the manifest was signed by another key than the given ones"
            next_step = (
                "compare the keys with those that the controller publishes; until they agree do not use the copy"
            )
        raise Corrupt(what, where=f"{store.uri}/manifest.json", next_step=next_step)
    return dict(manifest)


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """Local files of a delivery whose digests were compared with the manifest.

    Attributes:
        folder: where they are.
        names: their names.
        temporary: the folder, if it is one that is removed with this object.
    """

    folder: Path
    names: tuple[str, ...]
    temporary: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def of(cls, uri: str, store: ObjectStore, manifest: dict[str, Any]) -> CheckedFiles:
        """Check the files of a local delivery where they are; copy and check those of s3://.

        Raises:
            Corrupt: a file is missing or differs.
        """
        temporary = process_folder("facelake-gallery-") if uri.startswith("s3://") else None
        folder = Path(temporary.name if temporary else uri.removeprefix("file://")).expanduser()
        for name, wanted in manifest["files"].items():
            where = f"{store.uri}/{name}"
            try:
                if temporary:
                    _fetch(store, name, folder / name)
                with (folder / name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
            except FileNotFoundError as err:
                raise Corrupt("a file is missing", where=where, next_step="export again") from err
            except OSError as err:
                what = f"the file cannot be read: {err.strerror or err}"
                raise Corrupt(what, where=where, next_step="check the folder and its rights, or export again") from err
            if digest != wanted:
                what = "the file differs from the one that was exported"
                raise Corrupt(what, where=where, next_step="export again")
        return cls(folder, tuple(manifest["files"]), temporary)

    def parts(self, stem: str, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows of the numbered Parquet files `stem-00000.parquet` and so on, file by file."""
        for name in sorted(name for name in self.names if name.startswith(f"{stem}-") and name.endswith(".parquet")):
            yield pq.read_table(self.folder / name, columns=columns)


def _fetch(store: ObjectStore, name: str, path: Path) -> None:
    """Copy an object to a file, in pieces."""
    stat = store.stat(name)
    if stat is None:
        raise FileNotFoundError(name)
    with path.open("wb") as file:
        for start in range(0, stat.size_bytes, _PIECE):
            file.write(store.read_range(name, start, min(_PIECE, stat.size_bytes - start)))
