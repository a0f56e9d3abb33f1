"""Making the card of an InsightFace pack: the folder is listed, two of its files are read."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from facelake.config import Config
from facelake.embed import ModelCard, Pack
from facelake.embed.insightface import choose_files, make_card
from facelake.errors import ConfigError
from facelake.lake.store import open_store

_HEAD = """\
# Card of an InsightFace pack, made by `facelake models card`. Check the training data, and name under
# withdrawn_lineage what the weights are said to descend from. A card states what is known; it does not absolve.
# impostor_mean, impostor_sd, genuine_mean: a usual prior, not measured on this encoder.
"""


def card_of_pack(
    uri: str, config: Config, training_data: str | None = None, encoder: str | None = None
) -> tuple[ModelCard, Pack]:
    """The card of a pack in a directory or under s3://, and the pack; only detector and encoder are read.

    Raises:
        ConfigError: no pack there, or its training data is not known.
    """
    if "://" not in uri:
        uri = os.path.abspath(os.path.expanduser(uri))
    store = open_store(uri, config.s3)
    names = [item.key for item in store.list()]
    files = choose_files(names, uri, encoder)
    read = {name: store.read(name) for name in (files.detector, files.encoder)}
    card = make_card(store.uri, files, read[files.detector], read[files.encoder], training_data)
    return card, Pack.verified(card, read)


def write_card(card: ModelCard, path: str) -> None:
    """Write a card as YAML, never over another one.

    Raises:
        ConfigError: there is a file already, or it cannot be written.
    """
    body = yaml.safe_dump(card.model_dump(mode="json"), sort_keys=False, width=120)
    try:
        with Path(path).expanduser().open("x", encoding="utf-8") as file:
            file.write(_HEAD + body)
    except OSError as err:
        what = f"the card cannot be written: {err.strerror}"
        raise ConfigError(what, where=path, next_step="give another --out") from err
