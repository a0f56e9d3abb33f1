"""Embeds photos in this process by the pipeline of the nightly run: probes for matchers, without Ray or a lake.

    embedder = Embedder()                                # the default model; Embedder(card="card.yaml")
    (photo,) = embedder.embed(["visitor.jpg"])
    photo.faces[0].embedding, photo.faces[0].refused, embedder.model_digest

The same photo gives the same bytes as the lake's `faces` rows, whatever it is batched with.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from facelake.config import Config
from facelake.contracts import F16, F32, Face, Outcome
from facelake.embed import Pipeline
from facelake.errors import ConfigError
from facelake.stages.admission.withdrawn_datasets import accepted_lineage, retracted_contents
from facelake.stages.models.registry import config_model_digest, find_card, load_pack, pipeline_options


@dataclass(frozen=True, slots=True)
class ProbeGate:
    """The least quality of a face that is compared with a gallery.

    A probe below it would mostly give false non-matches, and an operator who tries again and again until something
    matches raises the false match rate. Both limits are 0 to accept every face.

    Attributes:
        min_quality: of `ProbeFace.quality` (size, sharpness, detector score and pose).
        min_landmark_score: detector score of the face in an upright crop; below it the landmarks mean nothing.
    """

    min_quality: float = 0.35
    min_landmark_score: float = 0.5

    def __post_init__(self) -> None:
        """Check that both are numbers: below what is none there is nothing, so that every face would pass.

        Raises:
            ConfigError: one is not from 0 to 1.
        """
        for name, value in (("min_quality", self.min_quality), ("min_landmark_score", self.min_landmark_score)):
            if not 0 <= value <= 1:
                where = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{value} is not a quality", where=where, next_step="give a number from 0 to 1")

    def refusal(self, face: Face) -> str | None:
        """Return why a face is not compared; None if it is."""
        if face.landmark_score < self.min_landmark_score:
            return f"landmarks not confirmed: score {face.landmark_score:.2f} is below {self.min_landmark_score:g}"
        if face.quality < self.min_quality:
            return f"quality {face.quality:.2f} is below {self.min_quality:g}"
        return None


@dataclass(frozen=True, slots=True)
class ProbeFace:
    """One face of a photo."""

    box: F32
    """(4,) x0, y0, x1, y1 in pixels of the upright photo"""
    landmarks: F32
    """(5, 2) pixels"""
    det_score: float
    quality: float
    """0..1, as the lake's column `quality`"""
    embedding: F16
    """(dim,) float16 of unit norm: the bytes of the lake's column `embedding`"""
    refused: str | None
    """why the quality gate refuses it as a probe; None if it may be compared"""


@dataclass(frozen=True, slots=True)
class EmbeddedPhoto:
    """The faces of one photo, or the reason why there are none; never both."""

    name: str
    content_sha256: str
    width: int
    height: int
    faces: tuple[ProbeFace, ...] = ()
    """best detection first"""
    reject: str | None = None
    """value of contracts.Reject"""
    detail: str = ""
    model_digest: str = field(default="", repr=False)


class Embedder:
    """Decodes photos, detects, aligns and encodes faces; the models are loaded once.

    Threads may share one: calls wait for each other, because the networks use every core already. The time limit of
    decoding applies in the main thread only.
    """

    def __init__(self, card: str | None = None, *, config: Config | None = None, gate: ProbeGate | None = None) -> None:
        """Load the models; those that are not in the cache are fetched.

        Args:
            card: name in conf/models, or path of a card; default: that of the config.
            config: its sections `model` and `embed` apply; default: the built-in settings.
            gate: the least quality of a probe.

        Raises:
            ConfigError: no such card, or the configured runtime is not available.
            Refused: the terms or the training lineage of the model are not accepted in the config.
        """
        settings = config or Config()
        if card is not None:
            settings = settings.model_copy(update={"model": settings.model.model_copy(update={"card": card})})
        self._gate = gate or ProbeGate()
        self._lock = threading.Lock()
        model = find_card(settings.model.card)
        accepted_lineage(settings, model)
        options = pipeline_options(settings, model)
        self._pipeline = Pipeline(load_pack(settings), options, retracted_contents(settings))
        self.model_digest = config_model_digest(settings, model)
        """digest of everything that influences an embedding: probes fit galleries of the same digest only"""
        self.dim = model.encoder.dim
        """values per embedding"""

    def embed(self, photos: Iterable[bytes | str | Path]) -> list[EmbeddedPhoto]:
        """Embed encoded photos (any format that the lake accepts), or the files at paths.

        A photo that cannot be decoded or shows no face has `reject` set, and raises nothing.

        Returns:
            One result per photo, in order.

        Raises:
            ConfigError: there is no such file.
        """
        names: list[str] = []
        with self._lock:
            outcomes = list(self._pipeline.run(_rows(photos, names)))
        return [self._embedded(outcome, name) for outcome, name in zip(outcomes, names, strict=True)]

    def _embedded(self, outcome: Outcome, name: str) -> EmbeddedPhoto:
        faces = tuple(
            ProbeFace(face.box, face.landmarks, face.det_score, face.quality, face.embedding, self._gate.refusal(face))
            for face in outcome.faces
        )
        reject = str(outcome.reject) if outcome.reject else None
        size = outcome.width, outcome.height
        return EmbeddedPhoto(
            name, outcome.content_sha256, *size, faces, reject, outcome.detail, model_digest=self.model_digest
        )


def probe_matrix(faces: Iterable[ProbeFace], dim: int) -> F32:
    """Return the embeddings (n, dim) float32 of faces."""
    rows = [face.embedding.astype(np.float32) for face in faces]
    return np.array(rows, np.float32).reshape(len(rows), dim)


def _rows(photos: Iterable[bytes | str | Path], names: list[str]) -> Iterator[tuple[int, str, bytes]]:
    """Yield the rows that the pipeline reads; `names` gets the name of each photo."""
    for number, photo in enumerate(photos):
        data = photo if isinstance(photo, bytes) else _read(Path(photo))
        names.append(f"photo {number}" if isinstance(photo, bytes) else str(photo))
        yield number, names[-1], data


def _read(path: Path) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as err:
        what = f"the photo cannot be read: {err.strerror or err}"
        raise ConfigError(what, where=str(path), next_step="give the path of a photo") from err
