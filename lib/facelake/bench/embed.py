"""bench embed: one pack, the same photos and cores, through facelake, through insightface, and as bare models.

Three rates, taken in turns so that a noisy machine disturbs all alike, and the medians of the rounds:

- facelake: Parquet in, Delta out. `whole` counts everything from the call to the last commit, the start of the workers
  included; `steady` begins with the first photos that are committed while all workers run, as for a corpus of millions.
- insightface: `FaceAnalysis` in a loop, photos decoded by OpenCV, onnxruntime's own choice of threads.
- bare: the very graphs that facelake runs, on ready tensors of the squares that the detector looks at and of faces, in
  as many processes as facelake has workers.

CPU seconds per photo stand beside them: on a machine with other work they are what can still be compared. Those of
facelake count every process of Ray; those of insightface count its idle threads, which wait in a loop.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from facelake.bench.memory import PeakMemory, family_cpu_s
from facelake.bench.parity import face_analysis
from facelake.config import Config
from facelake.contracts import F32
from facelake.embed import ModelCard, Pack
from facelake.embed.graphs import batchable
from facelake.embed.packs import ScrfdCard
from facelake.embed.runtime import OnnxGraph
from facelake.errors import ConfigError
from facelake.events import Event, StageProgress
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import Grant, import_folder, photos_of
from facelake.stages.embedding.embed import embed
from facelake.stages.models.model_cards import card_of_pack, write_card
from facelake.stages.models.registry import check_terms, load_pack
from facelake.testing.packs import write_heavy_pack

_BARE_BATCH, _BARE_S = 16, 2.0
_CHUNKS = 16  # per worker, so that few photos make many receipts
_BARE: dict[str, Any] = {}
_LEAST_MARKS, _LEAST_CHUNK = 3, 4
HEAVY = "shape:r50"
_NOBODYS = {"accept_license": "non-commercial"}  # random weights have no owner whose terms could bind


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    photos: int
    rounds: int
    side_px: int
    """longer side to which photos are scaled; 0: as they are"""


def embed_rates(config: Config, pack: str, images: str, sizes: Sizes, alone: bool = False) -> dict[str, Any]:
    """Images per second of the three, and their ratios; or of facelake alone, with the memory of all its processes.

    Args:
        pack: folder of an InsightFace pack; or `shape:r50`, networks of the shapes of SCRFD-10G and ResNet-50 with
            random weights, which see one face in any photo.

    Raises:
        ConfigError: no photos, no pack, insightface not installed.
        Refused: the pack's terms are not accepted.
    """
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as scratch:
        folder = Path(scratch)
        pack, config = made_pack(config, pack, folder)
        card, loaded = pack_and_photos(config, pack, images, folder, sizes)
        write_card(card, str(folder / "card.yaml"))
        workers = _workers(config)
        if alone:
            return _alone([_ours(config, folder, number, sizes.photos, workers, 0.5) for number in range(sizes.rounds)])
        theirs = _FaceAnalysisLoop(pack, folder / "photos", card.min_det_score)
        rounds = []
        with _bare_pool(loaded, workers) as pool:
            for number in range(sizes.rounds):
                one = theirs.run(sizes.photos // 4)
                before = _bare(pool, workers, theirs)
                one |= _ours(config, folder, number, sizes.photos, workers)
                after = _bare(pool, workers, theirs)  # the machine may be slower by now
                rounds.append(one | {name: (value + after[name]) / 2 for name, value in before.items()})
    return _figures(rounds, sizes, workers, theirs.faces)


def made_pack(config: Config, pack: str, folder: Path) -> tuple[str, Config]:
    """The pack's folder, and the config that may open it: `shape:r50` is made, and its terms bind nobody."""
    if pack != HEAVY:
        return pack, config
    settings = config.model_copy(update={"model": config.model.model_copy(update=_NOBODYS)})
    return str(write_heavy_pack(folder / "pack")), settings


