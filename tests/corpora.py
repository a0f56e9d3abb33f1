"""The same photos in every layout that facelake reads, as users' tools write them."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import write_deltalake

from facelake.config import Config
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import OpenedCorpus
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.corpora.photos import PhotoReader, Place

Photos = dict[str, bytes]
"""encoded photos by file name"""


def plain(folder: Path, photos: Photos) -> str:
    """Parquet as `import` writes it."""
    half = (len(photos) + 1) // 2
    for number, names in enumerate((list(photos)[:half], list(photos)[half:])):
        columns = {"image_id": names, "image": [photos[n] for n in names], "source_id": ["s"] * len(names)}
        pq.write_table(pa.table(columns), folder / f"part-{number}.parquet")
    return ""


def huggingface(folder: Path, photos: Photos) -> str:
    rows = [{"bytes": data, "path": name} for name, data in photos.items()]
    (folder / "data").mkdir()
    for number in range(2):
        shard = pa.table({"image": rows[number::2], "label": list(range(len(rows[number::2])))})
        pq.write_table(shard, folder / f"data/train-{number:05d}-of-00002.parquet")
    (folder / "README.md").write_text("# a set")
    return ""


def huggingface_without_paths(folder: Path, photos: Photos) -> str:
    rows = [{"bytes": data, "path": None} for data in photos.values()]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"img": pa.array(rows, kind)}), folder / "train.parquet")
    return "train.parquet"


def img2dataset(folder: Path, photos: Photos) -> str:
    keys = [f"{number:09d}" for number in range(len(photos) + 1)]
    columns = {
        "key": keys,
        "jpg": pa.array([*photos.values(), None], pa.binary()),
        "url": [f"https://example.org/{name}" for name in (*photos, "lost")],
        "status": ["success"] * len(photos) + ["failed_to_download"],
    }
    pq.write_table(pa.table(columns), folder / "00000.parquet")
    (folder / "00000_stats.json").write_text("{}")
    return ""


def webdataset(folder: Path, photos: Photos) -> str:
    """Every shard counts its keys from zero, as many tools do."""
    items = list(photos.values())
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard:05d}.tar", "w") as tar:
            for number, data in enumerate(items[shard::2]):
                body = json.dumps({"person": f"p{shard}"}).encode()
                for ending, content in (("jpg", data), ("json", body), ("txt", b"a caption")):
                    member = tarfile.TarInfo(f"{number:05d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return ""


def files(folder: Path, photos: Photos) -> str:
    for number, (name, data) in enumerate(photos.items()):
        place = folder / f"album {number % 2}" / name
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(data)
    for name in ("Thumbs.db", "notes.txt", ".hidden.jpg"):
        (folder / "album 0" / name).write_bytes(b"x")
    (folder / "album 0/@eaDir").mkdir()
    (folder / "album 0/@eaDir/thumb.jpg").write_bytes(b"x")
    return ""


def manifest_parquet(folder: Path, photos: Photos) -> str:
    files(folder, photos)
    uris = [f"album {number % 2}/{name}" for number, name in enumerate(photos)]
    pq.write_table(pa.table({"id": list(range(len(uris))), "uri": uris}), folder / "manifest.parquet")
    return "manifest.parquet"


def manifest_csv(folder: Path, photos: Photos) -> str:
    """As an imagefolder of Hugging Face."""
    files(folder, photos)
    lines = [f'"album {number % 2}/{name}",{number}' for number, name in enumerate(photos)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]) + "\n")
    return "metadata.csv"


def manifest_lines(folder: Path, photos: Photos) -> str:
    files(folder, photos)
    rows = [{"path": f"album {number % 2}/{name}"} for number, name in enumerate(photos)]
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "list.jsonl"


def delta(folder: Path, photos: Photos) -> str:
    """With a row that was deleted, whose photo is still in a file of the folder."""
    names = [*photos, "deleted.jpg"]
    columns = {"image_id": names, "source_id": ["s"] * len(names)}
    table = pa.table(columns | {"image": pa.array([*photos.values(), b"deleted"], pa.binary())})
    write_deltalake(str(folder), table.slice(0, 2))
    write_deltalake(str(folder), table.slice(2), mode="append")
    from deltalake import DeltaTable

    DeltaTable(str(folder)).delete("image_id = 'deleted.jpg'")
    return ""


def delta_partitioned(folder: Path, photos: Photos) -> str:
    """The source is a partition, so that its value is in the log only."""
    table = pa.table({"image_id": list(photos), "image": list(photos.values()), "source_id": ["s"] * len(photos)})
    write_deltalake(str(folder), table, partition_by=["source_id"])
    return ""


def delta_of_uris(folder: Path, photos: Photos) -> str:
    uris = [f"photos/{name}" for name in photos]
    (folder / "photos").mkdir()
    for uri, data in zip(uris, photos.values(), strict=True):
        (folder / uri).write_bytes(data)
    write_deltalake(str(folder), pa.table({"photo_id": list(photos), "image_uri": uris}))
    return ""


def iceberg(folder: Path, photos: Photos, location: str | None = None) -> str:
    """With a row that was deleted."""
    from pyiceberg.catalog.sql import SqlCatalog

    s3 = {"s3.endpoint": os.environ["AWS_ENDPOINT_URL"], "s3.region": "us-east-1"} if location else {}
    catalog = SqlCatalog("c", uri="sqlite:///:memory:", warehouse=f"file://{folder.parent}", **s3)
    catalog.create_namespace("n")
    table = pa.table(
        {
            "image_id": [*photos, "deleted.jpg"],
            "image": pa.array([*photos.values(), b"deleted"], pa.binary()),
            "source_id": ["s"] * (len(photos) + 1),
        }
    )
    made = catalog.create_table("n.t", table.schema, location=location or f"file://{folder}")
    made.append(table)
    made.delete("image_id = 'deleted.jpg'")
    return ""


LAYOUTS: dict[str, tuple[str, Callable[[Path, Photos], str]]] = {
    "parquet": ("parquet", plain),
    "huggingface": ("huggingface", huggingface),
    "huggingface without paths": ("huggingface", huggingface_without_paths),
    "img2dataset": ("img2dataset", img2dataset),
    "webdataset": ("webdataset", webdataset),
    "files": ("files", files),
    "manifest in Parquet": ("manifest", manifest_parquet),
    "manifest in CSV": ("manifest", manifest_csv),
    "manifest in JSON lines": ("manifest", manifest_lines),
    "Delta": ("delta", delta),
    "Delta with partitions": ("delta", delta_partitioned),
    "Delta with URIs": ("delta", delta_of_uris),
    "Iceberg": ("iceberg", iceberg),
}
"""The kind and the writer of each layout; the writer returns the file in the folder that the config names, or nothing."""


def listed(uri: Path | str, **section: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that a corpus gives, with the bytes of each photo, and what it leaves out; without a lake."""
    section = {"uri": str(uri), "columns": {"source_id": {"constant": "s"}}} | section
    spec = resolve_corpus(Config.model_validate({"lake": "/nowhere/lake", "corpus": section}))
    corpus = OpenedCorpus(spec)
    if spec.listed:
        tables = list(corpus.entries())
    else:
        parts = corpus.parts()
        for part in parts:
            corpus.check(part)
        tables = [corpus.index(part, trusted=False) for part in parts]
    rows = [row for table in tables for row in table.to_pylist()]
    if spec.form is None:
        places = [Place(row["uri"], row["size_bytes"], row.get("byte_offset")) for row in rows]
        contents: list[bytes | None] = list(PhotoReader(corpus.store, spec.s3).read_all(places))
    else:
        images = Corpus(spec.root, spec.s3, spec.form, only=spec.only)
        counts = [table.num_rows for table in tables]
        contents = [
            data for part, n in zip(parts, counts, strict=True) for _, _, data in images.images(part.name, 0, n)
        ]
    return [row | {"data": data} for row, data in zip(rows, contents, strict=True)], corpus.left_out.lines()
