"""Face quality, a predictor of a reliable embedding: size, sharpness, detector score and pose."""

from __future__ import annotations

import numpy as np

from facelake.contracts import F32, U8

GRAY = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)
SHARP_HALF = 60.0  # Laplacian variance at which sharpness counts half; aligned in-focus faces lie at 200..2000


def sharpness(aligned: U8) -> float:
    """0..1 from the variance of the Laplacian of an aligned (112, 112, 3) face."""
    gray = aligned[16:96, 16:96].astype(np.float32) @ np.array(GRAY, np.float32)
    inner = gray[1:-1, 1:-1]
    laplacian = gray[:-2, 1:-1] + gray[2:, 1:-1] + gray[1:-1, :-2] + gray[1:-1, 2:] - 4 * inner
    variance = float(laplacian.var())
    return variance / (variance + SHARP_HALF)


def yaw(landmarks: F32) -> float:
    """-1..1: how far the nose is from the middle of the eyes towards one of them, along their line; 0 is frontal.

    Positive values are faces turned to the right of the image. Landmarks (5, 2).
    """
    left, right, nose = landmarks[0], landmarks[1], landmarks[2]
    span = float(np.linalg.norm(right - left))
    if span < 1e-6:
        return 1.0
    return float(np.clip(2 * (nose - (left + right) / 2) @ (right - left) / span**2, -1, 1))


def frontality(landmarks: F32) -> float:
    """0..1: 1 if the nose lies midway between the eyes and the mouth corners; landmarks (5, 2)."""
    return 1.0 - abs(yaw(landmarks))


def quality(sharp: float, landmarks: F32, box: F32, det_score: float) -> float:
    """Geometric mean of the four parts, each 0..1. box and landmarks in pixels of the full photo."""
    side = float(min(box[2] - box[0], box[3] - box[1]))
    parts = [min(1.0, side / 112.0), sharp, det_score, frontality(landmarks)]
    return float(np.prod(np.clip(parts, 1e-3, 1.0)) ** 0.25)
