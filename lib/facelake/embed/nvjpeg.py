"""Decodes JPEGs on the GPU with nvJPEG, through torchvision, so that pixels are where the networks run.

Only plain, intact JPEGs are decoded there: their headers, limits and data are checked on the host first. Photos that
nvJPEG does not support (other formats, progressive or grey JPEGs, damaged files) are decoded on the host, which reports
errors. A thread decodes one batch ahead on its own stream, while the networks process the previous batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import simplejpeg
import torch

from facelake.embed import device_ops
from facelake.embed.decode import (
    DecodeLimits,
    JpegHeader,
    Opened,
    Opener,
    Photo,
    Undecoded,
    decode,
    plain_jpeg,
)
from facelake.embed.device_sampling import DEVICE_ERRORS, shrunk
from facelake.embed.jpegs import divisor_of
from facelake.errors import ConfigError

_MOST_PIXELS = 256_000_000  # decoded at full size at once, before reduction: less than 1 GB
_Plain = tuple[bytes, JpegHeader]


class DeviceDecoder(Protocol):
    """Decodes JPEGs on a device."""

    def own_stream(self) -> AbstractContextManager[None]:
        """Context in which work runs on a separate stream; the stream is synchronised at its end."""
        ...

    def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """Decode encoded bytes (uint8 tensors on the host) to (3, h, w) uint8 RGB on the device.

        Raises:
            RuntimeError: one of them is damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Decoding:
    """A batch that is being decoded."""

    digests: list[str]
    allowed: list[bytes]
    headers: list[JpegHeader | None]
    """of the photos that the device decodes; None for the others"""
    pixels: Future[list[torch.Tensor | None]]


class DeviceOpener(Opener):
    """An Opener that decodes JPEGs on a device; the pixels of these photos are tensors."""

    ahead = 1

    def __init__(self, limits: DecodeLimits, retracted: Mapping[str, str] | None, decoder: DeviceDecoder) -> None:
        super().__init__(limits, retracted)
        self._decoder, self._thread = decoder, ThreadPoolExecutor(1, "facelake-decode")
        self.on_device = 0
        """number of photos that the device decoded"""

    def begin(self, photos: Sequence[bytes]) -> _Decoding:
        """Implements Opener."""
        digests, allowed = self._sorted(photos)
        headers = [plain_jpeg(data, self._limits) for data in allowed]
        plain = [(data, header) for data, header in zip(allowed, headers, strict=True) if header]
        return _Decoding(digests, allowed, headers, self._thread.submit(self._upright, plain))

    def end(self, handle: _Decoding) -> list[Opened]:
        """Implements Opener. Host decoding happens here, because its time limit works in the main thread only."""
        pixels = iter(handle.pixels.result())
        decoded: list[Photo | Undecoded] = []
        for data, header in zip(handle.allowed, handle.headers, strict=True):
            on_device = next(pixels) if header else None
            if header is None or on_device is None:
                decoded.append(decode(data, self._limits))
                continue
            turned = header.orientation >= 5
            width, height = (header.height, header.width) if turned else (header.width, header.height)
            decoded.append(Photo(on_device, width, height))
            self.on_device += 1
        return self._opened(handle.digests, decoded)

    def open_all(self, photos: Sequence[bytes]) -> list[Opened]:
        """Implements Opener."""
        return self.end(self.begin(photos))

    def _upright(self, photos: Sequence[_Plain]) -> list[torch.Tensor | None]:
        """Pixels as `decode` returns them, None for damaged photos."""
        whole = [_is_intact(data) for data, _ in photos]
        sound = [photo for photo, intact in zip(photos, whole, strict=True) if intact]
        decoded: list[torch.Tensor | None] = []
        with self._decoder.own_stream():
            for part in _bounded(sound):
                pairs = zip(self._together(part), part, strict=True)
                decoded += [
                    pixels if pixels is None else self._finished(pixels, header) for pixels, (_, header) in pairs
                ]
        remaining = iter(decoded)
        finished = [next(remaining) if intact else None for intact in whole]
        for pixels in finished:
            if pixels is not None and pixels.is_cuda:  # the networks' stream reads it before the memory is reused
                pixels.record_stream(torch.cuda.default_stream(pixels.device))
        return finished

    def _together(self, photos: Sequence[_Plain]) -> list[torch.Tensor | None]:
        """Decode photos in one call; if one is damaged, bisect, so that only damaged photos give None."""
        encoded = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data, _ in photos]
        try:
            decoded = self._decoder(encoded)
        except DEVICE_ERRORS:
            raise
        except RuntimeError:
            if len(photos) == 1:
                return [None]
            half = len(photos) // 2
            return self._together(photos[:half]) + self._together(photos[half:])
        shapes = [(3, header.height, header.width) for _, header in photos]
        return [pixels if tuple(pixels.shape) == shape else None for pixels, shape in zip(decoded, shapes, strict=True)]

    def _finished(self, pixels: torch.Tensor, header: JpegHeader) -> torch.Tensor:
        divisor = divisor_of(header.width, header.height, self._limits.target_px)
        return device_ops.upright(shrunk(pixels, divisor).permute(1, 2, 0), header.orientation)


def _is_intact(data: bytes) -> bool:
    """Whether the host's decoder reads a JPEG to its end without a complaint, at an eighth of its size.

    nvJPEG reports no damage: of 376 damaged JPEGs with an end marker it refused none (H200, CUDA 13.0), and where data
    are missing, pixels may be what its buffer held before: those of another photo. This takes a fifth to a half of a
    decode on the host.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1)
    except ValueError:
        return False
    return True


def _bounded(photos: Sequence[_Plain]) -> Iterator[Sequence[_Plain]]:
    """Split photos into parts that may be decoded at full size at once."""
    sizes = [header.width * header.height for _, header in photos]
    for part in device_ops.bounded(sizes, len(photos), _MOST_PIXELS):
        yield photos[part]


class NvJpeg:
    """The DeviceDecoder of torchvision on a GPU."""

    def __init__(self, device: str) -> None:
        """Decode a test image, so that a missing decoder is reported before work starts.

        Raises:
            ConfigError: torchvision is not installed, or its nvJPEG does not work on this host.
        """
        next_step = "install the torchvision version that matches torch, or set embed.nvjpeg to false"
        try:
            from torchvision.io import ImageReadMode, decode_jpeg
        except ImportError as err:
            raise ConfigError("torchvision is not installed", where="embed.nvjpeg", next_step=next_step) from err
        self._decode, self._mode, self._device = decode_jpeg, ImageReadMode.RGB, torch.device(device)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        sample = simplejpeg.encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
        try:
            with self.own_stream():
                self([torch.from_numpy(np.frombuffer(sample, np.uint8).copy())])
        except RuntimeError as err:
            what = f"nvJPEG cannot decode: {' '.join(str(err).split())[:200]}"
            raise ConfigError(what, where="embed.nvjpeg", next_step=next_step) from err

    @contextmanager
    def own_stream(self) -> Iterator[None]:
        """Implements DeviceDecoder."""
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """Implements DeviceDecoder."""
        # torchvision decodes on an internal stream, which does not wait for work queued on the memory that it reuses
        # (pytorch/vision issue 9606)
        torch.cuda.current_stream(self._device).synchronize()
        pixels: list[torch.Tensor] = self._decode(encoded, mode=self._mode, device=self._device)
        return pixels
