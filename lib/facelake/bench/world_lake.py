"""Lakes of a world of embeddings (the arena's identity_world.py): admissions and faces of each of its nights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.bench.nights import face_rows, remove_faces
from facelake.bench.synthetic_lake import admitted_rows, grant_once
from facelake.cluster import columns
from facelake.contracts import Covers, DataFileName, Receipt
from facelake.errors import ConfigError
from facelake.stages.core.context import Context

_SOURCE = "world"
_FACES_PER_FILE = 50_000


@dataclass(frozen=True, slots=True)
class World:
    """A folder with faces/night=K, removed/night=K and truth, in shards of the same names; no photo is in two shards.

    Attributes:
        folder: where it is.
    """

    folder: str

    @classmethod
    def of(cls, folder: str) -> World:
        """Return the world in a folder.

        Raises:
            ConfigError: it has no night or no truth.
        """
        for part in ("faces/night=0", "truth"):
            if not any(Path(folder, part).glob("*.parquet")):
                raise ConfigError(f"no {part}", where=folder, next_step="make the world with --nights 2")
        return cls(folder)

    def shards(self, part: str) -> list[Path]:
        """Return the files of a part of the world ("faces/night=0"), sorted; none if it has no such part."""
        return sorted(Path(self.folder, part).glob("*.parquet"))

    def faces(self, night: int) -> int:
        """Return the number of faces that a night adds."""
        return sum(pq.read_metadata(path).num_rows for path in self.shards(f"faces/night={night}"))

    def dimension(self) -> int:
        """Return the dimensions of its embeddings."""
        first = pq.ParquetFile(self.shards("faces/night=0")[0])
        return columns.dimension(next(first.iter_batches(1000, columns=["embedding"])).column(0))

    def people(self) -> list[int]:
        """Return the identities of the faces of night 0, each once, ascending."""
        found: set[int] = set()
        for path in self.shards("truth"):
            rows = pq.read_table(path, columns=["identity", "added_night"])
            found |= set(pc.unique(rows["identity"].filter(pc.equal(rows["added_night"], 0))).to_pylist())
        return sorted(found)


def subject_of_person(person: int) -> str:
    """Return the subject reference under which a person's photos are admitted."""
    return f"person-{person:08d}"


def add_night(context: Context, world: World, night: int) -> None:
    """Commit the admissions and faces that a night adds, and remove the faces that it removes.

    A photo is admitted under the subject reference of its first face. The first call records a grant for all.
    """
    grant_once(context, _SOURCE)
    remove_faces(context, world.shards(f"removed/night={night}"))
    staged: dict[str, list[Receipt]] = {"admissions": [], "faces": []}
    for path in world.shards(f"faces/night={night}"):
        for name, receipts in _stage_shard(context, world, path, f"{night}-{path.name}").items():
            staged[name].extend(receipts)
    for name, receipts in staged.items():
        context.lake[name].commit(receipts)


def _stage_shard(context: Context, world: World, shard: Path, corpus_file: str) -> dict[str, list[Receipt]]:
    """Stage the admissions and faces of a shard, whose photos are taken to be the rows of one corpus file."""
    faces = pq.read_table(shard, columns=["face_id", "image_id"])
    truth = pq.read_table(Path(world.folder, "truth", shard.name), columns=["face_id", "identity"])
    person = truth["identity"].take(pc.index_in(faces["face_id"], truth["face_id"])).to_numpy()
    photos, first, photo_of = np.unique(
        faces["image_id"].to_numpy(zero_copy_only=False), return_index=True, return_inverse=True
    )
    named = {
        "image_id": photos.tolist(),
        "subject_ref": [subject_of_person(number) for number in person[first].tolist()],
        "content_sha256": [_digest_of(photo) for photo in photos.tolist()],
    }
    admitted = admitted_rows(context, _SOURCE, corpus_file, named, Covers.EVERYONE)
    staged = {"admissions": [context.lake["admissions"].stage(admitted, DataFileName.of_corpus_file(corpus_file))]}
    table, start = context.lake["faces"], 0
    staged["faces"] = []
    with pq.ParquetFile(shard) as file:
        for batch in file.iter_batches(_FACES_PER_FILE):
            rows = face_rows(context, batch, corpus_file, photo_of[start : start + batch.num_rows])
            digests = pa.array([_digest_of(photo) for photo in rows["image_id"].to_pylist()])
            rows = rows.set_column(rows.schema.get_field_index("content_sha256"), "content_sha256", digests)
            if rows.num_rows:
                name = DataFileName.of_chunk(context.model_digest, corpus_file, start)
                staged["faces"].append(table.stage(rows, name))
            start += batch.num_rows
    return staged


def _digest_of(photo: str) -> str:
    """Return what stands for the digest of a photo's bytes."""
    return hashlib.sha256(photo.encode()).hexdigest()
