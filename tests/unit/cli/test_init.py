"""`facelake init` writes a config that loads, and the commands that it names exist."""

from __future__ import annotations

import json
import os
import pty
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from facelake.cli.command import program
from facelake.cli.init import Answers, Place, check_writable, config_text, next_steps
from facelake.config import load_config
from facelake.contracts import reference
from facelake.errors import ConfigError, Refused
from facelake.lake.lake import Lake
from facelake.testing.servers import Server
from tests.conftest import FACELAKE, run_json
from tests.unit.test_docs import parse

HOSTILE = 'a: "b" # \\ ü\u2028 {x} \x85 \U0001f600'


@pytest.mark.parametrize("place", list(Place))
@pytest.mark.parametrize("lake", ["some/lake", "s3://bucket/lake"])
def test_every_answer_is_in_the_config_as_given(place: Place, lake: str) -> None:
    answers = Answers(place, lake, "s3://photos/2026", HOSTILE, HOSTILE, HOSTILE, "http://127.0.0.1:8333")
    text = config_text(answers)
    config = load_config("a.yaml", read=lambda _: text)
    assert (config.lake, config.corpus.uri, config.purpose) == (
        lake,
        "s3://photos/2026",
        reference(HOSTILE),
    )  # a purpose is a reference
    assert (config.governance.dpia, config.governance.controller) == (reference(HOSTILE), HOSTILE)
    assert config.s3.endpoint_url == "http://127.0.0.1:8333"
    assert (config.ray.address == "auto") == (config.spark.master.startswith("spark://")) == (place is Place.CLUSTER)
    assert all("#" in line for line in text.splitlines() if ": " in line)


@pytest.mark.parametrize("corpus", [None, "photos"])
@pytest.mark.parametrize("dpia", [None, "D-1"])
def test_the_next_commands_exist_and_a_missing_assessment_comes_first(corpus: str | None, dpia: str | None) -> None:
    steps = next_steps("my config.yaml", Answers(Place.DIRECTORY, "lake", corpus, dpia=dpia))
    assert steps[0].startswith("# set governance.dpia") == (dpia is None)
    commands = [step for step in steps if not step.startswith("#")]
    for line in commands:
        assert parse(line.removeprefix("facelake ")).params["config"] == "my config.yaml", line
    assert commands[-1].startswith("facelake nightly")


def test_photos_that_were_imported_before_are_not_imported_again(tmp_path: Path) -> None:
    answers = Answers(Place.DIRECTORY, str(tmp_path / "lake"), None, dpia="D-1")
    assert "--person-from" in next_steps("a.yaml", answers)[1]
    (tmp_path / "lake/corpus").mkdir(parents=True)
    assert next_steps("a.yaml", answers) == ["facelake nightly -c a.yaml"]


def test_a_new_user_gets_a_config_that_runs(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    said = run_json("init", str(file), "--lake", str(tmp_path / "lake"), "--dpia", "D-1")
    assert said["config"] == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not (tmp_path / "lake").exists()
    assert shlex.split(said["next"][1])[:3] == ["facelake", "import", "PHOTOS"]
    kept = file.read_bytes()
    refused = run_json("init", str(file), "--lake", "other", code=2)
    assert refused["error"]["what"] == "there is a file of that name, which is kept"
    assert file.read_bytes() == kept


def test_the_next_steps_are_called_as_the_user_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "bin/facelake"
    script.parent.mkdir()
    script.write_text("")
    script.chmod(0o700)
    monkeypatch.setattr("sys.argv", [str(script), "init"])
    assert program() == str(script)
    monkeypatch.setenv("PATH", str(script.parent))
    assert program() == "facelake"
    monkeypatch.setattr("sys.argv", ["/usr/lib/facelake/__main__.py", "init"])
    assert program() == "facelake"


def test_a_placeholder_is_no_impact_assessment(tmp_path: Path) -> None:
    for text in ("TODO", "tbd.", "n/a"):
        refused = run_json("init", str(tmp_path / "a.yaml"), "--lake", str(tmp_path / "lake"), "--dpia", text, code=2)
        assert "give the reference of the assessment" in json.dumps(refused["error"])
    assert not (tmp_path / "a.yaml").exists()


def test_a_new_lake_gets_a_key_of_hashes_apart_from_it(tmp_path: Path) -> None:
    """Not on a cluster, where every host needs the file, and not where a lake was made without one."""

    def key(name: str, *arguments: str) -> str | None:
        run_json("init", str(tmp_path / name), *arguments)
        return load_config(str(tmp_path / name)).governance.hash_key

    assert key("a.yaml", "--lake", str(tmp_path / "lake")) == "~/.config/facelake/hash-key"
    assert key("b.yaml", "--lake", "s3://bucket/lake", "--no-check") == "~/.config/facelake/hash-key"
    assert key("c.yaml", "--lake", str(tmp_path / "lake"), "--for", "cluster") is None
    Lake.create(str(tmp_path / "old"))
    assert key("d.yaml", "--lake", str(tmp_path / "old")) is None


def test_without_a_terminal_the_lake_must_be_given(tmp_path: Path) -> None:
    done = subprocess.run(
        [*FACELAKE, "init", str(tmp_path / "a.yaml")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no lake is given [--lake]. Next: add --lake" in done.stderr
    assert not (tmp_path / "a.yaml").exists()


def test_on_a_terminal_it_asks(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([*FACELAKE, "init", "a.yaml"], cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, b"lakes/one\nDPIA-7\n\n")
    assert process.wait(60) == 0
    os.close(ours)
    config = load_config(str(tmp_path / "a.yaml"))
    assert (config.lake, config.governance.dpia, config.governance.controller) == (
        str(tmp_path / "lakes/one"),
        "DPIA-7",
        None,
    )


def test_a_lake_that_cannot_be_written_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is no folder that can be written"):
        check_writable(load_config(lake=str(tmp_path / "file" / "lake")))
    done = run_json("init", str(tmp_path / "a.yaml"), "--lake", str(tmp_path / "file" / "lake"), code=2)
    assert done["error"]["where"] == "lake"
    assert not (tmp_path / "a.yaml").exists()


def test_a_store_that_ignores_conditional_writes_is_noticed(rclone: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in rclone.environment().items():
        monkeypatch.setenv(key, value)
    with pytest.raises(Refused, match="ignores conditional writes"):
        check_writable(load_config(lake="s3://bucket/lake"))
