"""An encoder in 8-bit integers, for CPUs: another model, with embeddings of its own."""

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
_LAYERS = ["Conv", "Gemm"]  # the sums in between stay in float32: as integers they cost more than they save


def in_int8(encoder: bytes, card: EncoderCard, aligned: U8) -> bytes:
    """The encoder with integer convolutions: weights by channel, activations by the ranges seen on `aligned`.

    onnxruntime's static quantisation. Weights have seven bits: without VNNI a CPU adds two products of eight bits in
    16, which overflows (on SFace that took the least cosine to the float embedding from .96 to .87).

    Args:
        aligned: (n, 112, 112, 3) faces of many people; the file depends on them.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static  # not needed to embed

    logging.getLogger().addFilter(_not_of_preprocessing)
    onnxruntime.set_default_logger_severity(_ERROR)  # it names each slope that our surgery left without use
    try:
        with tempfile.TemporaryDirectory(prefix="facelake-int8-") as scratch:
            floats, made = Path(scratch, "float.onnx"), Path(scratch, "int8.onnx")
            floats.write_bytes(batchable(encoder, card.input_name))
            quantize_static(
                str(floats),
                str(made),
                _Ranges(card.input_name, to_blob(aligned, card.mean, card.scale)),
                quant_format=QuantFormat.QOperator,
                op_types_to_quantize=_LAYERS,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
            return made.read_bytes()
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        logging.getLogger().removeFilter(_not_of_preprocessing)


class _Ranges:
    """onnxruntime's CalibrationDataReader, by its methods: one face at a time."""

    def __init__(self, name: str, blob: F32) -> None:
        self._feeds: Iterator[dict[str, np.ndarray]] = ({name: face[None]} for face in blob)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _not_of_preprocessing(record: logging.LogRecord) -> bool:
    """The root logger is told to "consider pre-processing", which our own surgery has done."""
    return "pre-processing" not in record.getMessage()
