"""bench device: one process on one device, against what the very same convolutions take when nothing else runs.

Rates of photos per second, in turns, medians of the rounds; each leaves out more than the one before:

- whole: encoded bytes to outcomes, as a worker runs it (decode, see, encode, rows of the host).
- seen: from pixels that are on the device: scale, detect, suppress, align, encode.
- networks: both graphs on ready tensors, in batches as the pipeline runs them.
- convolutions: only their convolutions and matrix products, each on the tensors that it got in a run of the graph.

What lies between two neighbours is what bounds the upper one. Neither Ray nor Spark is needed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from facelake.bench.embed import Sizes, made_pack, pack_and_photos
from facelake.config import Config
from facelake.embed import Pack, Pipeline, PipelineOptions, open_opener
from facelake.embed.decode import Photo
from facelake.embed.device_vision import DeviceVision
from facelake.embed.pipeline import open_vision
from facelake.embed.torch_runtime import TorchGraph, replayed
from facelake.embed.vision import FACE_PX
from facelake.errors import ConfigError
from facelake.stages.models.registry import pipeline_options

_PART_S = 1.0
_PRODUCTS = {"conv2d", "matmul", "__matmul__"}


@dataclass(slots=True)
class Products:
    """A graph's products on real tensors, and their multiplications and additions."""

    calls: list[Callable[[], torch.Tensor]] = field(default_factory=list)
    flop: float = 0.0

    def run(self) -> list[torch.Tensor]:
        """All of them, in their order; the last is enough to wait for."""
        for call in self.calls[:-1]:
            call()
        return [self.calls[-1]()]


class _Listening(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.work = Products()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _PRODUCTS and out.is_floating_point():
            per_value = args[1][0].numel() if func.__name__ == "conv2d" else args[0].shape[-1]
            self.work.flop += 2.0 * out.numel() * per_value
            self.work.calls.append(lambda: func(*args, **(kwargs or {})))
        return out


def device_rates(config: Config, pack: str, images: str, sizes: Sizes) -> dict[str, Any]:
    """Photos per second of each, and the share of the one before it that each reaches.

    Args:
        pack: folder of an InsightFace pack, or `shape:r50`; see bench.embed.

    Raises:
        ConfigError: no photos, no pack, no such device.
        Refused: the pack's terms are not accepted.
    """
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as scratch:
        folder = Path(scratch)
        pack, config = made_pack(config, pack, folder)
        card, loaded = pack_and_photos(config, pack, images, folder, sizes)
        data = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    options = pipeline_options(config, card)
    if options.runtime.name != "torch":
        raise ConfigError("bench device measures torch", where="embed.runtime", next_step="set it to torch")
    began = time.monotonic()
    photos = _Photos(loaded, options, data)
    rounds = [photos.rates() for _ in range(sizes.rounds)]
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    shares = {
        f"{name}_of_{below}": round(statistics.median(one[name] / one[below] for one in rounds), 3)
        for name, below in pairwise(list(median))
    }
    return {
        "device": torch.cuda.get_device_name() if options.runtime.device.startswith("cuda") else "cpu",
        "half_precision": options.runtime.half,
        "nvjpeg": options.runtime.nvjpeg,
        "photos": len(data),
        "faces_per_photo": round(photos.faces, 2),
        **{f"{name}_per_s": round(rate, 2) for name, rate in median.items()},
        **shares,
        "seen_of_convolutions": round(statistics.median(one["seen"] / one["convolutions"] for one in rounds), 3),
        "convolution_tflops": round(photos.flop * median["convolutions"] / 1e12, 3),
        "seconds": round(time.monotonic() - began, 1),
    }


class _Photos:
    """The same photos for every measurement."""

    def __init__(self, pack: Pack, options: PipelineOptions, data: list[bytes]) -> None:
        self._pack, self._options = pack, options
        self._rows = [(i, str(i), one) for i, one in enumerate(data)]
        size, vision = options.batch_photos, self._vision()
        batches = [open_opener(options).open_all(data[start : start + size]) for start in range(0, len(data), size)]
        pixels = [[one.photo.pixels for one in batch if isinstance(one.photo, Photo)] for batch in batches]
        self._placed = [vision.place(one) for one in pixels]
        self.faces = sum(len(one) for photos in self._placed for one in vision.locate(photos)) / len(data)
        self._device = torch.device(options.runtime.device)
        detector = vision.detector
        squares = [(detector.graph, torch.rand(size, 3, side, side, device=self._device)) for side in detector.sides]
        crops = torch.rand(options.batch_faces, 3, FACE_PX, FACE_PX, device=self._device)
        self._graphs = [(graph, x, 1.0) for graph, x in squares] + [(vision.encoder, crops, self.faces)]
        with torch.inference_mode():
            self._products = [products_of(graph, x) for graph, x, _ in self._graphs]
            self._replays = [replayed(work.run, self._device) for work in self._products]
        self.flop = sum(w.flop / len(x) * share for w, (_, x, share) in zip(self._products, self._graphs, strict=True))
        """multiplications and additions per photo"""

    def rates(self) -> dict[str, float]:
        """Photos per second of each, the freest last."""
        pipeline, vision, first = Pipeline(self._pack, self._options), self._vision(), self._rows[:1]
        list(pipeline.run(first))  # graphs are captured before the clock runs; and no face is known already
        self._see(vision, [self._placed[0][:1]])
        with torch.inference_mode():
            graphs = [(partial(graph.on_device, x, len(x)), len(x), share) for graph, x, share in self._graphs]
            alone = [(replay, len(x), share) for replay, (_, x, share) in zip(self._replays, self._graphs, strict=True)]
            return {
                "whole": len(self._rows) / self._seconds(lambda: list(pipeline.run(self._rows))),
                "seen": len(self._rows) / self._seconds(lambda: self._see(vision, self._placed)),
                "networks": self._per_photo(graphs),
                "convolutions": self._per_photo(alone),
            }

    def _vision(self) -> DeviceVision:
        vision = open_vision(self._pack, self._options)
        assert isinstance(vision, DeviceVision)  # InsightFace packs on torch
        return vision

    def _see(self, vision: DeviceVision, batches: list[list[torch.Tensor]]) -> None:
        for photos in batches:
            found = [(photo, faces) for photo, faces in zip(photos, vision.locate(photos), strict=True) if len(faces)]
            if found:
                vision.encode([photo for photo, _ in found], [faces for _, faces in found])

    def _per_photo(self, parts: Sequence[tuple[Callable[[], object], int, float]]) -> float:
        """Photos per second where each needs a share of every part, and a part does so many at once."""
        seconds = 0.0
        for run, count, share in parts:
            run()
            runs = max(1, round(_PART_S / self._seconds(run)))
            seconds += share * self._seconds(partial(_again, run, runs)) / (runs * count)
        return 1 / seconds

    def _seconds(self, work: Callable[[], object]) -> float:
        began = time.monotonic()
        work()
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.monotonic() - began


def _again(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


def products_of(graph: TorchGraph, x: torch.Tensor) -> Products:
    """The products of one run of a graph on its own input; call under inference_mode."""
    listening = _Listening()
    with listening:
        graph.once(x)
    return listening.work
