"""Geometry against slow references and properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facelake.embed.geometry import TEMPLATE_112, crops_around, inverses, letterbox, nms, similarity_transforms, warp
from facelake.embed.resample import Levels, at_level, halved, level_for


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
    assert not warp(Levels(np.full((40, 40, 3), 200, np.uint8)), inverses(found)[0]).any()


def test_similarity_transforms_never_mirror() -> None:
    mirrored = TEMPLATE_112 * np.array([-1, 1], np.float32) + np.array([112, 0], np.float32)
    assert np.linalg.det(similarity_transforms(mirrored[None])[0, :, :2]) > 0


def test_warp_by_identity_is_a_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (150, 150, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(Levels(pixels), np.array([[1.0, 0, 10], [0, 1, 20]])), pixels[20:132, 10:122])


def test_warp_outside_the_photo_is_black_and_bounded() -> None:
    pixels = np.full((40, 40, 3), 200, np.uint8)
    assert warp(Levels(pixels), np.array([[1, 0, -1e6], [0, 1, 0]])).max() == 0
    assert warp(Levels(pixels), np.array([[1e4, 0, 0], [0, 1e4, 0]])).shape == (112, 112, 3)


def test_warp_of_a_large_face_does_not_alias() -> None:
    checks = np.kron(np.indices((1000, 1000)).sum(0) % 2, np.ones((1, 1))).astype(np.uint8) * 255
    small = warp(Levels(np.repeat(checks[..., None], 3, 2)), np.array([[1 / 0.112, 0, 0], [0, 1 / 0.112, 0]]))
    assert small[5:-5, 5:-5].std() < 20


@given(st.integers(1, 900), st.integers(1, 900))
def test_letterbox_keeps_the_shape(width: int, height: int) -> None:
    square, scale = letterbox(Levels(np.full((height, width, 3), 255, np.uint8)), 64)
    filled = square[..., 0] > 0
    assert square.shape == (64, 64, 3)
    assert filled[:, 0].sum() == max(1, round(height * scale))
    assert filled[0].sum() == max(1, round(width * scale))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 10_000))
def test_halved_is_the_slow_one(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge").astype(int)
    slow = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4
    np.testing.assert_array_equal(halved(pixels), slow)
    levels = Levels(pixels)
    np.testing.assert_array_equal(levels.at(2), halved(halved(pixels)))
    assert levels.at(0) is levels.whole
    assert levels.shape == (height, width, 3)


@given(st.floats(0, 1e9), st.integers(1, 5000), st.integers(1, 5000))
def test_a_photo_is_halved_while_two_pixels_become_one_and_one_is_left(fine: float, height: int, width: int) -> None:
    level = level_for(fine, height, width)
    assert level >= 0
    assert 2**level <= max(fine, 1)
    assert 2**level <= min(height, width)
    assert 2 ** (level + 1) > min(fine, min(height, width))


def test_what_is_no_number_is_not_smoothed() -> None:
    assert [level_for(fine, 900, 900) for fine in (np.nan, np.inf, -1.0, 0.0)] == [0, 0, 0, 0]


@given(st.integers(0, 5), st.floats(-50, 50), st.floats(0.1, 9))
def test_a_pixel_of_a_halved_photo_lies_in_the_middle_of_those_it_is_made_of(level: int, x: float, fine: float) -> None:
    """Pixel i of the photo has its middle at i + 1/2."""
    (row, _) = at_level(np.array([[fine, 0, x], [0, fine, 0]]), level)
    np.testing.assert_allclose((row[2] + 0.5) * 2**level, x + 0.5, atol=1e-9)
    assert row[0] == fine / 2**level


def test_letterbox_smooths_noise_at_least_half_as_well_as_pillow() -> None:
    """Whose filter reaches over four source pixels where two become one; sampling alone would leave all of it."""
    noise = np.random.default_rng(0).integers(0, 256, (960, 720, 3), dtype=np.uint8)
    for side in (640, 500, 470, 320, 250, 160, 90):
        square, scale = letterbox(Levels(noise), side)
        size = round(720 * scale), round(960 * scale)
        pillows = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BILINEAR))
        assert square[: size[1], : size[0]].std() < 2 * pillows.std(), side


@given(st.floats(0, 250), st.floats(0, 150), st.floats(8, 700), st.floats(0.5, 2))
def test_crops_map_back(x: float, y: float, length: float, shape: float) -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[60:80, 100:120] = 255
    box = np.array([[x, y, x + length * shape, y + length]], np.float32)
    (matrix,), (corner,), (scale,) = crops_around(box, 1.8, 192)
    middle = (box[0, :2] + box[0, 2:]) / 2
    np.testing.assert_allclose(np.array([96, 96]) / scale + corner, middle, atol=1e-3)
    np.testing.assert_allclose(192 / scale, 1.8 * max(length * shape, length), rtol=1e-5)
    np.testing.assert_allclose((matrix[:, :2] @ [95.5, 95.5] + matrix[:, 2]) + 0.5, middle, atol=1e-3)


def test_what_is_found_in_a_crop_is_found_in_the_photo() -> None:
    pixels = np.zeros((200, 300, 3), np.uint8)
    pixels[60:80, 100:120] = 255
    for grown in (1, 3, 12):
        large = np.kron(pixels, np.ones((grown, grown, 1), np.uint8))
        (matrix,), (corner,), (scale,) = crops_around(np.array([[95, 55, 125, 85]], np.float32) * grown, 2.0, 192)
        crop = warp(Levels(large), matrix, 192)
        ys, xs = np.nonzero(crop[..., 0] > 128)
        low = np.array([xs.min(), ys.min()]) / scale + corner
        high = np.array([xs.max() + 1, ys.max() + 1]) / scale + corner
        np.testing.assert_allclose(np.r_[low, high] / grown, [100, 60, 120, 80], atol=0.4)
