"""Letterbox, similarity transform, warp, non-maximum suppression: the geometry between detector and encoder."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from facelake.contracts import C128, F32, F64, I64, U8
from facelake.embed.resample import Levels, at_level, level_for, resize_into, warp_linear

# Where the five landmarks lie in an aligned 112x112 face (ArcFace, Deng et al., CVPR 2019).
TEMPLATE_112: F32 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)


def letterbox(photo: Levels, side: int, fill: float = 1.0) -> tuple[U8, float]:
    """Scale a photo into the top left of a square of `side` pixels, zeros elsewhere.

    Args:
        fill: share of the square's side that the photo's longer side takes.

    Returns:
        The (side, side, 3) square, and square pixels per photo pixel.
    """
    height, width = photo.shape[:2]
    fit = fitted_smoothly(height, width, side, fill)
    square = np.zeros((side, side, 3), np.uint8)
    resize_into(photo.at(fit.level), square, fit.width, fit.height, fit.source)
    return square, fit.scale


@dataclass(frozen=True, slots=True)
class Fit:
    """How a photo is scaled into a square."""

    scale: float
    """square pixels per photo pixel"""
    height: int
    width: int
    level: int
    """how often the photo is halved before"""
    source: tuple[float, float]
    """height and width of the photo in pixels of that level"""


def fitted_smoothly(height: int, width: int, side: int, fill: float) -> Fit:
    """How a photo of that size fits into a square, smoothed where it gets smaller."""
    scale = side * fill / max(height, width)
    level = level_for(1 / scale, height, width)
    sides = max(1, round(height * scale)), max(1, round(width * scale))
    return Fit(scale, *sides, level, (height / 2**level, width / 2**level))


def crops_around(boxes: F32, share: float, side: int) -> tuple[F64, F64, F64]:
    """Squares around boxes (f, 4), `share` times their longer sides, as crops of `side` pixels.

    Returns:
        Matrices (f, 2, 3) from pixels of the crops to those of the photo, the squares' corners (f, 2) in the photo, and
        crop pixels per photo pixel (f,).
    """
    boxes = boxes.astype(np.float64)
    length = np.maximum(share * (boxes[:, 2:] - boxes[:, :2]).max(1), 1e-6)
    corner = (boxes[:, :2] + boxes[:, 2:] - length[:, None]) / 2
    matrices = np.zeros((len(boxes), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = length / side
    matrices[:, :, 2] = corner + (length / side / 2)[:, None] - 0.5
    return matrices, corner, side / length


def nms(boxes: F32, scores: F32, max_iou: float, border: float = 0.0) -> I64:
    """Greedy non-maximum suppression; indices kept, best score first. boxes (n, 4), scores (n,).

    `border` is added to every width and height: 1 where a box is thought to hold the pixels of both its edges.
    """
    order = np.argsort(-scores, kind="stable")
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2] + border, 0), axis=1)
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[rest, :2])
        high = np.minimum(boxes[best, 2:], boxes[rest, 2:])
        overlap = np.prod(np.maximum(high - low + border, 0), axis=1)
        union = np.maximum(area[best] + area[rest] - overlap, 1e-9)
        order = rest[overlap / union <= max_iou]
    return np.array(kept, np.int64)


def overlap(box: F32, boxes: F32) -> F32:
    """Intersection over union of a box (4,) with boxes (n, 4): float32 (n,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float32)


def similarity_transforms(points: F32, template: F32 = TEMPLATE_112) -> F64:
    """The (f, 2, 3) matrices that map `points` (f, n, 2) onto `template` with least squares, without shear.

    The transformation of Umeyama ("Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991). In the plane a rotation with a scale is the product with a complex number, and least squares need no
    decomposition. Points that are all in one place give a matrix that maps everything there.
    """
    source = points.astype(np.float64) @ _COMPLEX
    target_mean, wanted = _CENTRED_112 if template is TEMPLATE_112 else _centred(template)
    mean = source.mean(1, keepdims=True)
    centred = source - mean
    turn = (centred.conj() @ wanted) / np.maximum((np.abs(centred) ** 2).sum(1), 1e-12)
    return _matrices(turn, target_mean - turn * mean[:, 0])


def _centred(template: F32) -> tuple[complex, C128]:
    """The mean of template points (n, 2) as a complex number, and the points (n,) relative to it."""
    target = template.astype(np.float64) @ _COMPLEX
    return complex(target.mean()), np.asarray(target - target.mean(), np.complex128)


_COMPLEX: C128 = np.array([1, 1j])
_CENTRED_112 = _centred(TEMPLATE_112)


def inverses(matrices: F64) -> F64:
    """The (f, 2, 3) matrices back from what similarity_transforms gave; not numbers where there is no way back."""
    turn: C128 = (matrices[:, 0, 0] + 1j * matrices[:, 1, 0]).astype(np.complex128)
    offset: C128 = (matrices[:, 0, 2] + 1j * matrices[:, 1, 2]).astype(np.complex128)
    with np.errstate(divide="ignore", invalid="ignore"):
        back = 1 / turn
        return _matrices(back, -back * offset)


def _matrices(turn: C128, offset: C128) -> F64:
    rows = [[turn.real, -turn.imag, offset.real], [turn.imag, turn.real, offset.imag]]
    return np.ascontiguousarray(np.moveaxis(np.array(rows), 2, 0))


def fineness(inverse: F64) -> F64:
    """Photo pixels per crop pixel, along a side, of matrices (..., 2, 3) from crops to photos."""
    scale: F64 = np.sqrt(np.abs(inverse[..., 0, 0] * inverse[..., 1, 1] - inverse[..., 0, 1] * inverse[..., 1, 0]))
    return scale


def warp(photo: Levels, inverse: F64, side: int = 112) -> U8:
    """Sample a (side, side, 3) crop from a photo, smoothed where it is finer; pixels outside the photo are black.

    Args:
        inverse: (2, 3), from crop pixels to photo pixels.
    """
    height, width = photo.shape[:2]
    level = level_for(float(fineness(inverse)), height, width)
    return warp_linear(photo.at(level), at_level(inverse, level), side)
