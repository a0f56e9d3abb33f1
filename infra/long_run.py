"""A long run with a watch for leaks and slowdown: photos in five sizes, one in 100 hostile, killed twice on the way.

    .venv/bin/python infra/long_run.py --images DIR --hostile DIR --photos 300000 --lake s3://bucket/long --out long.csv

Samples `facelake nightly` and all its processes while it works: resident memory by kind of process, objects and bytes
of the Delta logs, photos done. The run is killed with SIGKILL at a third and at two thirds of its photos and started
again. Prints one JSON object: growth of memory per 100,000 photos (least squares, without each start's first tenth),
the rate of the last third of the photos to that of the first, and log bytes per photo. A leak or slowdown shows there;
project it to 10^7 photos by multiplication.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from facelake.bench.memory import process_family, proportional_bytes
from facelake.config import Config, load_config
from facelake.errors import FacelakeError
from facelake.lake.store import open_store
from facelake.stages.admission.import_images import photos_of
from facelake.stages.operations.status import status

_SIDES = "320,640,1280,2048,3264"
_HOSTILE_EVERY = 100
_KINDS = {"ray::": "worker", "gcs_server": "ray", "raylet": "ray", "java": "spark", "facelake": "driver"}


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the run."""

    second: float
    attempt: int
    stage: str
    done: int
    worker_mb: float
    driver_mb: float
    ray_mb: float
    spark_mb: float
    other_mb: float
    objects: int
    log_bytes: int