def pack_and_photos(config: Config, pack: str, images: str, folder: Path, sizes: Sizes) -> tuple[ModelCard, Pack]:
    """The pack, once its terms are accepted; photos are written to folder/photos.

    Raises:
        ConfigError: no photos, no pack.
        Refused: the pack's terms are not accepted.
    """
    card, loaded = card_of_pack(pack, config, "not stated: for a measurement only")
    check_terms(config, card)
    write_photos(images, folder / "photos", sizes)
    return card, loaded


def chosen_pack(pack: str | None, shape: str | None) -> str:
    """What `embed_rates` takes, of two options of which one is given.

    Raises:
        ConfigError: both or neither, or an unknown shape.
    """
    if (pack is None) == (shape is None) or shape not in (None, "r50"):
        next_step = "give --pack DIR, or --pack-shape r50"
        raise ConfigError("which pack is to be measured?", where="bench embed", next_step=next_step)
    return pack or HEAVY


def _workers(config: Config) -> int:
    return config.ray.num_cpus or multiprocessing.cpu_count() if config.embed.actors == "auto" else config.embed.actors


def _figures(rounds: list[dict[str, float]], sizes: Sizes, workers: int, faces: float) -> dict[str, Any]:
    median = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(ratios(above, below)), 3)

    def ratios(above: str, below: str) -> list[float]:
        return [round(one[above] / one[below], 3) for one in rounds]

    cpu = {f"{name}_cpu_ms": round(1000 * median[f"{name}_cpu"], 2) for name in ("facelake", "insightface", "bare")}
    return {
        "photos": sizes.photos,
        "faces_per_photo": round(faces, 2),
        "rounds": sizes.rounds,
        "workers": workers,
        "facelake_per_s": round(median["steady"], 2),
        "facelake_with_start_per_s": round(median["whole"], 2),
        "insightface_per_s": round(median["theirs"], 2),
        "bare_per_s": round(median["bare"], 2),
        "of_bare": ratio("steady", "bare"),
        "of_bare_each_round": ratios("steady", "bare"),
        "times_insightface": ratio("steady", "theirs"),
        **cpu,
        "of_bare_by_cpu": ratio("bare_cpu", "facelake_cpu"),
        "of_bare_by_cpu_each_round": ratios("bare_cpu", "facelake_cpu"),
        "times_insightface_by_cpu": ratio("insightface_cpu", "facelake_cpu"),
    }


def _alone(rounds: list[dict[str, float]]) -> dict[str, Any]:
    return {
        "facelake_per_s": round(statistics.median(one["steady"] for one in rounds), 2),
        "facelake_cpu_ms": round(1000 * statistics.median(one["facelake_cpu"] for one in rounds), 2),
        "peak_memory_bytes": int(max(one["memory"] for one in rounds)),
    }


