"""The command `bench parity`: compares facelake with insightface on the same pack, face by face."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facelake.config import Config
from facelake.contracts import F32, U8, Face
from facelake.embed import Pack, Pipeline
from facelake.embed.geometry import overlap
from facelake.errors import ConfigError
from facelake.stages.admission.import_images import photos_of
from facelake.stages.models.model_cards import card_of_pack
from facelake.stages.models.registry import check_terms, pipeline_options

LEAST_IOU, MOST_LANDMARK_PX, LEAST_COSINE = 0.99, 0.5, 0.9995


@dataclass(frozen=True, slots=True)
class Reference:
    """The result of insightface for one face."""

    box: F32
    landmarks: F32
    embedding: F32
    """unit norm"""


def parity(config: Config, pack: str, images: str, training_data: str | None = None) -> dict[str, Any]:
    """Compare every face of a folder's photos.

    Returns:
        Counts, and over all pairs of faces the worst and the median IoU, landmark distance (pixels of the photo) and
        cosine; `agrees` is whether all are within the project's limits.

    Raises:
        ConfigError: no photos, no pack, insightface or OpenCV not installed.
        Refused: the pack's terms are not accepted.
    """
    card, loaded = card_of_pack(pack, config, training_data or "not stated: for a comparison only")
    check_terms(config, card)
    paths = photos_of(images)
    theirs = reference(pack, card.min_det_score)
    pairs: list[tuple[float, float, float]] = []
    counts = {"photos": len(paths), "faces": 0, "faces_insightface": 0, "photos_with_other_count": 0}
    worst = ("", 2.0)
    for path, ours in zip(paths, _ours(config, loaded, paths), strict=True):
        expected = theirs(path)
        counts["faces"] += len(ours)
        counts["faces_insightface"] += len(expected)
        counts["photos_with_other_count"] += len(ours) != len(expected)
        for wanted in expected:
            pair = _compared(wanted, ours)
            pairs.append(pair)
            if pair[2] < worst[1]:
                worst = (path.name, pair[2])
    return counts | _summary(pairs) | {"worst_photo": worst[0], "agrees": _agrees(counts, pairs)}


def reference(pack: str, min_score: float) -> Callable[[Path], list[Reference]]:
    """A function that returns insightface's faces of a photo, read by OpenCV."""
    analysis = face_analysis(pack, min_score)

    def analyse(path: Path) -> list[Reference]:
        import cv2

        pixels: U8 | None = cv2.imread(str(path))
        if pixels is None:
            return []
        return [Reference(face.bbox, face.kps, face.normed_embedding) for face in analysis.get(pixels)]

    return analyse


def face_analysis(pack: str, min_score: float) -> Any:
    """insightface's FaceAnalysis for a pack, set up as in its README.

    Raises:
        ConfigError: insightface or OpenCV is not installed.
    """
    try:
        from insightface.app import FaceAnalysis
    except ImportError as err:
        next_step = "run pip install 'facelake[test]', or install insightface and opencv-python"
        raise ConfigError(f"not installed: {err.name}", where="bench", next_step=next_step) from err
    warnings.filterwarnings("ignore", category=FutureWarning, module="insightface")  # from scikit-image, once per face
    analysis = FaceAnalysis(
        str(Path(pack).expanduser()), allowed_modules=["detection", "recognition"], providers=["CPUExecutionProvider"]
    )
    analysis.prepare(ctx_id=-1, det_thresh=min_score)
    return analysis


def _ours(config: Config, pack: Pack, paths: list[Path]) -> Iterator[tuple[Face, ...]]:
    options = pipeline_options(config, pack.card)
    limits = replace(options.limits, brighten=False)
    options = replace(options, min_face_px=1, further_looks=False, limits=limits)
    photos = ((i, path.name, path.read_bytes()) for i, path in enumerate(paths))
    return (outcome.faces for outcome in Pipeline(pack, options).run(photos))


def _compared(wanted: Reference, ours: tuple[Face, ...]) -> tuple[float, float, float]:
    """IoU, largest landmark distance (pixels) and cosine to facelake's face with the largest overlap; (0, inf, -1) if
    none overlaps."""
    overlaps = overlap(wanted.box, np.array([face.box for face in ours], np.float32).reshape(-1, 4))
    if not (overlaps > 0).any():
        return 0.0, float("inf"), -1.0
    best = int(np.argmax(overlaps))
    face = ours[best]
    distance = np.linalg.norm(wanted.landmarks - face.landmarks, axis=1).max()
    unit = face.embedding.astype(np.float32)
    return float(overlaps[best]), float(distance), float(wanted.embedding @ unit / np.linalg.norm(unit))


def _summary(pairs: list[tuple[float, float, float]]) -> dict[str, Any]:
    if not pairs:
        return {}
    iou, distance, cosine = (np.array(column) for column in zip(*pairs, strict=True))
    return {
        "iou_least": round(float(iou.min()), 5),
        "iou_median": round(float(np.median(iou)), 5),
        "landmark_px_most": round(float(distance.max()), 4),
        "landmark_px_median": round(float(np.median(distance)), 4),
        "cosine_least": round(float(cosine.min()), 6),
        "cosine_median": round(float(np.median(cosine)), 6),
    }


def _agrees(counts: dict[str, int], pairs: list[tuple[float, float, float]]) -> bool:
    near = all(i >= LEAST_IOU and px <= MOST_LANDMARK_PX and cos >= LEAST_COSINE for i, px, cos in pairs)
    return near and counts["photos_with_other_count"] == 0
