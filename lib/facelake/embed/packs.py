"""Model packs: a card that describes the model, and model files whose digests are checked on every load."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from facelake.embed.cpu_features import Precision
from facelake.errors import ConfigError

# Raised whenever the same photo could give other rows; part of the model digest of every face row.
PIPELINE_VERSION = 6
PACKAGE = r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$"
VERSION = r"^[0-9][0-9A-Za-z.+!]*$"
Terms = Literal["permissive", "non-commercial"]


_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Stated = Annotated[str, Field(pattern=r"\S")]
_Side = Annotated[int, Field(ge=32, le=4096)]  # pixels of a graph's input
_Share = Annotated[float, Field(ge=0, le=1)]
_Cosine = Annotated[float, Field(ge=-1, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class YuNetCard(_Part):
    """YuNet's file and input contract."""

    kind: Literal["yunet"]
    file: _FileName
    sha256: _Sha256
    input_px: _Side = 640
    refine_px: _Side = 192


class ScrfdCard(_Part):
    """SCRFD's file and the sides of its square inputs."""

    kind: Literal["scrfd"]
    file: _FileName
    sha256: _Sha256
    sides: list[_Side] = Field(min_length=1, max_length=16)
    any_size: bool
    """whether the graph accepts any height and width"""


class EncoderCard(_Part):
    """The encoder's file and input contract: RGB 112x112, (x - mean) * scale."""

    kind: Literal["arcface"]
    file: _FileName
    sha256: _Sha256
    input_name: str
    dim: int = Field(ge=2, le=8192)
    mean: float = 0.0
    scale: float = 1.0
    precision: Literal["float32", "int8"] = "float32"
    """in which the file computes its convolutions; int8 as `facelake models int8` writes it"""


class PrecisionFigures(_Part):
    """What a precision of the encoder costs in accuracy, as `facelake bench precision` measures it."""

    precision: Literal["bf16", "int8"]
    cosine_least: _Cosine
    cosine_median: _Cosine
    """of embeddings to those in float32"""
    tar_at_fmr_1e3: _Share
    tar_at_fmr_1e4: _Share
    """true accept rate at false match rates of 1e-3 and 1e-4"""
    data: _Stated
    """photos, and numbers of genuine and impostor pairs"""
    computed_on: _Stated
    """processor, and whether it computes the precision natively"""


class SourceCard(_Part):
    """Source of the files: a PyPI wheel, by digest. The names go to pip, hence their strict form."""

    package: str = Field(pattern=PACKAGE)
    version: str = Field(pattern=VERSION)
    wheel_sha256: _Sha256
    folder: str = Field(pattern=r"^[A-Za-z0-9_]+(/[A-Za-z0-9_]+)*$")


class FolderCard(_Part):
    """Source of the files: a directory or s3://bucket/prefix of the operator."""

    uri: str


class ModelCard(_Part):
    """The description of a model pack, as in conf/models/*.yaml."""

    name: _Stated
    title: _Stated
    licence: _Stated
    training_data: _Stated
    withdrawn_lineage: list[_Stated]
    """stated in every card; empty where nothing is known to be withdrawn"""
    intended_use: _Stated
    terms: Terms = "non-commercial"
    """non-commercial: used only if the config accepts it; the stricter value is the default"""
    min_det_score: _Share = 0.8
    """least detector score of a face, if the config has none"""
    detector: YuNetCard | ScrfdCard = Field(discriminator="kind")
    encoder: EncoderCard
    impostor_mean: _Cosine
    impostor_sd: float = Field(gt=0, le=1)
    genuine_mean: _Cosine
    nearest_most: _Cosine = 0.75
    """similarity that two photos of one person on different occasions rarely exceed"""
    source: SourceCard | FolderCard | None = None
    precisions: list[PrecisionFigures] = Field(default_factory=list)
    """measured for the encoder of this card, so that embed.precision is an informed choice"""

    def files(self) -> dict[str, str]:
        """SHA-256 by name of the files that the pack consists of."""
        return {self.detector.file: self.detector.sha256, self.encoder.file: self.encoder.sha256}


def model_digest(card: ModelCard, options: Mapping[str, Any]) -> str:
    """32 hex digits: the digest of everything that influences a face row.

    Covers the card's files and input contracts, the options and the pipeline version. Texts of the card (title,
    licence) are not covered, so that they can be corrected without embedding again.
    """
    parts = {
        "detector": card.detector.model_dump(mode="json"),
        # the file's digest says its precision already
        "encoder": card.encoder.model_dump(mode="json", exclude={"precision"}),
    }
    body = parts | {"options": dict(options), "pipeline": PIPELINE_VERSION}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]


def check_precision(card: ModelCard, wanted: Precision) -> None:
    """Check that the file of the encoder can be computed in a precision.

    Raises:
        ConfigError: int8 is wanted of a float file, or something else of an int8 file.
    """
    in_file = card.encoder.precision
    if (wanted == "int8") == (in_file == "int8"):
        return
    what = f"embed.precision is {wanted}, and the encoder of the card {card.name!r} is in {in_file}"
    next_step = "set embed.precision to int8, or select the card of the float model"
    if wanted == "int8":
        next_step = "run `facelake models int8 --images DIR --out PACK` and set model.card to the card that it writes"
    raise ConfigError(what, where="embed.precision", next_step=next_step)


@dataclass(frozen=True, slots=True)
class Pack:
    """A card with the contents of its files; it is sent to workers."""

    card: ModelCard
    detector: bytes = field(repr=False)
    encoder: bytes = field(repr=False)

    @classmethod
    def verified(cls, card: ModelCard, files: Mapping[str, bytes]) -> Pack:
        """Check the files against the card.

        Raises:
            ConfigError: a file is missing, has another digest, is no ONNX file, or takes weights from other files.
        """
        for name, wanted in card.files().items():
            if name not in files:
                raise ConfigError("model file is missing", where=name, next_step="run `facelake models fetch`")
            digest = hashlib.sha256(files[name]).hexdigest()
            if digest != wanted:
                what = f"model file has digest {digest[:16]}..., the card {card.name!r} says {wanted[:16]}..."
                next_step = (
                    "delete the file and run `facelake models fetch`, or correct the card if the change is intended"
                )
                raise ConfigError(what, where=name, next_step=next_step)
            _must_be_whole(name, files[name])
        return cls(card, files[card.detector.file], files[card.encoder.file])


def _must_be_whole(name: str, model: bytes) -> None:
    """Check that a model's file has all its weights: the model's digest would not change with those in other files.

    Raises:
        ConfigError: it has not, or is no ONNX file.
    """
    from google.protobuf.message import DecodeError

    from facelake.embed.graphs import has_outside_weights

    try:
        outside = has_outside_weights(model)
    except DecodeError as err:
        raise ConfigError(f"not an ONNX file: {err}", where=name, next_step="fetch the pack again") from err
    if outside:
        what = "the model takes weights from other files, which its digest does not cover"
        raise ConfigError(what, where=name, next_step="save it with all weights in one file (onnx.save_model)")
