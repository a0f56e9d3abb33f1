"""Geometry against slow references and properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from facelake.embed.geometry import TEMPLATE_112, crop_around, inverses, letterbox, nms, similarity_transforms, warp


def slow_nms(boxes: np.ndarray, scores: np.ndarray, max_iou: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        for j in kept:
            w = min(boxes[i][2], boxes[j][2]) - max(boxes[i][0], boxes[j][0])
            h = min(boxes[i][3], boxes[j][3]) - max(boxes[i][1], boxes[j][1])
            inter = max(w, 0) * max(h, 0)
            area = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[j])]
            if inter / max(sum(area) - inter, 1e-9) > max_iou:
                break
        else:
            kept.append(i)
    return kept


@given(st.integers(0, 40), st.integers(0, 10_000))
def test_nms_is_the_slow_one(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    corner = generator.uniform(0, 50, (count, 2))
    boxes = np.concatenate([corner, corner + generator.uniform(1, 40, (count, 2))], 1).astype(np.float32)
    scores = generator.integers(0, 20, count).astype(np.float32)
    assert nms(boxes, scores, 0.3).tolist() == slow_nms(boxes, scores, 0.3)


@given(st.floats(0.2, 5), st.floats(-3.1, 3.1), st.floats(-500, 500), st.floats(-500, 500))
def test_similarity_transform_undoes_a_similarity(scale: float, angle: float, x: float, y: float) -> None:
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE_112 @ turn.T + (x, y)).astype(np.float32)
    (matrix,) = similarity_transforms(points[None])
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], TEMPLATE_112, atol=0.05)


def umeyama(points: np.ndarray, template: np.ndarray = TEMPLATE_112) -> np.ndarray:
    """By singular values, as published: the slow reference."""
    source, target = points.astype(np.float64), template.astype(np.float64)
    centred, wanted = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(wanted.T @ centred / len(points))
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt)) or 1.0])
    rotation, scale = u @ np.diag(sign) @ vt, float((s * sign).sum() / max(centred.var(0).sum(), 1e-12))
    return np.column_stack([scale * rotation, target.mean(0) - scale * rotation @ source.mean(0)])


@given(st.integers(1, 6), st.floats(1, 3000), st.integers(0, 10_000))
def test_similarity_transforms_are_umeyamas(faces: int, spread: float, seed: int) -> None:
    points = np.random.default_rng(seed).uniform(-spread, spread, (faces, 5, 2)).astype(np.float32)
    found = similarity_transforms(points)
    for one, mine in zip(found, points, strict=True):
        np.testing.assert_allclose(one, umeyama(mine), rtol=1e-7, atol=1e-7 * 112)
    for there, back in zip(found, inverses(found), strict=True):
        np.testing.assert_allclose(there[:, :2] @ back[:, :2], np.eye(2), atol=1e-9)
        np.testing.assert_allclose(there[:, :2] @ back[:, 2] + there[:, 2], 0, atol=1e-6)


def test_points_in_one_place_give_no_way_back() -> None:
    found = similarity_transforms(np.full((1, 5, 2), 7, np.float32))
    assert np.isfinite(found).all()
    assert not np.isfinite(inverses(found)).all()
    assert not warp(np.full((40, 40, 3), 200, np.uint8), inverses(found)[0]).any()


def test_similarity_transforms_never_mirror() -> None:
    mirrored = TEMPLATE_112 * np.array([-1, 1], np.float32) + np.array([112, 0], np.float32)
    assert np.linalg.det(similarity_transforms(mirrored[None])[0, :, :2]) > 0


def test_warp_by_identity_is_a_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (150, 150, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(pixels, np.array([[1.0, 0, 10], [0, 1, 20]])), pixels[20:132, 10:122])


def test_warp_outside_the_photo_is_black_and_bounded() -> None:
    pixels = np.full((40, 40, 3), 200, np.uint8)
    assert warp(pixels, np.array([[1, 0, -1e6], [0, 1, 0]])).max() == 0
    assert warp(pixels, np.array([[1e4, 0, 0], [0, 1e4, 0]])).shape == (112, 112, 3)


def test_warp_of_a_large_face_does_not_alias() -> None:
    checks = np.kron(np.indices((1000, 1000)).sum(0) % 2, np.ones((1, 1))).astype(np.uint8) * 255
    small = warp(np.repeat(checks[..., None], 3, 2), np.array([[1 / 0.112, 0, 0], [0, 1 / 0.112, 0]]))
    assert small[5:-5, 5:-5].std() < 20


@given(st.integers(1, 900), st.integers(1, 900))
def test_letterbox_keeps_the_shape(width: int, height: int) -> None:
    square, scale = letterbox(np.full((height, width, 3), 255, np.uint8), 64)
    filled = square[..., 0] > 0
    assert square.shape == (64, 64, 3)
    assert filled[:, 0].sum() == max(1, round(height * scale))
    assert filled[0].sum() == max(1, round(width * scale))


def test_crop_around_maps_back() -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[60:80, 100:120] = 255
    crop, corner, scale = crop_around(pixels, np.array([95, 55, 125, 85]), 2.0, 192)
    ys, xs = np.nonzero(crop[..., 0] > 128)
    low, high = np.array([xs.min(), ys.min()]) / scale + corner, np.array([xs.max() + 1, ys.max() + 1]) / scale + corner
    np.testing.assert_allclose(np.r_[low, high], [100, 60, 120, 80], atol=1.0)
