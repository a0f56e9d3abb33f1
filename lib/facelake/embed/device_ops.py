"""The geometry between detector and encoder as tensor operations, for a whole batch of photos at once.

Each gives what its counterpart on the host gives: `letterbox` and `warp` sample in the same integers and doubles as
resample.py, `kept` suppresses in the same order as geometry.nms. Nothing here copies pixels off the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from facelake.contracts import F64, I64
from facelake.embed.quality import SHARP_HALF
from facelake.embed.resample import BITS, fitted, taps

_LOG = logging.getLogger(__name__)
_ONE = 1 << BITS
_MOST_OVERLAPS = 1 << 24  # pairs of candidates looked at together
_GRAY = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Canvas:
    """Photos of any size behind one another: pixels (total, 3) uint8; start, height, width (n,) int64."""

    pixels: torch.Tensor
    start: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    sizes: tuple[tuple[int, int], ...]
    """height and width of each, for the host"""

    @classmethod
    def of(cls, photos: Sequence[torch.Tensor]) -> Canvas:
        """Photos (h, w, 3) uint8 on one device."""
        device = photos[0].device
        sizes = tuple((int(photo.shape[0]), int(photo.shape[1])) for photo in photos)
        areas = np.array([height * width for height, width in sizes], np.int64)
        starts, (heights, widths) = np.cumsum(areas) - areas, zip(*sizes, strict=True)
        columns = torch.tensor(np.stack([starts, heights, widths])).to(device, non_blocking=True)
        pixels = torch.cat([photo.reshape(-1, 3) for photo in photos])
        return cls(pixels, columns[0], columns[1], columns[2], sizes)


class Fused:
    """A function of tensors that runs as one kernel on a GPU, if torch can compile it there; else step by step.

    Pixels are sampled by dozens of steps on tensors of hundreds of MB, which takes as long as a network. The first call
    compares the two, and what does not compile, or gives another level, is left.
    """

    where: ClassVar[set[str]] = {"cuda"}

    def __init__(self, plain: Callable[..., torch.Tensor]) -> None:
        self.plain, self._tried = plain, False
        self.compiled: Callable[..., torch.Tensor] | None = None

    def __call__(self, *given: Any) -> torch.Tensor:
        if not self._tried and given[0].device.type in self.where:
            self._tried = True
            self._compile(given)
        return (self.compiled or self.plain)(*given)

    def _compile(self, given: Sequence[Any]) -> None:
        name = self.plain.__name__
        try:
            compiled: Callable[..., torch.Tensor] = torch.compile(self.plain, dynamic=True)
            apart = (compiled(*given).double() - self.plain(*given).double()).abs().max()
        except Exception as err:  # noqa: BLE001  no compiler on the host, or one that cannot: each has its own kind
            _LOG.warning("%s is not compiled: %s", name, " ".join(str(err).split())[:200])
            return
        if float(apart) > 1:
            _LOG.warning("%s gives other pixels when compiled: not used", name)
            return
        self.compiled = compiled


def letterbox(canvas: Canvas, side: int) -> tuple[torch.Tensor, F64]:
    """Each photo scaled into the top left of a square (n, side, side, 3) uint8; and square pixels per photo pixel."""
    fits = [fitted(height, width, side) for height, width in canvas.sizes]
    rows, down = _padded(((height, fit[0]) for (height, _), fit in zip(canvas.sizes, fits, strict=True)), side)
    columns, across = _padded(((width, fit[1]) for (_, width), fit in zip(canvas.sizes, fits, strict=True)), side)
    device = canvas.pixels.device
    taps_there = [torch.from_numpy(item).to(device, non_blocking=True) for item in (rows, down, columns, across)]
    scale = np.array([fit[0] / height for (height, _), fit in zip(canvas.sizes, fits, strict=True)])
    return _LETTERBOX(canvas.pixels, canvas.start, canvas.height, canvas.width, *taps_there), scale


def _letterboxed(
    pixels: torch.Tensor,
    start: torch.Tensor,
    height: torch.Tensor,
    width: torch.Tensor,
    y: torch.Tensor,
    v: torch.Tensor,
    x: torch.Tensor,
    u: torch.Tensor,
) -> torch.Tensor:
    """Taps (n, side) and their weights along columns and rows to squares; see resample.resize_into."""
    y, v, x, u = y[:, :, None], v[:, :, None, None], x[:, None, :], u[:, None, :, None]
    inside = ((y >= 0) & (x >= 0))[..., None]
    y, x = y.clamp(min=0), x.clamp(min=0)
    height, width = height[:, None, None], width[:, None, None]
    first = start[:, None, None] + y * width + x
    below, right = torch.where(y + 1 < height, width, 0), (x + 1 < width).long()
    at = [pixels[first + step].int() for step in (0, below, right, below + right)]
    left, next_ = at[0] * (_ONE - v) + at[1] * v, at[2] * (_ONE - v) + at[3] * v
    mixed = (left * (_ONE - u) + (1 << (2 * BITS - 1)) + next_ * u) >> (2 * BITS)
    return torch.where(inside, mixed, 0).to(torch.uint8)


def warp(canvas: Canvas, photo: I64, inverse: F64, side: int) -> torch.Tensor:
    """Crops (f, side, side, 3) uint8 of photos (f,), black outside them.

    Args:
        inverse: (f, 2, 3), from crop pixels to photo pixels.
    """
    device = canvas.pixels.device
    which = torch.from_numpy(photo).to(device, non_blocking=True)
    start, height, width = (item[which][:, None, None] for item in (canvas.start, canvas.height, canvas.width))
    m = torch.from_numpy(inverse).to(device, non_blocking=True)
    steps = torch.arange(side, dtype=torch.float64, device=device)
    return _WARP(canvas.pixels, start, height, width, m, steps)


def _warped(
    pixels: torch.Tensor,
    start: torch.Tensor,
    height: torch.Tensor,
    width: torch.Tensor,
    m: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    """Matrices (f, 2, 3) and places in photos (f, 1, 1) to crops; see resample.warp_linear."""
    m = m[..., None, None]
    x, y = steps[None, None, :], steps[None, :, None]
    at_x = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]
    at_y = m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    inside = (at_x > -1) & (at_x < width) & (at_y > -1) & (at_y < height)  # not where it is not a number
    at_x, at_y = torch.where(inside, at_x, 0), torch.where(inside, at_y, 0)
    x0, y0 = at_x.floor().long(), at_y.floor().long()
    u, v = at_x - x0, at_y - y0
    total = torch.zeros((*at_x.shape, 3), dtype=torch.float64, device=pixels.device)
    for j, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = y0 + j, x0 + i
        there = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = torch.where(there, (v if j else 1 - v) * (u if i else 1 - u), 0)
        place = start + row.clamp(min=0).minimum(height - 1) * width + column.clamp(min=0).minimum(width - 1)
        total = total + weight[..., None] * pixels[place]
    return torch.where(inside[..., None], total + 0.5, 0).to(torch.uint8)


def blob(images: torch.Tensor, mean: float, scale: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) of `dtype`, (x - mean) * scale, still in the order of channels last."""
    return _BLOB(images, mean, scale, dtype).permute(0, 3, 1, 2)


