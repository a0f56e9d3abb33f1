"""Results on a device equal those on the host: sampling bit for bit, faces up to rounding; pixels stay there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import simplejpeg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facelake.bench.device import device_rates, products_of
from facelake.bench.embed import Sizes
from facelake.bench.synthetic_packs import write_pack
from facelake.config import Config, EmbedSection, ModelSection
from facelake.contracts import U8, Outcome, Reject
from facelake.embed import DecodeLimits, Opener, Pack, Pipeline, PipelineOptions, device_ops, device_sampling
from facelake.embed.decode import Photo, Undecoded
from facelake.embed.decode import upright as upright_here
from facelake.embed.device_detectors import DeviceScrfd, DeviceYuNet
from facelake.embed.device_vision import DeviceVision
from facelake.embed.geometry import crops_around, fitted_smoothly, inverses, letterbox, nms, warp
from facelake.embed.graphs import batchable
from facelake.embed.nvjpeg import DeviceOpener, NvJpeg
from facelake.embed.quality import sharpness
from facelake.embed.resample import Levels, fitted, halved, resize_into, warp_linear
from facelake.embed.runtime import Runtime
from facelake.embed.torch_runtime import TorchGraph
from facelake.errors import ConfigError
from facelake.stages.models.model_cards import card_of_pack

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BIG = {"batch_photos": 4, "batch_faces": 3}


def noise(seed: int, *shape: int) -> U8:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def canvas(photos: list[U8], device: str = "cpu", levels: int = 0) -> device_sampling.Canvas:
    return device_sampling.Canvas.of([torch.from_numpy(photo).to(device) for photo in photos], levels)


sizes = st.tuples(st.integers(1, 90), st.integers(1, 90))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(shapes=st.lists(sizes, min_size=1, max_size=4), side=st.sampled_from([16, 32, 64]))
def test_letterbox_is_the_hosts_bit_for_bit(device: str, shapes: list[tuple[int, int]], side: int) -> None:
    photos = [noise(i, *shape, 3) for i, shape in enumerate(shapes)]
    squares, scale = device_sampling.letterbox(canvas(photos, device), side)
    for photo, square, per_pixel in zip(photos, squares.cpu().numpy(), scale, strict=True):
        wanted, (height, width) = np.zeros((side, side, 3), np.uint8), fitted(*photo.shape[:2], side)
        resize_into(photo, wanted, width, height)
        np.testing.assert_array_equal(square, wanted)
        assert per_pixel == height / photo.shape[0]


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_faces_are_sampled_as_on_the_host(device: str, seed: int) -> None:
    """Inside, over the edge and far outside the photo; the same but for a double that rounds to the other level."""
    generator = np.random.default_rng(seed)
    photos = [noise(seed + i, *generator.integers(5, 120, 2), 3) for i in range(3)]
    matrices, which = [], generator.integers(0, 3, 8)
    for photo in which:
        angle, scale = generator.uniform(-3, 3), generator.uniform(0.3, 3)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        eye = generator.uniform(-30, max(photos[photo].shape) + 30, 2)
        matrices.append(np.column_stack([turn, 16 - turn @ eye]))
    back = inverses(np.array(matrices))
    found = device_sampling.warp(canvas(photos, device), which, back, 32).cpu().numpy()
    for crop, inverse, photo in zip(found, back, which, strict=True):
        apart = np.abs(crop.astype(int) - warp_linear(photos[photo], inverse, 32))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.001


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(sizes, min_size=1, max_size=4), side=st.sampled_from([8, 16, 64]), fill=st.sampled_from([1, 0.5])
)
def test_smooth_letterbox_is_the_hosts_bit_for_bit(
    device: str, shapes: list[tuple[int, int]], side: int, fill: float
) -> None:
    photos = [noise(i, *shape, 3) for i, shape in enumerate(shapes)]
    fits = [fitted_smoothly(*shape, side, fill) for shape in shapes]
    there = canvas(photos, device, max(fit.level for fit in fits))
    squares = device_sampling.letterbox_smoothly(there, fits, side).cpu().numpy()
    for photo, square in zip(photos, squares, strict=True):
        np.testing.assert_array_equal(square, letterbox(Levels(photo), side, fill)[0])


@pytest.mark.parametrize("device", DEVICES)
def test_halved_photos_are_the_hosts(device: str) -> None:
    photos = [noise(i, *shape, 3) for i, shape in enumerate([(37, 64), (1, 9), (5, 5)])]
    there = canvas(photos, device, 3)
    wanted = [Levels(photo).at(level) for level in range(4) for photo in photos]
    assert [one.shape[:2] for one in wanted] == list(there.sizes)
    np.testing.assert_array_equal(there.pixels.cpu(), np.concatenate([one.reshape(-1, 3) for one in wanted]))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_large_faces_are_sampled_as_on_the_host(device: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    photos = [noise(seed + i, *generator.integers(2, 120, 2), 3) for i in range(3)]
    boxes = generator.uniform(-20, 100, (8, 2))
    boxes = np.concatenate([boxes, boxes + generator.uniform(1, 300, (8, 2))], 1).astype(np.float32)
    which, (matrices, _, _) = generator.integers(0, 3, 8), crops_around(boxes, 1.8, 16)
    there = canvas(photos, device, 7)
    found = device_sampling.warp(there, *device_sampling.smoothly(there, which, 3, matrices), 16).cpu().numpy()
    for crop, inverse, photo in zip(found, matrices, which, strict=True):
        apart = np.abs(crop.astype(int) - warp(Levels(photos[photo]), inverse, 16))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 0.01


def test_a_transform_that_is_no_number_gives_a_black_crop() -> None:
    inverse = np.array([[[np.nan, 0, 0], [0, 1, 0]], [[1, 0, np.inf], [0, 1, 0]]])
    assert not device_sampling.warp(canvas([noise(0, 20, 20, 3)]), np.zeros(2, np.int64), inverse, 16).any()


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 60), min_size=1, max_size=5), seed=st.integers(0, 10**6))
def test_suppression_is_greedy(device: str, counts: list[int], seed: int) -> None:
    generator, most = np.random.default_rng(seed), max(*counts, 1)
    boxes, scores = np.zeros((len(counts), most, 4), np.float32), np.full((len(counts), most), -np.inf, np.float32)
    for row, count in enumerate(counts):
        corner = generator.uniform(0, 40, (count, 2))
        boxes[row, :count] = np.concatenate([corner, corner + generator.uniform(1, 40, (count, 2))], 1)
        scores[row, :count] = np.sort(generator.choice([0.5, 0.6, 0.7, 0.8, 0.9], count))[::-1]
    stays = (
        device_ops.kept(torch.from_numpy(boxes).to(device), torch.from_numpy(scores).to(device), 0.4, 1.0).cpu().numpy()
    )
    for row, count in enumerate(counts):
        assert np.flatnonzero(stays[row]).tolist() == sorted(nms(boxes[row, :count], scores[row, :count], 0.4, 1.0))


def test_suppression_of_a_crowd_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = torch.rand(5, 30, 4).cumsum(2)
    scores = torch.rand(5, 30).sort(dim=1, descending=True).values
    whole = device_ops.kept(boxes, scores, 0.4, 1.0)
    monkeypatch.setattr(device_ops, "_MOST_OVERLAPS", 1000)
    assert torch.equal(device_ops.kept(boxes, scores, 0.4, 1.0), whole)


@pytest.mark.parametrize("device", DEVICES)
def test_sharpness_keys_and_turns(device: str) -> None:
    crops = noise(1, 4, 112, 112, 3)
    crops[1, 20:90, 20:90], crops[3] = 128, crops[0]
    placed = torch.from_numpy(crops).to(device)
    np.testing.assert_allclose(device_ops.sharpness(placed).cpu(), [sharpness(crop) for crop in crops], rtol=1e-5)
    keys = device_ops.PixelKeys(crops[0].size, torch.device(device)).of(placed).cpu().numpy()
    assert len({key.tobytes() for key in keys}) == 3
    assert keys[3].tobytes() == keys[0].tobytes() != keys[2].tobytes()
    photo = noise(2, 5, 7, 3)
    for orientation in range(1, 9):
        turned = device_ops.upright(torch.from_numpy(photo).to(device), orientation).cpu().numpy()
        np.testing.assert_array_equal(turned, upright_here(photo, orientation))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the CPU, by the host's compiler: what a GPU's compiler is given is the same."""
    monkeypatch.setattr(device_sampling.Fused, "where", {"cpu"})
    for name in ("_LETTERBOX", "_WARP", "_BLOB", "_HALVE"):
        monkeypatch.setattr(device_sampling, name, device_sampling.Fused(getattr(device_sampling, name).plain))
    yield
    torch.compiler.reset()


