"""Letterbox, similarity transform, warp, non-maximum suppression: the geometry between detector and encoder."""

from __future__ import annotations

import numpy as np
from PIL import Image

from facelake.contracts import C128, F32, F64, I64, U8

# Where the five landmarks lie in an aligned 112x112 face (ArcFace, Deng et al., CVPR 2019).
TEMPLATE_112: F32 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)


def letterbox(pixels: U8, side: int, fill: float = 1.0) -> tuple[U8, float]:
    """Scale a photo into the top left of a square of `side` pixels, zeros elsewhere.

    Args:
        pixels: (h, w, 3) uint8.
        fill: share of the square's side that the photo's longer side takes.

    Returns:
        The (side, side, 3) square, and square pixels per photo pixel.
    """
    height, width = pixels.shape[:2]
    scale = side * fill / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.zeros((side, side, 3), np.uint8)
    resized = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square[: size[1], : size[0]] = np.asarray(resized)
    return square, scale


def crop_around(pixels: U8, box: np.ndarray, share: float, side: int) -> tuple[U8, np.ndarray, float]:
    """A square crop around a box, `share` times its longer side, scaled to `side`; black outside the photo.

    Returns:
        The (side, side, 3) crop, its corner (x, y) in the photo, and crop pixels per photo pixel.
    """
    half = share * max(box[2] - box[0], box[3] - box[1]) / 2
    middle = (box[:2] + box[2:]) / 2
    low, high = np.floor(middle - half).astype(int), np.ceil(middle + half).astype(int)
    square, scale = letterbox(_crop(pixels, low, high), side)
    return square, low, scale


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


def similarity_transforms(points: F32, template: F32 = TEMPLATE_112) -> F64:
    """The (f, 2, 3) matrices that map `points` (f, n, 2) onto `template` with least squares, without shear.

    The transformation of Umeyama ("Least-squares estimation of transformation parameters between two point patterns",
    PAMI 1991). In the plane a rotation with a scale is the product with a complex number, and least squares need no
    decomposition. Points that are all in one place give a matrix that maps everything there.
    """
    source = points.astype(np.float64) @ np.array([1, 1j])
    target = template.astype(np.float64) @ np.array([1, 1j])
    mean = source.mean(1, keepdims=True)
    centred, wanted = source - mean, target - target.mean()
    turn = (centred.conj() @ wanted) / np.maximum((np.abs(centred) ** 2).sum(1), 1e-12)
    return _matrices(turn, target.mean() - turn * mean[:, 0])


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


def warp(pixels: U8, inverse: F64, side: int = 112) -> U8:
    """Sample a (side, side, 3) face from a photo; pixels outside the photo are black.

    Where the photo is at least twice as fine as the face, it is box-filtered first, so that a large face in
    a large photo does not alias.

    Args:
        inverse: (2, 3), from crop pixels to photo pixels.
    """
    if not np.isfinite(inverse).all():
        return np.zeros((side, side, 3), np.uint8)
    fine = int(max(1.0, np.sqrt(abs(np.linalg.det(inverse[:, :2])))))
    ys, xs = np.mgrid[0:side, 0:side]
    where = np.stack([xs, ys], -1) @ inverse[:, :2].T + inverse[:, 2]
    # crop what is needed, reduce it, sample it
    low = np.floor(where.reshape(-1, 2).min(0)).astype(int) - fine
    high = np.ceil(where.reshape(-1, 2).max(0)).astype(int) + 2 * fine
    crop = _crop(pixels, low, high)
    if fine >= min(crop.shape[:2]):  # the landmarks of a false detection lie wider apart than any photo
        return np.zeros((side, side, 3), np.uint8)
    if fine > 1:
        height, width = (crop.shape[0] // fine) * fine, (crop.shape[1] // fine) * fine
        blocks = crop[:height, :width].reshape(height // fine, fine, width // fine, fine, 3)
        crop = blocks.mean((1, 3), dtype=np.float32)
        where = (where - low + 0.5) / fine - 0.5
    else:
        crop = crop.astype(np.float32)
        where = where - low
    return _bilinear(crop, where)


def _crop(pixels: U8, low: np.ndarray, high: np.ndarray) -> U8:
    """pixels[low:high] with zeros where that leaves the photo. low, high: x, y."""
    height, width = pixels.shape[:2]
    limit = 4 * max(height, width) + 1024  # landmarks of a false detection may be anywhere
    low, high = np.clip(low, -limit, limit), np.clip(high, -limit, limit)
    out = np.zeros((max(high[1] - low[1], 2), max(high[0] - low[0], 2), 3), np.uint8)
    x0, y0, x1, y1 = max(low[0], 0), max(low[1], 0), min(high[0], width), min(high[1], height)
    if x1 > x0 and y1 > y0:
        out[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] = pixels[y0:y1, x0:x1]
    return out


def _bilinear(image: np.ndarray, where: np.ndarray) -> U8:
    height, width = image.shape[:2]
    x = np.clip(where[..., 0], 0, width - 1.001)
    y = np.clip(where[..., 1], 0, height - 1.001)
    x0, y0 = x.astype(np.int64), y.astype(np.int64)
    fx, fy = (x - x0)[..., None].astype(np.float32), (y - y0)[..., None].astype(np.float32)
    flat = image.reshape(-1, 3)
    index = y0 * width + x0
    top = flat[index] * (1 - fx) + flat[index + 1] * fx
    bottom = flat[index + width] * (1 - fx) + flat[index + width + 1] * fx
    sampled: U8 = np.clip(top * (1 - fy) + bottom * fy + 0.5, 0, 255).astype(np.uint8)
    return sampled
