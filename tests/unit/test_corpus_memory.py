"""A corpus file with one enormous row group is read in a stream."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_ROWS, _BYTES = 400, 1 << 20
_READ = """
import resource, sys
from facelake.lake.corpus import Corpus
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
corpus = Corpus(sys.argv[1])
next(iter(corpus.images("one.parquet", 0, 1)))
before, total = peak(), 0
for _, _, image in corpus.images("one.parquet", 0, 400):
    total += len(image)
print(total, peak() - before)
"""


def test_one_row_group_of_400_mb_needs_a_fraction_of_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [random.bytes(_BYTES) for _ in range(_ROWS)]
    ids = [str(i) for i in range(_ROWS)]
    table = pa.table({"image_id": ids, "image": pa.array(images, pa.binary()), "source_id": ["s"] * _ROWS})
    pq.write_table(table, tmp_path / "one.parquet", compression="none", row_group_size=_ROWS)
    assert pq.ParquetFile(tmp_path / "one.parquet").metadata.num_row_groups == 1
    done = subprocess.run([sys.executable, "-c", _READ, tmp_path], capture_output=True, text=True, check=True)
    total, grown_kb = map(int, done.stdout.split())
    assert total == _ROWS * _BYTES
    assert grown_kb * 1024 < 128 << 20
