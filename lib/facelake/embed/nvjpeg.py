"""JPEGs decoded on the GPU by nvJPEG, through torchvision: pixels begin where the networks are.

Only plain photos go there: their headers are read and their caps held on the host first. Whatever nvJPEG does not take
(other formats, progressive or gray JPEGs, damaged ones) is decoded on the host as ever, which also says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from facelake.embed.decode import DecodeLimits, JpegHeader, Opener, Photo, Undecoded, decode, plain_jpeg
from facelake.embed.device_ops import upright
from facelake.errors import ConfigError

Decode = Callable[[list[torch.Tensor]], list[torch.Tensor]]
"""encoded bytes (uint8 tensors on the host) to (3, h, w) uint8 RGB on the device; RuntimeError if any is damaged"""


class DeviceOpener(Opener):
    """Bytes to pixels on a device."""

    def __init__(self, limits: DecodeLimits, retracted: Mapping[str, str] | None, on_device: Decode) -> None:
        super().__init__(limits, retracted)
        self._on_device = on_device
        self.on_device = 0
        """photos that the device decoded"""

    def _decoded(self, photos: Sequence[bytes]) -> list[Photo | Undecoded]:
        """See Opener. Photos decoded by the device have tensors for pixels."""
        headers = [plain_jpeg(data, self._limits) for data in photos]
        pairs = zip(photos, headers, strict=True)
        pixels = iter(self._together([(data, header) for data, header in pairs if header]))
        decoded: list[Photo | Undecoded] = []
        for data, header in zip(photos, headers, strict=True):
            found = next(pixels) if header else None
            if found is None:
                decoded.append(decode(data, self._limits))
                continue
            self.on_device += 1
            height, width = found.shape[:2]
            decoded.append(Photo(found, width, height))
        return decoded

    def _together(self, photos: Sequence[tuple[bytes, JpegHeader]]) -> list[torch.Tensor | None]:
        """Upright pixels; where one damaged photo spoils the call, one by one, and None for those that fail."""
        if not photos:
            return []
        encoded = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data, _ in photos]
        try:
            decoded = self._on_device(encoded)
        except RuntimeError:
            return [None] if len(photos) == 1 else [self._together([one])[0] for one in photos]
        return [
            upright(found.permute(1, 2, 0), header.orientation)
            if tuple(found.shape) == (3, header.height, header.width)
            else None
            for found, (_, header) in zip(decoded, photos, strict=True)
        ]


def nvjpeg(device: str) -> Decode:
    """torchvision's decoder on a GPU.

    Raises:
        ConfigError: torchvision is not installed.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg
    except ImportError as err:
        next_step = "install the torchvision that belongs to this torch, or set embed.nvjpeg to false"
        raise ConfigError("torchvision is not installed", where="embed.nvjpeg", next_step=next_step) from err

    def decode(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device)
        return found

    return decode
