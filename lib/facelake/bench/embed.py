"""The command `bench embed`: facelake, insightface and the bare models with the same pack, photos and cores.

Three rates, measured in turns so that other load on the machine affects all alike; medians over the rounds:

- facelake: from Parquet to Delta. `whole` covers the time from the call to the last commit, including the start of the
  workers; `steady` begins with the first photos committed while all workers run, as for a corpus of millions.
- insightface: `FaceAnalysis` in a loop, photos decoded by OpenCV, with onnxruntime's default number of threads.
- bare: the graphs that facelake runs, on prepared tensors of detector inputs and faces, in as many processes as
  facelake has workers. For each its share of the machine's own float32 matrix rate.

Several runtimes are measured in turns too; each has its block of figures.

CPU seconds per photo are reported too, since they remain comparable on a busy machine. For facelake they include every
process of Ray; for insightface they include its idle threads, which wait in a loop.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
from PIL import Image

from facelake.bench.matrix_rate import float32_rate, multiplications
from facelake.bench.memory import PeakMemory, family_cpu_s
from facelake.bench.parity import face_analysis
from facelake.bench.synthetic_packs import write_heavy_pack
from facelake.config import Config
from facelake.contracts import F32
from facelake.corpus_config import CorpusSection
from facelake.embed import ModelCard, Pack
from facelake.embed.calibration import open_resolved
from facelake.embed.models import detector_network, encoder_network
from facelake.embed.packs import ScrfdCard
from facelake.embed.runtime import Graph, Runtime, RuntimeName
from facelake.errors import ConfigError
from facelake.events import Event, StageProgress
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder, photos_of
from facelake.stages.embedding.embed import embed
from facelake.stages.models.model_cards import card_of_pack, write_card
from facelake.stages.models.registry import check_terms, load_pack

_BARE_BATCH, _BARE_S = 16, 2.0
_CHUNKS = 16  # chunks per worker, so that few photos make many receipts
_BARE: dict[str, Any] = {}
_LEAST_MARKS, _LEAST_CHUNK = 3, 4
HEAVY = "shape:r50"
_NOBODYS = {"accept_license": "non-commercial"}  # networks with random weights are under no licence


@dataclass(frozen=True, slots=True)
class Sizes:
    """The number of photos, rounds and the photo size of a measurement."""

    photos: int
    rounds: int
    side_px: int
    """longer side to which photos are scaled, pixels; 0: unchanged"""
    runtimes: tuple[str, ...] = ()
    """values of embed.runtime that are compared; none: that of the config"""
    workers: tuple[int, ...] = ()
    """bench device: numbers of processes that share the device"""


def embed_rates(config: Config, pack: str, images: str, sizes: Sizes, *, alone: bool = False) -> dict[str, Any]:
    """Images per second of all three, and their ratios.

    Args:
        pack: folder of an InsightFace pack; or `shape:r50`, networks of the shapes of SCRFD-10G and ResNet-50 with
            random weights, which detect one face in every photo.
        alone: measure facelake only, with the memory of all its processes.

    Raises:
        ConfigError: no photos, no pack, insightface not installed.
        Refused: the pack's terms are not accepted.
    """
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as scratch:
        folder = Path(scratch)
        pack, config = resolve_pack(config, pack, folder)
        card, loaded = pack_and_photos(config, pack, images, folder, sizes)
        write_card(card, str(folder / "card.yaml"))
        workers = _workers(config)
        if alone:
            return _alone(
                [_ours(config, folder, str(number), sizes.photos, workers, 0.5) for number in range(sizes.rounds)]
            )
        theirs = _FaceAnalysisLoop(pack, folder / "photos", card.min_det_score)
        names = sizes.runtimes or (config.embed.runtime,)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        with _bare_pool(loaded, workers, {name: _runtime(config, name) for name in names}) as pool:
            for number in range(sizes.rounds):
                reference = theirs.run(sizes.photos // 4)
                for name in names:
                    settings = _with_runtime(config, name)
                    before = _bare(pool, workers, theirs, name)
                    rates = reference | _ours(settings, folder, f"{number}-{name}", sizes.photos, workers)
                    after = _bare(pool, workers, theirs, name)  # before and after, since the machine's speed changes
                    rounds[name].append(rates | {key: (value + after[key]) / 2 for key, value in before.items()})
        blocks = {name: _figures(of_name, sizes, workers, theirs.faces) for name, of_name in rounds.items()}
    return (
        blocks[names[0]]
        | {"runtimes": blocks, "float32_gflops": round(float32_rate() / 1e9, 1)}
        | _limits(loaded, rounds)
    )


def _runtime(config: Config, name: str) -> Runtime:
    """The runtime of the given name, with the config's device and cache."""
    return Runtime(cast(RuntimeName, name), config.embed.device, cache=config.model.cache)


