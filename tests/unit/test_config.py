"""The configuration is validated completely; errors name the key and the next step."""

from __future__ import annotations

from pathlib import Path

import pytest

from facelake.config import Config, conf_dir, load_config
from facelake.errors import ConfigError


def write(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lakes: x", "did you mean 'lake'"),
        ("embed: {chunk_row: 5}", "did you mean 'embed.chunk_rows'"),
        ("chunk_rows: 5", "did you mean 'embed.chunk_rows'"),
        ("zzzz: 5", "remove the key"),
        ("embed: {chunk_rows: 0}", "embed.chunk_rows"),
        ("lake: gs://bucket", "s3://"),
        ("s3: {endpoint_url: 'http://key:secret@host'}", "credentials"),
        ("embed: {nvjpeg: true}", "needs runtime torch and device cuda"),
        ("embed: {nvjpeg: true, runtime: torch, device: cuda, actors: 1, decoders: 2}", "mutually exclusive"),
        ("embed: {runtime: torch, device: 'cuda:1', use_gpu: true}", "without a number"),
        ("embed: {runtime: torch, device: cuda}", "set actors to a number"),
        ("- a", "mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_invalid_configs_name_the_next_step(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match="Next:") as caught:
        load_config(write(tmp_path, text))
    assert said in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such config \[.*none.yaml\]. Next: give the path"):
        load_config(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("name", ["demo", "s3", "cluster"])
def test_shipped_configs_are_valid(name: str) -> None:
    load_config(str(conf_dir() / f"{name}.yaml"))


def test_demo_yaml_is_the_defaults() -> None:
    assert load_config(str(conf_dir() / "demo.yaml")) == Config()


def test_the_lake_option_overrides_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "lake: a"), lake="b")
    assert (config.lake, config.corpus_uri) == ("b", "b/corpus")


@pytest.mark.parametrize("lake", ["s3:/bucket/lake", "s3a://bucket/lake"])
def test_a_mistyped_uri_is_not_taken_for_a_folder(lake: str) -> None:
    with pytest.raises(ConfigError, match=r"^must be a directory or s3://bucket/prefix.*\[--lake "):
        load_config(lake=lake)
    assert load_config(lake="a:b/lake").lake == "a:b/lake"


def test_a_lake_beside_the_config_is_not_made_again_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/my-lake").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    (tmp_path / "home/my.yaml").write_text("lake: my-lake\n")
    monkeypatch.chdir(tmp_path / "else")
    with pytest.raises(ConfigError, match="is in the folder of the config") as caught:
        load_config("../home/my.yaml")
    assert str(tmp_path / "home") in str(caught.value)
    assert load_config("../home/my.yaml", lake="other").lake == "other"
    (tmp_path / "else/my-lake").mkdir()
    assert load_config("../home/my.yaml").lake == "my-lake"
    monkeypatch.chdir(tmp_path / "home")
    assert load_config("my.yaml").lake == "my-lake"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("embed: {actors: 0}", "embed.actors"),
        ("embed: {chunk_rows: many}", "embed.chunk_rows"),
        ("governance: {trusted_keys: [x]}", "governance.trusted_keys.0"),
        ("corpus: {kind: zip}", "corpus.kind"),
        ("model: {accept_lineage: {a: [1]}}", "model.accept_lineage.a"),
    ],
)
def test_an_error_names_the_key_as_the_file_has_it(tmp_path: Path, text: str, key: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "a.yaml"))
    assert caught.value.what.startswith(f"key {key!r}: "), caught.value.what
