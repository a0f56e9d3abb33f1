"""What embed will take: seconds per photo from a short calibration, node-hours, money; and the budget that it must fit.

The calibration needs no photo of anybody: it decodes and searches noise of the corpus's mean size and encodes noise in
the shape of faces.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from facelake.config import Config
from facelake.embed import Pack
from facelake.embed.decode import Photo, decode
from facelake.embed.models import load_detector, load_encoder
from facelake.embed.resample import Levels
from facelake.errors import Refused
from facelake.lake.lake import Lake
from facelake.stages.models.registry import pipeline_options

_ROUNDS_S = 1.0
_BYTES_PER_PIXEL = 0.25  # of photos at usual quality
_FACES_PER_PHOTO = 1.0  # where no photo was embedded yet
_MOST_SIDE_PX = 6000
# Reading, aligning, writing and Ray itself, over decoding and the networks (docs/benchmarks.md).
_OVERHEAD = 1.2
# Measured (docs/benchmarks.md): libraries and models of a worker; then a batch of 16 photos, encoded and decoded.
_WORKER_BASE_BYTES = 330 << 20
_DECODED_PHOTO_BYTES = 1280 * 960 * 3 * 2


@dataclass(frozen=True, slots=True)
class Projection:
    """Time and money for the photos that are open."""

    seconds_per_photo: float
    """of one worker"""
    hours: float
    """of the whole job, with the configured workers"""
    node_hours: float
    cost: float | None
    """None without a price in the config"""

    def figures(self) -> dict[str, Any]:
        """As `facelake plan` shows them."""
        return {
            "worker_seconds_per_photo": round(self.seconds_per_photo, 4),
            "hours": round(self.hours, 3),
            "node_hours": round(self.node_hours, 3),
            "cost": None if self.cost is None else round(self.cost, 2),
        }


def project(config: Config, pack: Pack, photos: int, mean_bytes: float, faces_per_photo: float) -> Projection:
    """Calibrate for a few seconds on this machine and multiply."""
    seconds = _seconds_per_photo(config, pack, mean_bytes, faces_per_photo) * _OVERHEAD
    workers = config.plan.nodes * config.plan.cores_per_node
    hours = photos * seconds / workers / 3600
    node_hours = hours * config.plan.nodes
    price = config.plan.price_per_node_hour
    return Projection(seconds, hours, node_hours, None if price is None else node_hours * price)


def must_fit_budget(config: Config, projection: Projection) -> None:
    """Refuse work that would cost more than the config allows.

    Raises:
        Refused: it would, or the config names a budget and no price.
    """
    budget = config.plan.budget
    if budget is None:
        return
    if projection.cost is None:
        next_step = "set plan.price_per_node_hour"
        raise Refused("a budget without a price cannot be kept", where="plan.budget", next_step=next_step)
    if projection.cost > budget:
        hours, cost = projection.node_hours, projection.cost
        what = f"embed would take {hours:.2f} node-hours and cost {cost:.2f}, allowed {budget:.2f}"
        raise Refused(what, where="plan.budget", next_step="raise the budget, or admit fewer photos")


def worker_memory_bytes(mean_bytes: float, batch_photos: int = 16) -> int:
    """What one embed worker needs for photos of that many bytes."""
    return int(_WORKER_BASE_BYTES + batch_photos * (_DECODED_PHOTO_BYTES + 2 * mean_bytes))


def faces_per_photo(lake: Lake | None) -> float:
    """As found so far in the lake; one where nothing was embedded yet."""
    if lake is None or lake["chunks"].version() < 0:
        return _FACES_PER_PHOTO
    done = lake["chunks"].read(["faces", "embedded", "rejected"])
    faces, photos = (sum(sum(done[name].to_pylist()) for name in names) for names in (["faces"], done.column_names[1:]))
    return faces / photos if photos else _FACES_PER_PHOTO


def _seconds_per_photo(config: Config, pack: Pack, mean_bytes: float, faces: float) -> float:
    options = pipeline_options(config, pack.card)
    detector = load_detector(pack, options.min_det_score, options.runtime)
    encoder = load_encoder(pack, options.runtime)
    data = _noise(mean_bytes)
    photo = decode(data, options.limits)
    assert isinstance(photo, Photo)
    crops = np.random.default_rng(0).integers(0, 255, (options.batch_faces, 112, 112, 3), dtype=np.uint8)

    def see() -> None:
        decoded = decode(data, options.limits)
        assert isinstance(decoded, Photo)
        detector.locate([Levels(decoded.pixels)])

    return _seconds(see) + faces * _seconds(lambda: encoder.raw(crops)) / len(crops)


def _seconds(work: Callable[[], object]) -> float:
    """Median of repetitions; the first is left out."""
    work()
    taken: list[float] = []
    while sum(taken) < _ROUNDS_S:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def _noise(mean_bytes: float) -> bytes:
    """A JPEG without a face, of about as many pixels as photos of that many bytes have."""
    side = int(min(max(math.sqrt(mean_bytes / _BYTES_PER_PIXEL), 64), _MOST_SIDE_PX))
    coarse = np.random.default_rng(0).integers(0, 255, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(sink, "JPEG", quality=90)
    return sink.getvalue()