def _with_runtime(config: Config, name: str) -> Config:
    return config.model_copy(update={"embed": config.embed.model_copy(update={"runtime": name})})


def _limits(pack: Pack, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """The share of the machine's float32 matrix rate that the networks' multiplications reach, by runtime."""
    rate, shares = float32_rate(), {}
    for network in (detector_network(pack), encoder_network(pack)):
        operations = 2 * multiplications(network)
        shares[network.role] = {"gflop": round(operations / 1e9, 3)} | {
            name: round(operations / rate / statistics.median(r[f"bare_{network.role}_cpu"] for r in of_name), 3)
            for name, of_name in rounds.items()
        }
    return {"of_float32_rate": shares}


def resolve_pack(config: Config, pack: str, folder: Path) -> tuple[str, Config]:
    """The pack's folder, and a config that accepts its terms; the pack `shape:r50` is created in `folder`."""
    if pack != HEAVY:
        return pack, config
    settings = config.model_copy(update={"model": config.model.model_copy(update=_NOBODYS)})
    return str(write_heavy_pack(folder / "pack")), settings


def pack_and_photos(config: Config, pack: str, images: str, folder: Path, sizes: Sizes) -> tuple[ModelCard, Pack]:
    """Card and pack, after its terms are checked; photos are written to folder/photos.

    Raises:
        ConfigError: no photos, no pack.
        Refused: the pack's terms are not accepted.
    """
    card, loaded = card_of_pack(pack, config, "not stated: for a measurement only")
    check_terms(config, card)
    write_photos(images, folder / "photos", sizes)
    return card, loaded


def chosen_pack(pack: str | None, shape: str | None) -> str:
    """The pack argument of `embed_rates`, from two command-line options of which exactly one must be given.

    Raises:
        ConfigError: both or neither, or an unknown shape.
    """
    if (pack is None) == (shape is None) or shape not in (None, "r50"):
        next_step = "give --pack DIR, or --pack-shape r50"
        raise ConfigError(
            "exactly one of --pack and --pack-shape is required", where="bench embed", next_step=next_step
        )
    return pack or HEAVY


def _workers(config: Config) -> int:
    return config.ray.num_cpus or multiprocessing.cpu_count() if config.embed.actors == "auto" else config.embed.actors


def _figures(rounds: list[dict[str, float]], sizes: Sizes, workers: int, faces: float) -> dict[str, Any]:
    median = {name: statistics.median(rates[name] for rates in rounds) for name in rounds[0]}

    def ratio(above: str, below: str) -> float:
        return round(statistics.median(ratios(above, below)), 3)

    def ratios(above: str, below: str) -> list[float]:
        return [round(rates[above] / rates[below], 3) for rates in rounds]

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
        "facelake_per_s": round(statistics.median(rates["steady"] for rates in rounds), 2),
        "facelake_cpu_ms": round(1000 * statistics.median(rates["facelake_cpu"] for rates in rounds), 2),
        "peak_memory_bytes": int(max(rates["memory"] for rates in rounds)),
    }


