"""Modes of one person are found by the directions that people share, and brothers are not."""

from __future__ import annotations

import numpy as np

from facelake.cluster.calibrate import Calibration
from facelake.cluster.linkage import Pairs
from facelake.cluster.mode_merging import connected, mode_pairs
from tests.unit.cluster.test_cluster import unit

CUTS = Calibration(0.2, 0.75, 0.9, 0.7, 0.0, 0.1, "test")
FACES = 12


def half_like(generator: np.random.Generator, one: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Vectors with cosine .65 to `one`, the rest of which is `apart`."""
    apart = apart - (apart * one).sum(1, keepdims=True) * one
    apart /= np.linalg.norm(apart, axis=1, keepdims=True)
    return 0.65 * one + np.sqrt(1 - 0.65**2) * apart


def world(
    modes: int, brothers: int, seed: int = 0, dim: int = 128, *, directions: int = 3, share: float = 1.0
) -> tuple[np.ndarray, np.ndarray, Pairs]:
    """Sums of groups: people, then `modes` whose difference has a share in common directions, then `brothers`."""
    generator = np.random.default_rng(seed)
    people = unit(generator, 900, dim)
    age = np.linalg.qr(generator.normal(size=(dim, directions)))[0].T[generator.integers(0, directions, modes)]
    child = half_like(generator, people[:modes], share * age + unit(generator, modes, dim))
    other = people[modes : modes + brothers]
    brother = half_like(generator, other, unit(generator, brothers, dim))
    centres = np.concatenate([people, child, brother]).astype(np.float32)
    noisy = centres + 0.3 * unit(generator, len(centres), dim) / np.sqrt(FACES)
    low = np.arange(modes + brothers, dtype=np.int32)
    high = (900 + low).astype(np.int32)
    pairs = Pairs(low, high, np.full(len(low), 0.6, np.float32))
    return (noisy * FACES * 0.85).astype(np.float32), np.full(len(centres), FACES, np.int64), pairs


def test_children_are_joined_and_brothers_are_not() -> None:
    low, high, said = mode_pairs(*world(150, 200), CUTS, 0)
    assert "3 directions" in said
    joined = set(zip(low.tolist(), high.tolist(), strict=True))
    children = {(i, 900 + i) for i in range(150)}
    assert len(joined & children) >= 140
    assert len(joined - children) <= 6


def test_a_hundred_pairs_suffice_to_tell_children_from_brothers() -> None:
    low, high, _ = mode_pairs(*world(50, 50), CUTS, 0)
    joined = set(zip(low.tolist(), high.tolist(), strict=True))
    assert len(joined & {(i, 900 + i) for i in range(50)}) >= 46
    assert len(joined - {(i, 900 + i) for i in range(50)}) <= 2


def test_directions_are_compared_with_those_of_their_rank() -> None:
    """The last of five varies less than the first direction that chance makes, and more than its fifth."""
    _, high, said = mode_pairs(*world(150, 150, 2, directions=5, share=0.6), CUTS, 0)
    assert "5 directions" in said
    assert (high - 900 < 150).sum() >= 120
    assert (high - 900 >= 150).sum() <= 6


def test_nobody_is_joined_where_all_are_brothers_or_too_few_to_tell() -> None:
    for seed in range(5):
        low, _, said = mode_pairs(*world(0, 400, seed), CUTS, seed)
        assert len(low) == 0, said
    for seed in range(20):  # the fewest pairs that count
        low, _, said = mode_pairs(*world(0, 100, seed), CUTS, seed)
        assert len(low) == 0, said
    low, _, said = mode_pairs(*world(40, 50), CUTS, 0)
    assert len(low) == 0
    assert "too few" in said


def test_connected_follows_chains_to_the_lowest() -> None:
    low, high = np.array([3, 1, 5], np.int32), np.array([4, 3, 6], np.int32)
    assert connected(8, low, high).tolist() == [0, 1, 2, 1, 1, 5, 5, 7]
