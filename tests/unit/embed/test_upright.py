"""A face is found upright at any roll angle, and an upright one is looked at once."""

from __future__ import annotations

import numpy as np
import pytest

from facelake.contracts import F32, F64, I64
from facelake.embed.detectors import NOTHING, Detections
from facelake.embed.geometry import TEMPLATE_112
from facelake.embed.upright import refined, rolls

_CENTRE = np.array([200.0, 150.0])


def face_at(degrees: float) -> tuple[F32, F32]:
    """Box (1, 4) and landmarks (1, 5, 2) of a face that is turned in its photo."""
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE_112 - 56) @ turn.T + _CENTRE
    box = np.concatenate([_CENTRE - 50, _CENTRE + 50])
    return box[None].astype(np.float32), points[None].astype(np.float32)


def faces(box: F32, landmarks: F32) -> Detections:
    return Detections(box, landmarks, np.array([0.9], np.float32))


class Camera:
    """Shows the crops of one face as a detector does: surest where it stands upright, and flattened elsewhere."""

    def __init__(self, landmarks: F32) -> None:
        self.landmarks, self.crops = landmarks[0], 0

    def __call__(self, rows: I64, matrices: F64) -> list[Detections]:
        self.crops += len(rows)
        return [self._seen(matrix) for matrix in matrices]

    def _seen(self, matrix: F64) -> Detections:
        inside = (self.landmarks + 0.0 - 0.5 - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T + 0.5
        roll = float(rolls(inside[None].astype(np.float32))[0])
        flat = -0.4 * np.clip(roll, -1, 1)
        turn = np.array([[np.cos(flat), -np.sin(flat)], [np.sin(flat), np.cos(flat)]])
        middle = inside.mean(0)
        shown = (inside - middle) @ turn.T + middle
        box = np.concatenate([middle - 45, middle + 45])
        score = 0.94 - 0.1 * min(abs(roll), 1)
        return Detections(box[None].astype(np.float32), shown[None].astype(np.float32), np.array([score], np.float32))


@pytest.mark.parametrize("degrees", range(0, 360, 15))
def test_landmarks_follow_the_face_at_any_angle(degrees: int) -> None:
    box, landmarks = face_at(degrees)
    _, flattened = face_at(0)
    again = refined(faces(box, flattened), 1.8, 192, Camera(landmarks))
    off = rolls(again.landmarks)[0] - np.deg2rad(degrees)
    assert abs((off + np.pi) % (2 * np.pi) - np.pi) < np.deg2rad(8)


def test_an_upright_face_costs_one_crop() -> None:
    box, landmarks = face_at(2)
    camera = Camera(landmarks)
    refined(faces(box, landmarks), 1.8, 192, camera)
    assert camera.crops == 1


def test_known_landmarks_stay_where_no_crop_shows_the_face() -> None:
    box, landmarks = face_at(20)
    again = refined(faces(box, landmarks), 1.8, 192, lambda rows, matrices: [NOTHING] * len(rows))
    np.testing.assert_array_equal(again.landmarks, landmarks)
    assert again.scores == 0, "they cannot be trusted"