def test_compiled_sampling_gives_the_same_pixels(compiled: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for count, side in ((1, 32), (3, 32), (5, 64)):
        photos = [noise(i, 20 + 31 * i, 90 - 7 * i, 3) for i in range(count)]
        there = canvas(photos)
        halves = canvas(photos, levels=1).pixels[len(there.pixels) :]
        np.testing.assert_array_equal(halves, np.concatenate([halved(photo).reshape(-1, 3) for photo in photos]))
        squares, _ = device_sampling.letterbox(there, side)
        inverse = np.random.default_rng(count).normal(0, 3, (7, 2, 3))
        which = np.arange(7) % count
        crops, ready = device_sampling.warp(there, which, inverse, 16), device_sampling.blob(squares, 127.5, 1 / 128)
        works = (device_sampling._LETTERBOX, device_sampling._WARP, device_sampling._BLOB, device_sampling._HALVE)
        assert all(work.compiled for work in works)
        with monkeypatch.context() as plain:
            for work in works:
                plain.setattr(work, "compiled", None)
            assert torch.equal(device_sampling.letterbox(there, side)[0], squares)
            assert (device_sampling.warp(there, which, inverse, 16).int() - crops.int()).abs().max() <= 1
            assert torch.equal(device_sampling.blob(squares, 127.5, 1 / 128), ready)


def test_functions_that_do_not_compile_or_differ_stay_uncompiled(
    compiled: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(plain: Any, dynamic: bool) -> Any:
        raise RuntimeError("no compiler")

    for fake in (fails, lambda plain, dynamic: lambda *given: plain(*given) + 2):
        monkeypatch.setattr(torch, "compile", fake)
        work = device_sampling.Fused(device_sampling._LETTERBOX.plain)
        monkeypatch.setattr(device_sampling, "_LETTERBOX", work)
        squares, _ = device_sampling.letterbox(canvas([noise(0, 9, 9, 3)]), 9)
        np.testing.assert_array_equal(squares[0], noise(0, 9, 9, 3))
        assert work.compiled is None
    assert ["not compiled" in line or "other pixels" in line for line in caplog.messages] == [True, True]


def test_a_shape_that_does_not_compile_is_sampled_step_by_step(
    compiled: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    def once(plain: Any, dynamic: bool) -> Any:
        def work(*given: Any) -> torch.Tensor:
            calls.append(1)
            if len(calls) > 2:
                raise RuntimeError("no such kernel")
            return cast(torch.Tensor, plain(*given))

        return work

    monkeypatch.setattr(torch, "compile", once)
    photo = noise(0, 9, 9, 3)
    for _ in range(3):
        np.testing.assert_array_equal(device_sampling.letterbox(canvas([photo]), 9)[0][0], photo)
    assert len(calls) == 3
    assert "no such kernel" in caplog.text
    device_sampling._LETTERBOX.compiled = full
    with pytest.raises(torch.OutOfMemoryError):
        device_sampling.letterbox(canvas([photo]), 9)


def full(*given: Any) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


@given(st.lists(st.integers(0, 100), max_size=30), st.integers(1, 9), st.integers(1, 250))
def test_slices_are_bounded(sizes: list[int], most: int, total: int) -> None:
    parts = list(device_ops.bounded(sizes, most, total))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(sizes)))
    for part in parts:
        assert 1 <= len(sizes[part]) <= most
        assert len(sizes[part]) == 1 or sum(sizes[part]) <= total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("divisor", [1, 2, 4, 8])
def test_photos_are_reduced_to_means(device: str, divisor: int) -> None:
    photo = noise(divisor, 45, 70, 3)
    small = (
        device_sampling.shrunk(torch.from_numpy(photo).permute(2, 0, 1).to(device), divisor)
        .permute(1, 2, 0)
        .cpu()
        .numpy()
    )
    assert small.shape == (-(-45 // divisor), -(-70 // divisor), 3)
    for y, x in ((0, 0), (1, 2), (small.shape[0] - 1, small.shape[1] - 1)):
        block = photo[y * divisor : (y + 1) * divisor, x * divisor : (x + 1) * divisor]
        np.testing.assert_allclose(small[y, x], block.mean((0, 1)), atol=0.51)


def test_no_operation_mixes_host_and_device_tensors(light: Pack, pack: Pack) -> None:
    """On the device `meta` every operation with a tensor that was left on the host fails, as it would on a GPU."""
    device = torch.device("meta")
    photos = [torch.empty(*size, 3, dtype=torch.uint8, device=device) for size in ((40, 30), (20, 50))]
    there = device_sampling.Canvas.of(photos)
    crops = device_sampling.warp(there, np.array([0, 1, 1]), np.zeros((3, 2, 3)), 112)
    made = [
        device_sampling.letterbox(there, 64)[0],
        crops,
        device_ops.sharpness(crops),
        device_ops.PixelKeys(3 * 112**2, device).of(crops),
    ]
    made += [device_ops.upright(photos[0], 6)]
    with torch.inference_mode():
        vision = DeviceVision(light, 0.5, Runtime("torch", "meta"), 1, 1)
        assert isinstance(vision.detector, DeviceScrfd)
        made += vision.detector.candidates(device_sampling.Canvas.of(photos[:1]), 128)
        yunet = DeviceVision(pack, 0.5, Runtime("torch", "meta"), 1, 1).detector
        assert isinstance(yunet, DeviceYuNet)
        fits = [fitted_smoothly(40, 30, 16, 1.0)]
        halves = device_sampling.Canvas.of(photos[:1], 2)
        made += yunet._candidates(device_sampling.letterbox_smoothly(halves, fits, 64))
    assert {item.device for item in made} == {device}
    assert [len(item.shape) for item in made] == [4, 4, 1, 2, 3, 2, 3, 3, 2, 3, 3]


# ---- the whole of it


@pytest.fixture(scope="module")
def light(pack: Pack, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """SCRFD-500M and SFace."""
    scrfd = (shared / "models/scrfd_500m_kps.onnx").read_bytes()
    folder = write_pack(tmp_path_factory.mktemp("packs") / "light", scrfd, pack.encoder, "data")
    return card_of_pack(str(folder), Config(), "not stated")[1]


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[tuple[int, str, bytes]]:
    """Portraits, two people, a large photo with a small face (decoded twice), odd sizes, no face, a damaged file."""
    paths = sorted((shared / "data/london/images").glob("*.jpg"))[:6]
    one, other = (Image.open(path).convert("RGB") for path in paths[:2])
    two = Image.new("RGB", (one.width + other.width, max(one.height, other.height)))
    two.paste(one, (0, 0))
    two.paste(other, (one.width, 0))
    far = Image.new("RGB", (5200, 3000), (90, 120, 90))
    far.paste(one.resize((900, 900)), (2500, 1200))
    made = [encoded(two), encoded(far), encoded(one.resize((333, 377)), "PNG")]
    made += [encoded(Image.new("RGB", (300, 200))), b"no photo", paths[0].read_bytes()]
    return [(i, str(i), data) for i, data in enumerate([path.read_bytes() for path in paths] + made)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def alike(ours: Outcome, theirs: Outcome, least: float) -> int:
    assert (ours.row, ours.reject, len(ours.faces)) == (theirs.row, theirs.reject, len(theirs.faces))
    for a, b in zip(ours.faces, theirs.faces, strict=True):
        np.testing.assert_allclose(a.box, b.box, atol=0.05)
        np.testing.assert_allclose(a.landmarks, b.landmarks, atol=0.05)
        assert abs(a.det_score - b.det_score) < 1e-3
        assert abs(a.quality - b.quality) < 1e-3
        assert cosine(a.embedding, b.embedding) >= least
    return len(ours.faces)


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_faces_as_on_the_host(light: Pack, photos: list[tuple[int, str, bytes]], device: str) -> None:
    options = PipelineOptions(min_det_score=0.5)
    host = list(Pipeline(light, options).run(photos, named_only={6}))
    there = replace(options, runtime=Runtime("torch", device), **BIG)
    ours = list(Pipeline(light, there).run(photos, named_only={6}))
    faces = [alike(a, b, 0.9995) for a, b in zip(ours, host, strict=True)]
    assert faces == [1] * 6 + [0, 1, 1, 0, 0, 1]
    assert [one.reject for one in ours][6] is Reject.BYSTANDERS
    assert {one.reject for one in ours[9:11]} == {Reject.NO_FACE, Reject.FORMAT}


@pytest.fixture(scope="module")
def more_photos(photos: list[tuple[int, str, bytes]]) -> list[tuple[int, str, bytes]]:
    """Besides: a face that fills its frame (found at the second look), a crowd, and photos that are halved before."""
    one, other = (Image.open(io.BytesIO(photos[i][2])).convert("RGB") for i in (0, 1))
    close = one.crop((150, 130, 500, 560)).resize((1200, 1474))
    crowd = Image.new("RGB", (1900, 1250), (80, 90, 100))
    for i in range(12):
        crowd.paste((one if i % 2 else other).resize((230 + 9 * i, 260 + 9 * i)), (40 + i % 4 * 460, 20 + i // 4 * 420))
    made = [encoded(image) for image in (close, crowd, one.resize((1700, 1900)), one.resize((97, 110)))]
    return photos + [(len(photos) + i, str(i), data) for i, data in enumerate(made)]


@pytest.mark.parametrize("device", DEVICES)
def test_the_default_pack_gives_the_same_faces_as_on_the_host(
    pack: Pack, more_photos: list[tuple[int, str, bytes]], device: str
) -> None:
    host = list(Pipeline(pack, PipelineOptions()).run(more_photos))
    ours = list(Pipeline(pack, replace(PipelineOptions(), runtime=Runtime("torch", device), **BIG)).run(more_photos))
    faces = [alike(a, b, 0.9995) for a, b in zip(ours, host, strict=True)]
    assert faces == [1] * 6 + [2, 1, 1, 0, 0, 1, 1, 12, 1, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_batches_stay_batches_in_half_precision(light: Pack, device: str) -> None:
    """Sums in another order are no failed surgery: it is looked for in full precision."""
    vision = DeviceVision(light, 0.5, Runtime("torch", device, half=True), 32, 64)
    assert (vision.detector.batch, vision.batch_faces) == (32, 64)


@pytest.mark.parametrize("device", DEVICES)
def test_rows_do_not_depend_on_their_batch_and_copies_are_encoded_once(
    light: Pack, photos: list[tuple[int, str, bytes]], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(PipelineOptions(min_det_score=0.5), runtime=Runtime("torch", device), **BIG)
    faces: list[int] = []
    really = DeviceVision._units
    monkeypatch.setattr(
        DeviceVision, "_units", lambda self, crops, new: (faces.append(len(new)), really(self, crops, new))[1]
    )
    whole = list(Pipeline(light, options).run(photos))
    assert sum(faces) == sum(len(one.faces) for one in whole) - 1, "the last photo is the first one again"
    alone = [next(iter(Pipeline(light, options).run([photo]))) for photo in photos[4:8]]
    for a, b in zip(alone, whole[4:8], strict=True):
        alike(a, b, 0.99999)


@pytest.mark.parametrize("name", ["light", "opencv"])
def test_pixels_stay_on_the_device(
    name: str, light: Pack, pack: Pack, photos: list[tuple[int, str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied to the host are rows of a few hundred bytes a face, never a crop or a photo."""
    options = replace(PipelineOptions(min_det_score=0.5), runtime=Runtime("torch"), **BIG)
    pipeline = Pipeline(light if name == "light" else pack, options)
    moved: list[int] = []
    really = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (moved.append(self.nbytes), really(self))[1])
    faces = sum(len(one.faces) for one in pipeline.run(photos))
    assert faces == 11
    assert sum(moved) < 6000 * faces
    assert max(moved) < 112 * 112


# ---- nvJPEG


class Decoder:
    """nvJPEG's part, by libjpeg: all or nothing."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def own_stream(self) -> AbstractContextManager[None]:
        return nullcontext()

    def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        self.calls.append(len(encoded))
        try:
            pixels = [
                simplejpeg.decode_jpeg(item.numpy().tobytes(), "RGB", fastdct=False, fastupsample=False)
                for item in encoded
            ]
        except ValueError as err:
            raise RuntimeError("damaged") from err
        return [torch.from_numpy(item).permute(2, 0, 1).contiguous() for item in pixels]


@pytest.fixture
def oddities(shared: Path) -> list[bytes]:
    one = Image.open(sorted((shared / "data/london/images").glob("*.jpg"))[0]).convert("RGB").resize((200, 260))
    turned = Image.Exif()
    turned[0x0112] = 6
    plain = encoded(one)
    broken = plain[:2000] + bytes(len(plain) - 2002) + plain[-2:]
    return [
        plain, encoded(one, exif=turned), encoded(one, progressive=True), encoded(one.convert("L")),
        encoded(one.convert("CMYK")), encoded(one, "PNG"), plain[:3000], broken, b"", encoded(one.resize((900, 900))),
    ]  # fmt: skip


def test_only_plain_photos_go_to_the_device(oddities: list[bytes]) -> None:
    limits, decoder = DecodeLimits(max_pixels=500_000), Decoder()
    here, there = Opener(limits), DeviceOpener(limits, {}, decoder)
    opened = there.open_all(oddities)
    for a, b in zip(opened, here.open_all(oddities), strict=True):
        assert a.sha256 == b.sha256
        if isinstance(b.photo, Undecoded):
            assert a.photo == b.photo
            continue
        assert isinstance(a.photo, Photo)
        assert (a.photo.width, a.photo.height) == (b.photo.width, b.photo.height)
        np.testing.assert_array_equal(np.asarray(a.photo.pixels), b.photo.pixels)
    on_device = [i for i, one in enumerate(opened) if isinstance(getattr(one.photo, "pixels", None), torch.Tensor)]
    assert on_device == [0, 1]
    assert there.on_device == len(on_device)
    assert decoder.calls == [2], "damaged photos are kept from it"


def test_batches_are_decoded_ahead_and_given_in_order(oddities: list[bytes]) -> None:
    opener, whole = DeviceOpener(DecodeLimits(), {}, Decoder()), Opener(DecodeLimits())
    assert (opener.ahead, whole.ahead) == (1, 0)
    begun = [opener.begin(batch) for batch in (oddities[:3], [], oddities[3:])]
    opened = [one for handle in begun for one in opener.end(handle)]
    assert [one.sha256 for one in opened] == [one.sha256 for one in whole.open_all(oddities)]


def test_large_photos_are_reduced_as_on_the_host(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same size, and nearly to the same pixels; few of them are whole at once."""
    one = Image.open(sorted((shared / "data/london/images").glob("*.jpg"))[0]).convert("RGB")
    data, limits, decoder = encoded(one.resize((2701, 3555))), DecodeLimits(), Decoder()
    turned = Image.Exif()
    turned[0x0112] = 6
    monkeypatch.setattr("facelake.embed.nvjpeg._MOST_PIXELS", 2 * 2701 * 3555)
    photos = [data, encoded(one.resize((2701, 3555)), exif=turned), data, data, data]
    for a, b in zip(DeviceOpener(limits, {}, decoder).open_all(photos), Opener(limits).open_all(photos), strict=True):
        assert isinstance(a.photo, Photo)
        assert isinstance(b.photo, Photo)
        assert (a.photo.width, a.photo.height) == (b.photo.width, b.photo.height)
        assert a.photo.pixels.shape == b.photo.pixels.shape
        assert np.abs(a.photo.pixels.numpy().astype(int) - b.photo.pixels).mean() < 1
    assert decoder.calls == [2, 2, 1]


class Careless(Decoder):
    """As nvJPEG was seen to be: pixels of some other photo where data are damaged, and no error."""

    def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        pixels = [simplejpeg.decode_jpeg(item.numpy().tobytes(), "RGB", strict=False) for item in encoded]
        return [torch.full_like(torch.from_numpy(item), 77).permute(2, 0, 1) for item in pixels]


@pytest.mark.parametrize("size", [(200, 260), (1300, 1700)])
def test_damaged_photos_are_never_left_to_the_device(shared: Path, size: tuple[int, int]) -> None:
    path = sorted((shared / "data/london/images").glob("*.jpg"))[0]
    whole = encoded(Image.open(path).convert("RGB").resize(size))
    body, end = whole.rfind(b"\xff\xda") + 14, len(whole) - 2
    random = np.random.default_rng(0)
    damaged = []
    for share in (0.2, 0.5, 0.9, 0.99):
        cut = body + int((end - body) * share)
        noise = random.integers(0, 255, end - cut, np.uint8).tobytes()
        damaged += [whole[:cut] + rest + b"\xff\xd9" for rest in (b"", bytes(end - cut), noise)]
        damaged += [whole[:cut] + whole[cut + 200 :], whole[:cut] + bytes(200) + whole[cut + 200 :]]
    opener = DeviceOpener(DecodeLimits(), {}, Careless())
    for ours, theirs in zip(opener.open_all([*damaged, whole]), Opener(DecodeLimits()).open_all(damaged), strict=False):
        if isinstance(theirs.photo, Undecoded) or theirs.photo.damaged:
            assert not isinstance(getattr(ours.photo, "pixels", None), torch.Tensor)
            assert isinstance(ours.photo, Undecoded) == isinstance(theirs.photo, Undecoded)
            assert getattr(ours.photo, "damaged", None) == getattr(theirs.photo, "damaged", None)
    assert opener.on_device >= 1, "the whole one"


def test_a_damaged_photo_is_isolated_by_bisection(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.embed.nvjpeg._is_intact", lambda data: True)  # damage that only the device finds
    one = Image.open(sorted((shared / "data/london/images").glob("*.jpg"))[0]).convert("RGB").resize((200, 260))
    whole = encoded(one)
    broken = whole[:300] + whole[600:]
    decoder = Decoder()
    opener = DeviceOpener(DecodeLimits(), {}, decoder)
    opener.open_all([whole] * 5 + [broken] + [whole] * 10)
    assert opener.on_device >= 15
    assert len(decoder.calls) <= 1 + 2 * 4, "16 photos, halved four times"


def test_device_errors_are_not_taken_for_damaged_photos(oddities: list[bytes]) -> None:
    class Full(Decoder):
        def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        DeviceOpener(DecodeLimits(), {}, Full()).open_all(oddities[:2])


def test_photos_stored_as_rgb_are_decoded_on_the_host(oddities: list[bytes]) -> None:
    one = Image.open(io.BytesIO(oddities[0]))
    decoder = Decoder()
    opener = DeviceOpener(DecodeLimits(), {}, decoder)
    opener.open_all([encoded(one, keep_rgb=True)])
    assert decoder.calls == []


@pytest.mark.skipif("cuda" not in DEVICES, reason="nvJPEG needs a GPU")
def test_nvjpeg_decodes_what_the_host_decodes(oddities: list[bytes], photos: list[tuple[int, str, bytes]]) -> None:
    data = oddities + [one for _, _, one in photos]
    opener = DeviceOpener(DecodeLimits(), {}, NvJpeg("cuda"))
    for a, b in zip(opener.open_all(data), Opener(DecodeLimits()).open_all(data), strict=True):
        assert isinstance(a.photo, Photo) == isinstance(b.photo, Photo)
        if isinstance(a.photo, Photo) and isinstance(b.photo, Photo):
            pixels = a.photo.pixels.cpu().numpy() if isinstance(a.photo.pixels, torch.Tensor) else a.photo.pixels
            assert pixels.shape == b.photo.pixels.shape
            assert np.abs(pixels.astype(int) - b.photo.pixels).mean() < 3
    assert opener.on_device >= 8


def test_a_withdrawn_photo_is_not_decoded_on_the_device(oddities: list[bytes]) -> None:
    import hashlib

    decoder = Decoder()
    opener = DeviceOpener(DecodeLimits(), {hashlib.sha256(oddities[0]).hexdigest(): "MS-Celeb-1M"}, decoder)
    first, second = opener.open_all(oddities[:2])
    assert isinstance(first.photo, Undecoded)
    assert first.photo.reason is Reject.RETRACTED
    assert isinstance(second.photo, Photo)
    assert decoder.calls == [1]


def test_the_default_pack_takes_what_a_device_decoded(pack: Pack, photos: list[tuple[int, str, bytes]]) -> None:
    """Tensors as well as arrays: what nvJPEG leaves is decoded on the host."""
    pipeline = Pipeline(pack, replace(PipelineOptions(), runtime=Runtime("torch")))
    opener = DeviceOpener(DecodeLimits(target_px=0), {}, Decoder())
    opened = opener.open_all([data for _, _, data in photos[:2]])
    assert opener.on_device == 2
    for a, b in zip(pipeline.run(photos[:2], opened=opened), pipeline.run(photos[:2]), strict=True):
        assert alike(a, b, 0.9999) == 1


def test_device_pixels_of_another_size_are_discarded(oddities: list[bytes]) -> None:
    class Liar(Decoder):
        def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
            return [torch.zeros(3, 4, 4, dtype=torch.uint8) for _ in encoded]

    opener = DeviceOpener(DecodeLimits(), {}, Liar())
    (one,) = opener.open_all(oddities[:1])
    assert isinstance(one.photo, Photo)
    assert one.photo.pixels.shape == (260, 200, 3)
    assert not opener.on_device


def test_device_decoding_changes_the_model_digest() -> None:
    plain = PipelineOptions(runtime=Runtime("torch", "cuda"))
    assert replace(plain, runtime=Runtime("torch", "cuda", nvjpeg=True)).shaping() != plain.shaping()


# ---- the benchmark


def test_products_are_counted_for_each_graph(pack: Pack) -> None:
    model = onnx.load_from_string(batchable(pack.encoder, "data", blocks=False))
    shapes = {
        item.name: [dim.dim_value for dim in item.type.tensor_type.shape.dim]
        for item in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    weights = {item.name: list(item.dims) for item in model.graph.initializer}
    wanted = 0.0
    for node in model.graph.node:
        if node.op_type == "Conv":
            wanted += 2.0 * 3 * np.prod(shapes[node.output[0]][1:]) * np.prod(weights[node.input[1]][1:])
        elif node.op_type in ("Gemm", "MatMul"):
            wanted += 2.0 * 3 * np.prod(weights[node.input[1]])
    with torch.inference_mode():
        found = products_of(TorchGraph(model.SerializeToString()), torch.rand(3, 3, 112, 112))
        assert found.flop == pytest.approx(wanted)
        assert found.run()[0].shape[0] == 3


def test_rates_of_a_device(shared: Path, light: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.bench.device._PART_S", 0.02)
    folder = write_pack(tmp_path / "pack", light.detector, light.encoder, "data")
    embed = EmbedSection(runtime="torch", batch_photos=2, batch_faces=2)
    config = Config(embed=embed, model=ModelSection(accept_license="non-commercial"))
    runtimes = ("torch", "onnxruntime", "tensorrt")
    figures = device_rates(config, str(folder), str(shared / "data/london/images"), Sizes(3, 1, 320, runtimes, (2,)))
    assert figures["faces_per_photo"] == 1
    assert figures["workers"]["2"]["whole_per_s"] > 0
    assert all(figures["other_runtimes"][name]["whole_per_s"] > 0 for name in ("torch", "onnxruntime"))
    assert figures["other_runtimes"]["tensorrt"] == {"unavailable": "TensorRT needs embed.device cuda"}
    rates = ("whole_per_s", "seen_per_s", "networks_per_s", "convolutions_per_s")
    shares = ("seen_of_convolutions", "whole_of_seen", "seen_of_networks", "networks_of_convolutions")
    assert figures["ready_s"] > 0
    assert all(figures[name] > 0 for name in rates + shares)  # how much, a busy machine cannot tell
    figures = device_rates(config, "", str(shared / "data/london/images"), Sizes(2, 1, 320))
    assert figures["faces_per_photo"] == 1, "the pack of the config's card"
    assert all(figures[name] > 0 for name in rates)
    with pytest.raises(ConfigError, match="measures torch"):
        device_rates(Config(model=config.model), str(folder), str(shared / "data/london/images"), Sizes(3, 1, 320))
