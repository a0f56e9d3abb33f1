"""Looks at a photo again where one look at the whole of it is not enough.

The detector sees every photo in one square of 640 pixels: small faces of crowds and panoramas are a few pixels there,
faces that lie on their side score low, and dark photos show none. Further looks are decided by what the first one
shows, so that an ordinary photo costs one look:

- tiles at twice the scale, and again at twice that, around candidates that are too small to be sure of; over the whole
  photo if it is long, or once if it has no face at all, and again if that shows faint candidates;
- turned by 90, 180 and 270 degrees if there is no face, but something that resembles one;
- brightened if there is no face and the photo is dark or flat.

Overlapping tiles over a pyramid of scales: Hu and Ramanan, "Finding Tiny Faces", CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from facelake.contracts import F32, F64, Bool, View
from facelake.embed.decode import Photo
from facelake.embed.detectors import NOTHING, Detections, joined
from facelake.embed.geometry import nms
from facelake.embed.vision import Vision

_SURE_PX = 14.0  # side of a face in the square, from which a detector scores it as high as a large one
_OVERLAP = 128  # pixels of the square in which neighbouring tiles overlap
_TILE_PART = 0.5  # largest face in a tile, as a share of its side; larger ones are found at the scale before
_EDGE_PX = 3.0  # a face nearer to a tile's inner edge may be cut
_LONG = 2.5  # a photo so much longer than high is searched everywhere, until its shorter side has `_LEAST_SIDE` pixels:
_LEAST_SIDE = 25 * _SURE_PX  # then a face of a 25th of that side scores as high as a large one
_MOST_TILES = 128
_IOU, _WITHIN = 0.3, 0.6  # overlap, and share inside a larger face, from which two detections are one face
_HINT = 0.3  # least score of a candidate for which a photo is turned, or searched in tiles around it
_FAINT = 0.1  # the same where no face was found so far: a photo without faces rarely has one (docs/embedding.md)
_SAME_SCALE = 1.1


@dataclass(frozen=True, slots=True)
class Looked:
    """The faces of a photo, in its decoded pixels, and how they were found."""

    photo: Photo
    faces: Detections
    view: View


Finer = Callable[[Photo, float], Photo]
"""Decodes a photo again with at least so many decoded pixels per pixel of the full photo, if that is possible"""


@dataclass(frozen=True, slots=True)
class Search:
    """Decides on further looks at a photo."""

    vision: Vision
    min_score: float
    min_face_px: int

    def look_again(self, photo: Photo, first: Detections, finer: Finer) -> Looked:
        """Search a photo further after the first look.

        Args:
            photo: the photo.
            first: faces and candidates of the first look, in its pixels.
            finer: gives the photo with more pixels.
        """
        faces = first.where(first.scores >= self.min_score)
        large = _sides(first) * self._square_px(photo) >= _SURE_PX
        if not len(faces):
            lying = (large & (first.scores >= _HINT)).any()
            looked = (self._turned(photo) if lying else None) or self._brightened(photo)
            if looked:
                return looked
        return self._tiled(photo, first, finer)

    def _square_px(self, photo: Photo) -> float:
        """Pixels of the first look's square per decoded pixel."""
        return self.vision.side / max(photo.width, photo.height) / per_pixel(photo)

    def _turned(self, photo: Photo) -> Looked | None:
        """Search the photo turned by 90, 180 and 270 degrees; the turn with the highest scores decides."""
        best, most = None, 0.0
        views = [self.vision.turned(photo.pixels, quarters) for quarters in (1, 2, 3)]
        height, width = photo.pixels.shape[:2]
        for quarters, detected in enumerate(self.vision.locate(views), 1):
            faces = detected.where(detected.scores >= self.min_score)
            if faces.scores.sum() > most:
                most = float(faces.scores.sum())
                best = _turned_back(faces, quarters, width, height)
        return None if best is None else Looked(photo, best, View.TURNED)

    def _brightened(self, photo: Photo) -> Looked | None:
        pixels = self.vision.brightened(photo.pixels)
        if pixels is None:
            return None
        detected = self.vision.locate([pixels])[0]
        faces = detected.where(detected.scores >= self.min_score)
        bright = replace(photo, pixels=pixels)
        return Looked(bright, faces, View.BRIGHTENED) if len(faces) else None

    def _tiled(self, photo: Photo, first: Detections, finer: Finer) -> Looked:
        """Search tiles at twice the scale before, while there are candidates that are too small to be sure of."""
        long, short = max(photo.width, photo.height), min(photo.width, photo.height)
        scale = self.vision.side / long
        known = first.scaled(1 / per_pixel(photo))  # in pixels of the full photo
        finest = min(1.0, _SURE_PX / self.min_face_px)
        needed = min(finest, _LEAST_SIDE / short) if long > _LONG * short else 0.0
        view = View.WHOLE
        while scale * _SAME_SCALE < finest:
            nothing = not (known.scores >= self.min_score).any()
            known = known.where(known.scores >= (_FAINT if nothing else _HINT))
            unsure = _sides(known) * scale < _SURE_PX
            everywhere = scale < needed or (nothing and (view == View.WHOLE or bool(unsure.any())))
            if not everywhere and not unsure.any():
                break
            sure, accepted = known.where(~unsure), known.where(unsure & (known.scores >= self.min_score))
            scale = min(2 * scale, finest)
            tiles, scale = _tiles(photo, scale, self.vision.side, None if everywhere else known.boxes[unsure])
            photo, view = finer(photo, scale), View.TILED
            known = _merged(sure, accepted, self._search_tiles(photo, tiles), self.min_score)
        faces = known.where(known.scores >= self.min_score)
        return Looked(photo, faces.scaled(per_pixel(photo)), view)

    def _search_tiles(self, photo: Photo, tiles: F64) -> Detections:
        """Detections in tiles (t, 4: x0, y0, x1, y1), in pixels of the full photo; cut and large faces are left out."""
        of_tiles = [NOTHING]
        for tile in tiles:
            low = np.floor(tile[:2] * per_pixel(photo)).astype(int).tolist()
            size = np.ceil((tile[2:] - tile[:2]) * per_pixel(photo)).astype(int).tolist()
            pixels = self.vision.window(photo.pixels, (low[0], low[1]), (size[0], size[1]))
            faces = self.vision.locate([pixels], once=True)[0].scaled(1 / per_pixel(photo))
            shift = (np.array(low) / per_pixel(photo)).astype(np.float32)
            faces = Detections(faces.boxes + np.tile(shift, 2), faces.landmarks + shift, faces.scores)
            of_tiles.append(faces.where(_whole_in(faces.boxes, tile, photo, self.vision.side)))
        return joined(of_tiles)


