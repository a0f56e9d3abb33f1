"""Bad input: one line that says what, where and what next; exit code 2 or 1; nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.config import Config
from facelake.stages.models.registry import cache_folder
from facelake.testing.servers import Server
from tests.conftest import SHARED, run_cli, run_json
from tests.e2e.test_london import assessed


def state(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def fails(folder: Path, *arguments: str, code: int, said: str, env: dict[str, str] | None = None) -> str:
    before = state(folder)
    done = run_cli(*arguments, "--json", env=env)
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "Next: " in line
    assert "Traceback" not in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is False
    assert state(folder) == before
    return line


def corpus_of(folder: Path, **columns: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder


def test_missing_corpus(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    run_cli("ledger", "grant", "--source", "s", "--basis", "b", "--purpose", "p", "--create-lake", "--lake", lake)
    fails(tmp_path, "nightly", "--lake", lake, code=2, said="corpus is missing")


def test_no_lake(tmp_path: Path) -> None:
    for command in ("nightly", "verify", "erase", "gallery list", "ledger list"):
        fails(tmp_path, *command.split(), "--lake", str(tmp_path / "none"), code=2, said="no facelake lake at this URI")


def test_corpus_without_the_columns(tmp_path: Path, demo_lake: Path) -> None:
    corpus_of(demo_lake / "corpus", image_id=["a"], picture=[b""])
    fails(demo_lake, "nightly", "--lake", str(demo_lake), code=2, said="lacks the column(s) image, source_id")


def test_corpus_with_wrong_types(demo_lake: Path) -> None:
    corpus_of(demo_lake / "corpus", image_id=[1], image=[b""], source_id=["s"])
    fails(demo_lake, "nightly", "--lake", str(demo_lake), code=2, said="image_id is int64")


@pytest.mark.parametrize("keep", [0, 4, 1000, -8, -1])
def test_truncated_parquet(demo_lake: Path, keep: int) -> None:
    path = demo_lake / "corpus/demo-0.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    line = fails(demo_lake, "nightly", "--lake", str(demo_lake), code=2, said="truncated or damaged")
    assert "demo-0.parquet" in line


def test_damaged_parquet_inside(demo_lake: Path) -> None:
    """The footer is whole, the pages are not: found while ids are read, before anything is written."""
    path = demo_lake / "corpus/demo-0.parquet"
    data = bytearray(path.read_bytes())
    data[4 : len(data) - 4000] = bytes(len(data) - 4004)
    path.write_bytes(bytes(data))
    fails(demo_lake, "nightly", "--lake", str(demo_lake), code=2, said="demo-0.parquet")


def test_broken_parquet_of_the_wild(demo_lake: Path, shared: Path) -> None:
    for path in (shared / "data/hostile/parquet_bad").iterdir():
        shutil.copy(path, demo_lake / "corpus" / path.name)
        fails(demo_lake, "nightly", "--lake", str(demo_lake), code=2, said=path.name)
        (demo_lake / "corpus" / path.name).unlink()
    assert SHARED.is_dir()


def test_wrong_model_digest(demo_lake: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(cache_folder(Config()), cache)
    for path in cache.glob("*sface*"):
        path.write_bytes(b"other weights")
    env = {"FACELAKE_CACHE": str(cache)}
    fails(demo_lake, "nightly", "--lake", str(demo_lake), code=2, said="model file has digest", env=env)


def test_model_without_a_card(demo_lake: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("model: {card: arcface}\n")
    fails(demo_lake, "nightly", "-c", str(config), "--lake", str(demo_lake), code=2, said="no model card")


def test_unreachable_store(tmp_path: Path) -> None:
    env = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "hush-hush"}
    line = fails(tmp_path, "nightly", "--lake", "s3://bucket/lake", code=1, said="127.0.0.1:9 does not answer", env=env)
    assert "hush" not in line


def test_a_store_that_ignores_conditions(tmp_path: Path, rclone: Server) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"\xff\xd8\xff")
    done = run_cli("import", str(photos), "--basis", "b", "--lake", "s3://bucket/lake", env=rclone.environment())
    assert done.returncode == 1
    assert "ignores conditional writes" in done.stderr


def test_lake_of_a_newer_version(demo_lake: Path) -> None:
    marker = json.loads((demo_lake / "lake.json").read_text())
    (demo_lake / "lake.json").write_text(json.dumps(marker | {"format": 99}))
    for command in ("nightly", "verify", "report"):
        fails(demo_lake, command, "--lake", str(demo_lake), code=1, said="format 99")


def test_table_of_a_newer_format(demo_lake: Path) -> None:
    log = sorted((demo_lake / "faces/_delta_log").glob("*.json"))
    newer = {"protocol": {"minReaderVersion": 9, "minWriterVersion": 9}}
    (log[0].parent / f"{len(log):020d}.json").write_text(json.dumps(newer) + "\n")
    fails(demo_lake, "nightly", "--lake", str(demo_lake), code=1, said="faces")


def test_lake_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("")
    fails(tmp_path, "verify", "--lake", str(tmp_path / "lake"), code=2, said="not a directory")


def test_import_arguments(tmp_path: Path) -> None:
    lake = str(tmp_path / "lake")
    fails(tmp_path, "import", str(tmp_path / "none"), "--lake", lake, code=2, said="no such folder")
    fails(
        tmp_path, "import", str(tmp_path), "--person-from", "(", "--lake", lake, code=2, said="not a regular expression"
    )
    (tmp_path / "a.jpg").write_bytes(b"x")
    fails(tmp_path, "import", str(tmp_path / "a.jpg"), "--lake", lake, code=2, said="not a folder or .tar file")
    (tmp_path / "empty").mkdir()
    assert run_cli("import", str(tmp_path / "empty"), "--lake", lake).returncode == 2


def test_bad_config_and_arguments(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("lakes: x\n")
    fails(tmp_path, "nightly", "-c", str(config), code=2, said="did you mean 'lake'")
    fails(tmp_path, "nightly", "-c", str(tmp_path / "none.yaml"), code=2, said="there is no such config")
    fails(tmp_path, "nightly", "--only", "embde", "--lake", str(tmp_path / "x"), code=2, said="no stage 'embde'")
    assert run_cli("nightly", "--no-such-option").returncode == 2
    assert run_cli("ledger", "grant", "--basis", "b", "--purpose", "p", "--lake", str(tmp_path / "x")).returncode == 2


def test_two_nights_at_once(demo_lake: Path) -> None:
    from facelake.lake.lake import Lake
    from facelake.lake.lease import Lease

    with Lease(Lake.open(str(demo_lake)).store, "the other night"):
        done = run_cli("nightly", "--lake", str(demo_lake))
    assert done.returncode == 1
    assert "the lake is being written by process" in done.stderr


def test_a_wrong_corpus_does_not_empty_the_gallery(demo_lake: Path, tmp_path: Path) -> None:
    corpus_of(tmp_path / "other", image_id=["a"], image=[b""], source_id=["s"])
    config = tmp_path / "c.yaml"
    config.write_text(f"corpus: {tmp_path / 'other'}\ngovernance: {{dpia: DPIA-1, controller: A School}}\n")
    fails(demo_lake, "nightly", "-c", str(config), "--lake", str(demo_lake), code=1, said="no longer in the corpus")


def test_a_purpose_that_was_not_granted_gives_no_gallery(demo_lake: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("purpose: marketing\n")
    done = run_cli("publish", "-c", str(config), "--lake", str(demo_lake), "--json")
    assert done.returncode == 1
    # a purpose without grants is as likely mistyped: the run stops before it removes the gallery of the other purpose
    assert "'marketing'" in done.stderr
    assert "run `facelake nightly --accept-loss`" in done.stderr


def test_importing_again_revives_nothing(demo_lake: Path, tmp_path: Path) -> None:
    photos = tmp_path / "trip"
    photos.mkdir()
    row = pq.read_table(demo_lake / "corpus/demo-0.parquet").slice(0, 1).to_pylist()[0]
    (photos / "x.jpg").write_bytes(row["image"])
    assert (
        run_cli("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake)).returncode
        == 0
    )
    grant = [
        "--source",
        "trip",
        "--basis",
        "b",
        "--purpose",
        "identity-grouping",
        "--until",
        "2020-01-01",
        "--from",
        "2019-01-01",
    ]
    assert run_cli("ledger", "grant", *grant, "--lake", str(demo_lake)).returncode == 0
    assert (
        "importing does not renew it"
        in run_cli("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake)).stderr
    )
    night = json.loads(run_cli("admit", "--lake", str(demo_lake), "--json").stdout.splitlines()[-1])
    assert night["stages"]["admit"]["refused_expired"] == 9


def test_odd_names_are_skipped_or_taken_and_said(demo_lake: Path, tmp_path: Path) -> None:
    photos = tmp_path / "odd"
    photos.mkdir()
    row = pq.read_table(demo_lake / "corpus/demo-0.parquet").slice(0, 1).to_pylist()[0]
    for name in (b"caf\xe9.jpg", "grüße [bold] #1.jpg".encode(), b"line\nbreak.jpg"):
        Path(photos, name.decode("utf-8", "surrogateescape")).write_bytes(row["image"])
    done = run_cli("import", str(photos), "--basis", "b", "-c", assessed(tmp_path), "--lake", str(demo_lake), "--json")
    assert json.loads(done.stdout.splitlines()[-1])["imported"] == 2, done.stderr
    assert "names that are not UTF-8: caf" in done.stderr
    erase = ("erase", "--image", "odd/grüße [bold] #1.jpg", "--lake", str(demo_lake))
    asked = run_cli(*erase, "--yes")  # its bytes are a demo photo's
    assert (asked.returncode, "--with-copies" in asked.stderr) == (2, True)
    assert run_cli(*erase, "--yes", "--keep-copies").returncode == 0


def test_bad_arguments_still_end_in_json(tmp_path: Path) -> None:
    done = run_cli("nightly", "--no-such-option", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])["ok"] is False


def test_a_night_without_a_photo_fails_on_demand(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(next((SHARED / "data/london").rglob("*.jpg")), folder)
    config, lake = assessed(tmp_path), str(tmp_path / "lake")
    done = run_cli("import", str(folder), "--no-grant", "-c", config, "--lake", lake)
    assert "facelake ledger grant --source photos" in done.stdout
    assert "1 photo without a subject reference" in done.stdout
    for options, code in ([], 0), (["--fail-on-alert"], 1), (["--fail-on-alert"], 1):  # the report is not written again
        done = run_cli("nightly", "-c", config, "--lake", lake, "--json", *options)
        assert (done.returncode, json.loads(done.stdout)["ok"]) == (code, True)
        assert json.loads(done.stdout)["stages"]["report"]["to_act_on"] == 1
    quiet = run_cli("nightly", "-c", config, "--lake", lake, "--quiet", "--fail-on-alert")
    assert (quiet.returncode, quiet.stdout) == (1, "")
    (line,) = quiet.stderr.splitlines()  # a job's log says why it failed
    alert = f"alert: Every photo was refused; no photo may be processed; report: {lake}/reports/latest.html"
    assert line.startswith(f"{alert} [")
    said = run_cli("nightly", "-c", config, "--lake", lake)
    assert "alerts in the report: 1 with action required" in said.stdout.splitlines()
    assert run_json("report", "-c", config, "--lake", lake)["stages"]["report"]["pages"] == 1  # asked for by name
    run_json(
        "ledger",
        "grant",
        "--source",
        "fotos",
        "--purpose",
        "identity-grouping",
        "--basis",
        "b",
        "--even-if-unknown",
        "-c",
        config,
        "--lake",
        lake,
    )
    told = run_cli("nightly", "-c", config, "--lake", lake).stderr
    assert "The grant for 'fotos' covers no photo; the corpus has 'photos'." in told
