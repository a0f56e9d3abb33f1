"""Tasks that index the corpus: each reads the photos of one part, hashes them and stages the part's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import S3Section
from facelake.contracts import IMAGES, DataFileName, Receipt, label, reference
from facelake.lake.corpora.detect import CorpusSpec
from facelake.lake.corpora.opening import INDEX, CorpusPart, OpenedCorpus
from facelake.lake.corpora.photos import PhotoReader, Place
from facelake.lake.corpora.selection import LeftOut
from facelake.lake.data_files import completed, plain, stage
from facelake.lake.hash_key import erased_name, keyed_hash
from facelake.lake.lake import Lake
from facelake.lake.store import open_store
from facelake.stages.admission.corpus_rewrite import with_other_sources
from facelake.stages.core.known_ids import U64
from facelake.stages.core.known_ids import hashed as hashes_of

_FORGOTTEN = ("image_id", "subject_ref", "captured_at", "uri", "content_sha256")


@dataclass(frozen=True, slots=True)
class IndexTask:
    """One part to index: a corpus file, or rows that were listed."""

    spec: CorpusSpec
    lake_uri: str
    hash_salt: bytes = field(repr=False)
    """key of the lake's hashes"""
    corpus_file: str
    file_name: DataFileName
    part: CorpusPart | None = None
    rows: pa.Table | None = None
    """listed photos; those with a content_sha256 are not read again"""
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class IndexedPart:
    """What a task staged."""

    corpus_file: str
    receipt: Receipt | None
    """None: no photo is left"""
    hashed: int
    """photos whose bytes were read and of which a row is staged"""
    left_out: LeftOut = field(default_factory=LeftOut)


@dataclass(frozen=True, slots=True)
class CheckTask:
    """One corpus file to check before photos are read."""

    spec: CorpusSpec
    part: CorpusPart
    compared: bool
    """whether the ids are needed, because other corpus files are gone"""


def check_part(task: CheckTask) -> U64:
    """Check a corpus file; returns hashes of its ids if they are needed; runs in threads or as a Ray task.

    Raises:
        ConfigError: it is damaged or lacks columns.
        Retryable: it was removed since the corpus was listed, or the store failed.
    """
    corpus = OpenedCorpus(task.spec)
    corpus.check(task.part)
    return hashes_of(corpus.ids(task.part)["image_id"].drop_null()) if task.compared else np.zeros(0, np.uint64)


def run_index_task(task: IndexTask) -> IndexedPart:
    """Hash the photos of a part and stage its rows of table `images`; runs in threads or as a Ray task."""
    lake = _lake(task.lake_uri, task.spec.s3.model_dump_json())
    left_out = LeftOut()
    if task.part is not None:
        corpus = OpenedCorpus(task.spec)
        rows = corpus.index(task.part, trusted=task.trusted)
        left_out = corpus.left_out
        rows = rows.append_column("tag", pa.array([task.part.tag] * rows.num_rows, pa.string()))
        rows = without_erased(lake.suppressed(), task.hash_salt, rows)
        hashed = rows.num_rows - rows["content_sha256"].null_count  # an erasure leaves rows without content
    else:
        assert task.rows is not None
        rows, hashed = _hashed(task, task.rows, left_out)
    if task.part is None and not rows.num_rows:
        return IndexedPart(task.corpus_file, None, hashed, left_out)
    rows = _placed(rows, task.corpus_file)
    return IndexedPart(task.corpus_file, stage(lake.store, INDEX, rows, task.file_name), hashed, left_out)


def _placed(rows: pa.Table, corpus_file: str) -> pa.Table:
    """Rows with the schema IMAGES and their place."""
    count = rows.num_rows
    for name, values in (
        ("corpus_file", pa.array([corpus_file] * count, pa.string())),
        ("corpus_row", pa.array(np.arange(count, dtype=np.int64))),
    ):
        rows = rows.drop_columns([name]) if name in rows.column_names else rows
        rows = rows.append_column(name, values)
    return completed(rows, plain(IMAGES)).cast(plain(IMAGES))


@lru_cache(maxsize=2)
def _lake(uri: str, s3: str) -> Lake:
    return Lake.open(uri, S3Section.model_validate_json(s3))


