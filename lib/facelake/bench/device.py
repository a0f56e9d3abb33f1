"""The command `bench device`: one process on one device, compared with the time of its convolutions alone.

Rates in photos per second, measured in turns, medians over the rounds; each measures less work than the one before:

- whole: encoded bytes to outcomes, as a worker runs it (decode, detect, encode, rows on the host).
- seen: from pixels on the device: scale, detect, suppress, align, encode.
- networks: both graphs on prepared tensors, in the batches of the pipeline.
- convolutions: only their convolutions and matrix products, on the tensors of a recorded run of the graph.

The difference between two adjacent rates is the cost of what the lower one leaves out. Needs neither Ray nor Spark.

Other runtimes on the same device (torch in float32, onnxruntime's CUDA and TensorRT providers) can be measured in the
same run: `whole` with each, in turns. Their photos are decoded, scaled and aligned on the host. Several processes that
share the device, as `embed.workers_per_gpu` of them do, can be measured too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode

from facelake.bench.device_workers import SharedRate, shared_rate
from facelake.bench.embed import Sizes, pack_and_photos, resolve_pack, write_photos
from facelake.config import Config
from facelake.embed import Pack, Pipeline, PipelineOptions, open_opener
from facelake.embed.decode import Photo
from facelake.embed.detectors import Detections
from facelake.embed.device_vision import DeviceVision
from facelake.embed.pipeline import open_vision
from facelake.embed.runtime import Runtime, RuntimeName, unavailable
from facelake.embed.torch_runtime import TorchGraph, replayed
from facelake.embed.vision import FACE_PX
from facelake.errors import ConfigError
from facelake.stages.models.registry import load_pack, pipeline_options

_PART_S = 1.0
_PRODUCTS = {"conv2d", "matmul", "__matmul__"}


@dataclass(slots=True)
class Products:
    """The convolutions and matrix products of a graph as calls on recorded tensors, and their floating-point
    operations.
    """

    calls: list[Callable[[], torch.Tensor]] = field(default_factory=list)
    flop: float = 0.0

    def run(self) -> list[torch.Tensor]:
        """Run all calls in order; returns the last result, on which the caller can wait."""
        for call in self.calls[:-1]:
            call()
        return [self.calls[-1]()]


class _Recorder(TorchFunctionMode):
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
    """Photos per second at each level, and the ratio of adjacent levels.

    Args:
        pack: folder of an InsightFace pack, or `shape:r50`, see bench.embed; empty: the pack of the config's card.

    Raises:
        ConfigError: no photos, no pack, no such device.
        Refused: the pack's terms are not accepted.
    """
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as scratch:
        folder = Path(scratch)
        if pack:
            pack, config = resolve_pack(config, pack, folder)
            card, loaded = pack_and_photos(config, pack, images, folder, sizes)
        else:
            loaded = load_pack(config)
            card = loaded.card
            write_photos(images, folder / "photos", sizes)
        data = [path.read_bytes() for path in sorted((folder / "photos").iterdir())]
    options = pipeline_options(config, card)
    if options.runtime.name != "torch":
        raise ConfigError("bench device measures torch", where="embed.runtime", next_step="set embed.runtime to torch")
    began = time.monotonic()
    photos = _Photos(loaded, options, data)
    others = {name: _other_runtime(name, options.runtime) for name in sizes.runtimes}
    missing = {name: reason for name, runtime in others.items() if (reason := unavailable(runtime))}
    rounds = [photos.rates() for _ in range(sizes.rounds)]
    whole = {
        name: [photos.whole_with(runtime) for _ in range(sizes.rounds)]
        for name, runtime in others.items()
        if name not in missing
    }
    compared: dict[str, dict[str, float | str]] = {name: {"unavailable": reason} for name, reason in missing.items()}
    compared |= {name: {"whole_per_s": round(statistics.median(rates), 2)} for name, rates in whole.items()}
    shared = {count: shared_rate(loaded, options, data, count) for count in sizes.workers}
    median = {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]}
    shares = {
        f"{name}_of_{below}": round(statistics.median(rates[name] / rates[below] for rates in rounds), 3)
        for name, below in pairwise(list(median))
    }
    return {
        "device": torch.cuda.get_device_name() if options.runtime.device.startswith("cuda") else "cpu",
        "half_precision": options.runtime.half,
        "nvjpeg": options.runtime.nvjpeg,
        "ready_s": round(photos.ready_s, 1),
        "photos": len(data),
        "faces_per_photo": round(photos.faces, 2),
        **{f"{name}_per_s": round(rate, 2) for name, rate in median.items()},
        **shares,
        "seen_of_convolutions": round(statistics.median(rates["seen"] / rates["convolutions"] for rates in rounds), 3),
        "convolution_tflops": round(photos.flop * median["convolutions"] / 1e12, 3),
        **({"other_runtimes": compared} if others else {}),
        **({"workers": {str(n): _rounded(rate) for n, rate in shared.items()}} if shared else {}),
        "seconds": round(time.monotonic() - began, 1),
    }


def _rounded(rate: SharedRate) -> dict[str, float]:
    return {"whole_per_s": round(rate.per_s, 2), "cpu_ms_per_photo": round(rate.cpu_ms, 3)}


def _other_runtime(name: str, measured: Runtime) -> Runtime:
    """A runtime in float32 on the device of the measured one; photos are decoded on the host."""
    return replace(measured, name=cast(RuntimeName, name), half=False, nvjpeg=False)


class _Photos:
    """The photos and prepared tensors that all measurements share."""

    def __init__(self, pack: Pack, options: PipelineOptions, data: list[bytes]) -> None:
        began = time.monotonic()
        self._pack, self._options = pack, options
        self._rows = [(i, str(i), body) for i, body in enumerate(data)]
        size, vision = options.batch_photos, self._vision()
        batches = [open_opener(options).open_all(data[start : start + size]) for start in range(0, len(data), size)]
        pixels = [[item.photo.pixels for item in batch if isinstance(item.photo, Photo)] for batch in batches]
        self._placed = [vision.place(batch) for batch in pixels]
        self.faces = sum(len(faces) for photos in self._placed for faces in self._faces(vision, photos)) / len(data)
        self._device = torch.device(options.runtime.device)
        detector = vision.detector
        squares = [(detector.graph, torch.rand(size, 3, side, side, device=self._device)) for side in detector.sides]
        crops = torch.rand(options.batch_faces, 3, FACE_PX, FACE_PX, device=self._device)
        self._graphs = [(graph, x, 1.0) for graph, x in squares] + [(vision.encoder, crops, self.faces)]
        if side := detector.crop_side:
            again = torch.rand(detector.batch, 3, side, side, device=self._device)
            self._graphs.append((detector.graph, again, self.faces))
        with torch.inference_mode():
            self._products = [products_of(graph, x) for graph, x, _ in self._graphs]
            self._replays = [replayed(work.run, self._device) for work in self._products]
        self.flop = sum(w.flop / len(x) * share for w, (_, x, share) in zip(self._products, self._graphs, strict=True))
        """floating-point operations per photo"""
        self.ready_s = time.monotonic() - began
        """seconds until work starts: networks are loaded, kernels compiled and chosen, graphs captured"""

    def rates(self) -> dict[str, float]:
        """Photos per second at each level, the one with the least work last."""
        began = time.monotonic()
        pipeline, vision, first = Pipeline(self._pack, self._options), self._vision(), self._rows[:1]
        list(pipeline.run(first))  # captures the graphs before the measurement; the new pipeline has no cached faces
        self._see(vision, [self._placed[0][:1]])
        self.ready_s = max(self.ready_s, time.monotonic() - began)
        with torch.inference_mode():
            graphs = [(partial(graph.on_device, x, len(x)), len(x), share) for graph, x, share in self._graphs]
            alone = [(replay, len(x), share) for replay, (_, x, share) in zip(self._replays, self._graphs, strict=True)]
            return {
                "whole": len(self._rows) / self._seconds(lambda: list(pipeline.run(self._rows))),
                "seen": len(self._rows) / self._seconds(lambda: self._see(vision, self._placed)),
                "networks": self._per_photo(graphs),
                "convolutions": self._per_photo(alone),
            }

    def whole_with(self, runtime: Runtime) -> float:
        """Photos per second of the whole pipeline on another runtime."""
        pipeline = Pipeline(self._pack, replace(self._options, runtime=runtime))
        list(pipeline.run(self._rows[: self._options.batch_photos]))  # the first batch chooses kernels, builds engines
        return len(self._rows) / self._seconds(lambda: list(pipeline.run(self._rows)))

    def _vision(self) -> DeviceVision:
        vision = open_vision(self._pack, self._options)
        assert isinstance(vision, DeviceVision)  # the runtime is torch
        return vision

    def _see(self, vision: DeviceVision, batches: list[list[torch.Tensor]]) -> None:
        for photos in batches:
            with_faces = zip(photos, self._faces(vision, photos), strict=True)
            detected = [(photo, faces) for photo, faces in with_faces if len(faces)]
            if detected:
                vision.encode([photo for photo, _ in detected], [faces for _, faces in detected])

    def _faces(self, vision: DeviceVision, photos: list[torch.Tensor]) -> list[Detections]:
        """The faces of one look at each photo, without candidates."""
        return [detected.where(detected.scores >= self._options.min_det_score) for detected in vision.locate(photos)]

    def _per_photo(self, parts: Sequence[tuple[Callable[[], object], int, float]]) -> float:
        """Photos per second if each photo needs `share` inputs of every part, and a call of a part processes `count`
        inputs.
        """
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
    """Record the products of one run of a graph on `x`; call under inference_mode."""
    recorder = _Recorder()
    with recorder:
        graph.once(x)
    return recorder.work
