"""The number and size of the photos in the corpus, from footers, listings and the lake's index."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import Config
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import INDEX, OpenedCorpus
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.lake import Lake
from facelake.stages.admission.withdrawals import was_erased

_COUNTED_BYTES = 256 << 20  # tar files that are read to count their photos before there is an index


@dataclass(frozen=True, slots=True)
class CorpusSize:
    """What `facelake plan` says of the corpus."""

    files: int
    images: int
    """of large tar files 0 until they are indexed"""
    image_bytes: int
    largest_row_group: int = 0
    described: dict[str, Any] = field(default_factory=dict)
    """kind, origin of the columns, and what is left out"""
    by_index: bool = False
    """whether `images` is the number of the lake's index: photos of files that are not in it are not counted"""
    listed: bool = False
    """whether each photo is an object of its own"""
    erased: int = 0
    """listed photos that are on the suppression list for the purpose, if that was asked for"""

    @property
    def mean_bytes(self) -> float:
        """Mean bytes of an encoded photo."""
        return self.image_bytes / max(self.images, 1)


def corpus_size(config: Config, lake: Lake | None, *, with_erased: bool = False) -> CorpusSize:
    """Look at the corpus without reading photos.

    Args:
        config: names the corpus.
        lake: with the index and the suppression list; None: there is none yet.
        with_erased: count listed photos that are on the suppression list, a hash per photo.

    Raises:
        ConfigError: it is missing, damaged or lacks columns.
    """
    spec = resolve_corpus(config)
    corpus = OpenedCorpus(spec)
    described: dict[str, Any] = {"kind": spec.kind, "columns": spec.origins()}
    if spec.listed:
        images = size = erased = 0
        suppressed = lake.suppressed() if lake is not None and with_erased else frozenset[str]()
        for batch in corpus.entries():
            images, size = images + batch.num_rows, size + (pc.sum(batch["size_bytes"]).as_py() or 0)
            erased += _erased(batch, lake, suppressed, config.purpose) if lake is not None and suppressed else 0
        described |= {"left_out": corpus.left_out.lines()}
        return CorpusSize(images, images, size, described=described, listed=True, erased=erased)
    parts = corpus.parts()
    described |= {"left_out": corpus.left_out.lines()}
    if spec.form is None:
        size = sum(part.size_bytes for part in parts)
        images = indexed = _indexed(lake)
        if not images and size <= _COUNTED_BYTES:
            images = sum(corpus.index(part, trusted=False).num_rows for part in parts)
            described |= {"left_out": corpus.left_out.lines()}
        return CorpusSize(len(parts), images, size, described=described, by_index=indexed > 0)
    reader = Corpus(spec.root, spec.s3, spec.form, only=spec.only, selection=spec.selection())
    files = [reader.inspect(part.name) for part in parts]
    largest = max((rows for file in files for rows in file.row_groups), default=0)
    images, size = sum(file.rows for file in files), sum(file.image_bytes for file in files)
    return CorpusSize(len(files), images, size, largest, described)


def _erased(rows: pa.Table, lake: Lake, suppressed: frozenset[str], purpose: str) -> int:
    """Return how many photos are on the suppression list by id, subject or source, as `admit` decides."""
    hit = np.zeros(rows.num_rows, bool)
    for kind, column in (("image", "image_id"), ("subject", "subject_ref"), ("source", "source_id")):
        values = rows[column].combine_chunks().dictionary_encode()
        names = values.dictionary.to_pylist()
        erased = np.array([*(was_erased(lake, suppressed, [(kind, name)], purpose) for name in names), False])
        hit |= erased[pc.fill_null(values.indices, len(names)).to_numpy(zero_copy_only=False)]
    return int(hit.sum())


def present_rows(config: Config, lake: Lake) -> dict[str, int]:
    """Rows of each corpus file: as they are now, or for photos that are objects and for tar files as indexed.

    Raises:
        ConfigError: the corpus is missing or damaged.
    """
    spec = resolve_corpus(config)
    if spec.form is None:
        table = lake[INDEX]
        files = [(table.file(file, ["corpus_file"]), file.rows) for file in table.snapshot().files if file.rows]
        return {rows["corpus_file"][0].as_py(): count for rows, count in files}
    reader = Corpus(spec.root, spec.s3, spec.form, only=spec.only, selection=spec.selection())
    return {part.name: reader.inspect(part.name).rows for part in OpenedCorpus(spec).parts()}


def _indexed(lake: Lake | None) -> int:
    return lake[INDEX].snapshot().rows if lake is not None else 0
