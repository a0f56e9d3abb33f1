"""Opens the target of a URL; the client library of an engine is imported only for that engine."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from facelake.errors import ConfigError
from facelake.targets.location import Location
from facelake.targets.target import Target

_NEEDED = {"postgresql": "psycopg", "qdrant": "qdrant_client", "milvus": "pymilvus", "lancedb": "lancedb"}
_EXTRA = {"postgresql": "pgvector"}


@contextmanager
def open_target(location: Location) -> Iterator[Target]:
    """Open a target, and close it at the end.

    Raises:
        ConfigError: the client library is not installed, or the database refuses the connection.
        Retryable: the database does not answer.
    """
    if importlib.util.find_spec(_NEEDED[location.scheme]) is None:
        extra = _EXTRA.get(location.scheme, location.scheme)
        what = f"{location.scheme}:// needs the package {_NEEDED[location.scheme]}"
        raise ConfigError(what, where="--to", next_step=f"pip install 'facelake[{extra}]'")
    target = _open(location)
    try:
        yield target
    finally:
        target.close()


def _open(location: Location) -> Target:
    if location.scheme == "postgresql":
        from facelake.targets.postgres import PostgresTarget

        return PostgresTarget(location)
    if location.scheme == "qdrant":
        from facelake.targets.qdrant import QdrantTarget

        return QdrantTarget(location)
    if location.scheme == "milvus":
        from facelake.targets.milvus import MilvusTarget

        return MilvusTarget(location)
    from facelake.targets.lance import LanceTarget

    return LanceTarget(location)
