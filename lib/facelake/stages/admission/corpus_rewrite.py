"""Blanks rows of a corpus file inside the lake; no other code rewrites an existing corpus file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.config import Config
from facelake.contracts import reference
from facelake.errors import ConfigError
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.store import open_store


def owns_corpus(config: Config) -> bool:
    """Whether the corpus is inside the lake, by default or because the config names that folder."""
    own = open_store(config.lake.rstrip("/") + "/corpus", config.s3).uri
    return open_store(config.corpus_uri, config.s3).uri == own


def own_corpus(config: Config) -> Iterator[tuple[Corpus, str]]:
    """Yield the files of the lake's own corpus, which `import` wrote; none of an external one, or before an import."""
    if not owns_corpus(config):
        return
    corpus = Corpus(config.corpus_uri, config.s3)
    try:
        paths = corpus.paths()
    except ConfigError:
        return
    for path in paths:
        yield corpus, path


def with_other_sources(rows: pa.Table, hit: np.ndarray, names: Mapping[str, str]) -> pa.Table:
    """Return rows of which those of `hit` (bool per row) have another source_id where `names` has one for theirs."""
    if not names or not hit.any():
        return rows
    at = rows.schema.get_field_index("source_id")
    sources = rows["source_id"].combine_chunks().cast(pa.string()).dictionary_encode()
    others = [name and names.get(reference(name), name) for name in sources.dictionary.to_pylist()]
    column = pa.array(others, pa.string()).take(sources.indices)
    column = pc.if_else(pa.array(hit), column, rows["source_id"].combine_chunks().cast(pa.string()))
    return rows.set_column(at, rows.schema.field(at), column.cast(rows.schema.field(at).type))


def rewrite_corpus_file(corpus: Corpus, path: str, hit: np.ndarray, sources: Mapping[str, str] | None = None) -> None:
    """Rewrite a corpus file with the rows of `hit` (bool per row) set to null, except for source_id, which becomes what
    `sources` has for it; row groups are kept.
    """
    sink = pa.BufferOutputStream()
    start, writer = 0, None
    for table in corpus.row_groups(path):
        here = hit[start : start + table.num_rows]
        mask, table = pa.array(here), with_other_sources(table, here, sources or {})
        for at, field in enumerate(table.schema):
            if field.name != "source_id":
                column = pc.if_else(mask, pa.scalar(None, field.type), table[field.name].combine_chunks())
                table = table.set_column(at, field.with_nullable(True), column)
        writer = writer or pq.ParquetWriter(sink, table.schema, compression="none", write_statistics=False)
        writer.write_table(table, row_group_size=max(table.num_rows, 1))
        start += table.num_rows
    if writer:
        writer.close()
        corpus.store.write(path, sink.getvalue().to_pybytes())


def empty_rows(config: Config, image_ids: Collection[str]) -> None:
    """Blank the rows of some photos in the lake's own corpus, wherever they are."""
    wanted = pa.array(sorted(image_ids), pa.string())
    for corpus, path in own_corpus(config) if image_ids else ():
        hit = pc.is_in(corpus.columns(path, ["image_id"])["image_id"].cast(pa.string()), wanted)
        if pc.any(hit).as_py():
            rewrite_corpus_file(corpus, path, hit.to_numpy())
