"""How alike faces are, for the report: cosines of a sample of faces, whatever the size of the lake."""

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
    "impostor_mean": ("different people", "what two faces of different people usually have"),
    "edge": ("edge", "from here on two single faces may be joined"),
    "level": ("one person", "what two faces of one person usually have"),
}


@dataclass(frozen=True, slots=True)
class _Sample:
    """Faces that are compared."""

    vectors: F32
    photo: I64
    label: I64
    """(n,) identity, -1: none"""
    nearest: I64
    """(n,) identity nearest to the face's, -1: not known"""
    note: str


def similarity(context: Context, gallery: Gallery | None) -> Similarity:
    """Histograms of three kinds of pairs in a sample of faces, and the thresholds of the last clustering of all."""
    sample = _sample(context, gallery)
    generator = np.random.default_rng(1)
    photo = pairs_within(sample.photo, _PAIRS, generator)
    within = pairs_within(sample.label, _PAIRS, generator)
    nearest = pairs_across(sample.label, sample.nearest, _PAIRS, generator)
    series = [
        _series("same photo", sample.vectors, photo),
        _series("one identity", sample.vectors, within),
        _series("nearest other identity", sample.vectors, nearest),
    ]
    return Similarity(series, LOW, HIGH, _marks(context), sample.note)


def _series(name: str, vectors: F32, pairs: Pairs) -> Series:
    return Series(name, cosine_bins(vectors, pairs) if len(pairs) else [0] * BINS, len(pairs))


def _marks(context: Context) -> list[Mark]:
    since = read_since(context.lake)
    cuts: dict[str, Any] = dict(since.cuts) if since else {}
    found = []
    for key, (name, meaning) in _MEANINGS.items():
        if isinstance(cuts.get(key), int | float):
            found.append(Mark(name, float(cuts[key]), meaning))
    return found


def _sample(context: Context, gallery: Gallery | None) -> _Sample:
    model = str(gallery.row["model_digest"] if gallery else context.model_digest)  # what the identities are made of
    columns = ["face_id", "image_id", "embedding"]
    # the same faces whoever draws the same lake again: the report of one state is one page
    found = slices(
        context.lake["faces"], columns, _FACES, np.random.default_rng(0), lambda file: is_of_model(file.path, model)
    )
    vectors, sound = embedding_matrix(found.rows["embedding"])
    table, kept = found.rows.select(["face_id", "image_id"]), np.flatnonzero(sound)
    if len(kept) < len(sound):
        table, vectors = table.take(pa.array(kept)), vectors[kept]
    photo = _numbers(table["image_id"])
    label, nearest = _identities(gallery, table["face_id"], context)
    said = f"{len(kept):,} of {found.of_rows:,} faces"
    how = "all of them" if len(kept) == found.of_rows else f"{found.slices} slices of data files, chosen by chance"
    note = f"Cosines of embeddings as stored, of {said} ({how}); up to {_PAIRS:,} pairs of each kind."
    return _Sample(vectors, photo, label, nearest, note)


def _numbers(names: pa.ChunkedArray) -> I64:
    values = names.combine_chunks()
    if not len(values):
        return np.zeros(0, np.int64)
    found = values.dictionary_encode()
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return np.asarray(found.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _identities(gallery: Gallery | None, ids: pa.ChunkedArray, context: Context) -> tuple[I64, I64]:
    """Per face (n,) the number of its identity and of the one nearest to that; memberships are read in batches."""
    nobody = np.full(len(ids), -1, np.int64)
    if gallery is None or not len(ids):
        return nobody, nobody
    wanted, names = ids.combine_chunks(), [None] * len(ids)
    snapshot = context.lake["memberships"].snapshot(gallery.row["memberships_version"])
    for part in batches(context.lake["memberships"], ["face_id", "identity_id"], snapshot):
        at = pc.index_in(part["face_id"], wanted)
        hit = pc.is_valid(at)
        for place, name in zip(at.filter(hit).to_pylist(), part["identity_id"].filter(hit).to_pylist(), strict=True):
            names[place] = name
    label_names = pc.unique(pa.array(names, pa.string()).drop_null())
    label = np.asarray(pc.fill_null(pc.index_in(pa.array(names, pa.string()), label_names), -1), np.int64)
    return label, _nearest(context, label_names)[label] if len(label_names) else nobody


def _nearest(context: Context, names: pa.Array) -> I64:
    """Number (names + 1,) of the identity nearest to each; the last one, where -1 points to, is -1."""
    out = np.full(len(names) + 1, -1, np.int64)
    for part in batches(context.lake["identity_stats"], ["identity_id", "nearest_id"]):
        mine = pc.index_in(part["identity_id"], names)
        theirs = pc.index_in(part["nearest_id"], names)
        both = pc.and_(pc.is_valid(mine), pc.is_valid(theirs)).combine_chunks()
        at = mine.filter(both).to_numpy().astype(np.int64)
        out[at] = theirs.filter(both).to_numpy().astype(np.int64)
    return out