def write_corpus(images: list[str], hostile: str | None, photos: int, folder: Path, sides: list[int]) -> None:
    """Write photos of the given sizes, each shifted and turned up or down in brightness, so that none repeats."""
    sources = [path for place in images for path in photos_of(place)]
    bad = sorted(path for path in Path(hostile).rglob("*") if path.is_file()) if hostile else []
    for day in range(-(-photos // 1000)):
        (folder / f"{day:05d}").mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        work = partial(_write_photo, sources=sources, bad=bad, folder=folder, sides=sides)
        for _ in pool.map(work, range(photos), chunksize=500):
            pass


def _write_photo(number: int, sources: list[Path], bad: list[Path], folder: Path, sides: list[int]) -> None:
    target = folder / f"{number // 1000:05d}" / f"{number:08d}.jpg"
    if target.exists():
        return
    random = np.random.default_rng(number)
    if bad and number % _HOSTILE_EVERY == 0:
        data = bad[number // _HOSTILE_EVERY % len(bad)].read_bytes() + number.to_bytes(8, "big")
    else:
        side = sides[int(random.integers(len(sides)))]
        scaled = _scaled(sources[number % len(sources)], side)
        shifted = np.roll(scaled, int(random.integers(side // 8)), axis=1)
        levels = np.clip(np.arange(256) * random.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
        sink = io.BytesIO()
        Image.fromarray(levels[shifted]).save(sink, "JPEG", quality=int(random.integers(75, 95)))
        data = sink.getvalue()
    unfinished = target.with_suffix(".part")
    unfinished.write_bytes(data)
    unfinished.replace(target)


@lru_cache(maxsize=4000)
def _scaled(source: Path, side: int) -> NDArray[np.uint8]:
    with Image.open(source) as photo:
        photo.draft("RGB", (side, side))
        return np.asarray(photo.convert("RGB").resize((side, side)))


def sample(config: Config, root: int, began: float, attempt: int) -> Sample | None:
    """Look at the processes and the lake; None while there is no lake to read."""
    memory = dict.fromkeys(("worker", "driver", "ray", "spark", "other"), 0.0)
    for process in process_family(root):
        memory[_kind(process)] += proportional_bytes(process)[0] / 2**20
    try:
        work = status(config)["work"] or {}
        objects = list(open_store(config.lake, config.s3).list())
    except FacelakeError:
        return None
    log_bytes = sum(item.size_bytes for item in objects if "_delta_log" in item.key)
    sizes = {f"{name}_mb": round(value, 1) for name, value in memory.items()}
    stage, done = str(work.get("stage", "")), int(work.get("done", 0))
    return Sample(
        round(time.monotonic() - began, 1), attempt, stage, done, **sizes, objects=len(objects), log_bytes=log_bytes
    )


def _kind(process: psutil.Process) -> str:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return "other"
    return next((kind for part, kind in _KINDS.items() if part in command), "other")


def run(settings: str, photos: int, every_s: float, kills: int) -> tuple[list[Sample], list[int]]:
    """Run `nightly` with a config file to its end, killed on the way; returns the samples and the exit codes."""
    config = load_config(settings)
    samples: list[Sample] = []
    codes: list[int] = []
    began, before = time.monotonic(), 0
    for attempt in range(kills + 1):
        limit = photos * (attempt + 1) // (kills + 1) if attempt < kills else None
        command = [sys.executable, "-m", "facelake", "nightly", "-c", settings, "--json"]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        done = 0
        while process.poll() is None:
            time.sleep(every_s)
            if (now := sample(config, process.pid, began, attempt)) is None:
                continue
            samples.append(now)
            done = now.done if now.stage == "embed" else done
            if limit is not None and before + done >= limit:
                os.killpg(process.pid, signal.SIGKILL)
        before += done
        codes.append(process.wait())
    return samples, codes


def figures(samples: list[Sample], codes: list[int]) -> dict[str, object]:
    """Growth of memory, change of the rate, and size of the logs."""
    embed = [item for item in samples if item.stage == "embed" and item.done]
    growth = {}
    for name in ("worker_mb", "driver_mb", "ray_mb"):
        slopes = []
        for attempt in {item.attempt for item in embed}:
            part = [item for item in embed if item.attempt == attempt]
            part = part[len(part) // 10 :]
            if len(part) > 2 and part[-1].done > part[0].done:
                slopes.append(float(np.polyfit([i.done for i in part], [getattr(i, name) for i in part], 1)[0]))
        growth[f"{name}_per_100k_photos"] = round(1e5 * float(np.median(slopes)), 1) if slopes else None
    rates = [
        (b.done - a.done) / (b.second - a.second)
        for a, b in itertools.pairwise(embed)
        if a.attempt == b.attempt and b.second > a.second
    ]
    third = len(rates) // 3
    ratio = float(np.mean(rates[-third:]) / np.mean(rates[:third])) if third and np.mean(rates[:third]) else None
    return growth | {
        "rate_last_third_to_first": ratio and round(ratio, 3),
        "samples": len(samples),
        "objects": samples[-1].objects if samples else 0,
        "log_bytes": samples[-1].log_bytes if samples else 0,
        "exit_codes": codes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, action="append", help="folder of photos; may be repeated")
    parser.add_argument("--hostile")
    parser.add_argument("--photos", type=int, default=300_000)
    parser.add_argument("--sides", default=_SIDES, help="sides of the photos in pixels")
    parser.add_argument("--lake", required=True)
    parser.add_argument("--work", default="long-photos", help="folder in which the photos are written")
    parser.add_argument("--out", default="long.csv")
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--kills", type=int, default=2)
    given = parser.parse_args()
    settings = Path(given.work).with_suffix(".yaml")
    # a run of nothing but generated photos has no data protection impact assessment to name
    settings.write_text(json.dumps({"lake": given.lake, "governance": {"dpia": "none: a test of this machine"}}))
    sides = [int(side) for side in given.sides.split(",")]
    write_corpus(given.images, given.hostile, given.photos, Path(given.work), sides)
    grant = ["--source", "long-run", "--basis", "a test of this machine"]
    subprocess.run([sys.executable, "-m", "facelake", "import", given.work, "-c", str(settings), *grant], check=True)
    samples, codes = run(str(settings), given.photos, given.every, given.kills)
    with open(given.out, "w", newline="") as file:
        writer = csv.DictWriter(file, [*Sample.__dataclass_fields__])
        writer.writeheader()
        writer.writerows(asdict(item) for item in samples)
    sys.stdout.write(json.dumps(figures(samples, codes)) + "\n")


if __name__ == "__main__":
    main()
