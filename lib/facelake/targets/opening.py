"""Opens the target of a URL; the client library of an engine is imported only for that engine."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facelake.errors import ConfigError
from facelake.extras import install_command
from facelake.targets.faults import Faults
from facelake.targets.location import Location
from facelake.targets.target import Target

_NEEDED = {"postgresql": "psycopg", "qdrant": "qdrant_client", "milvus": "pymilvus", "lancedb": "lancedb"}
_ENGINE = {"lancedb+s3": "lancedb"}  # of schemes that are not named after it
_EXTRA = {"postgresql": "pgvector"}


@contextmanager
def open_target(location: Location) -> Iterator[Target]:
    """Open a target, and close it at the end.

    Raises:
        ConfigError: the client library is not installed, or the database refuses a request.
        Retryable: the database does not answer.
    """
    engine = _ENGINE.get(location.scheme, location.scheme)
    if importlib.util.find_spec(_NEEDED[engine]) is None:
        extra = _EXTRA.get(engine, engine)
        what = f"{location.scheme}:// needs the package {_NEEDED[engine]}"
        raise ConfigError(what, where="--to", next_step=f"run {install_command(extra)}")
    make, faults = _engine(engine)
    with faults.reported(location.shown, opening=True):
        target = make(location)
    try:
        with faults.reported(location.shown, opening=False):
            yield target
    finally:
        target.close()


def _engine(scheme: str) -> tuple[Callable[[Location], Target], Faults]:
    """The class of an engine's targets, and what its client raises."""
    if scheme == "postgresql":
        from facelake.targets import postgres

        return postgres.PostgresTarget, postgres.FAULTS
    if scheme == "qdrant":
        from facelake.targets import qdrant

        return qdrant.QdrantTarget, qdrant.FAULTS
    if scheme == "milvus":
        from facelake.targets import milvus

        return milvus.MilvusTarget, milvus.FAULTS
    os.environ.setdefault("LANCEDB_LOG", "error")  # read when it is imported; it warns of every table that it makes
    from facelake.targets import lance

    return lance.LanceTarget, lance.FAULTS
