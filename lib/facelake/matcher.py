"""The client of a downstream matcher: opens a leased export, answers 1:1 and 1:N, applies changes.

    gallery = Gallery.open("export")                     # a folder, or s3://bucket/prefix
    matches = gallery.search(probes, gallery.model_digest, k=5)
    gallery.apply("changes.parquet", version=13)

It refuses an export whose lease has expired, files whose digests differ from the manifest, probes of another model or
dimension, and a key-protected export without its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.config import S3Section
from facelake.contracts import F16, F32, F64, I64, parse_json
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.lake.store import open_store
from facelake.publish.transform import key_name, rotated, rotation
from facelake.vectors import decode_embeddings, unit_rows


@dataclass(frozen=True, slots=True)
class Matches:
    """The k nearest identities of n probes, best first."""

    identity_ids: list[list[str]]
    similarity: F32
    """(n, k) float32 cosines, descending per row; with fewer than k identities there are fewer columns"""


class Gallery:
    """The identities of one export, in memory: a template of 4 * dim bytes each, a FAISS flat index of the same size,
    and
    the exemplars.
    """

    def __init__(
        self, manifest: dict[str, Any], rows: pa.Table, index: faiss.Index, key: bytes | None, now: datetime | None
    ) -> None:
        self._manifest, self._now = manifest, now
        self.version = int(manifest["gallery_version"])
        self.model_digest, self.purpose = str(manifest["model_digest"]), str(manifest["purpose"])
        self.lease_id, self.expires_at = str(manifest["lease_id"]), datetime.fromisoformat(manifest["expires_at"])
        self.check_lease()
        self._ids: list[str] = rows["identity_id"].to_pylist()
        self._vectors = _matrix(rows)
        self._exemplars = _exemplars(rows, self._vectors.shape[1])
        self._rotation = self._check_key(key)
        self._row_of = {name: i for i, name in enumerate(self._ids)}
        self._index = index

    @classmethod
    def open(
        cls, uri: str, *, key: bytes | None = None, s3: S3Section | None = None, now: datetime | None = None
    ) -> Gallery:
        """Open an export.

        Args:
            key: the template protection key of the export, if it has one.
            now: the time at which leases are checked, for tests; default: the clock.

        Raises:
            ConfigError: no export at the URI, or a missing or wrong key.
            Corrupt: the digest of a file differs from the manifest.
            Refused: the lease has expired.
        """
        store = open_store(uri, s3)
        try:
            manifest = parse_json(store.read("manifest.json"))
            files = {name: store.read(name) for name in manifest["files"]}
        except (FileNotFoundError, ValueError, KeyError) as err:
            what = f"no gallery export: {type(err).__name__}"
            raise ConfigError(what, where=uri, next_step="give the folder that `gallery export` wrote") from err
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != manifest["files"][name]:
                raise Corrupt(
                    "the file differs from the one that was exported", where=f"{uri}/{name}", next_step="export again"
                )
        rows = pq.read_table(pa.BufferReader(files["identities.parquet"]))
        index = faiss.deserialize_index(np.frombuffer(files["index.faiss"], np.uint8))  # safe: its digest was checked
        if index.ntotal != rows.num_rows:
            what = f"the index has {index.ntotal} identities, the table {rows.num_rows}"
            raise Corrupt(what, where=f"{uri}/index.faiss", next_step="export again")
        return cls(manifest, rows, index, key, now)

    def __len__(self) -> int:
        return len(self._ids)

    def check_lease(self) -> None:
        """Check that this copy may still be used.

        Raises:
            Refused: the lease has expired; this copy must be deleted.
        """
        if (self._now or datetime.now(UTC)) >= self.expires_at:
            what = f"the lease {self.lease_id} expired on {self.expires_at:%Y-%m-%d}"
            raise Refused(
                what,
                where="matcher",
                next_step="delete this copy, have its return recorded, then request another export",
            )

    def threshold(self, fmr: float) -> float:
        """The similarity threshold at a false match rate, as measured at export.

        Raises:
            ConfigError: no threshold was measured at this rate, or there were too few comparisons.
        """
        for row in self._manifest["thresholds"]:
            if row["fmr"] == fmr and row["similarity"] is not None:
                return float(row["similarity"])
        known = [row["fmr"] for row in self._manifest["thresholds"] if row["similarity"] is not None]
        raise ConfigError(f"no threshold was measured at FMR {fmr:g}", where="matcher", next_step=f"use one of {known}")

    def search(self, probes: F32, model_digest: str, k: int = 1) -> Matches:
        """1:N: the k most similar identities of each probe.

        Args:
            probes: (n, dim) float32 embeddings; need not be of unit norm.
            model_digest: digest of the model that embedded the probes.

        Raises:
            Refused: the lease has expired, or the probes are of another model or dimension.
        """
        ready = self._ready(probes, model_digest)
        similarity, rows = self._index.search(ready, min(k, len(self._ids)))
        return Matches([[self._ids[i] for i in row] for row in rows.tolist()], similarity)

    def verify(self, probes: F32, identity_ids: Sequence[str], model_digest: str, *, exemplars: bool = False) -> F32:
        """1:1: the similarity (n,) float32 of each probe to its claimed identity; NaN if the gallery does not have it.

        Args:
            exemplars: return the best similarity over the template and the exemplars. This raises recall across modes
                (glasses, age) and needs its own threshold: those of the export apply to templates.

        Raises:
            Refused: as `search`.
        """
        ready = self._ready(probes, model_digest)
        row: I64 = np.array([self._row_of.get(name, -1) for name in identity_ids], np.int64)
        similarity = np.einsum("ij,ij->i", ready, self._vectors[np.maximum(row, 0)]) if len(self._ids) else np.zeros(0)
        if exemplars:
            for i in np.flatnonzero(row >= 0):
                vectors = self._exemplars[int(row[i])].astype(np.float32)
                similarity[i] = max(similarity[i], float((vectors @ ready[i]).max(initial=-1.0)))
        return np.where(row >= 0, similarity, np.nan).astype(np.float32)

    def same_as(self, other: Gallery) -> bool:
        """Whether two copies hold the same identities with bit-identical vectors."""
        return (
            self._ids == other._ids
            and np.array_equal(self._vectors, other._vectors)
            and all(np.array_equal(a, b) for a, b in zip(self._exemplars, other._exemplars, strict=True))
        )

    def apply(self, changes: str | pa.Table, version: int) -> int:
        """Apply the output of `feed changes`: replace or add active identities, remove the others. Idempotent.

        Args:
            changes: a Parquet file, or its table, written with the key of this export, if it has one.
            version: the gallery version that the changes lead to.

        Returns:
            The number of identities that were added, replaced or removed.

        Raises:
            Refused: the changes are of another model, or the lease has expired.
        """
        self.check_lease()
        table = pq.read_table(Path(changes)) if isinstance(changes, str) else changes
        active = pc.equal(table["status"], "active")
        active_rows = table.filter(active)
        if set(active_rows["model_digest"].to_pylist()) - {self.model_digest}:
            raise Refused("the changes are of another model", where="matcher", next_step="request another export")
        templates = {name: (v, e) for name, v, e in zip(self._ids, self._vectors, self._exemplars, strict=True)}
        dim = self._vectors.shape[1]
        removed = table.filter(pc.invert(active))["identity_id"].to_pylist()
        touched = active_rows.num_rows + sum(templates.pop(name, None) is not None for name in removed)
        rows = zip(
            active_rows["identity_id"].to_pylist(), _matrix(active_rows, dim), _exemplars(active_rows, dim), strict=True
        )
        templates |= {name: (vector, exemplars) for name, vector, exemplars in rows}
        self._ids = sorted(templates)
        self._vectors = np.array([templates[name][0] for name in self._ids], np.float32).reshape(len(self._ids), dim)
        self._exemplars = [templates[name][1] for name in self._ids]
        self.version = max(self.version, version)
        self._row_of = {name: i for i, name in enumerate(self._ids)}
        self._index = faiss.IndexFlatIP(dim)
        self._index.add(np.ascontiguousarray(self._vectors))
        return int(touched)

    def _ready(self, probes: F32, model_digest: str) -> F32:
        self.check_lease()
        if model_digest != self.model_digest or probes.ndim != 2 or probes.shape[1] != self._vectors.shape[1]:
            what = f"probes of model {model_digest[:12]} and shape {probes.shape} against a gallery of model "
            what += f"{self.model_digest[:12]} and dimension {self._vectors.shape[1]}"
            raise Refused(what, where="matcher", next_step="embed the probes with the gallery's model")
        unit = unit_rows(probes)
        return np.ascontiguousarray(rotated(unit, self._rotation) if self._rotation is not None else unit, np.float32)

    def _check_key(self, key: bytes | None) -> F64 | None:
        """The rotation that the key stands for, None for an unprotected export; raises ConfigError for a wrong key."""
        wanted = self._manifest["template_key"]
        if (key_name(key) if key else None) != wanted:
            what = "the templates are protected by a key" if not key else "this is not the key of the templates"
            what = what if wanted else "the templates are not protected by a key"
            raise ConfigError(
                what, where="matcher", next_step=f"pass the key named {wanted}" if wanted else "omit the key"
            )
        return rotation(key, self._manifest["lake"], self.purpose, self._vectors.shape[1]) if key else None


def _matrix(rows: pa.Table, dim: int = -1) -> F32:
    """The templates (n, dim) of the rows."""
    flat = pc.list_flatten(rows["prototype"].combine_chunks()).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(rows), dim if dim > 0 or not len(rows) else -1), np.float32)


def _exemplars(rows: pa.Table, dim: int) -> list[F16]:
    """The exemplars (k, dim) of each row."""
    return [decode_embeddings(stored or (), dim) for stored in rows["exemplars"].to_pylist()]