def write_photos(source: str, target: Path, sizes: Sizes) -> None:
    """As many different JPEGs as asked for: shifted a little each time round, so that no face repeats exactly."""
    found = photos_of(source)
    target.mkdir()
    for number in range(sizes.photos):
        with Image.open(found[number % len(found)]) as image:
            pixels = np.asarray(image.convert("RGB"))
        shifted = Image.fromarray(np.roll(pixels, number // len(found), axis=1))
        if sizes.side_px:
            scale = sizes.side_px / max(shifted.size)
            shifted = shifted.resize((round(shifted.width * scale), round(shifted.height * scale)))
        shifted.save(target / f"{number:06d}.jpg", quality=92)


def _ours(
    config: Config, folder: Path, number: int, photos: int, workers: int, memory_every_s: float = 3600.0
) -> dict[str, float]:
    """facelake's embed stage on a lake of its own. Looking at the memory of all processes takes time of its own."""
    model = config.model.model_copy(update={"card": str(folder / "card.yaml"), "cache": str(folder / "cache")})
    embedding = config.embed.model_copy(update={"chunk_rows": max(_LEAST_CHUNK, photos // (_CHUNKS * workers))})
    settings = config.model_copy(
        update={"embed": embedding, "lake": str(folder / f"lake-{number}"), "corpus": None, "model": model}
    )
    marks: list[tuple[float, int]] = []
    cpu: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageProgress) and event.counts.get("workers") == workers:
            # while others start, their start would be counted as work
            marks.append((time.monotonic(), event.done))
            if len(marks) == 1 or event.done == photos:  # looking at all processes takes CPU of its own
                cpu.append(family_cpu_s())

    with writing(settings, "bench", listen) as context:
        context.lake.mark_as_demo()
        import_folder(context, str(folder / "photos"), grant=Grant())
        admit(context)
        context.pack = load_pack(settings)
        pa.default_memory_pool().release_unused()  # the import's, which is another command's
        with PeakMemory(memory_every_s) as memory:
            began = time.monotonic()
            embed(context)
            ended = time.monotonic()
    if len(marks) < _LEAST_MARKS or len(cpu) < 2:
        what, next_step = "photos were done before all workers ran", "give more --photos"
        raise ConfigError(what, where="bench embed", next_step=next_step)
    (first_s, first), (_, total) = marks[0], marks[-1]
    return {
        "whole": total / (ended - began),
        "steady": (total - first) / (ended - first_s),
        "facelake_cpu": (cpu[-1] - cpu[0]) / (total - first),
        "memory": float(memory.peak_bytes),
    }


class _FaceAnalysisLoop:
    """insightface as its README has it."""

    def __init__(self, pack: str, photos: Path, min_score: float) -> None:
        self._analysis, self._photos = face_analysis(pack, min_score), sorted(photos.iterdir())
        self.faces = 0.0
        """per photo"""

    def run(self, count: int) -> dict[str, float]:
        import cv2

        chosen = self._photos[: max(count, 1)]
        faces, began, cpu = 0, time.monotonic(), time.process_time()
        for path in chosen:
            faces += len(self._analysis.get(cv2.imread(str(path))))
        seconds = time.monotonic() - began
        self.faces = faces / len(chosen)
        cpu = time.process_time() - cpu
        return {"theirs": len(chosen) / seconds, "insightface_cpu": cpu / len(chosen)}


def _bare_pool(pack: Pack, workers: int) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_load_bare, initargs=(pack,))


def _load_bare(pack: Pack) -> None:
    """The graphs as facelake runs them, and tensors of the squares that the detector looks at."""
    card, random = pack.card, np.random.default_rng(0)
    assert isinstance(card.detector, ScrfdCard)
    _BARE["detector"] = OnnxGraph(batchable(pack.detector, any_size=card.detector.any_size))
    _BARE["encoder"] = OnnxGraph(batchable(pack.encoder, card.encoder.input_name))
    _BARE["squares"] = [
        random.uniform(-1, 1, (4, 3, side, side)).astype(np.float32) for side in sorted(card.detector.sides)
    ]
    _BARE["crops"] = random.uniform(-1, 1, (_BARE_BATCH, 3, 112, 112)).astype(np.float32)


def _bare(pool: ProcessPoolExecutor, workers: int, theirs: _FaceAnalysisLoop) -> dict[str, float]:
    """Photos per second of all workers together: every detector run, and as many encoder runs as there are faces."""
    parts = list(pool.map(_bare_seconds, [theirs.faces] * workers))
    return {"bare": sum(1 / wall for wall, _ in parts), "bare_cpu": statistics.mean(cpu for _, cpu in parts)}


def _bare_seconds(faces: float) -> tuple[float, float]:
    """Seconds and CPU seconds per photo in this process."""
    detect = [_cheapest(_BARE["detector"], squares, 4) for squares in _BARE["squares"]]
    encode = _cheapest(_BARE["encoder"], _BARE["crops"], _BARE_BATCH)
    wall, cpu = map(sum, zip(*detect, strict=True))
    return wall + faces * encode[0], cpu + faces * encode[1]


def _cheapest(graph: OnnxGraph, blob: F32, most: int) -> tuple[float, float]:
    """Of one input a run and several, what takes less CPU."""
    return min((_each(graph, blob[:count]) for count in (1, most)), key=lambda pair: pair[1])


def _each(graph: OnnxGraph, blob: F32) -> tuple[float, float]:
    graph.run(blob)
    began, cpu, runs = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < _BARE_S or not runs:
        graph.run(blob)
        runs += 1
    share = runs * len(blob)
    return (time.monotonic() - began) / share, (time.process_time() - cpu) / share
