"""Operations on batches of faces on a device: suppression, sharpness, pixel keys and orientation.

`kept` suppresses in the same order as geometry.nms. No function copies pixels off the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from facelake.embed import relight
from facelake.embed.quality import GRAY, SHARP_HALF

_MOST_OVERLAPS = 1 << 24  # pairs of candidates compared at once


def bounded(sizes: Sequence[int], most: int, total: int) -> Iterator[slice]:
    """Split a sequence into slices of at most `most` items whose sizes sum to at most `total`; at least one item
    each.
    """
    start, part_size = 0, 0
    for i, size in enumerate(sizes):
        if i > start and (i - start >= most or part_size + size > total):
            yield slice(start, i)
            start, part_size = i, 0
        part_size += size
    if len(sizes) > start:
        yield slice(start, len(sizes))


def kept(boxes: torch.Tensor, scores: torch.Tensor, max_iou: float, border: float) -> torch.Tensor:
    """Which candidates (n, k) of each photo greedy non-maximum suppression keeps, as a bool mask; see geometry.nms.

    Args:
        boxes: (n, k, 4), best score first.
        scores: (n, k); minus infinity where there is no candidate.
    """
    size = max(1, _MOST_OVERLAPS // max(boxes.shape[1] ** 2, 1))
    parts = (slice(start, start + size) for start in range(0, len(boxes), size))
    return torch.cat([_kept(boxes[part], scores[part], max_iou, border) for part in parts])


def _kept(boxes: torch.Tensor, scores: torch.Tensor, max_iou: float, border: float) -> torch.Tensor:
    """Greedy suppression by fixed-point iteration: a candidate is kept if no kept better one overlaps it.

    After r rounds the first r candidates are decided, so that k rounds are enough."""
    rows = max(1, _MOST_OVERLAPS // max(len(boxes) * boxes.shape[1], 1))
    parts = [_overlaps(boxes, slice(i, i + rows), max_iou, border) for i in range(0, boxes.shape[1], rows)]
    covers = torch.triu(torch.cat(parts, 1), diagonal=1)  # [better, worse]
    present = torch.isfinite(scores)
    stays = present
    for _ in range(boxes.shape[1]):
        before = stays
        stays = present & ~(covers & before[:, :, None]).any(1)
        if bool((stays == before).all()):
            break
    return stays


def _overlaps(boxes: torch.Tensor, some: slice, max_iou: float, border: float) -> torch.Tensor:
    """Whether the boxes of a slice (n, k, 4)[:, some] overlap each box by more than `max_iou`: bool (n, some, k)."""
    low, high = boxes[..., :2], boxes[..., 2:]
    area = (high - low + border).clamp(min=0).prod(-1)
    overlap = torch.minimum(high[:, some, None], high[:, None]) - torch.maximum(low[:, some, None], low[:, None])
    shared = (overlap + border).clamp(min=0).prod(-1)
    union = (area[:, some, None] + area[:, None] - shared).clamp(min=1e-9)
    return shared / union > max_iou


def sharpness(crops: torch.Tensor) -> torch.Tensor:
    """Sharpness (f,) float64 of aligned faces (f, 112, 112, 3), as quality.sharpness."""
    gray = crops[:, 16:96, 16:96].float() @ torch.tensor(GRAY, device=crops.device)
    inner = gray[:, 1:-1, 1:-1]
    around = gray[:, :-2, 1:-1] + gray[:, 2:, 1:-1] + gray[:, 1:-1, :-2] + gray[:, 1:-1, 2:]
    variance = (around - 4 * inner).double().var((1, 2), correction=0)
    return variance / (variance + SHARP_HALF)


class PixelKeys:
    """Hash keys of crops, computed on the device: multilinear sums modulo 2^64 with random weights.

    Two different crops collide with a probability below 2^-100, even if chosen by an adversary: every process draws
    its own weights (Carter and Wegman, "Universal classes of hash functions", 1979).
    """

    def __init__(self, values: int, device: torch.device) -> None:
        drawn = np.random.SeedSequence().generate_state(2 * values, np.uint64).view(np.int64)
        self._weights = torch.from_numpy(drawn.reshape(2, values)).to(device)

    def of(self, crops: torch.Tensor) -> torch.Tensor:
        """Keys (f, 2) int64 of crops (f, ...) uint8."""
        flat = crops.reshape(len(crops), -1).long()
        return torch.stack([(flat * weights).sum(1) for weights in self._weights], 1)


def brightened(pixels: torch.Tensor) -> torch.Tensor | None:
    """A photo (h, w, 3) with its grey levels stretched; None if that changes little; as relight.relighting."""
    gray = pixels[relight.sampled(pixels.shape)].double() @ torch.tensor(GRAY, device=pixels.device).double()
    shares = torch.tensor(relight.PERCENTILES, device=pixels.device).double() / 100
    black, middle, white = torch.quantile(gray.flatten(), shares).tolist()
    table = relight.table_of(black, middle, white, always=True)
    if table is None:
        return None
    levels = torch.from_numpy(table).to(pixels.device)
    return levels[pixels.int()]


def upright(pixels: torch.Tensor, orientation: int) -> torch.Tensor:
    """Apply an EXIF orientation (1..8) to (h, w, 3) pixels; as decode.upright."""
    if orientation in (2, 4, 5, 7):
        pixels = pixels.flip(1)
    quarter_turns = {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0)
    return torch.rot90(pixels, quarter_turns, (0, 1)).contiguous()
