"""The client of a downstream matcher: opens a leased export, answers 1:1 and 1:N, applies changes.

    gallery = Gallery.open("gate")                       # a folder, or s3://bucket/prefix
    found = gallery.search(probes, gallery.model_digest, k=5)
    gallery.apply("changes.parquet", version=13)

It refuses what it may not do: an export whose lease has ended, files that are not those of the manifest, probes of
another model or dimension, an export under a key without that key.
"""

from __future__ import annotations

import hashlib
import json
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
from facelake.contracts import F16, F32, F64, I64
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.lake.store import open_store
from facelake.publish.transform import key_name, rotated, rotation


@dataclass(frozen=True, slots=True)
class Matches:
    """The k nearest identities of n probes, best first."""

    identity_ids: list[list[str]]
    similarity: F32
    """(n, k) cosines; where there are fewer than k identities, fewer columns"""


class Gallery:
    """The identities of one export, in memory: dim * 4 bytes each, a FAISS flat index of as much, and exemplars."""

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
        self._turn = self._rotation(key)
        self._place = {name: i for i, name in enumerate(self._ids)}
        self._index = index

    @classmethod
    def open(
        cls, uri: str, *, key: bytes | None = None, s3: S3Section | None = None, now: datetime | None = None
    ) -> Gallery:
        """Open an export.

        Args:
            key: of the export's templates, where they are under one.
            now: for tests; default: the clock.

        Raises:
            ConfigError: no export there, or a missing or wrong key.
            Corrupt: a file is not the one that the manifest names.
            Refused: the lease has ended.
        """
        store = open_store(uri, s3)
        try:
            manifest = json.loads(store.read("manifest.json"))
            files = {name: store.read(name) for name in manifest["files"]}
        except (FileNotFoundError, ValueError, KeyError) as err:
            what = f"no export of a gallery: {type(err).__name__}"
            raise ConfigError(what, where=uri, next_step="give the folder that `gallery export` wrote") from err
        for name, data in files.items():
            if hashlib.sha256(data).hexdigest() != manifest["files"][name]:
                raise Corrupt(
                    "a file is not the one that was exported", where=f"{uri}/{name}", next_step="export again"
                )
        rows = pq.read_table(pa.BufferReader(files["identities.parquet"]))
        index = faiss.deserialize_index(np.frombuffer(files["index.faiss"], np.uint8))  # its digest is the manifest's
        if index.ntotal != rows.num_rows:
            what = f"the index has {index.ntotal} identities, the table {rows.num_rows}"
            raise Corrupt(what, where=f"{uri}/index.faiss", next_step="export again")
        return cls(manifest, rows, index, key, now)

    def __len__(self) -> int:
        return len(self._ids)

    def check_lease(self) -> None:
        """Raises Refused: the lease has ended, and this copy must be deleted."""
        if (self._now or datetime.now(UTC)) >= self.expires_at:
            what = f"the lease {self.lease_id} ended on {self.expires_at:%Y-%m-%d}"
            raise Refused(what, where="matcher", next_step="delete this copy, have it returned, ask for another export")

    def threshold(self, fmr: float) -> float:
        """The similarity at a false match rate, as the export measured it.

        Raises:
            ConfigError: it was not measured, or there were too few comparisons.
        """
        for row in self._manifest["thresholds"]:
            if row["fmr"] == fmr and row["similarity"] is not None:
                return float(row["similarity"])
        told = [row["fmr"] for row in self._manifest["thresholds"] if row["similarity"] is not None]
        raise ConfigError(f"no similarity is known at FMR {fmr:g}", where="matcher", next_step=f"known: {told}")

    def search(self, probes: F32, model_digest: str, k: int = 1) -> Matches:
        """1:N: the k most similar identities of each probe.

        Args:
            probes: (n, dim) embeddings; they are normalised.
            model_digest: of the model that made the probes.

        Raises:
            Refused: the lease has ended, or the probes are of another model or dimension.
        """
        ready = self._ready(probes, model_digest)
        similarity, found = self._index.search(ready, min(k, len(self._ids)))
        return Matches([[self._ids[i] for i in row] for row in found.tolist()], similarity)

    def verify(self, probes: F32, identity_ids: Sequence[str], model_digest: str, *, exemplars: bool = False) -> F32:
        """1:1: the similarity (n,) of each probe to the identity that it claims to be; nan for one that is not here.

        Args:
            exemplars: the best of the prototype and the exemplars counts. That finds more (glasses, age), and needs a
                threshold of its own: those of the export are for prototypes.
        """
        ready = self._ready(probes, model_digest)
        place: I64 = np.array([self._place.get(name, -1) for name in identity_ids], np.int64)
        found = np.einsum("ij,ij->i", ready, self._vectors[np.maximum(place, 0)]) if len(self._ids) else np.zeros(0)
        if exemplars:
            for i in np.flatnonzero(place >= 0):
                shown = self._exemplars[int(place[i])].astype(np.float32)
                found[i] = max(found[i], float((shown @ ready[i]).max(initial=-1.0)))
        return np.where(place >= 0, found, np.nan).astype(np.float32)

    def same_as(self, other: Gallery) -> bool:
        """Whether two copies hold the same identities with the same vectors, to the last bit."""
        return (
            self._ids == other._ids
            and np.array_equal(self._vectors, other._vectors)
            and all(np.array_equal(a, b) for a, b in zip(self._exemplars, other._exemplars, strict=True))
        )

    def apply(self, changes: str | pa.Table, version: int) -> int:
        """Replay `feed changes` (made with this export's key, if any): put active identities, drop the others.

        Doing it twice does no harm.

        Args:
            changes: a Parquet file, or its table. version: the gallery version that it leads to.

        Returns:
            How many identities were put or dropped.

        Raises:
            Refused: the changes are of another model, or the lease has ended.
        """
        self.check_lease()
        table = pq.read_table(Path(changes)) if isinstance(changes, str) else changes
        active = pc.equal(table["status"], "active")
        put = table.filter(active)
        if set(put["model_digest"].to_pylist()) - {self.model_digest}:
            raise Refused("the changes are of another model", where="matcher", next_step="ask for another export")
        held = {name: (v, e) for name, v, e in zip(self._ids, self._vectors, self._exemplars, strict=True)}
        dim = self._vectors.shape[1]
        drop = table.filter(pc.invert(active))["identity_id"].to_pylist()
        touched = put.num_rows + sum(held.pop(name, None) is not None for name in drop)
        rows = zip(put["identity_id"].to_pylist(), _matrix(put, dim), _exemplars(put, dim), strict=True)
        held |= {name: (vector, shown) for name, vector, shown in rows}
        self._ids = sorted(held)
        self._vectors = np.array([held[name][0] for name in self._ids], np.float32).reshape(len(self._ids), dim)
        self._exemplars = [held[name][1] for name in self._ids]
        self.version = max(self.version, version)
        self._place = {name: i for i, name in enumerate(self._ids)}
        self._index = faiss.IndexFlatIP(dim)
        self._index.add(np.ascontiguousarray(self._vectors))
        return int(touched)

    def _ready(self, probes: F32, model_digest: str) -> F32:
        self.check_lease()
        if model_digest != self.model_digest or probes.ndim != 2 or probes.shape[1] != self._vectors.shape[1]:
            what = f"probes of model {model_digest[:12]} and shape {probes.shape} against a gallery of model "
            what += f"{self.model_digest[:12]} and dimension {self._vectors.shape[1]}"
            raise Refused(what, where="matcher", next_step="embed the probes with the gallery's model")
        unit = probes / np.maximum(np.linalg.norm(probes, axis=1, keepdims=True), 1e-12)
        return np.ascontiguousarray(rotated(unit, self._turn) if self._turn is not None else unit, np.float32)

    def _rotation(self, key: bytes | None) -> F64 | None:
        wanted = self._manifest["template_key"]
        if (key_name(key) if key else None) != wanted:
            what = "the templates are under a key" if not key else "this is not the key of the templates"
            what = what if wanted else "the templates are under no key"
            raise ConfigError(
                what, where="matcher", next_step=f"give the key named {wanted}" if wanted else "give none"
            )
        return rotation(key, self._manifest["lake"], self.purpose, self._vectors.shape[1]) if key else None


def _matrix(rows: pa.Table, dim: int = -1) -> F32:
    flat = pc.list_flatten(rows["prototype"].combine_chunks()).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(rows), dim if dim > 0 or not len(rows) else -1), np.float32)


def _exemplars(rows: pa.Table, dim: int) -> list[F16]:
    """The exemplars (k, dim) of each row."""
    return [
        np.frombuffer(b"".join(shown or ()), "<f2").reshape(-1, dim).astype(np.float16)
        for shown in rows["exemplars"].to_pylist()
    ]
