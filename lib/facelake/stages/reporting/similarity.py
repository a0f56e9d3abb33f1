"""Similarity histograms for the report, from a sample of faces of bounded size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import F32, I64, is_of_model
from facelake.lake.sampling import batches, slices
from facelake.report import (
    BINS,
    HIGH,
    LOW,
    Mark,
    Pairs,
    Series,
    Similarity,
    cosine_bins,
    pairs_across,
    pairs_within,
)
from facelake.stages.clustering.calibration_store import read_since
from facelake.stages.core.context import Context
from facelake.stages.gallery.versions import Gallery
from facelake.vectors import embedding_matrix

_FACES = 40_000
_PAIRS = 100_000
_MEANINGS = {
    "impostor_mean": ("different people", "mean similarity of two faces of different people"),
    "edge": ("groups", "least mean similarity at which two groups may be joined"),
    "graph_cut": ("faces", "least similarity at which two faces are linked"),
    "level": ("one person", "typical similarity of two faces of one person"),
}


@dataclass(frozen=True, slots=True)
class _Sample:
    """The sampled faces."""

    vectors: F32
    photo: I64
    label: I64
    """(n,) identity; -1: none"""
    nearest: I64
    """(n,) the identity nearest to that of the face; -1: unknown"""
    note: str


def similarity(context: Context, gallery: Gallery | None) -> Similarity:
    """Return histograms of three kinds of pairs of sampled faces, and the thresholds of the last full clustering."""
    sample = _sample(context, gallery)
    generator = np.random.default_rng(1)
    same_photo = pairs_within(sample.photo, _PAIRS, generator)
    same_identity = pairs_within(sample.label, _PAIRS, generator)
    nearest_identity = pairs_across(sample.label, sample.nearest, _PAIRS, generator)
    series = [
        _series("same photo", sample.vectors, same_photo),
        _series("same identity", sample.vectors, same_identity),
        _series("nearest other identity", sample.vectors, nearest_identity),
    ]
    return Similarity(series, LOW, HIGH, _marks(context), sample.note)


def _series(name: str, vectors: F32, pairs: Pairs) -> Series:
    return Series(name, cosine_bins(vectors, pairs) if len(pairs) else [0] * BINS, len(pairs))


def _marks(context: Context) -> list[Mark]:
    since = read_since(context.lake)
    cuts: dict[str, Any] = dict(since.cuts) if since else {}
    return [
        Mark(name, float(cuts[key]), meaning)
        for key, (name, meaning) in _MEANINGS.items()
        if isinstance(cuts.get(key), int | float)
    ]


def _sample(context: Context, gallery: Gallery | None) -> _Sample:
    model = str(gallery.row["model_digest"] if gallery else context.model_digest)  # identities are of one model
    columns = ["face_id", "image_id", "embedding"]
    # a constant seed: the same state of the lake gives the same report
    sample = slices(
        context.lake["faces"], columns, _FACES, np.random.default_rng(0), lambda file: is_of_model(file.path, model)
    )
    vectors, is_valid = embedding_matrix(sample.rows["embedding"])
    table, kept = sample.rows.select(["face_id", "image_id"]), np.flatnonzero(is_valid)
    if len(kept) < len(is_valid):
        table, vectors = table.take(pa.array(kept)), vectors[kept]
    photo = _numbers(table["image_id"])
    label, nearest = _identities(gallery, table["face_id"], context)
    extent = f"{len(kept):,} of {sample.of_rows:,} faces"
    how = "all of them" if len(kept) == sample.of_rows else f"{sample.slices} slices of data files, chosen at random"
    note = f"Cosines of embeddings as stored, of {extent} ({how}); up to {_PAIRS:,} pairs of each kind."
    return _Sample(vectors, photo, label, nearest, note)


def _numbers(names: pa.ChunkedArray) -> I64:
    """Number (n,) the distinct names in order of their first appearance; -1 for null."""
    values = names.combine_chunks()
    if not len(values):
        return np.zeros(0, np.int64)
    encoded = values.dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return np.asarray(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _identities(gallery: Gallery | None, ids: pa.ChunkedArray, context: Context) -> tuple[I64, I64]:
    """Return per face (n,) the number of its identity and of the identity nearest to that; -1 where there is none."""
    unknown = np.full(len(ids), -1, np.int64)
    if gallery is None or not len(ids):
        return unknown, unknown
    sampled, names = ids.combine_chunks(), [None] * len(ids)
    snapshot = context.lake["memberships"].snapshot(gallery.row["memberships_version"])
    for part in batches(context.lake["memberships"], ["face_id", "identity_id"], snapshot):
        at = pc.index_in(part["face_id"], sampled)
        hit = pc.is_valid(at)
        for place, name in zip(at.filter(hit).to_pylist(), part["identity_id"].filter(hit).to_pylist(), strict=True):
            names[place] = name
    distinct = pc.unique(pa.array(names, pa.string()).drop_null())
    label = np.asarray(pc.fill_null(pc.index_in(pa.array(names, pa.string()), distinct), -1), np.int64)
    return label, _nearest(context, distinct)[label] if len(distinct) else unknown


def _nearest(context: Context, names: pa.Array) -> I64:
    """Return (names + 1,) the number of the identity nearest to each; the last entry, which index -1 reads, is -1."""
    out = np.full(len(names) + 1, -1, np.int64)
    for part in batches(context.lake["identity_stats"], ["identity_id", "nearest_id"]):
        identity = pc.index_in(part["identity_id"], names)
        nearest = pc.index_in(part["nearest_id"], names)
        both_sampled = pc.and_(pc.is_valid(identity), pc.is_valid(nearest)).combine_chunks()
        at = identity.filter(both_sampled).to_numpy().astype(np.int64)
        out[at] = nearest.filter(both_sampled).to_numpy().astype(np.int64)
    return out
