"""verify finds each kind of inconsistency, and only that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from facelake.bench.synthetic_lake import Population, add_faces, write_groups
from facelake.config import Config, load_config
from facelake.contracts import DataFileName
from facelake.lake.lake import Lake
from facelake.nightly import reading, writing
from facelake.stages.core.context import StageResult
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery, pin
from facelake.stages.governance.processing_register import record_processing
from facelake.stages.operations.verify import verify, verify_residual

PEOPLE = Population(60, 8, 5, seed=1)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = load_config(lake=str(tmp_path / "lake"))
    with writing(made, "test") as context:
        add_faces(context, PEOPLE, 0, PEOPLE.faces)
        write_groups(context, PEOPLE, PEOPLE.faces)
        publish(context)
    return made


def problems(config: Config) -> list[str]:
    """What is wrong, but for the corpus, which these lakes do not have."""
    findings, _ = verify(reading(config))
    return [finding.problem for finding in findings if "corpus" not in finding.problem]


def repin(lake: Lake) -> None:
    gallery = current_gallery(lake)
    assert gallery
    pin(lake, gallery.version, gallery.row)


def change(lake: Lake, table: str, edit: Callable[[pa.Table], pa.Table]) -> None:
    old = lake[table].snapshot().files
    name = DataFileName.parse(old[0].path) if old else DataFileName(part="part")  # it says which model's rows they are
    lake[table].commit([lake[table].stage(edit(lake[table].read()), name)], old)
    repin(lake)


def put(rows: pa.Table, column: str, value: object) -> pa.Table:
    """Change one value in the first row."""
    values = rows[column].to_pylist()
    at = rows.schema.get_field_index(column)
    return rows.set_column(at, column, pa.array([value, *values[1:]], rows.schema.field(column).type))


def test_a_sound_lake_has_no_findings(config: Config) -> None:
    assert problems(config) == []


@pytest.mark.parametrize(
    ("table", "edit", "said"),
    [
        ("memberships", lambda r: pa.concat_tables([r, r.slice(0, 1)]), ["memberships contains 1 faces twice", "1 identities have a size that differs", "recorded counts differ"]),
        ("memberships", lambda r: r.slice(1), ["groups has 1 faces that memberships lacks", "1 identities have a size", "recorded counts differ"]),
        ("memberships", lambda r: put(r, "face_id", "nobody"), ["memberships names 1 faces that groups lacks, e.g. nobody (an interrupted run", "groups has 1 faces that memberships lacks"]),
        ("memberships", lambda r: put(r, "identity_id", "id-x"), ["1 memberships name an identity that is not active", "1 identities have a size"]),
        ("groups", lambda r: r.slice(1), ["faces has 1 faces that groups lacks", "memberships names 1 faces that groups lacks"]),
        ("groups", lambda r: pa.concat_tables([r, r.slice(3, 1)]), ["groups contains 1 faces twice"]),
        ("faces", lambda r: pa.concat_tables([r, r.slice(3, 1)]), ["1 face ids occur twice"]),
        ("faces", lambda r: put(r, "box", [5.0, 0.0, 5.0, 9.0]), ["1 boxes have no area"]),
        ("faces", lambda r: put(r, "embedding", b"\0" * 16), ["1 embeddings are not finite unit vectors"]),
        ("identities", lambda r: put(r, "prototype", [0.5] * 8), ["1 templates are not finite unit vectors"]),
        ("identities", lambda r: put(r, "size", 99), ["1 identities have a size that differs"]),
        ("identities", lambda r: put(r, "merged_into", "id-gone"), ["1 identities were merged into an identity that does not exist"]),
        ("changes", lambda r: pa.concat_tables([r, r.slice(2, 1)]), ["1 change events are recorded twice"]),
        ("changes", lambda r: put(r, "identity_id", "id-gone"), ["1 change events name an identity that does not exist"]),
        ("rejects", lambda r: pa.Table.from_pylist([{"image_id": "image-0000000000.jpg", "corpus_file": "c-0000000000.parquet", "corpus_row": 0, "reason": "no_face"}], schema=r.schema), ["1 images have faces and a reject row, e.g. row 0 of c-0000000000.parquet"]),
        ("rejects", lambda r: pa.Table.from_pylist([{"image_id": "x", "corpus_file": "c-0000000000.parquet", "corpus_row": 999, "reason": "no_face"}] * 2, schema=r.schema), ["1 images are rejected twice", "1 images have an outcome but are not admitted, e.g. row 999 of c-0000000000.parquet"]),
        ("admissions", lambda r: put(put(r, "admitted", False), "reason", "no_basis"), ["1 images have an outcome but are not admitted"]),
    ],
)  # fmt: skip
def test_each_inconsistency_is_found(
    config: Config, table: str, edit: Callable[[pa.Table], pa.Table], said: list[str]
) -> None:
    change(reading(config).lake, table, edit)
    found = problems(config)
    for text in said:
        assert any(text in problem for problem in found), (text, found)
    assert len(found) == len(said), found


def test_an_admitted_image_without_an_outcome_is_found(config: Config) -> None:
    lake = reading(config).lake
    rows = lake["faces"].read()
    change(lake, "faces", lambda r: r.filter(pc.not_equal(r["face_id"], rows["face_id"][0])))
    assert any("1 admitted images have no outcome" in problem for problem in problems(config))


def test_records_of_processing_that_are_gone_or_replaced_are_found(config: Config) -> None:
    with writing(config, "test") as context:
        runs = [replace(context, run_id=name) for name in ("a", "b", "c", "d")]
        for run in runs:
            record_processing(run, [StageResult("embed", {"faces": 1}, 0.1)])
        store = context.lake.store
        assert problems(config) == []
        store.delete("register/a.json")
        store.write("register/b.json", store.read("register/c.json"))
        store.write("register/d.json", b"[1]")
        store.write("audit/notes.txt", b"[")
    found = problems(config)
    assert any("register/a.json is named by the audit trail but missing" in problem for problem in found)
    assert any("register/b.json is not the record whose digest" in problem for problem in found)
    assert any("register/d.json is not a record of processing" in problem for problem in found)
    assert any("audit/notes.txt is not an audit record" in problem for problem in found)
    assert len(found) == 4


def test_an_id_is_found_at_the_end_of_a_longer_path(tmp_path: Path) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    with writing(config, "test") as context:
        context.lake.store.write("notes/a.txt", b"copied from /data/school/1.jpg")
        context.lake.store.write("notes/b.txt", b"of somebody else: other-school/1.jpg and /data/my-school/1.jpg")
        hits = verify_residual(context, ["school/1.jpg"])
    assert (hits.found, hits.inside) == ({"notes/a.txt": 1}, {})
