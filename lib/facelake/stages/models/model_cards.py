"""Creates the card of an InsightFace pack: lists the folder and reads two of its files, detector and encoder."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml

from facelake.config import Config
from facelake.embed import ModelCard, Pack
from facelake.embed.insightface import choose_files, make_card
from facelake.errors import ConfigError, Refused, Retryable
from facelake.extras import install_command
from facelake.lake.store import open_store
from facelake.stages.models.registry import cache_folder

BY_NAME = "insightface:"
"""prefix of the name of a pack that insightface itself fetches"""

_HEAD = """\
# Card of an InsightFace pack, made by `facelake models card`. Check the training data, and name under
# withdrawn_lineage the withdrawn sets in their reported training lineage. A card states what is known.
# impostor_mean, impostor_sd, genuine_mean, nearest_most: a usual prior, not measured on this encoder.
"""


def card_of_pack(
    uri: str, config: Config, training_data: str | None = None, encoder: str | None = None
) -> tuple[ModelCard, Pack]:
    """The card of a pack in a directory, under s3:// or of the form `insightface:NAME`, and the pack itself.

    Only detector and encoder are read.

    Args:
        training_data: of the encoder; None: as known for the pack's name.
        encoder: file name of the encoder; None: chosen by the pack's file names.

    Raises:
        ConfigError: no pack at the URI, or its training data is not known.
        Refused, Retryable: as fetched_pack.
    """
    if uri.startswith(BY_NAME):
        uri = str(fetched_pack(uri.removeprefix(BY_NAME), config, encoder))
    elif "://" not in uri:
        uri = os.path.abspath(os.path.expanduser(uri))
    store = open_store(uri, config.s3)
    names = [item.key for item in store.list()]
    files = choose_files(names, uri, encoder)
    read = {name: store.read(name) for name in (files.detector, files.encoder)}
    card = make_card(store.uri, files, read[files.detector], read[files.encoder], training_data)
    return card, Pack.verified(card, read)


def fetched_pack(name: str, config: Config, encoder: str | None = None) -> Path:
    """The folder of a pack of insightface's model zoo, fetched by insightface's own code into the cache.

    Detector and encoder are kept; the other models of the archive (age, gender, more landmarks) are deleted unopened.

    Raises:
        Refused: the config does not accept the zoo's terms.
        ConfigError: no such name, insightface is not installed, or the archive is not a pack.
        Retryable: the download failed.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]*[A-Za-z0-9_]", name):
        raise ConfigError(
            f"not a name of a pack: {name!r}", where="PACK", next_step=f"give a name such as {BY_NAME}buffalo_l"
        )
    if config.model.accept_license != "non-commercial":
        what = "insightface's packs are for non-commercial research only"
        next_step = "for non-commercial use set model.accept_license: non-commercial; else choose another model"
        raise Refused(what, where="model.accept_license", next_step=next_step)
    home = cache_folder(config) / "insightface"
    if (home / name).is_dir():
        return home / name
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        folder = _fetch_from_zoo(name, scratch)
        files = choose_files((path.name for path in folder.iterdir()), f"{BY_NAME}{name}", encoder)
        kept = Path(scratch, "kept")
        kept.mkdir()
        for file in (files.detector, files.encoder):
            shutil.move(folder / file, kept / file)
        with contextlib.suppress(OSError):  # another process renamed its copy first
            kept.rename(home / name)
    return home / name


def _fetch_from_zoo(name: str, scratch: str) -> Path:
    """The folder into which insightface unpacked a pack."""
    try:
        from insightface.utils.storage import ensure_available
    except ImportError as err:
        next_step = f"run {install_command('insightface')}, or unzip the pack and give its folder"
        raise ConfigError("insightface is not installed", where="models card", next_step=next_step) from err
    try:
        with contextlib.redirect_stdout(sys.stderr):  # insightface prints to stdout, which is reserved for results
            folder = Path(ensure_available("models", name, root=scratch))
    except (OSError, RuntimeError, zipfile.BadZipFile) as err:
        next_step = "check the name and the network, or unzip the pack and give its folder"
        raise Retryable(f"insightface could not fetch the pack: {err}", where=name, next_step=next_step) from err
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder  # some archives contain a single folder


def write_card(card: ModelCard, path: str) -> None:
    """Write a card as YAML; an existing file is never overwritten.

    Raises:
        ConfigError: the file exists or cannot be written.
    """
    body = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, width=120)
    try:
        with Path(path).expanduser().open("x", encoding="utf-8") as file:
            file.write(_HEAD + body)
    except OSError as err:
        what = f"the card cannot be written: {err.strerror}"
        raise ConfigError(what, where=path, next_step="give another --out") from err
