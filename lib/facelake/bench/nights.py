"""bench nights: a world of embeddings that grows and shrinks, night by night, through cluster and publish of a lake."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.bench.cluster import PRIOR, PRIORS
from facelake.bench.memory import PeakMemory
from facelake.cluster import columns
from facelake.config import Config
from facelake.contracts import FACES, I64, Covers, DataFileName, Receipt
from facelake.embed import Pack
from facelake.errors import ConfigError
from facelake.events import Listener
from facelake.lake.data_files import plain
from facelake.nightly import writing
from facelake.stages.clustering.stage import cluster
from facelake.stages.core.context import Context
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.models.registry import load_pack

_PER_FILE = 50_000


def run_nights(config: Config, world: str, out: str, emit: Listener, *, full: bool) -> dict[str, Any]:
    """Run every night of a world and write who is in which identity after each.

    Args:
        world: a folder as the arena's identity_world.py makes with --nights: faces/night=K and removed/night=K.
        out: folder for night-K.parquet (face_id, identity_id).
        full: after the last night, also make and time a full clustering, written to full.parquet.

    Raises:
        ConfigError: no nights there; something is at the lake's root already.
    """
    nights = sorted(Path(world, "faces").glob("night=*"), key=lambda path: int(path.name.partition("=")[2]))
    if not nights:
        raise ConfigError("no nights", where=world, next_step="make a world with --nights")
    Path(out).mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with PeakMemory() as memory:
        for number, folder in enumerate(nights):
            removed = sorted(Path(world, "removed", folder.name).glob("*.parquet"))
            with writing(config, "bench", emit) as context:
                if number == 0 and context.lake["faces"].version() >= 0:
                    raise ConfigError("there is a lake already", where=config.lake, next_step="give an empty --lake")
                context.pack = _pack_of(context, nights[0])
                add_and_remove(context, sorted(folder.glob("*.parquet")), removed)
                figures = _night(context, f"{out}/night-{number}.parquet")
            rows.append(figures | {"peak_bytes_all_processes": memory.lap()})
        if full:
            with writing(config, "bench", emit) as context:
                context.rebase, context.pack = True, _pack_of(context, nights[0])
                figures = _night(context, f"{out}/full.parquet")
            rows.append(figures | {"peak_bytes_all_processes": memory.lap()})
    return {"nights": rows}


def _pack_of(context: Context, folder: Path) -> Pack:
    """The pack with the dimension of the world's vectors."""
    first = pq.ParquetFile(next(iter(sorted(folder.glob("*.parquet")))))
    return pack_of_dimension(
        context, columns.dimension(next(first.iter_batches(1000, columns=["embedding"])).column(0))
    )


def pack_of_dimension(context: Context, dim: int) -> Pack:
    """The config's pack with vectors of another dimension; its card's figures stand in only for small corpora."""
    pack = load_pack(context.config)
    encoder = pack.card.encoder.model_copy(update={"dim": dim})
    return replace(pack, card=pack.card.model_copy(update={"encoder": encoder} | asdict(PRIORS.get(dim, PRIOR))))


def _night(context: Context, out: str) -> dict[str, Any]:
    began = time.monotonic()
    grouped = cluster(context)
    middle = time.monotonic()
    made = publish(context)
    ended = time.monotonic()
    gallery = current_gallery(context.lake)
    assert gallery is not None
    pq.write_table(gallery.read("memberships", ["face_id", "identity_id"]), out)
    kept = ("mode", "came", "went", "joined", "placed_anew", "groups_brought_together", "drift_sds")
    changes = {key: value for key, value in made.counts.items() if key.startswith("changes_")}
    return {
        "faces": grouped.counts["faces"],
        "identities": made.counts["identities"],
        "cluster_s": round(middle - began, 2),
        "publish_s": round(ended - middle, 2),
        "seconds": round(ended - began, 2),
        **{key: value for key, value in grouped.as_json().items() if key in kept},
        **changes,
    }


def add_and_remove(context: Context, added: Sequence[Path], removed: Sequence[Path]) -> None:
    """Write the faces of one run as embed and its removal of withdrawn photos would leave them.

    Args:
        context: of the run.
        added: Parquet files with new faces.
        removed: Parquet files with the face ids to remove; data files that have them are rewritten.
    """
    table = context.lake["faces"]
    remove_faces(context, removed)
    staged: list[Receipt] = []
    for path in added:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PER_FILE):
                made = face_rows(context, batch, "world", np.arange(batch.num_rows))
                if made.num_rows:
                    staged.append(table.stage(made, DataFileName(context.model_digest[:8], part=f"{len(staged):06d}")))
    table.commit(staged)


def remove_faces(context: Context, removed: Sequence[Path]) -> None:
    """Rewrite the data files that have one of the face ids in the given Parquet files."""
    if removed:
        table = context.lake["faces"]
        ids = pa.concat_tables([pq.read_table(path, columns=["face_id"]) for path in removed])["face_id"]
        out = pc.unique(ids.cast(pa.string()))
        table.rewrite(table.snapshot().files, ["face_id"], lambda rows_: pc.invert(pc.is_in(rows_["face_id"], out)))


def face_rows(context: Context, batch: pa.RecordBatch, corpus_file: str, corpus_row: I64) -> pa.Table:
    """Rows of the faces table as embed would have made them; vectors that are not sound are left out.

    Args:
        context: of the run.
        batch: rows of a world's faces.
        corpus_file: the file that their photos are taken to come from.
        corpus_row: the row there of each face's photo.
    """
    column = batch.column("embedding")
    dim = columns.dimension(column)
    vectors, state = columns.vectors(column, dim)
    sound = state == columns.State.SOUND
    batch, vectors, corpus_row = batch.filter(pa.array(sound)), vectors[sound].astype("<f2"), corpus_row[sound]
    count = batch.num_rows
    offsets = pa.py_buffer((np.arange(count + 1, dtype=np.int32) * (2 * dim)).tobytes())
    body = pa.py_buffer(np.ascontiguousarray(vectors).tobytes())
    made: dict[str, Any] = {name: pa.nulls(count, FACES.field(name).type) for name in FACES.names}
    made |= {
        "face_id": batch.column("face_id").cast(pa.string()),
        "image_id": batch.column("image_id").cast(pa.string()),
        "box": pa.array([[0.0, 0.0, 100.0, 120.0]] * count, FACES.field("box").type),
        "quality": batch.column("quality").cast(pa.float32()),
        "embedding": pa.Array.from_buffers(pa.binary(), count, [None, offsets, body]),
        "covers": pa.array([str(Covers.EVERYONE)] * count, pa.string()),
        "model_digest": pa.array([context.model_digest] * count, pa.string()),
        "corpus_file": pa.array([corpus_file] * count, pa.string()),
        "corpus_row": pa.array(corpus_row),
    }
    return pa.table([made[name] for name in FACES.names], schema=plain(FACES))
