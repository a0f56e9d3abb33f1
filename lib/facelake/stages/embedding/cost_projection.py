"""Projects the cost of embed: seconds per photo from a short calibration, node-hours and price; checks the budget.

The calibration uses no real photos: it decodes noise images of the corpus's mean size, runs the detector on them and
encodes noise of the shape of faces.
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

_ROUNDS_S = 1.0  # least duration of each measurement
_BYTES_PER_PIXEL = 0.25  # of JPEG photos at usual quality
_FACES_PER_PHOTO = 1.0  # assumed before any photo is embedded
_MOST_SIDE_PX = 6000
# Factor for reading, aligning, writing and Ray, relative to decoding and the networks (docs/benchmarks.md).
_OVERHEAD = 1.2
# Measured (docs/benchmarks.md): libraries and models of a worker, and one decoded photo.
_WORKER_BASE_BYTES = 330 << 20
_DECODED_PHOTO_BYTES = 1280 * 960 * 3 * 2


@dataclass(frozen=True, slots=True)
class Projection:
    """Projected time and price for the photos that are to be embedded."""

    seconds_per_photo: float
    """seconds of one worker"""
    hours: float
    """hours of the whole job, with the configured workers"""
    node_hours: float
    cost: float | None
    """None if the config has no price"""

    def figures(self) -> dict[str, Any]:
        """The figures that `facelake plan` shows, rounded."""
        return {
            "worker_seconds_per_photo": round(self.seconds_per_photo, 4),
            "seconds": round(self.hours * 3600, 1),
            "hours": round(self.hours, 3),
            "node_hours": round(self.node_hours, 3),
            "cost": None if self.cost is None else round(self.cost, 2),
        }


def project(config: Config, pack: Pack, photos: int, mean_bytes: float, faces_per_photo: float) -> Projection:
    """Calibrate for a few seconds on this machine and extrapolate to `photos` photos."""
    seconds = _seconds_per_photo(config, pack, mean_bytes, faces_per_photo) * _OVERHEAD
    workers = config.plan.nodes * config.plan.cores_per_node
    hours = photos * seconds / workers / 3600
    node_hours = hours * config.plan.nodes
    price = config.plan.price_per_node_hour
    return Projection(seconds, hours, node_hours, None if price is None else node_hours * price)


def check_budget(config: Config, projection: Projection) -> None:
    """Check that the projected cost is within plan.budget.

    Raises:
        Refused: it is higher, or the config has a budget but no price.
    """
    budget = config.plan.budget
    if budget is None:
        return
    if projection.cost is None:
        next_step = "set plan.price_per_node_hour"
        raise Refused("a budget without a price cannot be checked", where="plan.budget", next_step=next_step)
    if projection.cost > budget:
        hours, cost = projection.node_hours, projection.cost
        what = f"embed would take {hours:.2f} node-hours and cost {cost:.2f}, the budget is {budget:.2f}"
        raise Refused(what, where="plan.budget", next_step="raise the budget, or admit fewer photos")


def worker_memory_bytes(mean_bytes: float, batch_photos: int = 16) -> int:
    """Memory that one embed worker needs for photos of a mean encoded size."""
    return int(_WORKER_BASE_BYTES + batch_photos * (_DECODED_PHOTO_BYTES + 2 * mean_bytes))


def faces_per_photo(lake: Lake | None) -> float:
    """Mean number of faces per photo so far in the lake; 1 if nothing was embedded yet."""
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

    def decode_and_detect() -> None:
        decoded = decode(data, options.limits)
        assert isinstance(decoded, Photo)
        detector.locate([Levels(decoded.pixels)])

    return _seconds(decode_and_detect) + faces * _seconds(lambda: encoder.raw(crops)) / len(crops)


def _seconds(work: Callable[[], object]) -> float:
    """Median duration of repeated calls, without the first."""
    work()
    taken: list[float] = []
    while sum(taken) < _ROUNDS_S:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def _noise(mean_bytes: float) -> bytes:
    """A JPEG of noise with about as many pixels as photos of this many bytes."""
    side = int(min(max(math.sqrt(mean_bytes / _BYTES_PER_PIXEL), 64), _MOST_SIDE_PX))
    coarse = np.random.default_rng(0).integers(0, 255, (side // 8 + 1, side // 8 + 1, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize((side, side)).save(sink, "JPEG", quality=90)
    return sink.getvalue()
