"""Outcomes of photos that lost their basis go, those of all others stay, whatever corpus file they are of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from facelake.bench.stage_costs import face_rows, write_corpus
from facelake.config import load_config
from facelake.contracts import REJECTS, DataFileName, corpus_key
from facelake.embed.formats import NEEDS_HEIF, NEEDS_JXL
from facelake.lake.data_files import plain
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.core.context import Context
from facelake.stages.embedding import decodable
from facelake.stages.embedding.embed import sweep

_FILES, _ROWS = 4, 50


def embedded(context: Context) -> None:
    """A face of every photo, as embed leaves them: a data file per corpus file."""
    staged = []
    for number, name in enumerate(write_corpus(context, _FILES * _ROWS, _ROWS)):
        rows = face_rows(context.model_digest, number * _ROWS, np.ones((_ROWS, 4), np.float32))
        for column, values in (("corpus_file", [name] * _ROWS), ("corpus_row", range(_ROWS))):
            at = rows.schema.get_field_index(column)
            rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
        staged.append(context.lake["faces"].stage(rows, DataFileName.of_chunk(context.model_digest, name, 0)))
    context.lake["faces"].commit(staged)


def refuse(context: Context, corpus_file: str, rows: range) -> None:
    """The decisions on some rows of a corpus file turn."""
    table, key = context.lake["admissions"], corpus_key(corpus_file)
    (old,) = (file for file in table.snapshot().files if file.path.startswith(key))
    decisions = table.file(old)
    at = decisions.schema.get_field_index("admitted")
    admitted = [row not in rows for row in range(decisions.num_rows)]
    decisions = decisions.set_column(at, decisions.schema.field(at), pa.array(admitted))
    table.commit([table.stage(decisions, DataFileName.of_corpus_file(corpus_file, "turned"))], [old])


def test_only_rows_without_a_basis_are_swept(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        context.lake.mark_as_demo()
        embedded(context)
        admit(context)
        assert sweep(context) == 0
        refuse(context, "part-000001.parquet", range(10, 20))
        refuse(context, "part-000003.parquet", range(45, 50))
        assert sweep(context) == 15
        assert sweep(context) == 0
        left = context.lake["faces"].read(["corpus_file", "corpus_row"]).to_pylist()
        wanted = {(f"part-{n:06d}.parquet", row) for n in range(_FILES) for row in range(_ROWS)}
        wanted -= {("part-000001.parquet", row) for row in range(10, 20)}
        wanted -= {("part-000003.parquet", row) for row in range(45, 50)}
        assert len(left) == len(wanted)
        assert {(row["corpus_file"], row["corpus_row"]) for row in left} == wanted


def test_photos_that_needed_a_decoder_are_tried_again_once_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        table = context.lake["rejects"]
        rows = [
            dict.fromkeys(table.schema.names) | {"image_id": name, "reason": "unsupported_format", "detail": detail}
            for name, detail in (("a", NEEDS_HEIF), ("b", "not one of JPEG"), ("c", NEEDS_JXL))
        ]
        rows = [row | {"corpus_file": "part-0", "corpus_row": at} for at, row in enumerate(rows)]
        staged = pa.Table.from_pylist(rows, schema=plain(REJECTS))
        table.commit([table.stage(staged, DataFileName.of_chunk(context.model_digest, "part-0", 0))])
        monkeypatch.setattr(decodable, "FORMATS", ["JPEG"])
        decodable.reopen_decodable(context)
        assert len(table.read()) == 3
        monkeypatch.setattr(decodable, "FORMATS", ["JPEG", "HEIF"])
        decodable.reopen_decodable(context)
        assert table.read(["image_id"])["image_id"].to_pylist() == ["b", "c"]
        monkeypatch.setattr(decodable, "FORMATS", ["JPEG", "JXL"])
        decodable.reopen_decodable(context)
        assert table.read(["image_id"])["image_id"].to_pylist() == ["b"]
