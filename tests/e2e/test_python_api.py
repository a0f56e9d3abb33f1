"""The Python API on a demo lake: what the command line does, from Python."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import duckdb
import pytest

import facelake
import facelake.api
from facelake.api import Entry, EventKind, Fate, Grant, Request, Scope
from facelake.errors import ConfigError, Contradiction, Refused
from facelake.events import Event, Notice, StageFinished, StageStarted
from tests.conftest import ROOT


@pytest.fixture
def lake(demo_lake: Path) -> facelake.Lake:
    return facelake.open(demo_lake)


@pytest.fixture(scope="module")
def shared_lake(demo_template: tuple[Path, dict[str, Any]]) -> facelake.Lake:
    """The demo lake itself, for tests that only read."""
    return facelake.open(demo_template[0])


def test_a_config_is_a_path_a_mapping_or_a_config(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("purpose: archive\ncorpus: photos\ngovernance: {dpia: D-1}\n")
    same: dict[str, Any] = {"purpose": "archive", "corpus": "photos"}
    from_file = facelake.open(tmp_path / "lake", config=file).config
    nested = facelake.open(tmp_path / "lake", config=same | {"governance": {"dpia": "D-1"}}).config
    dotted = facelake.open(tmp_path / "lake", config=same | {"governance.dpia": "D-1"}).config
    assert from_file == nested == dotted == facelake.open(tmp_path / "lake", config=dotted).config
    assert facelake.open(tmp_path / "other", config=dotted).config == dotted.model_copy(
        update={"lake": str(tmp_path / "other")}
    )
    with pytest.raises(ConfigError, match="did you mean 'governance"):
        facelake.open(config={"governance.dpiaa": "D-1"})


def test_a_lake_that_does_not_exist_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    absent = facelake.open(tmp_path / "absent", config={"governance.dpia": "D-1"})
    for operation in (absent.status, absent.gallery, absent.nightly, absent.ledger.list, absent.verify):
        with pytest.raises(ConfigError):
            operation()
    assert not (tmp_path / "absent").exists()


def test_results_are_those_of_the_command_line(
    shared_lake: facelake.Lake, demo_template: tuple[Path, dict[str, Any]]
) -> None:
    said = demo_template[1]
    gallery = shared_lake.gallery()
    assert (gallery.info.version, gallery.info.identities, gallery.info.faces) == (
        said["gallery"],
        said["identities"],
        said["faces"],
    )
    assert [info.version for info in shared_lake.galleries()] == [1]
    assert len(gallery.faces) == said["faces"]
    largest = gallery.identities.arrow().slice(0, 1).to_pylist()[0]
    identity = shared_lake.identity(largest["identity_id"])
    assert len(identity.faces()) == largest["size"]
    assert identity.images() == tuple(sorted({face.image_id for face in identity.faces()}))
    status = shared_lake.status()
    assert status.gallery["faces"] == said["faces"]
    assert status.unfinished_erasures == ()
    assert {image.fate for image in shared_lake.images([Fate.REFUSED])} == {Fate.REFUSED}
    assert shared_lake.verify().ok
    assert b"<html" in shared_lake.latest_report()
    assert {event.kind for event in shared_lake.ledger.list()} >= {"grant", "withdraw"}
    with pytest.raises(FrozenInstanceError):
        gallery.info.version = 2  # type: ignore[misc]


def test_rows_are_read_by_pandas_polars_and_duckdb(shared_lake: facelake.Lake) -> None:
    rows = shared_lake.gallery().identities
    frame, polars = rows.pandas(), rows.polars()
    assert len(rows) == len(frame) == polars.height
    assert list(frame["identity_id"]) == polars["identity_id"].to_list()
    assert not {"prototype", "exemplars"} & set(frame.columns)
    assert duckdb.sql("select sum(size) from rows").fetchall() == [(int(frame["size"].sum()),)]
    assert len(shared_lake.table("runs")) >= 5
    with pytest.raises(ConfigError, match="no table 'faces' here"):
        shared_lake.table("faces")


def test_faces_are_explained(shared_lake: facelake.Lake) -> None:
    frame = shared_lake.gallery().faces.pandas()
    pair = frame[frame["identity_id"] == frame["identity_id"].iloc[0]]["face_id"][:2]
    explanation = shared_lake.explain(*pair)
    assert explanation.together
    assert explanation.sentences
    assert explanation.figures["calibration"]


def test_corrections_are_recorded_contradicted_and_undone(lake: facelake.Lake) -> None:
    a, b = lake.gallery().identities.pandas()["identity_id"][:2]
    corrections = lake.corrections.by("R. Viewer")
    record = corrections.distinct(a, b, reason="two people")
    assert (record.kind, record.reviewer, record.counts) == ("distinct", "R. Viewer", True)
    with pytest.raises(Contradiction) as refused:
        corrections.merge(a, b)
    assert refused.value.seqs == (record.seq,)
    undone = corrections.undo(record.seq)
    assert undone.undoes == (record.seq,)
    assert [(row.seq, row.counts) for row in lake.corrections.list()] == [(record.seq, False), (undone.seq, None)]


def test_a_photo_is_erased_and_the_events_are_seen(lake: facelake.Lake) -> None:
    image = lake.identity(lake.gallery().identities.pandas()["identity_id"][0]).images()[0]
    with pytest.raises(ConfigError, match="no image 'no/such/photo'"):
        lake.erase(Request(images=("no/such/photo",)))
    run = lake.follow(lambda lake: lake.erase(Request(images=(image,), copies="keep")))
    events = list(run)
    assert StageStarted("erase", 8, "steps") in events
    assert [event.stage for event in events if isinstance(event, StageFinished)] == ["erase"]
    assert list(run) == []
    assert run.result().certificate.startswith("audit/")
    assert image not in lake.gallery().faces.pandas()["image_id"].tolist()
    assert lake.verify(residual=[image]).ok


def test_a_script_without_a_main_guard_erases(demo_lake: Path, tmp_path: Path) -> None:
    """Photos that no worker has decoded are decoded in another process, which must not run the script again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, facelake\n"
        "from facelake.api import Request\n"
        "print(facelake.open(sys.argv[1]).erase(Request(subjects=('person-4',))).counts['residual_hits'])\n"
    )
    done = subprocess.run([sys.executable, script, demo_lake], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


def test_a_withdrawal_must_match_something(lake: facelake.Lake) -> None:
    before = len(lake.ledger.list())
    with pytest.raises(ConfigError, match="no subject 'nobody-of-this-name'"):
        lake.ledger.withdraw(subjects=["nobody-of-this-name"])
    assert lake.ledger.withdraw(sources=["album"], purposes=["identity-grouping"]) == 1
    assert [record.kind for record in lake.ledger.list()[before:]] == ["withdraw"]


def test_errors_of_a_followed_operation_are_raised_by_its_result(lake: facelake.Lake) -> None:
    with lake._access.write("another"):
        run = lake.follow(lambda lake: lake.nightly(["admit"]))
        assert list(run) == []
        with pytest.raises(Refused, match="being written"):
            run.result()


def test_photos_are_imported_and_processed_by_stages_with_private_files(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        events: list[Event] = []
        lake = facelake.open(tmp_path / "lake", config={"governance.dpia": "D-1"}, on_event=events.append)
        imported = lake.import_images(ROOT / "docs" / "images", grant=Grant("signed release"), source="docs")
        assert imported.counts["imported"] == imported.counts["files"] - imported.counts["skipped"] > 0
        assert imported.counts["granted"] == 1
        assert lake.admit().stage("admit").counts["admitted"] == imported.counts["imported"]
        lake.ledger.record([Entry(EventKind.GRANT, Scope.SOURCE, "later", ("identity-grouping",), "contract")])
        assert any("no source 'later'" in event.text for event in events if isinstance(event, Notice))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (tmp_path / "lake").rglob("*")}
    assert modes == {0}


def test_the_first_examples_of_the_page_run(
    demo_template: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    page = (ROOT / "docs/python-api.md").read_text()
    example = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S)[:2])
    exec(example.replace("facelake-demo/lake", str(demo_template[0])), {})
    assert f"{demo_template[1]['identities']} identities" in capsys.readouterr().out


def test_the_page_names_methods_that_exist() -> None:
    page = (ROOT / "docs/python-api.md").read_text()
    table = page.split("## Methods of a lake")[1].split("## Your own photos")[0]
    parts = {"corrections": facelake.api.Corrections, "ledger": facelake.api.LedgerEvents, "feed": facelake.api.Feed}
    for line in table.splitlines()[4:]:
        if not line.startswith("|"):
            continue
        owner: type = facelake.Lake
        for named in re.findall(r"`([a-z_.]+)(?:\([^`]*)?`", line.split("|")[1]):
            first, _, rest = named.partition(".")
            owner = parts.get(first, owner)
            assert hasattr(owner, rest or first), named
