"""The command that writes a first config."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from facelake.cli.command import Invocation, command, program
from facelake.cli.run import app
from facelake.config import USUAL_HASH_KEY, USUAL_LEDGER_COPY, Config, load_config
from facelake.errors import ConfigError


class Place(StrEnum):
    """Where a lake is and what it runs on."""

    DIRECTORY = "directory"
    S3 = "s3"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Answers:
    """The values of a first config; None is written as null, with a comment that says what null means.

    Attributes:
        place: which sections are written.
        lake: a directory or s3://bucket/prefix.
        corpus: location of photos that are already stored; None: those that `facelake import` copies.
        purpose: of the gallery.
        dpia: reference of the impact assessment.
        controller: name of the controller.
        endpoint_url: of a store other than Amazon S3.
        ray_address: of a Ray cluster.
        spark_master: of a Spark cluster.
        hash_key: path of the key of the hashes that stand for erased names.
        ledger_copy: folder of the copy of the ledger.
    """

    place: Place
    lake: str
    corpus: str | None = None
    purpose: str = "identity-grouping"
    dpia: str | None = None
    controller: str | None = None
    endpoint_url: str | None = None
    ray_address: str = "auto"
    spark_master: str = "spark://spark-master:7077"
    hash_key: str | None = None
    ledger_copy: str | None = None


_ESCAPED = re.compile("[\x7f-\x9f\u2028\u2029\ufeff]")
_HASH_KEY_HELP = (
    "key of the hashes of erased names, made with the lake; back it up; null: who has the lake can guess them"
)
_LEDGER_COPY_HELP = "outside of the lake, preferably on another disk: by it a lake restored from a backup is recognised"
_LAKE_HELP = "a directory, or s3://bucket/prefix"


@command(app, config=False, lake=False)
def init(
    call: Invocation,
    *,
    file: Annotated[str, typer.Argument(help="the YAML file to write; an existing one is kept")] = "facelake.yaml",
    lake: Annotated[str | None, typer.Option(help=_LAKE_HELP)] = None,
    place: Annotated[
        Place | None, typer.Option("--for", help="what it runs on; default: directory or s3, by --lake")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(help="photos that are already stored; default: those that `facelake import` copies")
    ] = None,
    purpose: Annotated[str, typer.Option(help="purpose of the gallery")] = "identity-grouping",
    dpia: Annotated[str | None, typer.Option(help="reference of your data-protection impact assessment")] = None,
    controller: Annotated[str | None, typer.Option(help="controller (Art. 4 GDPR)")] = None,
    endpoint_url: Annotated[str | None, typer.Option(help="of a store other than Amazon S3")] = None,
    ray_address: Annotated[str, typer.Option(help="with --for cluster: address of Ray")] = "auto",
    spark_master: Annotated[
        str, typer.Option(help="with --for cluster: master of Spark")
    ] = "spark://spark-master:7077",
    no_check: Annotated[bool, typer.Option("--no-check", help="do not try whether the lake can be written")] = False,
) -> None:
    """Write a commented config and check it. Asks for what is not given; without a terminal, --lake is needed."""
    path = Path(file).expanduser()
    _refuse_existing(path)
    interactive = sys.stdin.isatty()
    if lake is None:
        if not interactive:
            raise ConfigError("no lake is given", where="--lake", next_step=f"add --lake: {_LAKE_HELP}")
        lake = str(typer.prompt(f"Where shall the lake be ({_LAKE_HELP})", default="my-lake"))
    place = place or (Place.S3 if lake.startswith("s3://") else Place.DIRECTORY)
    if interactive:
        dpia = dpia or _asked("Reference of your data-protection impact assessment")
        controller = controller or _asked("Controller, the organisation that is responsible for the data")
    if "://" not in lake:
        # so that the config names the same lake in whichever folder a command runs
        lake = str(Path(lake).expanduser().absolute())
    if corpus is not None and "://" not in corpus:
        corpus = str(Path(corpus).expanduser().absolute())
    answers = Answers(place, lake, corpus, purpose, dpia, controller, endpoint_url, ray_address, spark_master)
    if place is not Place.CLUSTER and (no_check or not _has_lake_without_key(lake, endpoint_url)):
        answers = replace(answers, hash_key=USUAL_HASH_KEY)
    if place is not Place.CLUSTER:
        answers = replace(answers, ledger_copy=USUAL_LEDGER_COPY)
    text = config_text(answers)
    config = load_config(file, read=lambda _: text)  # fails before the file exists
    if place is Place.CLUSTER and not lake.startswith("s3://"):
        call.terminal.warn(f"{lake} must be a folder that every host of the cluster reads and writes")
    if not no_check:
        check_writable(config)
    _write(path, text)
    as_called = program()
    steps = [re.sub("^facelake", lambda _: as_called, step) for step in next_steps(file, answers)]
    call.terminal.say(f"{file} is written; next:")
    for step in steps:
        call.terminal.say(f"  {step}")
    call.terminal.result({"ok": True, "config": str(path), "lake": config.lake, "next": steps})


def _has_lake_without_key(lake: str, endpoint_url: str | None) -> bool:
    """Return whether there is a lake already that was made without a key of hashes, which cannot be added later."""
    from facelake.config import S3Section
    from facelake.lake.lake import Lake

    try:
        return not Lake.open(lake, S3Section(endpoint_url=endpoint_url)).has_key
    except ConfigError:
        return False


def _asked(question: str) -> str | None:
    return str(typer.prompt(f"{question} (empty: later)", default="", show_default=False)).strip() or None


def config_text(answers: Answers) -> str:
    """Return the YAML text of a config, with a comment for each key."""
    lines = [
        "# facelake config, written by `facelake init`. Unknown keys are errors; docs/configuration.md has all.",
        "# This file must not contain secrets: credentials come from the environment.",
        _line("lake", answers.lake, "a directory or s3://bucket/prefix"),
        *_corpus_lines(answers.corpus),
        _line("purpose", answers.purpose, "only photos with a grant for it are processed"),
        "",
        "governance:",
        _line(
            "  dpia", answers.dpia, "reference of your data-protection impact assessment; runs are refused without it"
        ),
        _line("  controller", answers.controller, "controller (Art. 4 GDPR), for the record of processing activities"),
        _line("  lease_days", 90, "how long a matcher may use an export"),
        _line("  hash_key", answers.hash_key, _HASH_KEY_HELP),
        _line("  ledger_copy", answers.ledger_copy, _LEDGER_COPY_HELP),
    ]
    if any((location or "").startswith("s3://") for location in (answers.lake, answers.corpus)):
        lines += [
            "",
            "s3:",
            _line("  endpoint_url", answers.endpoint_url, "of a store other than Amazon S3; null: AWS_ENDPOINT_URL"),
            _line("  region", None, "null: AWS_REGION, else us-east-1"),
        ]
    if answers.place is Place.CLUSTER:
        lines += [
            "",
            "embed:",
            _line("  chunk_rows", 2048, "photos per chunk, which is committed as a unit"),
            "",
            "ray:",
            _line("  address", answers.ray_address, "auto: the cluster of this host or of `ray job submit`"),
            "",
            "spark:",
            _line("  master", answers.spark_master, "settings of spark-submit override it"),
            _line("  driver_memory", "8g", "JVM heap of the driver"),
        ]
    return "\n".join(lines) + "\n"


def _corpus_lines(corpus: str | None) -> list[str]:
    if corpus is None:
        return [_line("corpus", None, "photos that are already stored; null: what `facelake import` copies")]
    return [
        "corpus:",
        _line("  uri", corpus, "photos that are already stored, never written"),
        "  # where a photo's source and person stand, unless its table has these columns (docs/image-stores.md):",
        "  # columns:",
        "  #   source_id: {regex: '^([^/]+)/'}         # the first folder of the path; or {constant: NAME}",
        "  #   subject_ref: {regex: '([^/]+)\\.jpg$'}   # by which a person's photos are found and erased",
    ]


def _line(key: str, value: str | int | None, meaning: str) -> str:
    """Return one key with its comment. A JSON string is a YAML string, but for line ends that YAML would fold."""
    text = _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))
    return f"{key}: {text}".ljust(40) + f"  # {meaning}"


def next_steps(file: str, answers: Answers) -> list[str]:
    """Return the commands that lead from the config to a first gallery, in order; a `#` line is to be done by hand."""
    config = f"-c {shlex.quote(file)}"
    steps = [] if answers.dpia else [f"# set governance.dpia in {file}: runs are refused without it"]
    if answers.corpus:
        steps.append(f"# look at corpus.columns in {file}: where the source and the person of a photo stand")
        steps.append(f"facelake plan {config}")
        grant = f"facelake ledger grant {config} --create-lake --source SOURCE"
        steps.append(f"{grant} --purpose {shlex.quote(answers.purpose)} --basis 'signed release'")
    elif not Path(answers.lake).expanduser().joinpath("corpus").is_dir():  # photos may have been imported before
        steps.append("# --person-from: the first group is the person's reference; this takes 0041 of 0041_2.jpg")
        known = "--person-from '^([^_]+)_'"  # by which a person is found and erased
        steps.append(f"facelake import PHOTOS {config} --basis 'signed release' {known}")
    return [*steps, f"facelake nightly {config}"]


def check_writable(config: Config) -> None:
    """Check that a lake can be made where the config says: rights of a directory, conditional writes of a store.

    Raises:
        ConfigError: it cannot be written or reached.
        Refused: the store ignores conditional writes.
    """
    if config.lake.startswith("s3://"):
        from facelake.lake.store import open_store, probe

        probe(open_store(config.lake, config.s3))
        return
    folder = Path(config.lake.removeprefix("file://")).expanduser().absolute()
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        what = f"{nearest} is no folder that can be written"
        raise ConfigError(what, where="lake", next_step="name another folder, or --no-check for another host's")


def _refuse_existing(path: Path) -> None:
    if path.exists():
        what = "there is a file of that name, which is kept"
        raise ConfigError(what, where=str(path), next_step="name another file, or move it away")


def _write(path: Path, text: str) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as err:
        what = f"the config cannot be written: {err.strerror}"
        raise ConfigError(what, where=str(path), next_step="name a file in a folder that exists") from err
