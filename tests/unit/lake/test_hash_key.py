"""Hashes of erased names under a key apart from the lake: who has the lake alone learns nothing of short references."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
import stat
from pathlib import Path
from unittest import mock

import pytest

from facelake.bench import erase as synthetic
from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.nightly import reading, writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase

CLASS = [f"{number:06d}" for number in range(200_000, 200_120)]
"""every reference that a school of this year gave out"""


def config_of(folder: Path, key: str | None = "key") -> Config:
    overrides = {"governance.hash_key": str(folder / key) if key else None, "corpus_may_shrink": True}
    return load_config(lake=str(folder / "lake"), overrides=overrides)


def enumerated(lake: Path) -> set[str]:
    """The references whose hash is somewhere in a stolen lake, by trying each with everything that may be its key."""
    marker = json.loads((lake / "lake.json").read_text())
    body = b"\n".join(path.read_bytes() for path in lake.rglob("*") if path.is_file())
    keys = [bytes.fromhex(value) for name, value in marker.items() if name in ("salt", "hash_key")]
    return {
        name
        for name in CLASS
        for key in keys
        if hmac.new(key, f"subject:{name}".encode(), hashlib.sha256).hexdigest().encode() in body
    }


@pytest.mark.parametrize("key", ["key", None])
def test_who_has_the_lake_alone_cannot_enumerate_the_erased(key: str | None, tmp_path: Path) -> None:
    """Without a key file they can, in milliseconds; docs/threat-model.md says so."""
    config = config_of(tmp_path, key)
    with writing(config, "test") as context:
        with mock.patch.multiple(synthetic, _subject=CLASS.__getitem__, _PER_PERSON=3):
            synthetic.build_lake(context, 30)
        erase(context, Request.of(subjects=[CLASS[4]]))
    assert enumerated(tmp_path / "lake") == (set() if key else {CLASS[4]})
    with writing(config, "test") as context:  # the owner of the key still refuses the person
        photo = {"image_id": "new/1", "image": b"x", "source_id": "new", "subject_ref": CLASS[4]}
        write_corpus_file(context, [photo])
        context.accept_loss = True  # the synthetic lake has no corpus
        assert admit(context).counts["refused_erased"] == 1


def test_the_key_is_made_with_the_lake_and_private(tmp_path: Path) -> None:
    with writing(config_of(tmp_path), "test") as context:
        assert context.lake.salt != bytes.fromhex(json.loads((tmp_path / "lake/lake.json").read_text())["salt"])
    key = tmp_path / "key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key.read_bytes() not in (tmp_path / "lake/lake.json").read_bytes()


def test_a_lake_without_its_key_hashes_nothing_and_makes_no_other(tmp_path: Path) -> None:
    with writing(config_of(tmp_path), "test") as context:
        ident = context.lake.name
    shutil.move(tmp_path / "key", tmp_path / "backup")
    for opened in (reading, lambda config: writing(config, "test").__enter__()):
        with pytest.raises(ConfigError, match="cannot be read"):
            opened(config_of(tmp_path))
    assert not (tmp_path / "key").exists()
    plain = Lake.open(str(tmp_path / "lake"))  # workers open it so, and may read
    assert plain.name == ident
    with pytest.raises(ConfigError, match="need its key"):
        plain.keyed_hash("subject:x")
    (tmp_path / "key").write_text("0" * 64)
    with pytest.raises(ConfigError, match="not that of this lake"):
        reading(config_of(tmp_path))
    (tmp_path / "key").write_text("not a key")
    with pytest.raises(ConfigError, match="64 hex digits"):
        reading(config_of(tmp_path))


def test_a_lake_made_without_a_key_gets_none_later(tmp_path: Path) -> None:
    with writing(config_of(tmp_path, None), "test"):
        pass
    with pytest.raises(ConfigError, match=r"made without governance\.hash_key"):
        reading(config_of(tmp_path))
    assert not (tmp_path / "key").exists()
