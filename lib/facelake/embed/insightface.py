"""InsightFace packs: selects detector and encoder among the files of a folder and reads their graphs' inputs.

A pack is a folder of ONNX files. Some packs contain models for age and gender or dense landmarks, which facelake does
not use; files are therefore selected by name, and no other file is ever opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from facelake.embed.packs import EncoderCard, FolderCard, ModelCard, ScrfdCard
from facelake.errors import ConfigError

_DETECTORS = ("det_*.onnx", "scrfd_*.onnx")
# insightface recognises these by their shapes, after opening them
_NEVER = (
    "*genderage*",
    "*gender*",
    "*attribute*",
    "age*",
    "*_age*",
    "1k3d*",
    "2d106*",
    "*landmark*",
    "*inswapper*",
    "*liveness*",
    "*person*",
    "*emotion*",
)
_AUTO_SIDES = (128, 640)  # squares that insightface searches if the graph allows any size
_MIN_SCORE = 0.5  # FaceAnalysis.prepare's default
_HEADS = (9, 15)  # number of outputs of an SCRFD with landmarks

# Training data by the encoder's file name. The card states that it is inferred from the name.
_TRAINED_ON = {
    "w600k_r50.onnx": "WebFace600K, a part of WebFace260M",
    "w600k_mbf.onnx": "WebFace600K, a part of WebFace260M",
    "glintr100.onnx": "Glint360K, merged from earlier web-scraped sets, MS-Celeb-1M by most accounts among them",
}
# Prior for corpora that are too small for calibration: typical cosines of ArcFace encoders of 512 dimensions.
_PRIOR = {"impostor_mean": 0.02, "impostor_sd": 0.07, "genuine_mean": 0.6}


@dataclass(frozen=True, slots=True)
class PackFiles:
    """File names of the detector and the encoder."""

    detector: str
    encoder: str


def choose_files(names: Iterable[str], where: str, encoder: str | None = None) -> PackFiles:
    """The detector and the encoder among the file names of a pack.

    Raises:
        ConfigError: there is not exactly one of each.
    """
    models = sorted(name for name in names if name.lower().endswith(".onnx") and "/" not in name)
    detectors = [name for name in models if any(fnmatchcase(name.lower(), kind) for kind in _DETECTORS)]
    others = [name for name in models if name not in detectors and not _is_never_opened(name)]
    if encoder is not None:
        others = [name for name in others if name == encoder]
    for kind, candidates in (("detector (det_*.onnx or scrfd_*.onnx)", detectors), ("encoder", others)):
        if len(candidates) != 1:
            listed = f"{len(candidates)} ({', '.join(candidates)})" if candidates else "none"
            next_step = "name the encoder with --encoder FILE, or keep one detector and one encoder in the folder"
            raise ConfigError(f"a pack needs one {kind}; found {listed}", where=where, next_step=next_step)
    return PackFiles(detectors[0], others[0])


def _is_never_opened(name: str) -> bool:
    return any(fnmatchcase(name.lower(), kind) for kind in _NEVER)


def make_card(uri: str, files: PackFiles, detector: bytes, encoder: bytes, training_data: str | None) -> ModelCard:
    """The card of a pack, from its two files and the known or given training data.

    Raises:
        ConfigError: the graphs are not an SCRFD with landmarks and a 112 pixel encoder, or the training data is not
            known.
    """
    name = uri.rstrip("/").rpartition("/")[2]
    trained_on = training_data or _TRAINED_ON.get(files.encoder)
    if not trained_on:
        what = f"the training data of {files.encoder} is not known"
        next_step = "state it with --training-data, naming withdrawn sets; a card needs it"
        raise ConfigError(what, where=uri, next_step=next_step)
    by_name = "" if training_data else " (by its file name)"
    return ModelCard(
        name=name,
        title=f"InsightFace pack {name}: {files.detector} + {files.encoder}",
        licence="InsightFace: non-commercial research",
        terms="non-commercial",
        training_data=f"Detector: WIDER FACE. Encoder{by_name}: {trained_on}.",
        withdrawn_lineage=[],  # sets that the text of training_data names are found there
        intended_use="non-commercial research on photos of people who agreed to it",
        min_det_score=_MIN_SCORE,
        detector=_detector_card(files.detector, detector, uri),
        encoder=_encoder_card(files.encoder, encoder, uri),
        source=FolderCard(uri=uri),
        **_PRIOR,
    )


def _detector_card(name: str, data: bytes, where: str) -> ScrfdCard:
    graph = _graph(data, name, where)
    _, height, width = _shape(graph, where, name)
    if len(graph.output) not in _HEADS or height != width:
        what = f"{name} has {len(graph.output)} outputs and a {width}x{height} input: not an SCRFD with five landmarks"
        raise ConfigError(what, where=where, next_step="use a pack whose detector outputs landmarks (*_kps, or bnkps)")
    sides = [height] if height else list(_AUTO_SIDES)
    return ScrfdCard(kind="scrfd", file=name, sha256=_digest(data), sides=sides, any_size=not height)


def _encoder_card(name: str, data: bytes, where: str) -> EncoderCard:
    """Mean and scale are inferred as in insightface: a graph that begins with Sub and Mul normalises its input
    itself.
    """
    graph = _graph(data, name, where)
    source, height, width = _shape(graph, where, name)
    if len(graph.output) != 1 or (height, width) != (112, 112):
        what = f"{name} has {len(graph.output)} outputs and a {width}x{height} input: not a 112 pixel encoder"
        raise ConfigError(what, where=where, next_step="name the encoder with --encoder FILE")
    first = [node.name for node in graph.node[:8]]
    subtracts = any(node.startswith(("Sub", "_minus")) for node in first)
    multiplies = any(node.startswith(("Mul", "_mul")) for node in first)
    mean, scale = (0.0, 1.0) if subtracts and multiplies else (127.5, 1 / 127.5)
    dim = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    return EncoderCard(
        kind="arcface", file=name, sha256=_digest(data), input_name=source, dim=dim, mean=mean, scale=scale
    )


def _graph(data: bytes, name: str, where: str) -> Any:
    try:
        return onnx.load_from_string(data).graph
    except DecodeError as err:
        raise ConfigError(f"{name} is not an ONNX file: {err}", where=where, next_step="fetch the pack again") from err


def _shape(graph: Any, where: str, name: str) -> tuple[str, int, int]:
    """Name, height and width of the single input; 0 for symbolic sizes."""
    weights = {item.name for item in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        what = f"{name} has {len(inputs)} inputs instead of one with four axes"
        raise ConfigError(what, where=where, next_step="use a pack in the form of insightface's model zoo")
    dims = inputs[0].type.tensor_type.shape.dim
    return inputs[0].name, dims[2].dim_value, dims[3].dim_value


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
