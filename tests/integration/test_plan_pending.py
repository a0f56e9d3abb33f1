"""plan says what the admissions do not know yet, instead of "to embed 0" after an import."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

from facelake.stages.embedding.plan import next_run_in_words
from tests.conftest import run_cli, run_json


def photos(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return str(folder)


def planned(*options: str) -> dict[str, Any]:
    said = run_json("plan", *options)
    return {
        key: said.get(key) for key in ("to_embed", "not_decided", "now_allowed", "now_refused", "next_run", "notes")
    }


def test_new_photos_and_ledger_events_are_named_until_admit_has_run(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: D, controller: C}}\n")
    at = ("-c", str(tmp_path / "c.yaml"))
    decided = dict.fromkeys(("not_decided", "now_allowed", "now_refused"), 0) | {
        "to_embed": 3,
        "next_run": 3,
        "notes": [],
    }
    folder = photos(tmp_path / "a", "ann_1.jpg", "ann_2.jpg", "bo_1.jpg")
    run_json("import", folder, *at, "--basis", "b", "--person-from", "(.+)_")
    first = planned(*at)
    assert (first["to_embed"], first["not_decided"]) == (3, 3)
    assert (first["now_allowed"], first["now_refused"], first["next_run"]) == (0, 0, 3)
    assert run_cli("plan", *at).stdout.startswith("the next run: about 3 photos to embed (3 new)\n")
    keys = set(run_json("plan", *at))
    assert "same_content" in keys
    [note] = first["notes"]
    assert "none was checked against the ledger yet" in note
    run_json("admit", *at)
    assert set(run_json("plan", *at)) == keys  # the same figures in every state
    assert planned(*at) == decided
    run_json("import", photos(tmp_path / "b", "x.jpg", "y.jpg"), *at, "--no-grant")
    second = planned(*at)
    assert (second["to_embed"], second["not_decided"]) == (3, 2)
    assert "2 photos" in second["notes"][0]
    assert "`facelake admit`" in second["notes"][-1]
    shown = run_cli("plan", *at).stdout
    assert "2 photos new since the last `facelake admit`; `to embed` does not count them" in shown
    run_json("admit", *at)
    run_json("ledger", "grant", "--source", "b", "--purpose", "identity-grouping", "--basis", "b", *at)
    run_json("ledger", "withdraw", "--subject", "ann", *at)
    nothing = {"next_run": 0, "decided": 3, "to_embed": 0, "not_decided": 0, "now_allowed": 0}
    assert (
        next_run_in_words(nothing) == "the next run: no photo to embed, unless photos were replaced by as many others"
    )
    third = planned(*at)
    assert (third["not_decided"], third["now_allowed"], third["now_refused"]) == (0, 2, 2)
    assert (third["to_embed"], third["next_run"]) == (3, 5)
    assert run_cli("plan", *at).stdout.startswith(
        "the next run: about 5 photos to embed (3 checked, 2 newly allowed)\n"
    )
    run_json("admit", *at)
    assert planned(*at) == decided


def test_erased_photos_that_the_store_still_has_are_not_pending(tmp_path: Path) -> None:
    folder = photos(tmp_path / "store", "a.jpg", "b.jpg", "c.jpg")
    config = tmp_path / "c.yaml"
    corpus = f"{{uri: {folder}, kind: files, columns: {{source_id: {{constant: s}}}}}}"
    config.write_text(f"lake: {tmp_path / 'lake'}\ncorpus: {corpus}\ngovernance: {{dpia: D, controller: C}}\n")
    at = ("-c", str(config))
    grant = ("--source", "s", "--purpose", "identity-grouping", "--basis", "b")
    run_json("ledger", "grant", *grant, "--create-lake", *at)
    run_json("admit", *at)
    run_json("erase", "--image", "a.jpg", "--yes", *at)
    run_json("admit", *at)
    assert planned(*at)["not_decided"] == 0
    (tmp_path / "store/a.jpg").unlink()
    run_json("admit", *at)  # changes nothing, so no run is recorded
    photos(tmp_path / "store", "d.jpg")
    assert planned(*at)["not_decided"] == 1
    run_json("erase", "--image", "b.jpg", "--yes", *at)
    assert planned(*at)["not_decided"] == 1  # before the next `admit`, which removes the row of b.jpg
    run_json("admit", *at)
    assert planned(*at)["not_decided"] == 0


def test_photos_with_the_bytes_of_a_withdrawn_one_are_decided_as_admit_does(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: D, controller: C}}\n")
    at = ("-c", str(tmp_path / "c.yaml"))
    folder = photos(tmp_path / "a", "ann_1.jpg", "bo_1.jpg", "bo_2.jpg")
    (tmp_path / "a/bo_1.jpg").write_bytes((tmp_path / "a/ann_1.jpg").read_bytes())
    run_json("import", folder, *at, "--basis", "b", "--person-from", "(.+)_")
    run_json("admit", *at)
    run_json("ledger", "withdraw", "--subject", "ann", *at)
    before = planned(*at)
    assert (before["now_allowed"], before["now_refused"]) == (0, 2)  # bo_1.jpg too
    assert run_json("admit", *at)["stages"]["admit"]["refused_withdrawn"] == 2
    after = planned(*at)
    assert (after["now_allowed"], after["now_refused"], after["notes"]) == (0, 0, [])
    run_json("ledger", "grant", "--subject", "ann", "--purpose", "identity-grouping", "--basis", "b", *at)
    assert planned(*at)["now_allowed"] == 2
    assert run_json("admit", *at)["stages"]["admit"]["admitted"] == 3


def test_a_new_tar_file_is_named_without_reading_it(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    folder.mkdir()

    def add(name: str) -> None:
        with tarfile.open(folder / name, "w") as tar:
            tar.add(photos(tmp_path / "p", f"{name}.jpg") + f"/{name}.jpg", f"{name}.jpg")

    add("0.tar")
    config = tmp_path / "c.yaml"
    corpus = f"{{uri: {folder}, kind: webdataset, columns: {{source_id: {{constant: s}}}}}}"
    config.write_text(f"lake: {tmp_path / 'lake'}\ncorpus: {corpus}\ngovernance: {{dpia: D, controller: C}}\n")
    at = ("-c", str(config))
    run_json("ledger", "grant", "--source", "s", "--purpose", "identity-grouping", "--basis", "b", "--create-lake", *at)
    run_json("admit", *at)
    assert planned(*at)["notes"] == []
    add("1.tar")
    assert "1 corpus file" in planned(*at)["notes"][0]


def test_a_run_that_would_stop_is_announced(tmp_path: Path) -> None:
    """As many photos are refused by a slip in the dates as stop `admit`; withdrawals stop nothing."""
    (tmp_path / "c.yaml").write_text(f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: D, controller: C}}\n")
    at = ("-c", str(tmp_path / "c.yaml"))
    names = [f"{person}_{number}.jpg" for person in ("ann", "bo") for number in range(5)]
    run_json("import", photos(tmp_path / "a", *names), *at, "--basis", "b", "--person-from", "(.+)_")
    run_json("admit", *at)
    stops = "the next run stops before it removes any of them"
    run_json("ledger", "withdraw", "--subject", "ann", *at)
    assert planned(*at)["now_refused"] == 5
    assert not any(stops in note for note in planned(*at)["notes"])
    ended = ("--source", "a", "--purpose", "identity-grouping", "--basis", "b", "--until", "2026-01-01")
    run_json("ledger", "grant", *ended, *at)
    assert any(stops in note for note in planned(*at)["notes"])
    assert "this run would remove the faces of 5 of 5" in run_json("admit", *at, code=1)["error"]["what"]


def test_a_lake_that_cannot_be_opened_is_not_an_empty_one(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    (tmp_path / "key").write_text("11" * 32 + "\n")
    (tmp_path / "key").chmod(0o600)
    config.write_text(
        f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: D, controller: C, hash_key: {tmp_path / 'key'}}}\n"
    )
    run_json("import", photos(tmp_path / "a", "ann_1.jpg"), "-c", str(config), "--basis", "b")
    assert planned("-c", str(config))["next_run"] == 1
    (tmp_path / "key").write_text("22" * 32 + "\n")
    assert "is not that of this lake" in run_json("plan", "-c", str(config), code=2)["error"]["what"]


def test_rows_without_a_photo_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"lake: {tmp_path / 'lake'}\ngovernance: {{dpia: D, controller: C}}\n")
    at = ("-c", str(tmp_path / "c.yaml"))
    run_json("import", photos(tmp_path / "a", "ann.jpg", "bo.jpg", "cy.jpg"), *at, "--basis", "b")
    run_json("admit", *at)
    run_json("erase", "--image", "a/bo.jpg", "--yes", *at)
    read = run_json("admit", *at)["stages"]["admit"]["read"]
    figures = run_json("plan", *at)
    assert (read, figures["images"], figures["decided"], figures["not_decided"]) == (2, 2, 2, 0)
