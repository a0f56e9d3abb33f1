"""Quantises an encoder to 8-bit integers, for CPUs. The result is another model with other embeddings."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime

from facelake.contracts import F32, U8
from facelake.embed.graphs import batchable
from facelake.embed.packs import EncoderCard
from facelake.embed.resample import to_blob

_WARNING, _ERROR = 2, 3
_LAYERS = ["Conv", "Gemm"]  # additions stay in float32: quantising them costs more time than it saves


def in_int8(encoder: bytes, card: EncoderCard, aligned: U8) -> bytes:
    """The encoder with integer convolutions: weights quantised per channel, activations by their ranges on `aligned`.

    Uses onnxruntime's static quantisation. Weights have seven bits: without VNNI a CPU adds two products of eight bits
    in 16 bits, which overflows (for SFace the least cosine to the float embedding fell from .96 to .87).

    Args:
        aligned: (n, 112, 112, 3) uint8 faces of many people, for calibration; the result depends on them.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # not needed to embed

    logging.getLogger().addFilter(_is_other_message)
    onnxruntime.set_default_logger_severity(_ERROR)  # it would warn about each slope that graph surgery left unused
    try:
        with tempfile.TemporaryDirectory(prefix="facelake-int8-") as scratch:
            float_file, int8_file = Path(scratch, "float.onnx"), Path(scratch, "int8.onnx")
            float_file.write_bytes(batchable(encoder, card.input_name))
            quantize_static(
                str(float_file),
                str(int8_file),
                _Ranges(card.input_name, to_blob(aligned, card.mean, card.scale)),
                quant_format=QuantFormat.QOperator,
                op_types_to_quantize=_LAYERS,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return int8_file.read_bytes()
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        logging.getLogger().removeFilter(_is_other_message)


class _Ranges:
    """An onnxruntime CalibrationDataReader (by duck typing) that yields one face at a time."""

    def __init__(self, name: str, blob: F32) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = ({name: face[None]} for face in blob)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _is_other_message(record: logging.LogRecord) -> bool:
    """Filter out onnxruntime's advice to "consider pre-processing", which graph surgery has done already."""
    return "pre-processing" not in record.getMessage()