def _scaled(images: torch.Tensor, mean: float, scale: float, dtype: torch.dtype) -> torch.Tensor:
    return ((images.float() - mean) * scale).to(dtype)


_LETTERBOX, _WARP, _BLOB = Fused(_letterboxed), Fused(_warped), Fused(_scaled)


def shrunk(pixels: torch.Tensor, divisor: int) -> torch.Tensor:
    """(3, h, w) uint8 with each `divisor` x `divisor` pixels as their mean; blocks at the edges may be smaller."""
    if divisor == 1:
        return pixels
    mean = F.avg_pool2d(pixels[None].float(), divisor, ceil_mode=True, count_include_pad=False)
    return (mean[0] + 0.5).to(torch.uint8)


def bounded(sizes: Sequence[int], most: int, total: int) -> Iterator[slice]:
    """Neighbours of which there are at most `most`, and whose sizes sum to `total` at the most; at least one each."""
    start, held = 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start >= most or held + size > total):
            yield slice(start, i)
            start, held = i, 0
        held += size
    if len(sizes) > start:
        yield slice(start, len(sizes))


def kept(boxes: torch.Tensor, scores: torch.Tensor, max_iou: float, border: float) -> torch.Tensor:
    """Which candidates (n, k) greedy non-maximum suppression keeps of each photo's; see geometry.nms.

    Args:
        boxes: (n, k, 4), best score first.
        scores: (n, k); minus infinity where there is no candidate.
    """
    size = max(1, _MOST_OVERLAPS // max(boxes.shape[1] ** 2, 1))
    some = (slice(start, start + size) for start in range(0, len(boxes), size))
    return torch.cat([_kept(boxes[part], scores[part], max_iou, border) for part in some])


def _kept(boxes: torch.Tensor, scores: torch.Tensor, max_iou: float, border: float) -> torch.Tensor:
    """Rounds in which a candidate stays that no better one which stays covers: after r rounds the first r are right."""
    rows = max(1, _MOST_OVERLAPS // max(len(boxes) * boxes.shape[1], 1))
    parts = [_overlaps(boxes, slice(i, i + rows), max_iou, border) for i in range(0, boxes.shape[1], rows)]
    covers = torch.triu(torch.cat(parts, 1), diagonal=1)  # [better, worse]
    there = torch.isfinite(scores)
    stays = there
    for _ in range(boxes.shape[1]):
        before = stays
        stays = there & ~(covers & before[:, :, None]).any(1)
        if bool((stays == before).all()):
            break
    return stays


def _overlaps(boxes: torch.Tensor, some: slice, max_iou: float, border: float) -> torch.Tensor:
    """Whether some of the boxes (n, k, 4) share more than that with each of them (n, some, k)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    area = (high - low + border).clamp(min=0).prod(-1)
    overlap = torch.minimum(high[:, some, None], high[:, None]) - torch.maximum(low[:, some, None], low[:, None])
    shared = (overlap + border).clamp(min=0).prod(-1)
    union = (area[:, some, None] + area[:, None] - shared).clamp(min=1e-9)
    return shared / union > max_iou


def sharpness(crops: torch.Tensor) -> torch.Tensor:
    """Sharpness (f,) float64 of aligned faces (f, 112, 112, 3); see quality.sharpness."""
    gray = crops[:, 16:96, 16:96].float() @ torch.tensor(_GRAY, device=crops.device)
    inner = gray[:, 1:-1, 1:-1]
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    variance = (around - 4 * inner).double().var((1, 2), correction=0)
    return variance / (variance + SHARP_HALF)


class PixelKeys:
    """Keys of crops by their pixels, without moving them: multilinear sums modulo 2^64 under secret weights.

    Two different crops collide with a chance below 2^-100, whoever made them: the weights are drawn anew by every
    process (Carter and Wegman, "Universal classes of hash functions", 1979).
    """

    def __init__(self, values: int, device: torch.device) -> None:
        drawn = np.random.SeedSequence().generate_state(2 * values, np.uint64).view(np.int64)
        self._weights = torch.from_numpy(drawn.reshape(2, values)).to(device)

    def of(self, crops: torch.Tensor) -> torch.Tensor:
        """Keys (f, 2) int64 of crops (f, ...) uint8."""
        flat = crops.reshape(len(crops), -1).long()
        return torch.stack([(flat * weights).sum(1) for weights in self._weights], 1)


def upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """Apply an EXIF orientation (1..8) to (h, w, 3) pixels; see decode.upright."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels.flip(1)
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return torch.rot90(pixels, quarter_turns, (0, 1)).contiguous()


def _padded(sizes: Any, side: int) -> tuple[I64, np.ndarray]:
    """For each (source, target): the first pixel (n, side) and the second one's weight; -1 beyond the target."""
    held = [_taps_to(source, target, side) for source, target in sizes]
    return np.stack([first for first, _ in held]), np.stack([weight for _, weight in held])


@lru_cache(maxsize=512)
def _taps_to(source: int, target: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    first, weight = taps(source, target)
    out = np.full(side, -1, np.int64), np.zeros(side, np.int32)
    out[0][:target], out[1][:target] = first, weight
    return out
