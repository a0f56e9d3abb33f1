"""Whoever forgets the key of hashes is told while it can still be chosen: before and when the lake is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.events import Notice
from facelake.nightly import writing
from facelake.stages.core.hash_keys import hash_key_advice, without_hash_key
from tests.conftest import run_cli

FORGOTTEN: dict[str, Any] = {}
MEANT = {"governance.hash_key": None}


def config_of(folder: Path, given: dict[str, Any]) -> Config:
    return load_config(lake=str(folder / "lake"), overrides=given)


def notices_of_making(config: Config) -> list[str]:
    texts: list[str] = []
    with writing(config, "test", lambda event: texts.append(event.text) if isinstance(event, Notice) else None):
        pass
    return [text for text in texts if "hash_key" in text]


def test_a_forgotten_key_is_reported_once(tmp_path: Path) -> None:
    config = config_of(tmp_path, FORGOTTEN)
    before = hash_key_advice(config)
    assert before.new
    assert "before the lake is made" in (before.mend or "")
    (text,) = notices_of_making(config)
    assert "cannot be added later" in text
    after = hash_key_advice(config)
    assert (after.new, after.mend) == (False, None)
    assert "cannot be added" in after.state
    assert notices_of_making(config) == []


@pytest.mark.parametrize("given", [MEANT, {"governance.hash_key": "{folder}/key"}])
def test_a_choice_is_respected(given: dict[str, Any], tmp_path: Path) -> None:
    chosen = {name: value and value.format(folder=tmp_path) for name, value in given.items()}
    config = config_of(tmp_path, chosen)
    assert hash_key_advice(config).mend is None
    assert notices_of_making(config) == []
    assert hash_key_advice(config).mend is None


def test_a_new_key_is_announced_once(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"governance.hash_key": str(tmp_path / "key")})
    texts: list[str] = []
    for _ in range(2):
        with writing(config, "test", lambda event: texts.append(event.text) if isinstance(event, Notice) else None):
            pass
    assert [text for text in texts if "key of hashes" in text] == [
        f"a new key of hashes was made in {tmp_path / 'key'}. Keep a copy: without it no command opens this lake"
    ]


def test_the_demo_does_without(tmp_path: Path) -> None:
    assert notices_of_making(without_hash_key(config_of(tmp_path, FORGOTTEN))) == []
    named = config_of(tmp_path, {"governance.hash_key": "key"})
    assert without_hash_key(named).governance.hash_key == "key"


def test_a_key_that_this_host_lacks_is_missing(tmp_path: Path) -> None:
    named = {"governance.hash_key": str(tmp_path / "key")}
    notices_of_making(config_of(tmp_path, named))
    assert hash_key_advice(config_of(tmp_path, FORGOTTEN)).mend == "set governance.hash_key"
    (tmp_path / "key").unlink()
    assert "restore the file" in (hash_key_advice(config_of(tmp_path, named)).mend or "")
    with pytest.raises(ConfigError):
        notices_of_making(config_of(tmp_path, named))


def test_plan_and_import_say_so(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    lake = str(tmp_path / "lake")
    done = run_cli("import", str(tmp_path / "photos"), "--lake", lake, "--basis", "b")
    assert "a new lake without governance.hash_key" in done.stdout + done.stderr
    (tmp_path / "corpus").mkdir()
    planned = run_cli("plan", "--lake", str(tmp_path / "other"))
    assert planned.returncode == 0 or "corpus" in planned.stderr
