"""Databases of matchers that `feed push` fills: pgvector, Qdrant, Milvus and LanceDB behind one interface."""

from facelake.targets.location import KEEPS, Location
from facelake.targets.opening import open_target
from facelake.targets.target import Target, TargetRows

__all__ = ["KEEPS", "Location", "Target", "TargetRows", "open_target"]
