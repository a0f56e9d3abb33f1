"""The embedding pipeline: decode, detect, align, encode. Works on batches in memory, without the lake or Ray.

The pipeline is imported when it is first used: it loads numba, onnx and onnxruntime, which commands that only read the
model's card, and processes that only decode, do not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from facelake.embed.decode import DecodeLimits, Opened, Opener, Undecoded
from facelake.embed.packs import ModelCard, Pack, model_digest

if TYPE_CHECKING:
    from facelake.embed.pipeline import Pipeline, PipelineOptions, faces_table, open_opener, rejects_table

__all__ = [
    "DecodeLimits",
    "ModelCard",
    "Opened",
    "Opener",
    "Pack",
    "Pipeline",
    "PipelineOptions",
    "Undecoded",
    "faces_table",
    "model_digest",
    "open_opener",
    "rejects_table",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from facelake.embed import pipeline

    return getattr(pipeline, name)
