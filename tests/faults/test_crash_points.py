"""Crashes between any two writes of publish, erase and purge, simulated in this process by a store that fails once."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from facelake.config import Config, load_config
from facelake.erase import Needles
from facelake.lake.directory import DirectoryStore
from facelake.lake.lake import Lake
from facelake.lake.tables import Table
from facelake.nightly import reading, writing
from facelake.stages.erasure.cancelling import cancel_erasure
from facelake.stages.erasure.lake_scan import residual
from facelake.stages.erasure.notes import pending
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase, finish_erasures
from facelake.stages.gallery.publish import publish
from facelake.stages.gallery.versions import current_gallery
from facelake.stages.operations.verify import verify

REQUEST = Request.of(subjects=["person-4"])


class Crash(BaseException):
    """The simulated end of the process, which no handler may catch."""


@contextmanager
def crash_at(call: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Simulate a crash before the given write (commit, purge of a table, object put or delete), counted from one."""
    seen: list[str] = []

    def counted(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
            if kind is DirectoryStore and str(arguments[0]).startswith(("lease", "ledger-lease")):
                return original(self, *arguments, **options)  # a dead process' lease is another suite's matter
            seen.append(f"{name} {getattr(self, 'name', '')}{arguments[:1] if kind is DirectoryStore else ''}")
            if len(seen) == call:
                raise Crash
            return original(self, *arguments, **options)

        patch.setattr(kind, name, wrapped)

    with monkeypatch.context() as patch:
        counted(Table, "commit")
        counted(Table, "purge_history")
        counted(DirectoryStore, "delete")
        counted(DirectoryStore, "write")
        yield seen


def state(config: Config) -> dict[str, str]:
    gallery = current_gallery(Lake.open(config.lake))
    assert gallery is not None
    rows = gallery.read("memberships", ["face_id", "identity_id"])
    return dict(zip(*(c.to_pylist() for c in rows.columns), strict=True))


def problems(config: Config) -> list[str]:
    return [f"{f.check}: {f.problem}" for f in verify(reading(config))[0]]


@pytest.mark.parametrize("every", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_erase_killed_before_each_of_its_writes(
    demo_template: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    undisturbed = None
    for call in range(1, 200, every):
        lake = tmp_path / f"lake-{call}"
        shutil.copytree(demo_template[0], lake)
        config = load_config(lake=str(lake))
        images = [
            i for i in Lake.open(str(lake))["admissions"].read(["image_id"])["image_id"].to_pylist() if "person-4" in i
        ]
        with crash_at(call, monkeypatch) as seen:
            try:
                with writing(config, "erase") as context:
                    erase(context, REQUEST)
            except Crash:
                pass
        audited = [path for path in (lake / "audit").glob("*") if json.loads(path.read_text())["kind"] == "erasure"]
        finished = len(seen) < call
        assert (
            finished
            or not audited
            or seen[-1].startswith(
                ("commit runs", "delete", "write runs", "write ('lease", "write ('runs", "write ('audit")
            )
        ), seen[-1]
        with writing(config, "erase") as context:  # the next night finishes it, or the same command
            result = [*(finish_erasures(context) if call % 2 else ()), erase(context, REQUEST)][-1]
            assert result.counts["residual_hits"] == 0
            assert residual(context, Needles.of([*images, "person-4"]))[1] == {}, seen[-1]
        assert problems(config) == [], seen[-1]
        undisturbed = state(config) if finished else undisturbed
        shutil.rmtree(lake)
        if finished:
            break
    assert call > 15
    assert undisturbed


def test_an_erasure_that_was_killed_and_given_up_leaves_a_gallery_that_can_be_read(
    demo_template: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in range(6, 200, 14):
        lake = tmp_path / f"lake-{call}"
        shutil.copytree(demo_template[0], lake)
        config = load_config(lake=str(lake))
        with crash_at(call, monkeypatch) as seen, contextlib.suppress(Crash), writing(config, "erase") as context:
            erase(context, REQUEST)
        if len(seen) < call:
            break
        with writing(config, "erase") as context:
            if pending(context.lake):
                cancel_erasure(context)
        assert state(config), seen[-1]
        shutil.rmtree(lake)
    assert call > 40


def test_publish_killed_before_each_of_its_writes(
    demo_template: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers see version 1 until version 2 is complete; the rerun gives the same version 2 without repeated events."""
    before = state(load_config(lake=str(demo_template[0])))
    results = []
    for call in range(1, 30):
        lake = tmp_path / f"lake-{call}"
        shutil.copytree(demo_template[0], lake)
        config = load_config(lake=str(lake))
        opened = Lake.open(str(lake))
        groups = opened["groups"].read()
        column = groups.schema.get_field_index("group_id")
        opened["groups"].replace_all(
            groups.set_column(column, "group_id", [[g % 5 for g in groups["group_id"].to_pylist()]])
        )
        with crash_at(call, monkeypatch) as seen:
            try:
                with writing(config, "publish") as context:
                    publish(context)
            except Crash:
                pass
        finished = len(seen) < call
        gallery = current_gallery(Lake.open(str(lake)))
        assert gallery is not None
        assert gallery.version == 2 or state(config) == before
        with writing(config, "publish") as context:
            publish(context)
        assert problems(config) == [], seen[-1]
        changes = Lake.open(str(lake))["changes"].read().to_pylist()
        results.append((state(config), len(changes)))
        shutil.rmtree(lake)
        if finished:
            break
    assert len(results) > 5
    assert all(result == results[0] for result in results)


def test_withdrawn_and_superseded_outcomes_leave_no_trace(demo_lake: Path) -> None:
    """A withdrawal together with a change of the model: rows of both models are removed, and the report that showed them."""
    from tests.conftest import run_json

    config, usual = demo_lake.parent / "c.yaml", demo_lake.parent / "usual.yaml"
    for file in (demo_lake / "corpus").glob("*.parquet"):  # the photos of two people are left: they are embedded twice
        rows = pq.read_table(file)
        kept = pc.match_substring_regex(rows["image_id"], "/person-[67]")
        pq.write_table(rows.filter(kept).replace_schema_metadata(rows.schema.metadata), file)
    usual.write_text("corpus_may_shrink: true\n")
    config.write_text(usual.read_text() + "embed: {min_face_px: 25}\n")
    first = run_json("nightly", "-c", str(config), "--lake", str(demo_lake))
    assert first["stages"]["embed"]["embedded"] == 46
    run_json("ledger", "withdraw", "--subject", "person-6", "--lake", str(demo_lake))
    old_reports = {p.name for p in (demo_lake / "reports").iterdir()}
    second = run_json("nightly", "-c", str(usual), "--lake", str(demo_lake))
    assert second["stages"]["embed"]["embedded"] == 23
    lake = Lake.open(str(demo_lake))
    assert len(set(lake["faces"].read(["model_digest"])["model_digest"].to_pylist())) == 1
    assert not [i for i in lake["faces"].read(["image_id"])["image_id"].to_pylist() if "person-6-" in i]
    assert not (old_reports - {"latest.html"}) & {p.name for p in (demo_lake / "reports").iterdir()}
    assert problems(load_config(lake=str(demo_lake))) == []
    with writing(load_config(lake=str(demo_lake)), "scan") as context:
        faces = {item.key for item in context.lake.store.list("faces")}
        assert len([key for key in faces if key.endswith(".parquet") and "_delta_log" not in key]) == len(
            lake["faces"].snapshot().files
        )
