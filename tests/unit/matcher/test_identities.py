"""Mapped identities with changes beside them answer as identities in memory do."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facelake.matcher.identities import FlatIdentities, Identities, MappedIdentities
from facelake.publish.template_files import VectorFiles, Vectors
from facelake.publish.template_index import build_codes
from facelake.stages.sharing.index_files import IndexWriter
from facelake.vectors import encode_embeddings, unit_rows

_DIM = 16


def made(names: list[str], seed: int) -> Vectors:
    """Random identities of up to three exemplars each."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 4, len(names))
    templates = unit_rows(generator.normal(size=(len(names), _DIM)).astype(np.float32))
    exemplars = unit_rows(generator.normal(size=(int(counts.sum()), _DIM)).astype(np.float32)).astype(np.float16)
    return Vectors(names, templates, exemplars, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def mapped(vectors: Vectors, folder: Path) -> MappedIdentities:
    """The same identities in files, all of which are candidates."""
    files = VectorFiles(folder)
    half = len(vectors.ids) // 2
    files.add(vectors.without(vectors.ids[half:]))
    files.add(vectors.without(vectors.ids[:half]))
    assert len(list(files.close())) == 3
    back = Vectors.mapped(folder, vectors.ids, _DIM)
    index, _ = build_codes(back)
    return MappedIdentities(back, index, len(vectors.ids))


def assert_same(one: Identities, other: Identities, probes: np.ndarray) -> None:
    assert len(one) == len(other)
    assert one.ids() == other.ids()
    np.testing.assert_array_equal(one.templates(), other.templates())
    for name in one.ids():
        assert name in other
        np.testing.assert_array_equal(one.exemplars(name), other.exemplars(name))
    (names, similarity), (other_names, other_similarity) = one.nearest(probes, 3), other.nearest(probes, 3)
    np.testing.assert_allclose(similarity, other_similarity, atol=1e-5)
    assert names == other_names


_NAMES = st.lists(st.integers(0, 30).map(lambda number: f"id-{number:03d}"), unique=True, max_size=6)


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(_NAMES, _NAMES), max_size=4), st.integers(0, 5))
def test_changes_lead_to_the_same_identities(changes: list[tuple[list[str], list[str]]], seed: int) -> None:
    vectors = made([f"id-{number:03d}" for number in range(0, 40, 2)], seed)
    probes = unit_rows(np.random.default_rng(seed).normal(size=(5, _DIM)).astype(np.float32))
    with tempfile.TemporaryDirectory() as folder:
        ours: Identities = mapped(vectors, Path(folder))
        reference: Identities = FlatIdentities.of(vectors)
        assert_same(ours, reference, probes)
        for number, (removed, added) in enumerate(changes):
            rows = made(sorted(set(added) - set(removed)), 100 + number)
            ours, reference = ours.updated(removed, rows), reference.updated(removed, rows)
            assert_same(ours, reference, probes)


def test_templates_of_claims_are_zero_for_identities_that_are_not_there(tmp_path: Path) -> None:
    vectors = made(["a", "b", "c"], 1)
    for identities in (FlatIdentities.of(vectors), mapped(vectors, tmp_path)):
        out = identities.updated(["b"], made([], 0)).templates(["c", "b", "x"])
        np.testing.assert_array_equal(out, [vectors.templates[2], np.zeros(_DIM), np.zeros(_DIM)])


@pytest.mark.parametrize("name", ["templates.f32", "exemplars.f16", "exemplar_starts.i64"])
def test_files_that_do_not_fit_the_ids_are_refused(tmp_path: Path, name: str) -> None:
    mapped(made(["a", "b", "c"], 1), tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"rows of|templates and"):
        Vectors.mapped(tmp_path, ["a", "b", "c"], _DIM)


def test_the_writer_maps_above_its_limit_only(tmp_path: Path) -> None:
    vectors = made([f"id-{number:03d}" for number in range(300)], 2)
    stored = [encode_embeddings(vectors.exemplars_of(row)) for row in range(300)]
    rows = pa.table({"identity_id": vectors.ids, "prototype": list(vectors.templates), "exemplars": stored})
    for limit, kind, files in ((300, "flat", 1), (299, "codes", 4)):
        writer = IndexWriter(tmp_path, 300, flat_up_to=limit)
        writer.add(rows.slice(0, 100))
        writer.add(rows.slice(100))
        facts, names = writer.finish()
        assert (facts.kind, len(names)) == (kind, files)
    assert facts.recall_at_1 >= 0.997
    assert facts.measured_on == 300
    back = Vectors.mapped(tmp_path, vectors.ids, _DIM)
    np.testing.assert_array_equal(back.templates, vectors.templates)
    np.testing.assert_array_equal(back.exemplars, vectors.exemplars)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97, 1.0])
def test_many_that_were_removed_leave_no_gaps(tmp_path: Path, share: float) -> None:
    """Codes of removed identities fill the candidates, so that those that are left must be found otherwise."""
    vectors = made([f"id-{number:05d}" for number in range(2_000)], 1)
    files = VectorFiles(tmp_path)
    files.add(vectors)
    list(files.close())
    back = Vectors.mapped(tmp_path, vectors.ids, _DIM)
    index, _ = build_codes(back)
    gone = np.random.default_rng(2).permutation(vectors.ids)[: round(share * 2_000)].tolist()
    nothing = Vectors.concat([], _DIM)
    probes = unit_rows(np.random.default_rng(3).normal(size=(20, _DIM)).astype(np.float32))
    codes = MappedIdentities(back, index, 64).updated(gone, nothing)
    names, similarity = codes.nearest(probes, 5)
    kept = vectors.without(set(gone))
    if not kept.ids:
        assert names == [[]] * 20
        return
    wanted, best = FlatIdentities.of(kept).nearest(probes, 5)
    assert [len(row) for row in names] == [5] * 20
    assert np.isfinite(similarity).all()
    if share > 0.5:  # all that are left are compared
        assert names == wanted
        np.testing.assert_allclose(similarity, best, atol=1e-5)
