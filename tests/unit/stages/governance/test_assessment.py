"""No photos of real people are processed without an impact assessment, whatever the lake began as."""

from __future__ import annotations

from pathlib import Path

import pytest

import facelake
from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.nightly import run_night, writing
from facelake.partitions import in_partition
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.governance.processing_register import require_assessment


@pytest.fixture
def demo(tmp_path: Path) -> Config:
    """The config of a lake that `facelake demo` made."""
    config = load_config(lake=str(tmp_path / "lake"))
    with writing(config, "test") as context:
        context.lake.mark_as_demo()
    return config


def with_(config: Config, **keys: object) -> Config:
    return load_config(lake=config.lake, overrides={key.replace("__", "."): value for key, value in keys.items()})


def test_photos_come_into_a_demo_lake_only_with_an_assessment(demo: Config, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="made by `facelake demo`"):
        facelake.open(config=demo).import_images(tmp_path / "s", grant=None)
    stated = with_(demo, governance__dpia="D-1")
    assert facelake.open(config=stated).import_images(tmp_path / "s", grant=None).counts["imported"] == 1


def test_a_demo_lake_over_a_corpus_elsewhere_needs_an_assessment(demo: Config, tmp_path: Path) -> None:
    require_assessment(demo)
    with pytest.raises(ConfigError, match="impact assessment"):
        require_assessment(with_(demo, corpus={"uri": str(tmp_path / "photos")}))


def test_no_stage_runs_without_an_assessment(tmp_path: Path) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    with writing(config, "test") as context:
        write_corpus_file(context, [{"image_id": "s/1", "image": b"x", "source_id": "s"}])
    for stage in ("admit", "embed", "cluster", "publish", "report"):
        with pytest.raises(ConfigError, match="impact assessment"):
            run_night(config, only=[stage])


@pytest.mark.parametrize("blank", ["", " ", "\u200b\u00a0"])
def test_a_blank_is_no_assessment(tmp_path: Path, blank: str) -> None:
    with pytest.raises(ConfigError, match="dpia"):
        load_config(lake=str(tmp_path / "lake"), overrides={"governance.dpia": blank})
    assert load_config(overrides={"governance.dpia": " DPIA-1 "}).governance.dpia == "DPIA-1"


@pytest.mark.parametrize("name", ["signing_key", "hash_key"])
@pytest.mark.parametrize("where", ["lake/keys/key", "link/key", "lake/../lake/key"])
def test_a_key_file_inside_the_lake_is_refused(tmp_path: Path, name: str, where: str) -> None:
    """Whoever copies the lake would have what its hashes and signatures rest on."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "lake")
    for lake, more in (
        (tmp_path / "lake", {}),
        (tmp_path / "lake", {"gallery.partition_by": "source_id", "partition": "a"}),
    ):
        config = load_config(lake=str(lake), overrides={f"governance.{name}": str(tmp_path / where), **more})
        with pytest.raises(ConfigError, match="inside the lake"), writing(in_partition(config), "test"):
            pass
    assert not any((tmp_path / "lake").rglob("*"))
    outside = load_config(
        lake=str(tmp_path / "lake"), overrides={f"governance.{name}": str(tmp_path / "lake-keys/key")}
    )
    with writing(outside, "test") as context:
        context.signer()


def test_a_host_without_one_of_the_pinned_keys_makes_none(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    keys = {"governance.signing_key": str(key), "governance.trusted_keys": ["0" * 32]}
    config = load_config(lake=str(tmp_path / "lake"), overrides=keys)
    with writing(config, "test") as context, pytest.raises(ConfigError, match="this host has no signing key"):
        context.signer()
    assert not key.exists()
