"""Write labelled sets of real photos that are hard to recognise: made dark, blurred, small, tilted or narrow.

    .venv/bin/python infra/hard_photos.py --photos ../shared/data/london/images ../shared/data/orl/images --out hard
    .venv/bin/facelake import hard/union --source union --basis "signed release" -c hard.yaml
    .venv/bin/facelake nightly -c hard.yaml
    .venv/bin/facelake bench quality --labels hard/union.csv --baselines -c hard.yaml

The person of a photo is what its file name has before the first `_`. Sets: `union` (each photo once, changed in one of
seven ways), `low` (each with a face of some 25 pixels), `light` (each as it is, lit from a side, and dark), `versions`
(each in all seven ways) and `bursts` (each with three near copies).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter

Photo = Image.Image
_SIDE = 700  # pixels: larger photos are scaled first
_QUALITY = {"low": 30, "blurred": 60}


def as_it_is(photo: Photo, _: Generator) -> Photo:
    return photo


def low(photo: Photo, _: Generator) -> Photo:
    width, height = photo.size
    small = photo.resize((max(40, round(width * 0.12)), max(40, round(height * 0.12))), Image.Resampling.LANCZOS)
    half = 2 if width > 300 else 1
    return small.resize((width // half, height // half), Image.Resampling.BICUBIC)


def blurred(photo: Photo, _: Generator) -> Photo:
    radius = photo.width / (130 if photo.width > 300 else 70)
    return photo.convert("L").convert("RGB").filter(ImageFilter.GaussianBlur(radius))


def dark(photo: Photo, random: Generator) -> Photo:
    pixels = np.asarray(photo, np.float32) / 255
    pixels = pixels ** random.uniform(1.8, 3.0) * random.uniform(0.35, 0.7) + random.normal(0, 0.03, pixels.shape)
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def from_a_side(photo: Photo, random: Generator) -> Photo:
    ramp = np.linspace(0.15, 1.4, photo.width)[None, :, None]
    lit = np.asarray(photo, np.float32) * (ramp if random.random() < 0.5 else ramp[:, ::-1])
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))


def tilted(photo: Photo, random: Generator) -> Photo:
    return photo.rotate(random.uniform(-35, 35), resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


def narrow(photo: Photo, random: Generator) -> Photo:
    return photo.resize((round(photo.width * random.uniform(0.75, 0.9)), photo.height))


def near_copy(photo: Photo, random: Generator) -> Photo:
    left, top, right, bottom = random.uniform(0, 0.03, 4)
    width, height = photo.size
    box = (round(width * left), round(height * top), round(width * (1 - right)), round(height * (1 - bottom)))
    turned = photo.crop(box).rotate(random.uniform(-2, 2), resample=Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))
    pixels = np.asarray(turned, np.float32) * (1 + random.uniform(-0.05, 0.05))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


Change = Callable[[Photo, Generator], Photo]
CHANGES: dict[str, Change] = {
    change.__name__: change for change in (as_it_is, low, blurred, dark, from_a_side, tilted, narrow)
}
_SETS: dict[str, tuple[Change, ...] | None] = {
    "union": None,
    "low": (low,),
    "light": (as_it_is, from_a_side, dark),
    "versions": tuple(CHANGES.values()),
    "bursts": (as_it_is, near_copy, near_copy, near_copy),
}


def write_set(photos: list[Path], chosen: tuple[Change, ...] | None, folder: Path) -> None:
    """Write one set and its labels, FOLDER.csv; without chosen changes each photo gets one at random."""
    random, labels = np.random.default_rng(5), []
    for path in photos:
        with Image.open(path) as opened:
            photo = opened.convert("RGB")
        photo.thumbnail((_SIDE, _SIDE * 2), Image.Resampling.LANCZOS)
        for number, change in enumerate(chosen or (list(CHANGES.values())[random.integers(len(CHANGES))],)):
            name, person = change.__name__, path.stem.partition("_")[0]
            target = folder / person / f"{path.stem}-{name}-{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            change(photo, random).save(target, quality=_QUALITY.get(name, 85))
            labels.append((target.name, person))
    with folder.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "person"), *labels])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    photos = sorted(path for place in given.photos for path in Path(place).rglob("*") if path.is_file())
    for name, chosen in _SETS.items():
        write_set(photos, chosen, Path(given.out) / name)


if __name__ == "__main__":
    main()
