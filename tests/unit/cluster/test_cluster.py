"""Neighbours, lists and calibration: against brute force, whatever the order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.cluster import columns
from facelake.cluster.calibrate import Calibration, Prior, Similarities, calibrate, with_level
from facelake.cluster.edges import clear_nearest, mutual_or_strong
from facelake.cluster.lists import FACES_PER_CELL, Index, divided, lists_of, nearest, spherical_kmeans, trained_index
from facelake.cluster.neighbours import (
    Neighbours,
    Ragged,
    Search,
    exact_join,
    exact_join_in_threads,
    fold_queries,
    join,
    join_lists,
    union,
)
from facelake.cluster.nuisance import nuisance_directions, without


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    x = generator.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def people(
    generator: np.random.Generator, sizes: list[int], dim: int = 64, noise: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    truth = np.repeat(np.arange(len(sizes)), sizes)
    x = unit(generator, len(sizes), dim)[truth] + noise * unit(generator, len(truth), dim)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), truth


def test_a_cell_with_far_more_faces_than_others_is_divided_along_its_lists() -> None:
    x, _ = people(np.random.default_rng(7), [20] * 100)
    lists, centroid = lists_of(x, 300, 0), unit(np.random.default_rng(8), 64)
    cells, same, count = divided(lists, centroid, 3 * FACES_PER_CELL, 1)
    assert np.array_equal(cells[0], centroid)
    assert np.array_equal(same, lists)
    assert count.tolist() == [300]
    cells, moved, count = divided(lists, centroid, 5 * FACES_PER_CELL, 1)
    assert len(cells) == len(count) == 5
    assert count.sum() == 300
    assert np.array_equal(np.unique(moved, axis=0), np.unique(lists, axis=0))  # each list in one cell, none lost
    at_home = nearest(moved, cells, 1)[:, 0]
    assert np.array_equal(at_home, np.repeat(np.arange(5), count))


def as_pairs(found: Neighbours) -> set[tuple[int, int]]:
    row, column = np.nonzero(found.index >= 0)
    return set(zip(row.tolist(), found.index[row, column].tolist(), strict=True))


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 9999))
def test_join_is_brute_force(count: int, k: int, seed: int) -> None:
    x = unit(np.random.default_rng(seed), count, 16)
    found = exact_join(x, k, 0.1)
    similarity = x @ x.T
    np.fill_diagonal(similarity, -2)
    for i in range(count):
        best = [j for j in sorted(range(count), key=lambda j: -similarity[i, j])[:k] if similarity[i, j] >= 0.1]
        assert found.index[i, : len(best)].tolist() == best
        assert (found.index[i, len(best) :] == -1).all()
        np.testing.assert_allclose(found.cosine[i, : len(best)], similarity[i, best], atol=1e-5)


def test_a_join_in_threads_finds_the_same() -> None:
    x = unit(np.random.default_rng(3), 4_500, 24)  # three blocks
    one, more = exact_join(x, 7, 0.3), exact_join_in_threads(x, 7, 0.3)
    assert np.array_equal(one.index, more.index)
    assert np.array_equal(one.cosine, more.cosine)


def whole_list(x: np.ndarray, search: Search, lists: int, seed: int = 0) -> Neighbours:
    centroids = lists_of(x, lists, seed)
    homes = nearest(x, centroids, search.probes)
    everyone = np.repeat(np.arange(len(x), dtype=np.int32), homes.shape[1])
    return join_lists(x, everyone, homes.ravel(), centroids, search)


def test_lists_find_nearly_all_near_neighbours() -> None:
    x, _ = people(np.random.default_rng(3), [20] * 100)
    exact = as_pairs(exact_join(x, 10, 0.5))
    found = as_pairs(whole_list(x, Search(10, 0.5, probes=4), 20))
    assert len(found & exact) / len(exact) > 0.97


def test_many_vectors_are_joined_by_lists_with_nearly_all_neighbours() -> None:
    x, _ = people(np.random.default_rng(5), [6] * 700)
    exact = as_pairs(join(x, Search(10, 0.5)))
    assert exact == as_pairs(exact_join(x, 10, 0.5))
    search = Search(10, 0.5, probes=5, exact_below=1_000)
    found = as_pairs(join(x, search))
    assert len(found & exact) / len(exact) > 0.97
    assert found == as_pairs(join(x, search))


@given(st.integers(0, 9999), st.integers(1, 400), st.integers(1, 60_000))
def test_trained_index_has_about_as_many_lists_as_were_asked_for(seed: int, sampled: int, faces: int) -> None:
    sample = unit(np.random.default_rng(seed), sampled, 6)
    faces = max(faces, sampled)
    index = trained_index(sample, faces, 70, seed)
    assert len(index.first) == len(index.cells) + 1
    assert (np.diff(index.first) >= 1).all()
    assert index.first[-1] == len(index.lists) <= sampled + len(index.cells)
    np.testing.assert_allclose(np.linalg.norm(index.lists, axis=1), 1, atol=1e-5)
    if faces >= 70 * 10 and sampled * 70 >= 2 * faces:
        assert 0.5 * faces / 70 <= len(index.lists) <= 1.5 * faces / 70 + len(index.cells)


@pytest.mark.parametrize("people_count", [1, 3])
def test_a_long_list_is_cut_and_everyone_still_finds_many(people_count: int) -> None:
    x, truth = people(np.random.default_rng(4), [3000] * people_count)
    search = Search(8, 0.3, probes=1, list_size=20)
    found = whole_list(x, search, people_count)
    assert search.longest < 3000
    assert ((found.index >= 0).sum(1) == 8).mean() > 0.99
    row, column = np.nonzero(found.index >= 0)
    assert (truth[row] == truth[found.index[row, column]]).all()


@given(st.integers(0, 9999), st.integers(1, 9), st.integers(1, 5))
def test_index_over_all_cells_is_brute_force(seed: int, cells: int, probes: int) -> None:
    generator = np.random.default_rng(seed)
    lists = [unit(generator, int(generator.integers(1, 6)), 8) for _ in range(cells)]
    first = np.concatenate([[0], np.cumsum([len(part) for part in lists])]).astype(np.int64)
    index = Index(unit(generator, cells, 8), np.concatenate(lists), first)
    x = unit(generator, 30, 8)
    wanted = np.argsort(-(x @ index.lists.T), axis=1, kind="stable")[:, :probes]
    np.testing.assert_array_equal(index.assign(x, probes, cells), wanted)


def test_kmeans_finds_planted_people_and_stands_equal_vectors() -> None:
    x, truth = people(np.random.default_rng(1), [40] * 6, noise=0.3)
    home = nearest(x, spherical_kmeans(x, 12, 0, 10), 1)[:, 0]
    assert all(len(set(truth[home == c])) <= 1 for c in range(12))
    assert np.isfinite(spherical_kmeans(np.tile(x[:1], (50, 1)), 7, 0, 5)).all()


@given(st.integers(0, 9999), st.integers(1, 6))
def test_union_is_the_best_of_all(seed: int, k: int) -> None:
    generator = np.random.default_rng(seed)
    faces = np.sort(generator.choice(50, 12, replace=False)).astype(np.int32)
    parts, known = [], {int(face): {} for face in faces}
    for _ in range(4):
        some = np.sort(generator.choice(faces, 6, replace=False)).astype(np.int32)
        start, index, cosine = [0], [], []
        for face in some:
            near = generator.choice(50, int(generator.integers(0, 5)), replace=False)
            value = np.round(generator.uniform(0, 1, len(near)), 2).astype(np.float16)
            order = np.lexsort((near, -value))
            index += near[order].tolist()
            cosine += value[order].tolist()
            start.append(len(index))
            for j, v in zip(near.tolist(), value.tolist(), strict=True):
                known[int(face)][j] = max(v, known[int(face)].get(j, -1))
        part = Ragged(np.array(start), np.array(index, np.int32), np.array(cosine, np.float16))
        parts.append((some, part))
    made = union(parts, faces, k)
    for i, face in enumerate(faces.tolist()):
        wanted = sorted(known[face].items(), key=lambda item: (-item[1], item[0]))[:k]
        assert [(j, pytest.approx(v)) for j, v in wanted] == [
            (int(j), float(v)) for j, v in zip(made.index[i], made.cosine[i], strict=True) if j >= 0
        ]


def test_queries_see_everyone_at_home_but_themselves() -> None:
    x, _ = people(np.random.default_rng(9), [5] * 20)
    faces, home = np.arange(10, dtype=np.int32), np.arange(100, dtype=np.int32)
    half = x.astype(np.float16)
    found = fold_queries(faces, half[:10], home, half, 6, 0.2)
    exact = exact_join(half.astype(np.float32), 6, 0.2).ragged()
    np.testing.assert_array_equal(found.near.index, exact.index[: exact.start[10]])


def test_calibration_reads_impostors_off_a_corpus_and_falls_back_on_the_card() -> None:
    generator = np.random.default_rng(2)
    prior = Prior(0.12, 0.09, 0.8)
    small, _ = people(generator, [5] * 20)
    assert calibrate(small, np.arange(100), 100, prior, 0).impostor_mean == 0.12
    large, _ = people(generator, [10] * 500, dim=128)
    cuts = calibrate(large, np.arange(5000), 5000, prior, 0)
    assert abs(cuts.impostor_mean) < 0.02
    assert abs(cuts.impostor_sd - 1 / np.sqrt(128)) < 0.02
    assert "random pairs" in cuts.evidence
    assert calibrate(large, np.arange(5000), 5000, prior, 0, fixed=0.33).edge == 0.33
    seen = Similarities.of(exact_join(large, 9, cuts.edge).ragged())
    assert abs(with_level(cuts, seen, 5000).level - 0.8) < 0.05


def test_in_a_small_corpus_too_the_edge_does_not_lie_among_pairs_of_one_person() -> None:
    prior = Prior(0.12, 0.09, 0.8)
    for faces in (100, 2_000, 100_000):
        start = calibrate(np.eye(5, dtype=np.float32), np.arange(5), faces, prior, 0)
        few = Similarities(np.zeros(1000, np.int64), np.zeros(1000, np.int64))
        cuts = with_level(start, few, faces)
        assert cuts.edge == pytest.approx(min(start.edge, 0.12 + 0.54 * 0.68))
        assert cuts.chance == start.edge
        assert cuts.mean_of_groups == pytest.approx(0.12 + 0.45 * 0.68)
        by_hand = calibrate(np.eye(5, dtype=np.float32), np.arange(5), faces, prior, 0, fixed=0.6)
        assert with_level(by_hand, few, faces).edge == 0.6


def test_frames_of_one_occasion_do_not_raise_the_level_beyond_the_cards() -> None:
    start = calibrate(np.eye(5, dtype=np.float32), np.arange(5), 5_000, Prior(0.12, 0.09, 0.8, nearest_most=0.75), 0)
    every, best = np.full(1000, 10_000), np.zeros(1000, np.int64)
    best[[880, 920]] = 3_000
    frames = Similarities(every, best)
    cuts = with_level(start, frames, 5_000)
    assert (cuts.nearest_low, cuts.level) == (0.75, pytest.approx(0.775))
    assert cuts.graph_cut == pytest.approx(0.12 + 0.7 * 0.63, abs=0.001)
    portraits = Similarities(every, np.roll(best, -200))
    assert with_level(start, portraits, 5_000).nearest_low == pytest.approx(0.68, abs=0.001)


def test_look_alikes_just_above_the_edge_and_frames_of_sessions_do_not_move_the_cuts() -> None:
    start = calibrate(np.eye(5, dtype=np.float32), np.arange(5), 20_000, Prior(0.0, 0.045, 0.7), 0)

    def cuts(look_alikes: int, frames: int) -> Calibration:
        best, every = np.zeros(1000, np.int64), np.zeros(1000, np.int64)
        best[500:900] = every[500:900] = 25  # 10,000 faces, each as alike to its nearest photo
        every[230:330] += look_alikes
        every[850:900] += frames
        return with_level(start, Similarities(every, best), 20_000)

    plain = cuts(0, 0)
    assert (plain.nearest_low, plain.level) == pytest.approx((0.6, 0.65), abs=0.002)
    for other in (cuts(3_000, 0), cuts(0, 3_000)):
        assert (other.level, other.edge, other.attach) == (plain.level, plain.edge, plain.attach)
        assert abs(other.graph_cut - plain.graph_cut) <= 0.001
    assert plain.attach == pytest.approx(0.3, abs=0.002)  # chance alone would say .23


def test_beyond_a_hundred_thousand_faces_the_least_cut_rises_as_chance_does() -> None:
    best = np.zeros(1000, np.int64)
    best[500:900] = 25  # the lower quartile of nearest photos is .6
    every = np.where(np.arange(1000) > 250, 1 << 50, 0)  # so many neighbours that strangers explain none of them

    def least_cut(faces: int) -> tuple[float, float]:
        start = calibrate(np.eye(5, dtype=np.float32), np.arange(5), faces, Prior(0.0, 0.045, 0.7), 0)
        return with_level(start, Similarities(every, best), faces).graph_cut, start.edge

    (few, _), (reference, chance), (many, more) = (least_cut(faces) for faces in (5_000, 100_000, 10_000_000))
    assert few == reference == pytest.approx(0.7 * 0.6, abs=0.002)
    assert many - reference == pytest.approx(more - chance)
    assert many - reference == pytest.approx(0.0357, abs=0.0005)


def test_the_clear_nearest_leads_and_is_alike_enough() -> None:
    cuts = Calibration(0.3, 0.75, 0.75, 0.7, 0.0, 0.05, "a test", chance=0.3, cut=0.5, nearest_low=0.6)
    assert (cuts.attach, cuts.lead) == pytest.approx((0.3, 0.05))
    generator = np.random.default_rng(4)
    face = generator.integers(0, 300, 1_000).astype(np.int32)
    value = generator.choice(np.linspace(0.2, 0.6, 81), 1_000).astype(np.float32)
    clear = clear_nearest(face, value, cuts)
    for i in range(1_000):
        others = np.delete(value[face == face[i]], np.flatnonzero(face == face[i]).tolist().index(i))
        leads = value[i] >= np.float32(cuts.attach) and value[i] - others.max(initial=-1.0) >= np.float32(cuts.lead)
        assert clear[i] == leads
    assert 0 < clear.sum() < len(np.unique(face))
    assert not clear_nearest(face, value, replace(cuts, nearest_low=0.0)).any(), "look-alikes in a small corpus"
    assert not len(clear_nearest(face[:0], value[:0], cuts))


def test_a_weak_pair_of_singletons_counts_from_both_sides_only() -> None:
    cuts = Calibration(0.3, 0.75, 0.75, 0.7, 0.0, 0.05, "a test", chance=0.3, cut=0.5, nearest_low=0.6)
    a, b = np.array([1, 2, 3, 5, 7], np.int32), np.array([2, 1, 4, 6, 5], np.int32)
    taken = mutual_or_strong(a, b, np.array([0.4, 0.4, 0.4, 0.6, 0.49], np.float32), cuts)
    assert taken.tolist() == [True, True, False, True, False]


def with_nuisance(generator: np.random.Generator, poor_share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    x = unit(generator, 8000, 64)
    directions = np.linalg.qr(generator.normal(size=(64, 3)))[0].astype(np.float32)
    poor = np.arange(8000) < poor_share * 8000
    x[poor] += 1.2 * directions[:, generator.integers(0, 3, int(poor.sum()))].T
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    quality = np.where(poor, generator.uniform(0, 0.3, 8000), generator.uniform(0.3, 1, 8000)).astype(np.float32)
    return x, quality, directions


def test_planted_nuisances_are_found_and_taken_out() -> None:
    x, quality, planted = with_nuisance(np.random.default_rng(0), 0.08)
    found, said = nuisance_directions(x, quality)
    assert found.shape == (64, 3), said
    np.testing.assert_allclose(np.linalg.norm(planted.T @ found, axis=1), 1, atol=0.05)
    assert np.abs(without(x, found) @ found).max() < 1e-5
    np.testing.assert_allclose(np.linalg.norm(without(x, found), axis=1), 1, atol=1e-5)


def test_no_nuisance_where_quality_says_nothing() -> None:
    generator = np.random.default_rng(0)
    x, quality, _ = with_nuisance(generator, 0.08)
    assert nuisance_directions(x, generator.permutation(quality))[0].shape[1] == 0
    assert nuisance_directions(x, np.full(len(x), 0.5, np.float32))[0].shape[1] == 0
    assert nuisance_directions(x[:900], quality[:900])[0].shape[1] == 0


VECTOR = st.sampled_from(["f2", "f4", "list", "binary"])


@given(VECTOR, st.integers(0, 9999))
def test_vectors_of_every_column_type_with_their_faults(kind: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = unit(generator, 12, 8).astype(np.float16)
    x[2], x[3, 1], x[4] = 0, np.nan, x[5] * 7
    wanted = [columns.State.SOUND] * 12
    wanted[2], wanted[3] = columns.State.ZERO, columns.State.NOT_FINITE
    if kind in ("f2", "f4"):
        flat = pa.array(x.astype(kind).ravel())
        column: pa.Array = pa.FixedSizeListArray.from_arrays(flat, 8)
    else:
        values: list[object] = [row.tobytes() if kind == "binary" else row.astype(float).tolist() for row in x]
        values[6], values[7] = None, values[7][:-2]  # type: ignore[index]
        wanted[6], wanted[7] = columns.State.MISSING, columns.State.WRONG_DIMENSION
        column = pa.array(values, pa.binary() if kind == "binary" else pa.list_(pa.float32()))
    assert columns.dimension(column) == 8
    padded = pa.concat_arrays([column.slice(0, 3), column]).slice(3)
    found, state = columns.vectors(padded, 8)
    assert state.tolist() == wanted
    sound = state == columns.State.SOUND
    np.testing.assert_allclose(np.linalg.norm(found[sound], axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(found[4], found[5], atol=2e-3)
    assert not found[~sound].any()


def test_every_float16_value_is_read_as_numpy_reads_it() -> None:
    values = np.arange(1 << 16, dtype=np.uint16).view("<f2")
    finite = values[np.isfinite(values)]
    rows = np.stack([finite, np.full(len(finite), 1.0, "<f2")], axis=1)
    found, state = columns.vectors(pa.array([row.tobytes() for row in rows], pa.binary()), 2)
    assert (state == columns.State.SOUND).all()
    wide = rows.astype(np.float64)
    np.testing.assert_allclose(found, wide / np.linalg.norm(wide, axis=1, keepdims=True), rtol=3e-7, atol=1e-45)
    bad = values[~np.isfinite(values)]
    found, state = columns.vectors(pa.array([np.array([x, 1], "<f2").tobytes() for x in bad], pa.binary()), 2)
    assert (state == columns.State.NOT_FINITE).all()
    assert not found.any()


@given(st.lists(st.text(max_size=150), max_size=20), st.integers(0, 3))
def test_keys_are_those_of_a_plain_reference(texts: list[str], salt: int) -> None:
    def mixed(value: int, seed: int) -> int:
        x = (value + 0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def key(body: bytes) -> int:
        out = mixed(len(body), salt) if salt else len(body)
        for word, at in enumerate(range(0, min(len(body), 128), 8)):
            out = mixed(out ^ int.from_bytes(body[:128][at : at + 8], "little"), word)
        return out ^ (int.from_bytes(body[128:], "little") % (2**61 - 1)) if len(body) > 128 else out

    found = columns.keys(pa.array(texts, pa.string()), salt).view(np.uint64)
    assert found.tolist() == [key(text.encode()) for text in texts]


@given(st.lists(st.text(max_size=150), min_size=1, max_size=40, unique=True), st.integers(0, 40))
def test_keys_depend_on_the_string_alone(texts: list[str], cut: int) -> None:
    whole = columns.keys(pa.array(texts))
    assert len(set(whole.tolist())) == len(texts)
    parts = [columns.keys(pa.array(part, pa.string())) for part in (texts[:cut], texts[cut:])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(columns.keys(pa.chunked_array([texts, ["x"]])).tolist()[:-1], whole.tolist())