def write_photos(source: str, target: Path, sizes: Sizes) -> None:
    """Write `sizes.photos` different JPEGs; photos that are used again are shifted, so that no face repeats exactly."""
    sources = photos_of(source)
    target.mkdir()
    for number in range(sizes.photos):
        with Image.open(sources[number % len(sources)]) as image:
            pixels = np.asarray(image.convert("RGB"))
        shifted = Image.fromarray(np.roll(pixels, number // len(sources), axis=1))
        if sizes.side_px:
            scale = sizes.side_px / max(shifted.size)
            shifted = shifted.resize((round(shifted.width * scale), round(shifted.height * scale)))
        shifted.save(target / f"{number:06d}.jpg", quality=92)


def _ours(
    config: Config, folder: Path, number: str, photos: int, workers: int, memory_every_s: float = 3600.0
) -> dict[str, float]:
    """Rates of facelake's embed stage on a new lake. Memory is sampled rarely by default, because sampling takes
    time.
    """
    model = config.model.model_copy(update={"card": str(folder / "card.yaml"), "cache": str(folder / "cache")})
    embedding = config.embed.model_copy(update={"chunk_rows": max(_LEAST_CHUNK, photos // (_CHUNKS * workers))})
    settings = config.model_copy(
        update={"embed": embedding, "lake": str(folder / f"lake-{number}"), "corpus": CorpusSection(), "model": model}
    )
    marks: list[tuple[float, int]] = []
    cpu: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, StageProgress) and event.counts.get("workers") == workers:
            # only once all workers run; otherwise their start would be counted
            marks.append((time.monotonic(), event.done))
            if len(marks) == 1 or event.done == photos:  # reading all processes takes CPU time itself
                cpu.append(family_cpu_s())

    with writing(settings, "bench", listen) as context:
        context.lake.mark_as_demo()
        import_folder(context, str(folder / "photos"), grant=Grant("b"))
        admit(context)
        context.pack = load_pack(settings)
        pa.default_memory_pool().release_unused()  # memory of the import, which is not part of embed
        with PeakMemory(memory_every_s) as memory:
            began = time.monotonic()
            embed(context)
            ended = time.monotonic()
    if len(marks) < _LEAST_MARKS or len(cpu) < 2:
        what, next_step = "the photos were embedded before all workers ran", "give more --photos"
        raise ConfigError(what, where="bench embed", next_step=next_step)
    (first_s, first), (_, total) = marks[0], marks[-1]
    return {
        "whole": total / (ended - began),
        "steady": (total - first) / (ended - first_s),
        "facelake_cpu": (cpu[-1] - cpu[0]) / (total - first),
        "memory": float(memory.peak_bytes),
    }


class _FaceAnalysisLoop:
    """insightface's FaceAnalysis in a loop, as in its README."""

    def __init__(self, pack: str, photos: Path, min_score: float) -> None:
        self._analysis, self._photos = face_analysis(pack, min_score), sorted(photos.iterdir())
        self.faces = 0.0
        """mean number of faces per photo of the last run"""

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


def _bare_pool(pack: Pack, workers: int, runtimes: dict[str, Runtime]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_load_bare, initargs=(pack, runtimes))


def _load_bare(pack: Pack, runtimes: dict[str, Runtime]) -> None:
    """Load the graphs as facelake runs them, and prepare input tensors, in a worker process."""
    random = np.random.default_rng(0)
    assert isinstance(pack.card.detector, ScrfdCard)
    for name, runtime in runtimes.items():
        networks = detector_network(pack), encoder_network(pack)
        _BARE[name] = tuple(open_resolved(network, runtime)[0] for network in networks)
    _BARE["squares"] = [
        random.uniform(-1, 1, (4, 3, side, side)).astype(np.float32) for side in sorted(pack.card.detector.sides)
    ]
    _BARE["crops"] = random.uniform(-1, 1, (_BARE_BATCH, 3, 112, 112)).astype(np.float32)


def _bare(pool: ProcessPoolExecutor, workers: int, theirs: _FaceAnalysisLoop, name: str) -> dict[str, float]:
    """Photos per second of all workers together: all detector inputs, and as many encoder inputs as faces per photo."""
    parts = list(pool.map(_bare_seconds, [theirs.faces] * workers, [name] * workers))
    means = {key: statistics.mean(part[key] for part in parts) for key in parts[0]}
    return means | {"bare": sum(1 / part["bare"] for part in parts)}


def _bare_seconds(faces: float, name: str) -> dict[str, float]:
    """Wall-clock seconds (`bare`) and CPU seconds per photo, and CPU seconds per largest input of both networks."""
    detector, encoder = _BARE[name]
    detect = [_cheapest(detector, squares, 4) for squares in _BARE["squares"]]
    encode = _cheapest(encoder, _BARE["crops"], _BARE_BATCH)
    wall, cpu = map(sum, zip(*detect, strict=True))
    each = {"bare_detector_cpu": detect[-1][1], "bare_encoder_cpu": encode[1]}
    return {"bare": wall + faces * encode[0], "bare_cpu": cpu + faces * encode[1]} | each


def _cheapest(graph: Graph, blob: F32, most: int) -> tuple[float, float]:
    """(wall-clock, CPU) seconds per input, single or in a batch of `most`, whichever takes less CPU time."""
    return min((_each(graph, blob[:count]) for count in (1, most)), key=lambda pair: pair[1])


def _each(graph: Graph, blob: F32) -> tuple[float, float]:
    graph.run(blob)
    began, cpu, runs = time.monotonic(), time.process_time(), 0
    while time.monotonic() - began < _BARE_S or not runs:
        graph.run(blob)
        runs += 1
    share = runs * len(blob)
    return (time.monotonic() - began) / share, (time.process_time() - cpu) / share
