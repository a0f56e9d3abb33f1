"""Emptying rows of a corpus file that `import` made; the only place that writes an existing corpus file."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.lake.corpus import Corpus


def rewrite_corpus_file(corpus: Corpus, path: str, hit: np.ndarray, schema: pa.Schema) -> None:
    """Write the file anew with the rows of `hit` (bool per row) emptied, but for their source; row groups kept."""
    sink = pa.BufferOutputStream()
    start = 0
    with pq.ParquetWriter(sink, schema, compression="none", write_statistics=False) as writer:
        for table in corpus.row_groups(path, schema):
            mask = pa.array(hit[start : start + table.num_rows])
            for at, field in enumerate(schema):
                if field.name != "source_id":
                    column = pc.if_else(mask, pa.scalar(None, field.type), table[field.name].combine_chunks())
                    table = table.set_column(at, field, column)
            writer.write_table(table, row_group_size=max(table.num_rows, 1))
            start += table.num_rows
    corpus.store.write(path, sink.getvalue().to_pybytes())
