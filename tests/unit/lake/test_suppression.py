"""A suppression list that lost something is no shorter list: it stops what would admit erased people again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from facelake.config import Config, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import Corrupt
from facelake.lake.lake import Lake
from facelake.lake.suppression import SuppressionList
from facelake.nightly import reading, writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.operations.verify import verify

P = "identity-grouping"


def lake_of(tmp_path: Path) -> tuple[Lake, Path]:
    lake = Lake.create(str(tmp_path / "lake"))
    lake.suppress(["subject:ann"])
    lake.suppress(["image:b", "image:c"])
    lake.suppress_looks([("a", "b")])
    return lake, tmp_path / "lake"


def first(folder: Path) -> Path:
    return sorted((folder / "suppressed").iterdir())[0]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda lake: first(lake).unlink(), "1 files of the suppression list are missing"),
        (lambda lake: shutil.rmtree(lake / "suppressed"), "2 files of the suppression list are missing"),
        (lambda lake: first(lake).write_bytes(first(lake).read_bytes()[:-1]), "was changed"),
        (lambda lake: first(lake).write_bytes(b""), "was changed"),
        (lambda lake: (lake / "suppressed/extra.txt").write_bytes(b"x"), "was changed"),
        (lambda lake: (lake / "suppressed-head.json").unlink(), "pin of the suppression list is missing"),
        (lambda lake: (lake / "suppressed-head.json").write_bytes(b"{"), "pin of the suppression list is damaged"),
        (lambda lake: (lake / "suppressed-head.json").write_bytes(b"{}"), "pin of the suppression list is damaged"),
    ],
)
def test_a_loss_is_noticed(damage: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    lake, folder = lake_of(tmp_path)
    assert len(lake.suppressed()) == 3
    damage(folder)
    with pytest.raises(Corrupt, match=text):
        lake.suppressed()
    with pytest.raises(Corrupt, match="suppression list"):
        lake.suppress(["subject:new"]) or lake.suppressed()  # adding to it does not heal it
    assert lake.suppressed_looks() == [("a", "b")]
    (folder / "suppressed-looks-head.json").unlink()
    with pytest.raises(Corrupt, match="pin of the suppression list is missing"):
        lake.suppressed_looks()


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_crash_between_its_writes_loses_nothing(writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = Lake.create(str(tmp_path / "lake"))
    real, done = lake.store.write, []

    def crash(key: str, data: bytes) -> None:
        if len(done) == writes:
            raise KeyboardInterrupt
        done.append(key)
        real(key, data)

    names = SuppressionList(lake.store, "suppressed", lake.salt)
    for count in (0, 1):
        with monkeypatch.context() as patch:
            done.clear()
            patch.setattr(lake.store, "write", crash)
            if writes < 3 - count:
                with pytest.raises(KeyboardInterrupt):
                    names.add([f"ann {count}"])
        assert set(names.lines()) <= {"ann 0", f"ann {count}"}
        names.add([f"ann {count}"])
        assert f"ann {count}" in names.lines()


def config_of(tmp_path: Path) -> Config:
    return load_config(lake=str(tmp_path / "lake"), overrides={"corpus_may_shrink": True})


def test_an_erased_person_does_not_return_through_a_lost_list(tmp_path: Path) -> None:
    photo = {"image_id": "s/1", "image": b"x", "source_id": "school", "subject_ref": "person-000001"}
    with writing(config_of(tmp_path), "test") as context:
        write_corpus_file(context, [photo])
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P,), "b")])
        admit(context)
        erase(context, Request.of(subjects=["person-000001"]))
        write_corpus_file(context, [photo | {"image": b"another"}])
        assert admit(context).counts["refused_erased"] == 1
        shutil.rmtree(tmp_path / "lake/suppressed")
        with pytest.raises(Corrupt, match="suppression list"):
            admit(context)
    assert any("suppression list" in item.problem for item in verify(reading(config_of(tmp_path)), "suppressed")[0])
    (tmp_path / "lake/suppressed-head.json").unlink()  # both: the audit trail still knows
    references, files = verify(reading(config_of(tmp_path)), "suppressed")[0]
    assert "1 references of erasure" in references.problem
    assert "suppressed has 0 files, and had 1" in files.problem
