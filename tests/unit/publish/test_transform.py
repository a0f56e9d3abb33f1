"""Keyed rotation: rankings inside a gallery are unchanged, galleries cannot be linked, and keys can be replaced."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.errors import ConfigError
from facelake.publish.transform import key_name, read_key, rotated, rotation

ONE, TWO = bytes(range(32)), bytes(range(1, 33))


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("dim", [2, 3, 128, 512])
def test_the_matrix_is_orthogonal_and_deterministic(dim: int) -> None:
    matrix = rotation(ONE, "lake", "p", dim)
    assert np.allclose(matrix @ matrix.T, np.eye(dim), atol=1e-10)
    assert np.array_equal(matrix, rotation(ONE, "lake", "p", dim))


def test_matrices_are_uniformly_distributed() -> None:
    """Entries of a uniform orthogonal matrix have mean 0 and variance 1/dim; both determinants occur."""
    matrices = np.array([rotation(bytes([i]) * 32, "g", "p", 8) for i in range(256)])
    assert np.abs(matrices.mean(0)).max() < 5 / np.sqrt(256 * 8)
    assert np.abs(matrices.var(0) - 1 / 8).max() < 5 * np.sqrt(2 / 256) / 8
    determinants = np.sign(np.linalg.det(matrices))
    assert 80 < (determinants > 0).sum() < 176


def test_rankings_inside_a_gallery_are_identical() -> None:
    x = unit(2000, 128)
    y = rotated(x, rotation(ONE, "g", "p", 128))
    before, after = x[:200] @ x.T, y[:200] @ y.T
    assert np.abs(before - after).max() < 1e-6
    ranked = np.take_along_axis(before, np.argsort(-after, 1), 1)
    assert (np.diff(ranked, axis=1) <= 1e-6).all()  # same order, except for ties that rounding can swap


@pytest.mark.parametrize("other", [(TWO, "g", "p"), (ONE, "h", "p"), (ONE, "g", "q")])
def test_linkage_across_keys_galleries_and_purposes_is_at_chance(other: tuple[bytes, str, str]) -> None:
    x = unit(4000, 128)
    a, b = rotated(x, rotation(ONE, "g", "p", 128)), rotated(x, rotation(*other, 128))
    similarity = a @ b.T
    hits = (similarity.argmax(1) == np.arange(4000)).sum()
    assert hits <= 8  # chance: 1
    genuine, impostor = np.diag(similarity), similarity[np.triu_indices(4000, 1)]
    assert abs(genuine.mean()) < 5 * impostor.std() / np.sqrt(len(genuine)) + 0.15  # one draw of trace(R) / dim
    assert abs(genuine.std() / impostor.std() - 1) < 0.15


def test_a_key_is_replaced_without_the_photos() -> None:
    x = unit(500, 128)
    old, new = rotation(ONE, "g", "p", 128), rotation(TWO, "g", "p", 128)
    assert np.abs(rotated(rotated(x, old), new @ old.T) - rotated(x, new)).max() < 1e-6


def test_dim_templates_in_both_forms_reveal_the_rotation() -> None:
    """The documented limit of the protection."""
    x, matrix = unit(200, 128), rotation(ONE, "g", "p", 128)
    recovered, *_ = np.linalg.lstsq(x.astype(float), rotated(x, matrix).astype(float), rcond=None)
    assert np.abs(recovered.T - matrix).max() < 1e-3


def test_keys_are_parsed_and_not_repeated_in_messages() -> None:
    assert read_key(" " + ONE.hex() + "\n") == ONE
    assert key_name(ONE) != key_name(TWO)
    for text in ("secret words", "abc"):
        with pytest.raises(ConfigError) as caught:
            read_key(text)
        assert text not in str(caught.value)
    with pytest.raises(ConfigError, match="16 or more"):
        rotation(b"short", "g", "p", 4)
