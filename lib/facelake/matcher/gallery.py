"""The client of a downstream matcher: opens a leased export, answers 1:1 and 1:N, applies changes.

    gallery = Gallery.open("export", keys=["3f0c..."])   # a folder, or s3://bucket/prefix
    matches = gallery.search(probes, gallery.model_digest, k=5)
    gallery.apply("changes")                             # the folder that `feed changes` wrote
    gallery.renew("renewal")                             # the folder that `feed renew` wrote

It refuses an export whose lease has expired, whose signature or files do not fit, or that is for another purpose;
probes of another model or dimension, zero or not finite; and a key-protected export without its key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import S3Section
from facelake.contracts import F32, F64, reference
from facelake.errors import ConfigError, Corrupt, Refused
from facelake.lake.store import open_store
from facelake.matcher.content import DAMAGED, damaged, read_identities
from facelake.matcher.copy_files import CheckedFiles, signed_manifest
from facelake.matcher.identities import Identities
from facelake.matcher.manifests import check_changes, check_export
from facelake.publish.template_files import Vectors
from facelake.publish.thresholds import rate_at
from facelake.publish.transform import key_name, rotated, rotation
from facelake.vectors import unit_rows

_LEAST_NORM = 1e-6  # of a probe; an encoder's output has a norm near 1 or above


@dataclass(frozen=True, slots=True)
class Matches:
    """The k nearest identities of n probes, best first."""

    identity_ids: list[list[str]]
    similarity: F32
    """(n, k) float32 cosines, descending per row; with fewer than k identities there are fewer columns"""


class Gallery:
    """The identities of one export.

    Few are read into memory: a template of 4 * dim bytes each, a FAISS flat index of the same size, and the exemplars
    of 2 * dim bytes. Of many (template_index.py) the vectors are mapped files, and what changes is kept in memory.
    """

    def __init__(
        self, manifest: dict[str, Any], identities: Identities, *, key: bytes | None = None, now: datetime | None = None
    ) -> None:
        """Use identities under a manifest that was checked; `open` reads both."""
        self._manifest, self._now = manifest, now
        self._computed_at = _moment(manifest, "computed_at", "exported_at")
        self._keys: tuple[str, ...] = ()
        self._files: CheckedFiles | None = None
        self.version = int(manifest["gallery_version"])
        self.model_digest, self.purpose = str(manifest["model_digest"]), str(manifest["purpose"])
        self.lake = str(manifest["lake"])
        self.lease_id, self.expires_at = str(manifest["lease_id"]), datetime.fromisoformat(manifest["expires_at"])
        self.check_lease()
        self._needs = _needed_changes(manifest)
        self._identities = identities
        self._rotation = self._check_key(key)

    @classmethod
    def open(
        cls,
        uri: str,
        *,
        key: bytes | None = None,
        keys: Collection[str] = (),
        purpose: str | None = None,
        s3: S3Section | None = None,
        now: datetime | None = None,
    ) -> Gallery:
        """Open an export.

        The digest of every file is compared with the manifest. A local folder must not change while it is open; from
        s3:// the files are copied to a temporary folder.

        Args:
            uri: a folder, or s3://bucket/prefix.
            key: the template protection key of the export, if it has one.
            keys: fingerprints of the keys that may have signed it (`facelake certificate key`); empty: any key, which
                proves only that the export is as it was signed.
            purpose: for which the matcher is operated; None: not compared.
            s3: how to reach the store.
            now: the time at which leases are checked, for tests; default: the clock.

        Raises:
            ConfigError: no export at the URI, or a missing or wrong key.
            Corrupt: the signature does not fit the manifest, or a file does not.
            Refused: the lease has expired, or the export is for another purpose.
        """
        store = open_store(uri, s3)
        manifest = signed_manifest(store, keys)
        check_export(manifest, f"{store.uri}/manifest.json")
        if purpose is not None and reference(purpose) != manifest["purpose"]:
            what = f"the export is for the purpose {manifest['purpose']!r}, not for {purpose!r}"
            raise Refused(what, where=uri, next_step="request an export for your purpose")
        files = CheckedFiles.of(uri, store, manifest)
        gallery = cls(manifest, read_identities(files, manifest, uri), key=key, now=now)
        gallery._keys, gallery._files = tuple(keys), files
        return gallery

    def __len__(self) -> int:
        return len(self._identities)

    def __contains__(self, identity_id: object) -> bool:
        return identity_id in self._identities

    @property
    def computed_at(self) -> datetime:
        """When the content of this copy was computed: at the export, or for the changes that were last applied."""
        return self._computed_at

    @property
    def identity_ids(self) -> list[str]:
        """The ids of all identities, ascending."""
        return self._identities.ids()

    def templates(self) -> F32:
        """The unit templates (n, dim) of all identities in the order of `identity_ids`; read where they are mapped."""
        return self._identities.templates()

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

    def operating_point(self, fmr: float) -> tuple[float, str]:
        """The similarity threshold at a false match rate, and where it comes from: `measured` or `extrapolated`.

        Galleries with few identities have too few comparisons for low rates; the export then has an estimate from the
        tail of those that there are (`publish/thresholds.py`), which is rather too high than too low.

        Raises:
            ConfigError: the export has no threshold at this rate, or too few comparisons to estimate one.
        """
        for row in self._manifest["thresholds"]:
            if row["fmr"] == fmr and row["similarity"] is not None:
                return float(row["similarity"]), "measured"
            if row["fmr"] == fmr and row.get("extrapolated") is not None:
                return float(row["extrapolated"]), "extrapolated"
        points = self._manifest["thresholds"]
        known = [row["fmr"] for row in points if row["similarity"] is not None or row.get("extrapolated") is not None]
        what = f"no threshold at FMR {fmr:g}: it was not measured, or the gallery has too few identities"
        next_step = f"use one of {known}, or" if known else "give a similarity of your own (`--threshold`), or"
        raise ConfigError(what, where="matcher", next_step=f"{next_step} a gallery of some 20 or more identities")

    def false_match_rate(self, similarity: float) -> tuple[float, float] | None:
        """The false match rate of a comparison at a similarity, and the upper end of its 95 % interval.

        None if the export has no impostor comparisons. In 1:N the rate applies to each identity of the gallery.
        """
        return rate_at(similarity, self._manifest["impostor_curve"])

    def search(self, probes: F32, model_digest: str, k: int = 1) -> Matches:
        """1:N: the k most similar identities of each probe; by codes the best one is missed for a few (see
        `index` in the manifest).

        Args:
            probes: (n, dim) float32 embeddings; need not be of unit norm.
            model_digest: digest of the model that embedded the probes.

        Raises:
            ConfigError: k is less than 1.
            Refused: the lease has expired, or the probes are of another model or dimension.
        """
        if k < 1:
            raise ConfigError(f"{k} candidates per probe", where="matcher", next_step="give a k of at least 1")
        ready = self._ready(probes, model_digest)
        if not len(self._identities):  # changes may have removed all
            return Matches([[] for _ in ready], np.zeros((len(ready), 0), np.float32))
        return Matches(*self._identities.nearest(ready, k))

    def similarities(self, probes: F32, model_digest: str) -> tuple[F32, list[str]]:
        """The similarity (n, identities) of each probe to each template, and the identity ids in that order.

        Raises:
            Refused: as `search`.
        """
        ready, identities = self._ready(probes, model_digest), self._identities  # another thread may apply changes
        return np.asarray(ready @ identities.templates().T, np.float32), identities.ids()

    def verify(self, probes: F32, identity_ids: Sequence[str], model_digest: str, *, exemplars: bool = False) -> F32:
        """1:1: the similarity (n,) float32 of each probe to its claimed identity; NaN if the gallery does not have it.

        Args:
            exemplars: return the best similarity over the template and the exemplars. This raises recall across modes
                (glasses, age) and needs its own threshold: those of the export apply to templates.

        Raises:
            Refused: as `search`.
        """
        ready, identities = self._ready(probes, model_digest), self._identities
        known = np.array([name in identities for name in identity_ids], bool)
        similarity = np.einsum("ij,ij->i", ready, identities.templates(identity_ids))
        for i in np.flatnonzero(known).tolist() if exemplars else ():
            vectors = identities.exemplars(identity_ids[i]).astype(np.float32)
            similarity[i] = max(similarity[i], float((vectors @ ready[i]).max(initial=-1.0)))
        return np.where(known, similarity, np.nan).astype(np.float32)

    def same_as(self, other: Gallery) -> bool:
        """Whether two copies hold the same identities with bit-identical vectors."""
        ids, mine, theirs = self.identity_ids, self._identities, other._identities
        return (
            ids == other.identity_ids
            and np.array_equal(self.templates(), other.templates())
            and all(np.array_equal(mine.exemplars(name), theirs.exemplars(name)) for name in ids)
        )

    def apply(self, uri: str, *, s3: S3Section | None = None) -> int:
        """Apply what `feed changes` wrote: replace or add active identities, remove the others. Idempotent.

        Args:
            uri: the folder, or s3://bucket/prefix, written with the key of this export, if it has one.
            s3: how to reach the store.

        Returns:
            The number of identities that were added, replaced or removed.

        Raises:
            ConfigError: no changes at the URI, or under another key.
            Corrupt: signature or files do not fit, or the result does not have the stated number of identities.
            Refused: the changes are of another lease or model, leave out versions, are older than the copy, or the
                lease has expired.
        """
        store = open_store(uri, s3)
        manifest, what = signed_manifest(store, self._keys), None
        if manifest.get("kind") != "changes" or manifest.get("lease_id") != self.lease_id:
            what = f"these are not the changes of lease {self.lease_id}"
            raise Refused(what, where=uri, next_step="run `facelake feed changes` for this lease and version")
        check_changes(manifest, f"{store.uri}/manifest.json")
        if manifest["since"] > self.version:
            what = f"the changes begin at gallery {manifest['since']}, this copy is at {self.version}"
        elif manifest["gallery_version"] < self.version or _moment(manifest, "computed_at") < self._computed_at:
            what = "these changes are older than this copy, and would bring back what was removed since"
        elif manifest["template_key"] != self._manifest["template_key"]:
            what = "the changes are under another template key"
        if what:
            raise Refused(what, where=uri, next_step="run `facelake feed changes` for this lease and version")
        files, before = CheckedFiles.of(uri, store, manifest), (self._identities, self.version)
        try:
            parts = list(files.parts("changes"))
            touched = self.apply_rows(pa.concat_tables(parts), manifest["gallery_version"]) if parts else 0
        except DAMAGED as err:
            raise damaged(err, uri, "have the changes written again") from err
        if (left := len(self)) != manifest["identities"]:
            self._identities, self.version = before
            what = f"after the changes there would be {left} identities, in the lake {manifest['identities']}"
            raise Corrupt(what, where=uri, next_step="have the copy returned, and request another export")
        self.version = max(self.version, manifest["gallery_version"])
        self._computed_at = _moment(manifest, "computed_at")
        return touched

    def renew(self, uri: str, *, s3: S3Section | None = None) -> datetime:
        """Take the later end of the lease from a renewed manifest; returns it.

        Put the manifest in place of the one of the export, so that it is opened with the new end.

        Args:
            uri: the folder, or s3://bucket/prefix, to which `feed renew` wrote.
            s3: how to reach the store.

        Raises:
            ConfigError: no manifest at the URI.
            Corrupt: its signature does not fit.
            Refused: it is not of this copy, or its lease ends no later.
        """
        store = open_store(uri, s3)
        manifest = signed_manifest(store, self._keys)
        check_export(manifest, f"{store.uri}/manifest.json")
        end, what = datetime.fromisoformat(manifest["expires_at"]), None
        if _without_end(manifest) != _without_end(self._manifest):
            what = f"this is not a renewal of the copy under {self.lease_id}"
        elif "renewal" not in manifest or end <= self.expires_at:
            what = f"this manifest does not renew the lease beyond {self.expires_at:%Y-%m-%d}"
        if what:
            raise Refused(what, where=uri, next_step="have the controller run `facelake feed renew` for this lease")
        self._manifest, self.expires_at, self._needs = manifest, end, _needed_changes(manifest)
        return end

    def apply_rows(self, table: pa.Table, version: int) -> int:
        """Apply rows of changes without checking where they come from; otherwise as `apply`.

        Args:
            table: rows as in the files of `feed changes`.
            version: the gallery version that the changes lead to.

        Raises:
            Refused: the changes are of another model, or the lease has expired.
        """
        self.check_lease()
        active = pc.equal(table["status"], "active")
        active_rows = table.filter(active)
        if set(active_rows["model_digest"].to_pylist()) - {self.model_digest}:
            raise Refused("the changes are of another model", where="matcher", next_step="request another export")
        removed = table.filter(pc.invert(active))["identity_id"].to_pylist()
        touched = active_rows.num_rows + sum(name in self._identities for name in removed)
        rows = Vectors.of_rows(active_rows, self._identities.dim)
        self._identities = self._identities.updated(removed, rows)
        self.version = max(self.version, version)
        return int(touched)

    def _check_changes(self) -> None:
        """Check that a renewed copy has the changes that its recipient had acknowledged.

        Raises:
            Refused: it lacks them; its files are those of the export.
        """
        if self._needs is not None and self._computed_at < self._needs:
            what = f"the lease {self.lease_id} was renewed for a copy with the changes of {self._needs:%Y-%m-%d %H:%M}"
            raise Refused(what, where="matcher", next_step="apply them: gallery.apply(...)")

    def _ready(self, probes: F32, model_digest: str) -> F32:
        self.check_lease()
        self._check_changes()
        if model_digest != self.model_digest or probes.ndim != 2 or probes.shape[1] != self._identities.dim:
            what = f"probes of model {model_digest[:12]} and shape {probes.shape} against a gallery of model "
            what += f"{self.model_digest[:12]} and dimension {self._identities.dim}"
            raise Refused(what, where="matcher", next_step="embed the probes with the gallery's model")
        norms = np.linalg.norm(probes, axis=1)
        if bad := int((~(np.isfinite(norms) & (norms > _LEAST_NORM))).sum()):
            what = f"{bad} of {len(probes)} probes are zero or not finite"
            raise Refused(what, where="matcher", next_step="leave out photos without an embedding")
        unit = unit_rows(probes)
        return np.ascontiguousarray(rotated(unit, self._rotation) if self._rotation is not None else unit, np.float32)

    def _check_key(self, key: bytes | None) -> F64 | None:
        """The rotation that the key stands for, None for an unprotected export; raises ConfigError for a wrong key."""
        wanted = self._manifest["template_key"]
        if (key_name(key) if key else None) != wanted:
            what = "the templates are protected by a key" if not key else "this is not the key of the templates"
            what = what if wanted else "the templates are not protected by a key"
            raise ConfigError(
                what,
                where="matcher",
                next_step=f"pass the key named {wanted} (--key-env)" if wanted else "omit the key",
            )
        return rotation(key, self._manifest["lake"], self.purpose, self._identities.dim) if key else None


def _needed_changes(manifest: dict[str, Any]) -> datetime | None:
    """As of when the changes were computed that a renewed copy must have; None before a renewal."""
    renewal = manifest.get("renewal")
    return datetime.fromisoformat(renewal["needs_changes_of"]) if renewal else None


def _without_end(manifest: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name not in ("expires_at", "renewal", "signature")}


def _moment(manifest: dict[str, Any], *names: str) -> datetime:
    """The time at which a manifest says that its content was computed, by the first of some fields that it has."""
    return datetime.fromisoformat(next(manifest[name] for name in names if name in manifest))