def per_pixel(photo: Photo) -> float:
    """Decoded pixels per pixel of the full photo."""
    return float(photo.pixels.shape[1]) / photo.width


def _tiles(photo: Photo, scale: float, side: int, around: F32 | None) -> tuple[F64, float]:
    """Overlapping tiles (t, 4) in pixels of the full photo, and the scale at which they are searched.

    Args:
        scale: wanted square pixels per photo pixel; lowered where the whole photo would need too many tiles.
        side: pixels of a square.
        around: boxes (n, 4) around which to search; None: everywhere.
    """
    tiles = _grid(photo, scale, side)
    while around is None and len(tiles) > _MOST_TILES:
        scale /= 1.2
        tiles = _grid(photo, scale, side)
    if around is None:
        return tiles, scale
    centres, middles = (around[:, :2] + around[:, 2:]) / 2, (tiles[:, :2] + tiles[:, 2:]) / 2
    nearest = np.abs(centres[:, None] - middles[None]).max(2).argmin(1)
    wanted, count = np.unique(nearest, return_counts=True)
    fullest = wanted[np.argsort(-count, kind="stable")][:_MOST_TILES]
    return tiles[np.sort(fullest)], scale


def _grid(photo: Photo, scale: float, side: int) -> F64:
    """Tiles (t, 4) that cover a photo, evenly spaced, row by row."""
    axes = []
    for length in (photo.width, photo.height):
        tile = min(side / scale, length)
        count = 1 if tile >= length else int(np.ceil((length * scale - _OVERLAP) / (side - _OVERLAP)))
        start = np.linspace(0, length - tile, count)
        axes.append(np.stack([start, start + tile], 1))
    across, down = axes
    tiles: F64 = np.array([(x0, y0, x1, y1) for y0, y1 in down for x0, x1 in across])
    return tiles


def _merged(sure: Detections, accepted: Detections, tiled: Detections, min_score: float) -> Detections:
    """The detections of two scales together, best first.

    Args:
        sure: faces and candidates that were large enough at the scale before.
        accepted: faces that were small there; those that a tile shows better give way.
        tiled: faces and candidates of tiles; those within a sure one are parts of it.
        min_score: score of a face.
    """
    better = tiled.where(tiled.scores >= min_score)
    accepted = accepted.where(~_covered(accepted.boxes, better.boxes, within=False))
    tiled = tiled.where(~_covered(tiled.boxes, sure.boxes[sure.scores >= min_score], within=True))
    together = joined([sure, accepted, tiled])
    kept = nms(together.boxes, together.scores, _IOU)
    return Detections(together.boxes[kept], together.landmarks[kept], together.scores[kept])


def _covered(boxes: F32, others: F32, *, within: bool) -> Bool:
    """Which boxes (n,) are the same face as one of some others: by their overlap, or as a part of a larger one."""
    if not len(others):
        return np.zeros(len(boxes), bool)
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area, other = (np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes, others))
    overlap: Bool = (shared > _IOU * (area[:, None] + other[None] - shared)).any(1)
    if within:
        overlap |= (shared > _WITHIN * np.minimum(area[:, None], other[None])).any(1)
    return overlap


def _whole_in(boxes: F32, tile: F64, photo: Photo, side: int) -> Bool:
    """Which faces (n,) are not cut by an edge within the photo, and small enough for a tile."""
    pixel = (tile[2] - tile[0]) / side
    inner = np.array([tile[0] > 0, tile[1] > 0, tile[2] < photo.width - 1, tile[3] < photo.height - 1])
    gap = np.concatenate([boxes[:, :2] - tile[:2], tile[2:] - boxes[:, 2:]], 1)
    small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0.0) < _TILE_PART * side * pixel
    whole: Bool = small & ~((gap < _EDGE_PX * pixel) & inner).any(1)
    return whole


def _sides(faces: Detections) -> F32:
    """The shorter side (n,) of each box."""
    return np.asarray(np.min(faces.boxes[:, 2:] - faces.boxes[:, :2], axis=1), np.float32)


def _turned_back(faces: Detections, quarters: int, width: int, height: int) -> Detections:
    """Faces of a photo turned counterclockwise by quarters of a circle, in pixels of the photo before."""

    def back(points: F32) -> F32:
        x, y = points[..., 0], points[..., 1]
        before = {1: (width - y, x), 2: (width - x, height - y), 3: (y, height - x)}[quarters]
        return np.stack(before, -1).astype(np.float32)

    corners = np.stack([back(faces.boxes[:, :2]), back(faces.boxes[:, 2:])], 1)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    return Detections(boxes, back(faces.landmarks), faces.scores)
