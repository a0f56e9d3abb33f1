"""More text than one Arrow array of type string holds (2 GiB): a few thousand ids of 1 MiB, as many millions of short ones."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from facelake.contracts import Verdict
from facelake.lake.tables import Snapshot
from facelake.stages.gallery.corrections import CorrectionRequest, _identities_and_faces
from facelake.stages.gallery.face_index import FaceIndex
from facelake.stages.gallery.stored_faces import StoredFaces

_IDS, _REPEATS = 64, 33
LONG = pa.array([f"{number:04d}" + "x" * (1 << 20) for number in range(_IDS)], pa.string())


@pytest.fixture(scope="module")
def members() -> pa.Table:
    """Memberships of 2,112 faces whose ids have 2.06 GiB; their chunks share memory."""
    count = _IDS * _REPEATS
    names = [[f"id-{(at + number) % 5}" for at in range(_IDS)] for number in range(_REPEATS)]
    names[3][5:8] = ["few", "two", "few"]
    names[20][1] = "few"
    identities = pa.chunked_array(names)
    table = pa.table(
        {
            "face_id": pa.chunked_array([LONG] * _REPEATS),
            "identity_id": identities,
            "score": np.arange(count, dtype=np.float32),
            "how": ["grouped", "joined"] * (count // 2),
        }
    )
    with pytest.raises(pa.ArrowInvalid, match="offset overflow"):
        table["face_id"].combine_chunks()
    return table


def test_the_review_index(members: pa.Table) -> None:
    class Faces:
        def parts(self, columns: list[str]) -> Iterator[tuple[Any, pa.Table]]:
            for number, ids in enumerate((LONG[:40], LONG[40:60])):
                yield SimpleNamespace(path=f"faces-{number}"), pa.table({"face_id": ids}).select(columns)

    lake = type("Lake", (dict,), {"uri": "lake"})(faces=Faces())
    index = FaceIndex.of(lake, SimpleNamespace(read=lambda table, columns: members.select(columns)))  # type: ignore[arg-type]
    identity = np.array(members["identity_id"].to_pylist())
    for number, name in enumerate(index.names.to_pylist()):
        at = np.arange(index.starts[number], index.starts[number + 1])
        rows = np.flatnonzero(identity == name)
        assert [value.as_py()[:4] for value in index.face_ids.take(pa.array(at[:3]))] == [
            f"{row % _IDS:04d}" for row in rows[:3]
        ]
        assert index.how.take(pa.array(at)).to_pylist() == [("grouped", "joined")[row % 2] for row in rows]
        of_faces = rows % _IDS
        assert index.file[at].tolist() == np.where(of_faces < 40, 0, np.where(of_faces < 60, 1, -1)).tolist()
        shown = index.file[at] >= 0
        assert index.row[at][shown].tolist() == np.where(of_faces < 40, of_faces, of_faces - 40)[shown].tolist()
        assert np.array_equal(index.of_identity(name), at[::-1])


def test_the_faces_of_a_correction(members: pa.Table) -> None:
    table = members.select(["face_id", "identity_id"])
    row = _identities_and_faces(None, CorrectionRequest(Verdict.MERGE, "few", "two"), table)  # type: ignore[arg-type]
    assert [face[:4] for face in row["faces_a"]] == ["0001", "0005", "0007"]
    assert [face[:4] for face in row["faces_b"]] == ["0006"]


class _LongFaces:
    """A faces table of 33 files, whose distinct ids have 2.06 GiB together; they are made when a file is read."""

    files = tuple(SimpleNamespace(path=f"faces-{number}", rows=_IDS) for number in range(_REPEATS))

    def snapshot(self) -> Snapshot:
        return Snapshot(0, self.files)  # type: ignore[arg-type]

    def parts(self, columns: list[str], snapshot: Snapshot) -> Iterator[tuple[Any, pa.Table]]:
        for file in snapshot.files:
            yield file, pa.table({"face_id": self._ids(file.path)}).select(columns)

    def file(self, file: Any, columns: list[str]) -> pa.Table:
        vectors = np.eye(2, dtype="<f2")[np.arange(_IDS) % 2]
        body = pa.py_buffer(vectors.tobytes())
        offsets = pa.py_buffer(np.arange(0, 4 * _IDS + 4, 4, dtype=np.int32).tobytes())
        embedding = pa.Array.from_buffers(pa.binary(), _IDS, [None, offsets, body])
        return pa.table({"face_id": self._ids(file.path), "embedding": embedding}).select(columns)

    def some(self, file: Any, take: np.ndarray, columns: list[str]) -> pa.Table:
        return self.file(file, columns).filter(pa.array(take))

    def _ids(self, path: str) -> pa.Array:
        return pa.array([f"{path} {number:04d}" + "x" * (1 << 20) for number in range(_IDS)], pa.string())


def test_the_faces_of_an_incremental_run() -> None:
    lake = type("Lake", (dict,), {"uri": "lake"})(faces=_LongFaces())
    paths = [file.path for file in _LongFaces.files[1:]]
    faces = StoredFaces.all_of(lake, paths)
    assert (len(faces), faces.dim) == (_IDS * (_REPEATS - 1), 2)
    assert np.array_equal(np.sort(np.concatenate(faces.numbers)), np.arange(len(faces)))
    one = next(ids for _, ids in faces.ids()).slice(7, 1)
    assert faces.find(one).tolist() == [faces.numbers[0][7]]
    wanted = np.zeros(len(faces), bool)
    wanted[[faces.numbers[0][7], faces.numbers[5][10]]] = True
    assert [(at.tolist(), vectors.tolist()) for at, vectors in faces.vectors(wanted)] == [
        ([faces.numbers[0][7]], [[0.0, 1.0]]),
        ([faces.numbers[5][10]], [[1.0, 0.0]]),
    ]
