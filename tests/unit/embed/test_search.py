"""Further looks: crowds, panoramas, photos on their side and in the dark; and what they cost an ordinary photo."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facelake.contracts import Outcome, Reject, View
from facelake.embed import Pack, Pipeline, PipelineOptions
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.embed.relight import relighting

Grid = Callable[[tuple[int, int], int, int], Image.Image]


@pytest.fixture(scope="module")
def people(shared: Path) -> list[Image.Image]:
    paths = sorted((shared / "data/london/images").glob("*.jpg"))[::2]
    return [Image.open(path).convert("RGB") for path in paths]


@pytest.fixture(scope="module")
def crowd(people: list[Image.Image]) -> Grid:
    """A photo of some size with portraits of `side` pixels, one in each of a number of cells, evenly spaced."""

    def build(size: tuple[int, int], side: int, count: int) -> Image.Image:
        photo = Image.new("RGB", size, (90, 120, 90))
        columns = max(1, round((count * size[0] / size[1]) ** 0.5))
        rows = -(-count // columns)
        for k in range(count):
            x, y = k % columns * size[0] // columns, k // columns * size[1] // rows
            photo.paste(people[k % len(people)].resize((side, side), Image.Resampling.LANCZOS), (x, y))
        return photo

    return build


@pytest.fixture(scope="module")
def pipeline(pack: Pack) -> Pipeline:
    return Pipeline(pack, PipelineOptions())


def embedded(pipeline: Pipeline, photo: Image.Image, kind: str = "JPEG") -> Outcome:
    sink = io.BytesIO()
    photo.save(sink, kind, **({"quality": 92} if kind == "JPEG" else {}))
    (outcome,) = pipeline.run([(0, "a", sink.getvalue())])
    return outcome


@pytest.mark.parametrize(
    ("size", "side", "count"),
    [((3600, 2400), 120, 60), ((6000, 4000), 105, 40), ((12000, 1500), 300, 20), ((20000, 1000), 180, 20)],
    ids=["crowd", "smaller", "panorama", "longer"],
)
def test_small_faces_are_found_each_once(
    pipeline: Pipeline, crowd: Grid, size: tuple[int, int], side: int, count: int
) -> None:
    outcome = embedded(pipeline, crowd(size, side, count))
    found = len(outcome.faces)
    assert 0.9 * count <= found <= count
    assert {face.view for face in outcome.faces} == {View.TILED}
    centres = np.array([(face.box[:2] + face.box[2:]) / 2 for face in outcome.faces])
    assert (np.abs(centres[:, None] - centres[None]).max(2) > side / 2).sum() == found * (found - 1)


@pytest.mark.parametrize("side", [190, 205, 220, 330])
@pytest.mark.parametrize("size", [(12000, 1500), (20000, 1000)])
def test_every_face_of_a_panorama_is_found(pipeline: Pipeline, crowd: Grid, size: tuple[int, int], side: int) -> None:
    """Faces of 60 to 120 pixels; in the narrower one they are a 25th of its height and less."""
    assert len(embedded(pipeline, crowd(size, side, 20)).faces) == 20


def test_a_large_face_among_small_ones_is_one_face(pipeline: Pipeline, crowd: Grid, people: list[Image.Image]) -> None:
    photo = crowd((3600, 2400), 120, 48)
    photo.paste(people[60].resize((1300, 1300)), (1200, 500))
    outcome = embedded(pipeline, photo)
    sides = np.array([face.box[2] - face.box[0] for face in outcome.faces])
    assert (sides > 300).sum() == 1
    inside = [f for f in outcome.faces if (f.box[:2] > (1200, 500)).all() and (f.box[2:] < (2500, 1800)).all()]
    assert len(inside) == 1, "no part of it is a face of its own"


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_photo_on_its_side_gives_the_same_faces(pipeline: Pipeline, people: list[Image.Image], turn: int) -> None:
    views: Counter[str] = Counter()
    cosines = []
    for person in people[40:52]:
        upright, turned = embedded(pipeline, person), embedded(pipeline, person.rotate(turn, expand=True))
        assert len(turned.faces) == 1
        face = turned.faces[0]
        views[face.view] += 1
        cosines.append(float(face.embedding.astype(np.float32) @ upright.faces[0].embedding.astype(np.float32)))
        roll = np.rad2deg(np.arctan2(*(face.landmarks[1] - face.landmarks[0])[::-1]))
        assert abs((roll + turn + 180) % 360 - 180) < 20
    assert np.median(cosines) > 0.93
    assert min(cosines) > 0.7
    if turn != 180:  # upside-down faces score high enough as they are
        assert views[View.TURNED] > 0


@pytest.mark.parametrize("share", [0.12, 0.05])
def test_faces_of_dark_photos_are_found_and_alike(pipeline: Pipeline, people: list[Image.Image], share: float) -> None:
    for person in people[:6]:
        dark = Image.fromarray((np.asarray(person, float) * share).astype(np.uint8))
        face = embedded(pipeline, dark, "PNG").faces[0]
        assert face.view == View.BRIGHTENED
        wanted = embedded(pipeline, person).faces[0].embedding.astype(np.float32)
        assert face.embedding.astype(np.float32) @ wanted > 0.85


def test_ordinary_photos_are_looked_at_once(pipeline: Pipeline, people: list[Image.Image]) -> None:
    pipeline_looks = []
    vision = pipeline._vision
    locate = vision.locate
    vision.locate = lambda photos, **how: pipeline_looks.append(len(photos)) or locate(photos, **how)  # type: ignore[method-assign]
    try:
        for person in people[:20]:
            assert embedded(pipeline, person).faces
    finally:
        vision.locate = locate  # type: ignore[method-assign]
    assert sum(pipeline_looks) == 20


def test_what_only_resembles_a_face_is_none(pipeline: Pipeline) -> None:
    """Noise, stripes and blobs at several scales: candidates of further looks lack the landmarks of a face."""
    random = np.random.default_rng(5)
    for cells in (8, 20, 60):
        blobs = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        outcome = embedded(pipeline, blobs.resize((1600, 1600), Image.Resampling.BICUBIC))
        assert (outcome.faces, outcome.reject) == ((), Reject.NO_FACE)


def test_further_looks_can_be_switched_off(pack: Pack, crowd: Grid) -> None:
    options = replace(PipelineOptions(), further_looks=False)
    assert not embedded(Pipeline(pack, options), crowd((3600, 2400), 120, 12)).faces
    assert options.shaping() != PipelineOptions().shaping()


def test_only_dark_and_flat_photos_are_brightened() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (64, 1, 3))
    assert relighting(ramp) is None
    for photo in (ramp // 8, ramp // 8 + 120):
        table = relighting(photo)
        assert table is not None
        shown = table[photo]
        assert np.ptp(shown) > 200
        assert (np.diff(table.astype(int)) >= 0).all(), "the order of grey levels stays"
    assert relighting(np.full((9, 9, 3), 7, np.uint8)) is None, "one colour"


def test_what_was_done_is_in_the_photo() -> None:
    sink = io.BytesIO()
    Image.fromarray(np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (30, 1, 3))).save(sink, "PNG")
    bright, plain = (decode(sink.getvalue(), DecodeLimits(brighten=on)) for on in (True, False))
    assert isinstance(bright, Photo)
    assert isinstance(plain, Photo)
    assert (bright.brightened, plain.brightened) == (True, False)
    assert bright.pixels.max() > 200 > plain.pixels.max()
