"""A corpus file with one very large row group is read in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.errors import ConfigError
from facelake.lake.corpora.parquet import Corpus

_ROWS, _BYTES = 400, 1 << 20
_PEAK = """
def peak():  # of this program: ru_maxrss would be that of the process that started it
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0])
"""
_READ = (
    _PEAK
    + """
import sys
from facelake.lake.corpora.parquet import Corpus
corpus = Corpus(sys.argv[1])
next(iter(corpus.images("one.parquet", 0, 1)))
before, total = peak(), 0
for _, _, image in corpus.images("one.parquet", 0, 400):
    total += len(image)
print(total, peak() - before)
"""
)


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


def test_a_dictionary_that_repeats_one_large_photo_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    rows, large = 64, np.random.default_rng(0).bytes(30 << 20)
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([large], pa.binary()))
    table = pa.table({"image_id": [str(i) for i in range(rows)], "image": repeated, "source_id": ["s"] * rows})
    path = tmp_path / "one.parquet"
    pq.write_table(table, path, compression="none", dictionary_pagesize_limit=1 << 30, store_schema=False)
    assert path.stat().st_size < 2 * len(large)
    done = subprocess.run([sys.executable, "-c", _READ, tmp_path], capture_output=True, text=True, check=True)
    total, grown_kb = map(int, done.stdout.split())
    assert total == rows * len(large)
    assert grown_kb * 1024 < 256 << 20


def test_a_column_that_inflates_is_refused_by_its_footer(tmp_path: Path) -> None:
    images = [bytes(600 << 20), b"photo"]
    table = pa.table({"image_id": ["a", "b"], "image": pa.array(images, pa.binary()), "source_id": ["s", "s"]})
    pq.write_table(table, tmp_path / "one.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(ConfigError, match="does not contain encoded images"):
        Corpus(str(tmp_path)).inspect("one.parquet")


_NAMES = (
    _PEAK
    + """
import sys
from facelake.errors import ConfigError
from facelake.lake.corpora.parquet import Corpus
try:
    print(Corpus(sys.argv[1]).ids("one.parquet").num_rows)
except ConfigError as err:
    print(err)
print(peak())
"""
)


def names_read(tmp_path: Path, table: pa.Table, **options: object) -> tuple[str, int]:
    """What reading the columns of names of a file gave, and the peak memory in KiB."""
    rows = table.num_rows
    table = table.append_column("image", pa.array([b"x"] * rows, pa.binary()))
    pq.write_table(table.append_column("source_id", pa.array(["s"] * rows)), tmp_path / "one.parquet", **options)
    command = [sys.executable, "-c", _NAMES, tmp_path]
    said, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return said, int(peak)


def test_a_name_of_20_megabytes_in_60000_rows_is_refused_without_being_decoded(tmp_path: Path) -> None:
    rows = 60_000
    coded = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["z" * (20 << 20)]))
    table = pa.table({"image_id": [str(i) for i in range(rows)], "subject_ref": coded})
    said, peak = names_read(tmp_path, table, compression="zstd", store_schema=False)
    assert "column subject_ref holds no names: a value has 20971520 bytes" in said
    assert "one.parquet" in said
    assert peak < 700 << 10


@pytest.mark.parametrize("length", [100, 60_000])
def test_names_with_shared_prefixes_are_read_a_few_rows_at_a_time(tmp_path: Path, length: int) -> None:
    rows = 20_000
    values = [f"{'z' * length}{i}" for i in range(rows)]
    encoding = {"use_dictionary": False, "column_encoding": {"subject_ref": "DELTA_BYTE_ARRAY"}}
    table = pa.table({"subject_ref": values, "image_id": [str(i) for i in range(rows)]})
    said, peak = names_read(tmp_path, table, **encoding)
    assert said == str(rows) if length == 100 else "column subject_ref holds no names" in said
    assert peak < 700 << 10