@lru_cache(maxsize=2)
def _reader(root: str, s3: str) -> PhotoReader:
    section = S3Section.model_validate_json(s3)
    return PhotoReader(open_store(root, section), section)


def _hashed(task: IndexTask, rows: pa.Table, left_out: LeftOut) -> tuple[pa.Table, int]:
    """Listed rows with the digests that were missing, without photos that cannot be read; and the number that were
    hashed and are kept.
    """
    digests = rows["content_sha256"].to_pylist()
    missing = [row for row, digest in enumerate(digests) if digest is None]
    uris, sizes = rows["uri"], rows["size_bytes"]
    places = [Place(uris[row].as_py(), sizes[row].as_py() or 0) for row in missing]
    reader = _reader(task.spec.root, task.spec.s3.model_dump_json())
    for row, data in zip(missing, reader.read_all(places), strict=True):
        if data is None:
            left_out.add("unreadable", uris[row].as_py())
        else:
            digests[row] = sha256(data).hexdigest()
    at = rows.schema.get_field_index("content_sha256")
    rows = rows.set_column(at, "content_sha256", pa.array(digests, pa.string()))
    kept = compacted(rows, np.array([digest is None for digest in digests], bool))
    return kept, len(missing) - (rows.num_rows - kept.num_rows)


def compacted(rows: pa.Table, drop: np.ndarray) -> pa.Table:
    """Rows without those of `drop` (n,); the last rows fill the gaps, so that few photos change their place."""
    kept = np.flatnonzero(~drop)
    count = len(kept)
    order = np.arange(count)
    gaps = np.flatnonzero(drop[:count])
    order[gaps] = kept[kept >= count][: len(gaps)]
    return rows.take(pa.array(order))


def suppression_check(suppressed: frozenset[str], hash_salt: bytes) -> Callable[[pa.Table], np.ndarray] | None:
    """Per row (n,) whether its image, subject or source is on the suppression list for every purpose; None if the list
    is empty.
    """
    if not suppressed:
        return None

    def hits(rows: pa.Table) -> np.ndarray:
        hit = np.zeros(rows.num_rows, bool)
        for kind, column in (("image", "image_id"), ("subject", "subject_ref"), ("source", "source_id")):
            values = rows[column].combine_chunks().dictionary_encode()
            names = values.dictionary.to_pylist()
            erased = [keyed_hash(hash_salt, label(kind, name)) in suppressed for name in names]
            if any(erased):
                codes = pc.fill_null(values.indices, -1).to_numpy(zero_copy_only=False)
                hit |= np.where(codes >= 0, np.array([*erased, False])[codes], False)
        return hit

    return hits


def without_erased(suppressed: frozenset[str], hash_salt: bytes, rows: pa.Table) -> pa.Table:
    """Rows with column `erased`; of erased photos nothing is kept but the source, unless it was erased."""
    check = suppression_check(suppressed, hash_salt)
    if check is None:
        return rows
    labels = {name: label("source", name) for name in pc.unique(rows["source_id"]).drop_null().to_pylist()}
    erased = {name: text for name, text in labels.items() if keyed_hash(hash_salt, text) in suppressed}
    names = {reference(name): erased_name(hash_salt, text) for name, text in erased.items()}
    return forget(rows, check(rows), names)


def forget(rows: pa.Table, hit: np.ndarray, sources: Mapping[str, str]) -> pa.Table:
    """Rows of table `images` of which those of `hit` (n,) are blanked; `sources` has what stands for erased sources."""
    rows = with_other_sources(rows, hit, sources)
    hit = hit & pc.is_valid(rows["image_id"]).to_numpy()  # a row without a name was blanked in the lake's own corpus
    mask = pa.array(hit)
    for name in set(_FORGOTTEN) & set(rows.column_names):
        at = rows.schema.get_field_index(name)
        blank = pc.if_else(mask, pa.scalar(None, rows.schema.field(at).type), rows[name].combine_chunks())
        rows = rows.set_column(at, name, blank)
    before = rows["erased"] if "erased" in rows.column_names else None
    rows = rows if before is None else rows.drop_columns(["erased"])
    erased = hit if before is None else hit | pc.fill_null(before, False).to_numpy()
    return rows.append_column("erased", pa.array(erased))
