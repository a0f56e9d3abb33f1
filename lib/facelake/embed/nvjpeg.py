"""JPEGs decoded on the GPU by nvJPEG, through torchvision: pixels begin where the networks are.

Only plain photos go there: their headers are read and their caps held on the host first. Whatever nvJPEG does not take
(other formats, progressive or gray JPEGs, damaged ones) is decoded on the host as ever, which also says what is wrong.
A thread decodes one batch ahead, on a stream of its own, while the networks look at the batch before.
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
    divisor_of,
    plain_jpeg,
)
from facelake.embed.device_sampling import OF_THE_DEVICE, shrunk
from facelake.errors import ConfigError

_MOST_PIXELS = 256_000_000  # decoded whole at once, before they are made smaller: under a GB
_Plain = tuple[bytes, JpegHeader]


class DeviceDecoder(Protocol):
    """Decodes JPEGs on a device."""

    def apart(self) -> AbstractContextManager[None]:
        """Work queued inside runs beside everybody else's, and is done at the end."""
        ...

    def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """Encoded bytes (uint8 tensors on the host) to (3, h, w) uint8 RGB on the device.

        Raises:
            RuntimeError: any of them is damaged.
        """
        ...


@dataclass(frozen=True, slots=True)
class _UnderWay:
    digests: list[str]
    allowed: list[bytes]
    headers: list[JpegHeader | None]
    """of those that the device decodes"""
    pixels: Future[list[torch.Tensor | None]]


class DeviceOpener(Opener):
    """Bytes to pixels on a device. Photos that it decodes have tensors for pixels."""

    ahead = 1

    def __init__(self, limits: DecodeLimits, retracted: Mapping[str, str] | None, decoder: DeviceDecoder) -> None:
        super().__init__(limits, retracted)
        self._decoder, self._thread = decoder, ThreadPoolExecutor(1, "facelake-decode")
        self.on_device = 0
        """photos that the device decoded"""

    def begin(self, photos: Sequence[bytes]) -> _UnderWay:
        """See Opener."""
        digests, allowed = self._sorted(photos)
        headers = [plain_jpeg(data, self._limits) for data in allowed]
        plain = [(data, header) for data, header in zip(allowed, headers, strict=True) if header]
        return _UnderWay(digests, allowed, headers, self._thread.submit(self._upright, plain))

    def end(self, handle: _UnderWay) -> list[Opened]:
        """See Opener. What is decoded on the host is so here: only the main thread can stop it."""
        pixels = iter(handle.pixels.result())
        decoded: list[Photo | Undecoded] = []
        for data, header in zip(handle.allowed, handle.headers, strict=True):
            found = next(pixels) if header else None
            if header is None or found is None:
                decoded.append(decode(data, self._limits))
                continue
            turned = header.orientation >= 5
            width, height = (header.height, header.width) if turned else (header.width, header.height)
            decoded.append(Photo(found, width, height))
            self.on_device += 1
        return self._opened(handle.digests, decoded)

    def open_all(self, photos: Sequence[bytes]) -> list[Opened]:
        """See Opener."""
        return self.end(self.begin(photos))

    def _upright(self, photos: Sequence[_Plain]) -> list[torch.Tensor | None]:
        """Pixels as `decode` gives them, and None for photos that are damaged."""
        found: list[torch.Tensor | None] = []
        with self._decoder.apart():
            for some in _bounded(photos):
                pairs = zip(self._together(some), some, strict=True)
                found += [pixels if pixels is None else self._finished(pixels, header) for pixels, (_, header) in pairs]
        for pixels in found:
            if pixels is not None and pixels.is_cuda:  # read by the networks' stream, and only then free
                pixels.record_stream(torch.cuda.default_stream(pixels.device))
        return found

    def _together(self, photos: Sequence[_Plain]) -> list[torch.Tensor | None]:
        """Where one damaged photo spoils the call, by halves."""
        encoded = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data, _ in photos]
        try:
            decoded = self._decoder(encoded)
        except OF_THE_DEVICE:
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


def _bounded(photos: Sequence[_Plain]) -> Iterator[Sequence[_Plain]]:
    """Neighbours that may be whole at once."""
    sizes = [header.width * header.height for _, header in photos]
    for part in device_ops.bounded(sizes, len(photos), _MOST_PIXELS):
        yield photos[part]


class NvJpeg:
    """torchvision's decoder on a GPU; see DeviceDecoder."""

    def __init__(self, device: str) -> None:
        """Decodes a photo of its own, so that it fails before work starts.

        Raises:
            ConfigError: torchvision is not installed, or has no nvJPEG that works here.
        """
        next_step = "install the torchvision that belongs to this torch, or set embed.nvjpeg to false"
        try:
            from torchvision.io import ImageReadMode, decode_jpeg
        except ImportError as err:
            raise ConfigError("torchvision is not installed", where="embed.nvjpeg", next_step=next_step) from err
        self._decode, self._mode, self._device = decode_jpeg, ImageReadMode.RGB, torch.device(device)
        self._stream: Any = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        sample = simplejpeg.encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
        try:
            with self.apart():
                self([torch.from_numpy(np.frombuffer(sample, np.uint8).copy())])
        except RuntimeError as err:
            what = f"nvJPEG does not decode: {' '.join(str(err).split())[:200]}"
            raise ConfigError(what, where="embed.nvjpeg", next_step=next_step) from err

    @contextmanager
    def apart(self) -> Iterator[None]:
        """See DeviceDecoder."""
        with torch.cuda.stream(self._stream):
            yield
        self._stream.synchronize()

    def __call__(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        """See DeviceDecoder."""
        # torchvision decodes on a stream of its own, which does not wait for what is queued on the memory it is given
        # (pytorch/vision issue 9606)
        torch.cuda.current_stream(self._device).synchronize()
        found: list[torch.Tensor] = self._decode(encoded, mode=self._mode, device=self._device)
        return found
