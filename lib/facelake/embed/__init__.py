"""The embedding pipeline: decode, detect, align, encode. Works on batches in memory, without the lake or Ray."""

from facelake.embed.decode import DecodeLimits, Opened, Opener, Undecoded
from facelake.embed.packs import ModelCard, Pack, model_digest
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
