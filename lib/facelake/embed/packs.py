"""Model packs: a card that says what the model is, and files that are checked against it at every load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from facelake.errors import ConfigError

# Raised whenever the same photo could give other rows: part of the digest that every face row carries.
PIPELINE_VERSION = 5
Terms = Literal["permissive", "non-commercial"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class YuNetCard(_Part):
    """YuNet's file and input contract."""

    kind: Literal["yunet"]
    file: str
    sha256: str
    input_px: int = 640
    refine_px: int = 192


class ScrfdCard(_Part):
    """SCRFD's file, and the squares that it looks at."""

    kind: Literal["scrfd"]
    file: str
    sha256: str
    sides: list[int] = Field(min_length=1)
    any_size: bool
    """whether the graph itself leaves height and width open"""


class EncoderCard(_Part):
    """The encoder's file and input contract: RGB 112x112, (x - mean) * scale."""

    kind: Literal["arcface"]
    file: str
    sha256: str
    input_name: str
    dim: int
    mean: float = 0.0
    scale: float = 1.0


class SourceCard(_Part):
    """Where the files can be had: a PyPI wheel, by digest."""

    package: str
    version: str
    wheel_sha256: str
    folder: str


class FolderCard(_Part):
    """Where the files can be had: a directory or s3://bucket/prefix of the operator's own."""

    uri: str


class ModelCard(_Part):
    """conf/models/*.yaml."""

    name: str
    title: str
    licence: str
    training_data: str
    withdrawn_lineage: list[str] = []
    intended_use: str
    terms: Terms = "non-commercial"
    """non-commercial: used only where the config accepts it; what a card does not say is the stricter of the two"""
    min_det_score: float = 0.8
    """detector score from which something is a face, where the config does not say"""
    detector: YuNetCard | ScrfdCard = Field(discriminator="kind")
    encoder: EncoderCard
    impostor_mean: float
    impostor_sd: float
    genuine_mean: float
    source: SourceCard | FolderCard | None = None

    def files(self) -> dict[str, str]:
        """File name to sha256 of everything the pack opens."""
        return {self.detector.file: self.detector.sha256, self.encoder.file: self.encoder.sha256}


def model_digest(card: ModelCard, options: Mapping[str, Any]) -> str:
    """Digest of what shapes a face: the card's files and input contracts, the options, the pipeline.

    Equal digests, equal faces. Words on the card (title, licence) may be corrected without embedding anew.
    """
    parts = {
        "detector": card.detector.model_dump(mode="json"),
        "encoder": card.encoder.model_dump(mode="json"),
    }
    body = parts | {"options": dict(options), "pipeline": PIPELINE_VERSION}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Pack:
    """A card with the bytes of its files, ready to travel to a worker."""

    card: ModelCard
    detector: bytes = field(repr=False)
    encoder: bytes = field(repr=False)

    @classmethod
    def verified(cls, card: ModelCard, files: Mapping[str, bytes]) -> Pack:
        """Check the files against the card.

        Raises:
            ConfigError: a file is missing or has another digest.
        """
        for name, wanted in card.files().items():
            if name not in files:
                raise ConfigError("model file is missing", where=name, next_step="run `facelake models fetch`")
            found = hashlib.sha256(files[name]).hexdigest()
            if found != wanted:
                what = f"model file has digest {found[:16]}..., the card {card.name!r} says {wanted[:16]}..."
                next_step = "delete it and run `facelake models fetch`, or correct the card if the change is meant"
                raise ConfigError(what, where=name, next_step=next_step)
        return cls(card, files[card.detector.file], files[card.encoder.file])
