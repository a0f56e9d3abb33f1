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
import pyarrow.parquet as pq

from facelake.config import S3Section
from facelake.contracts import F32, F64, I64
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
    """The identities of one export, in memory: dim * 4 bytes each, and a FAISS flat index of as much."""

    def __init__(self, manifest: dict[str, Any], rows: pa.Table, key: bytes | None, now: datetime | None) -> None:
        self._manifest, self._now = manifest, now
        self.version = int(manifest["gallery_version"])
        self.model_digest, self.purpose = str(manifest["model_digest"]), str(manifest["purpose"])
        self.lease_id, self.expires_at = str(manifest["lease_id"]), datetime.fromisoformat(manifest["expires_at"])
        self.check_lease()
        self._ids: list[str] = rows["identity_id"].to_pylist()
        self._vectors = _matrix(rows)
        self._turn = self._rotation(key)
        self._build()

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
        return cls(manifest, pq.read_table(pa.BufferReader(files["identities.parquet"])), key, now)

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

    def verify(self, probes: F32, identity_ids: Sequence[str], model_digest: str) -> F32:
        """1:1: the similarity (n,) of each probe to the identity that it claims to be; nan for one that is not here."""
        ready = self._ready(probes, model_digest)
        place: I64 = np.array([self._place.get(name, -1) for name in identity_ids], np.int64)
        found = np.einsum("ij,ij->i", ready, self._vectors[np.maximum(place, 0)]) if len(self._ids) else np.zeros(0)
        return np.where(place >= 0, found, np.nan).astype(np.float32)

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
        held = dict(zip(self._ids, self._vectors, strict=True))
        touched = 0
        for row in table.to_pylist():
            if row["status"] != "active":
                touched += held.pop(row["identity_id"], None) is not None
                continue
            if row["model_digest"] != self.model_digest:
                raise Refused("the changes are of another model", where="matcher", next_step="ask for another export")
            vector = np.asarray(row["prototype"], np.float32)
            held[row["identity_id"]] = vector
            touched += 1
        self._ids = sorted(held)
        dim = self._vectors.shape[1]
        self._vectors = np.array([held[name] for name in self._ids], np.float32).reshape(len(self._ids), dim)
        self.version = max(self.version, version)
        self._build()
        return touched

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

    def _build(self) -> None:
        self._place = {name: i for i, name in enumerate(self._ids)}
        self._index = faiss.IndexFlatIP(self._vectors.shape[1])
        self._index.add(np.ascontiguousarray(self._vectors))


def _matrix(rows: pa.Table) -> F32:
    flat = rows["prototype"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(rows), -1), np.float32)
