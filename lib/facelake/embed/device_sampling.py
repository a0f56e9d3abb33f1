"""Photos on a device, and resampling of a whole batch of them at once.

`letterbox`, `letterbox_smoothly` and `warp` use the same integer and float64 arithmetic as resample.py on the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from facelake.contracts import F64, I64
from facelake.embed.geometry import Fit, fineness
from facelake.embed.resample import BITS, at_level, fitted, level_for, taps

_LOG = logging.getLogger(__name__)
_ONE = 1 << BITS
_LEVEL, _PART_OF_LEVEL = 1, 1e-3  # tolerated difference of compiled code: in grey levels, and for floats
DEVICE_ERRORS = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
"""errors of a device that is out of memory or lost; RuntimeErrors that must not be taken for an error of the photos"""


@dataclass(frozen=True, slots=True)
class Canvas:
    """Photos of any size, concatenated: pixels (total, 3) uint8; start, height and width (n,) int64."""

    pixels: torch.Tensor
    start: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each photo, on the host"""

    @classmethod
    def of(cls, photos: Sequence[torch.Tensor], levels: int = 0) -> Canvas:
        """Concatenate photos (h, w, 3) uint8 on one device, followed by all of them halved once, twice, ..., `levels`
        times.
        """
        sizes = tuple((int(photo.shape[0]), int(photo.shape[1])) for photo in photos)
        pyramid = [cls._placed(torch.cat([photo.reshape(-1, 3) for photo in photos]), sizes)]
        for _ in range(levels):
            pyramid.append(pyramid[-1]._halved())
        if not levels:
            return pyramid[0]
        return cls._placed(
            torch.cat([level.pixels for level in pyramid]), tuple(size for level in pyramid for size in level.sizes)
        )

    @classmethod
    def _placed(cls, pixels: torch.Tensor, sizes: tuple[tuple[int, int], ...]) -> Canvas:
        areas = np.array([height * width for height, width in sizes], np.int64)
        starts, (heights, widths) = np.cumsum(areas) - areas, zip(*sizes, strict=True)
        columns = torch.tensor(np.stack([starts, heights, widths])).to(pixels.device, non_blocking=True)
        return cls(pixels, columns[0], columns[1], columns[2], sizes)

    def _halved(self) -> Canvas:
        sizes = tuple((-(-height // 2), -(-width // 2)) for height, width in self.sizes)
        total = sum(height * width for height, width in sizes)
        target = self._placed(self.pixels[:0], sizes)
        places = torch.arange(total, device=self.pixels.device)
        source = (self.start, self.height, self.width)
        pixels = _HALVE(self.pixels, source, (target.start, target.width), places)
        return Canvas(pixels, target.start, target.height, target.width, sizes)


class Fused:
    """A function of tensors that torch compiles to one kernel on a GPU if it can; otherwise it runs uncompiled.

    Sampling takes dozens of operations on tensors of hundreds of MB, as long as a network. The first call compares both
    versions; a function that does not compile, or gives other pixels, stays uncompiled.
    """

    where: ClassVar[set[str]] = {"cuda"}
    """device types on which functions are compiled; tests add the CPU"""

    def __init__(self, plain: Callable[..., torch.Tensor]) -> None:
        self.plain, self._tried = plain, False
        self.compiled: Callable[..., torch.Tensor] | None = None

    def __call__(self, *arguments: Any) -> torch.Tensor:
        if not self._tried and arguments[0].device.type in self.where:
            self._tried = True
            self._compile(arguments)
        if self.compiled:
            try:
                return self.compiled(*arguments)
            except DEVICE_ERRORS:
                raise
            except Exception as err:  # noqa: BLE001  another shape is compiled again, which may fail in any way
                self._disable(err)
        return self.plain(*arguments)

    def _disable(self, err: Exception) -> None:
        _LOG.warning("%s is not compiled: %s", self.plain.__name__, " ".join(str(err).split())[:200])
        self.compiled = None

    def _compile(self, arguments: Sequence[Any]) -> None:
        wanted = self.plain(*arguments)
        try:
            compiled: Callable[..., torch.Tensor] = torch.compile(self.plain, dynamic=True)
            difference = (compiled(*arguments).double() - wanted.double()).abs().max()
        except DEVICE_ERRORS:
            raise
        except Exception as err:  # noqa: BLE001  compilers are missing or fail with errors of their own types
            self._disable(err)
            return
        if float(difference) > (_LEVEL if wanted.dtype == torch.uint8 else _PART_OF_LEVEL):
            _LOG.warning("%s gives other pixels when compiled: not used", self.plain.__name__)
            return
        self.compiled = compiled


def letterbox(canvas: Canvas, side: int) -> tuple[torch.Tensor, F64]:
    """Each photo scaled into the top left of a square, (n, side, side, 3) uint8; and square pixels per photo pixel
    (n,).
    """
    fits = [fitted(height, width, side) for height, width in canvas.sizes]
    rows = [(height, fit[0], float(height)) for (height, _), fit in zip(canvas.sizes, fits, strict=True)]
    columns = [(width, fit[1], float(width)) for (_, width), fit in zip(canvas.sizes, fits, strict=True)]
    scale = np.array([fit[0] / height for (height, _), fit in zip(canvas.sizes, fits, strict=True)])
    return _squares(canvas, np.arange(len(fits)), rows, columns, side), scale


def letterbox_smoothly(canvas: Canvas, fits: Sequence[Fit], side: int) -> torch.Tensor:
    """As `letterbox`, but from halved photos as `fits`, one for each photo, specifies; see geometry.letterbox."""
    entry = np.array([fit.level for fit in fits]) * len(fits) + np.arange(len(fits))
    rows = [(canvas.sizes[i][0], fit.height, fit.source[0]) for i, fit in zip(entry, fits, strict=True)]
    columns = [(canvas.sizes[i][1], fit.width, fit.source[1]) for i, fit in zip(entry, fits, strict=True)]
    return _squares(canvas, entry, rows, columns, side)


_Side = tuple[int, int, float]
"""source pixels, target pixels, and the number of source pixels that map to the whole target"""


def _squares(canvas: Canvas, entry: I64, rows: Sequence[_Side], columns: Sequence[_Side], side: int) -> torch.Tensor:
    """Squares of the canvas's photos with the given indices."""
    device = canvas.pixels.device
    which = torch.from_numpy(entry).to(device, non_blocking=True)
    places = tuple(item[which] for item in (canvas.start, canvas.height, canvas.width))
    down, across = (
        tuple(torch.from_numpy(item).to(device, non_blocking=True) for item in _padded(sides, side))
        for sides in (rows, columns)
    )
    return _LETTERBOX(canvas.pixels, places, down, across)


def _letterboxed(
    pixels: torch.Tensor,
    photos: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    rows: tuple[torch.Tensor, torch.Tensor],
    columns: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Squares (n, side, side, 3) of photos (start, height, width) from taps (n, side) and weights along rows and
    columns; as resample.resize_into.
    """
    (start, height, width), (y, v), (x, u) = photos, rows, columns
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
    """Crops (f, side, side, 3) uint8 of photos (f,) of the canvas; pixels outside the photos are black.

    Args:
        inverse: (f, 2, 3), from crop pixels to photo pixels.
    """
    device = canvas.pixels.device
    which = torch.from_numpy(photo).to(device, non_blocking=True)
    start, height, width = (item[which][:, None, None] for item in (canvas.start, canvas.height, canvas.width))
    m = torch.from_numpy(inverse).to(device, non_blocking=True)
    steps = torch.arange(side, dtype=torch.float64, device=device)
    return _WARP(canvas.pixels, start, height, width, m, steps)


def smoothly(canvas: Canvas, photo: I64, photos: int, inverse: F64) -> tuple[I64, F64]:
    """Canvas indices (f,) and matrices (f, 2, 3) for `warp`, from halved photos where crops are smaller; see
    geometry.warp.

    Args:
        photos: number of photos of the canvas, without the halved ones.
        inverse: (f, 2, 3), from crop pixels to photo pixels.
    """
    fine = fineness(inverse)
    level = np.array(
        [level_for(float(scale), *canvas.sizes[i]) for scale, i in zip(fine, photo, strict=True)], np.int64
    )
    return level * photos + photo, at_level(inverse, level)


def _warped(
    pixels: torch.Tensor,
    start: torch.Tensor,
    height: torch.Tensor,
    width: torch.Tensor,
    m: torch.Tensor,
    steps: torch.Tensor,
) -> torch.Tensor:
    """Crops (f, side, side, 3) from matrices m (f, 2, 3) and photo offsets (f, 1, 1); as resample.warp_linear."""
    m = m[..., None, None]
    x, y = steps[None, None, :], steps[None, :, None]
    at_x = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]
    at_y = m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    inside = (at_x > -1) & (at_x < width) & (at_y > -1) & (at_y < height)  # false for NaN
    at_x, at_y = torch.where(inside, at_x, 0), torch.where(inside, at_y, 0)
    x0, y0 = at_x.floor().long(), at_y.floor().long()
    u, v = at_x - x0, at_y - y0
    total = torch.zeros((*at_x.shape, 3), dtype=torch.float64, device=pixels.device)
    for j, i in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = y0 + j, x0 + i
        valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight = torch.where(valid, (v if j else 1 - v) * (u if i else 1 - u), 0)
        place = start + row.clamp(min=0).minimum(height - 1) * width + column.clamp(min=0).minimum(width - 1)
        total = total + weight[..., None] * pixels[place]
    return torch.where(inside[..., None], total + 0.5, 0).to(torch.uint8)


def blob(images: torch.Tensor, mean: float, scale: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(n, h, w, 3) uint8 to (n, 3, h, w) of `dtype`, (x - mean) * scale, in channels-last memory order."""
    return _BLOB(images, mean, scale, dtype).permute(0, 3, 1, 2)


def _scaled(images: torch.Tensor, mean: float, scale: float, dtype: torch.dtype) -> torch.Tensor:
    return ((images.float() - mean) * scale).to(dtype)


def _halve(
    pixels: torch.Tensor,
    photos: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    halved: tuple[torch.Tensor, torch.Tensor],
    places: torch.Tensor,
) -> torch.Tensor:
    """Pixels at `places` of halved photos (start, width), from photos (start, height, width); as resample.halved."""
    (start, height, width), (new_start, new_width) = photos, halved
    photo = torch.searchsorted(new_start, places, right=True) - 1
    within, across = places - new_start[photo], new_width[photo]
    y, x = within // across * 2, within % across * 2
    first = start[photo] + y * width[photo] + x
    below, right = torch.where(y + 1 < height[photo], width[photo], 0), (x + 1 < width[photo]).long()
    four = [pixels[first + step].int() for step in (0, below, right, below + right)]
    return ((four[0] + four[1] + four[2] + four[3] + 2) >> 2).to(torch.uint8)


_LETTERBOX, _WARP, _BLOB, _HALVE = Fused(_letterboxed), Fused(_warped), Fused(_scaled), Fused(_halve)


def shrunk(pixels: torch.Tensor, divisor: int) -> torch.Tensor:
    """(3, h, w) uint8 reduced to the means of blocks of `divisor` x `divisor` pixels; blocks at the edges may be
    smaller.
    """
    if divisor == 1:
        return pixels
    mean = F.avg_pool2d(pixels[None].float(), divisor, ceil_mode=True, count_include_pad=False)
    return (mean[0] + 0.5).to(torch.uint8)


def _padded(sides: Sequence[_Side], square: int) -> tuple[I64, np.ndarray]:
    """First source pixel (n, square) and weight of the second one, for each side; -1 beyond the target."""
    taps_of = [_taps_to(*side, square) for side in sides]
    return np.stack([first for first, _ in taps_of]), np.stack([weight for _, weight in taps_of])


@lru_cache(maxsize=512)
def _taps_to(source: int, target: int, whole: float, square: int) -> tuple[np.ndarray, np.ndarray]:
    first, weight = taps(source, target, whole)
    out = np.full(square, -1, np.int64), np.zeros(square, np.int32)
    out[0][:target], out[1][:target] = first, weight
    return out
