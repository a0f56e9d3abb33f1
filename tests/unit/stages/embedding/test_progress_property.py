"""Whatever happens to the ledger, the model and the process: after a run, outcomes are those of the admitted photos."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from facelake.bench.stage_costs import face_rows
from facelake.config import Config, load_config
from facelake.contracts import Chunk, ChunkReceipt, Covers, DataFileName, EventKind, Scope, SourceClass
from facelake.embed import Pack
from facelake.engines.chunk_worker import ChunkTask, WorkerSpec
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, evidence_digest, record
from facelake.stages.core.context import Context
from facelake.stages.embedding import embed as stage
from facelake.stages.embedding.outcomes import remove_outcomes
from facelake.stages.embedding.progress import OUTCOMES
from tests.faults.test_crash_points import Crash, crash_at

_FILES, _ROWS, _PEOPLE, _STEPS = 3, 7, 4, 10
MODELS = ("a" * 32, "b" * 32)


class _Embedder:
    """In place of workers: a face for each photo, without looking at it."""

    size = running = 1

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec, self._lake = spec, Lake.open(spec.lake_uri, spec.s3)
        admissions = self._lake["admissions"].read(["corpus_file", "corpus_row", "image_id", "content_sha256"])
        self._rows = {(row["corpus_file"], row["corpus_row"]): row for row in admissions.to_pylist()}

    def run(self, tasks: Iterator[ChunkTask]) -> Iterator[ChunkReceipt]:
        for task in tasks:
            yield from map(self._receipt, task.chunks)

    def _receipt(self, chunk: Chunk) -> ChunkReceipt:
        digest, count = self._spec.model_digest, len(chunk.rows)
        rows = face_rows(digest, random.getrandbits(30), np.ones((count, 4), np.float32))
        given: dict[str, list[Any]] = {"corpus_file": [chunk.corpus_file] * count, "corpus_row": list(chunk.rows)}
        given["covers"] = [Covers.NAMED if row in chunk.named_only else Covers.EVERYONE for row in chunk.rows]
        for name in ("image_id", "content_sha256"):
            given[name] = [self._rows[chunk.corpus_file, row][name] for row in chunk.rows]
        for name, values in given.items():
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), pa.array(values, rows.schema.field(at).type))
        staged = self._lake["faces"].stage(rows, DataFileName.of_chunk(digest, chunk.corpus_file, chunk.row_start))
        return ChunkReceipt(chunk, staged, embedded=count, face_rows=count)

    def close(self) -> None:
        """Nothing to stop."""


def person(number: int) -> str:
    return f"person-{number}"


def grant(key: str, kind: EventKind = EventKind.GRANT, covers: Covers = Covers.EVERYONE) -> Entry:
    if kind is not EventKind.GRANT:
        return Entry(kind, Scope.SUBJECT, key)
    evidence, purpose = evidence_digest("x"), Config().purpose
    more = {"evidence_sha256": evidence, "covers": covers, "source_class": SourceClass.CONTRIBUTED}
    return Entry(kind, Scope.SUBJECT, key, (purpose,), "signed", **more)  # type: ignore[arg-type]


def build(config: Config) -> None:
    """Photos of four people, some of them in two files under two names; everybody agreed."""
    with writing(config, "test") as context:
        context.lake.mark_as_demo()
        for file in range(_FILES):
            rows: list[dict[str, object]] = []
            for row in range(_ROWS):
                who = (file + row) % _PEOPLE
                content = f"{who}-{row}" if row < 2 else f"{file}-{row}"
                more = {"source_id": "s", "subject_ref": person(who), "content_sha256": evidence_digest(content)}
                rows.append({"image_id": f"{file}/{row}.jpg", "image": b"", **more})
            write_corpus_file(context, rows, f"part-{file}.parquet")
        record(context.lake, [grant(person(number)) for number in range(_PEOPLE)])


def outcomes(context: Context) -> dict[str, set[tuple[str, str, str]]]:
    """(image, content, cover) of the outcomes by model."""
    rows = context.lake["faces"].read(["model_digest", "image_id", "content_sha256", "covers"])
    found: dict[str, set[tuple[str, str, str]]] = {model: set() for model in MODELS}
    for model, *what in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        found[model].add(tuple(what))
    assert sum(map(len, found.values())) == rows.num_rows  # no outcome twice
    return found


def admitted(context: Context) -> set[tuple[str, str, str]]:
    names = ["image_id", "content_sha256", "covers", "admitted"]
    rows = context.lake["admissions"].read(names).to_pylist()
    return {tuple(row[name] for name in names[:3]) for row in rows if row["admitted"]}  # type: ignore[misc]


Night = Callable[[Config, str], Context]


@pytest.fixture
def night(pack: Pack, monkeypatch: pytest.MonkeyPatch) -> Night:
    monkeypatch.setattr(stage, "_engine", lambda context, spec, photos: _Embedder(spec))

    def run(config: Config, model: str) -> Context:
        with writing(config, "test") as context:
            context.pack, context.model_digest, context.accept_loss = pack, model, True
            admit(context)
            stage.embed(context)
        return context

    return run


def change(config: Config, dice: random.Random) -> str:
    """Something happens to the ledger; returns what."""
    who, what = person(dice.randrange(_PEOPLE)), dice.choice(["grant", "withdraw", "narrow", "expire"])
    entry = {
        "grant": grant(who),
        "withdraw": grant(who, EventKind.WITHDRAW),
        "narrow": grant(who, covers=Covers.NAMED),
        "expire": grant(who, EventKind.EXPIRE),
    }[what]
    record(Lake.open(config.lake), [entry])
    return f"{what} {who}"


@pytest.mark.parametrize("seed", range(3))
def test_outcomes_are_those_of_the_admitted_photos(
    seed: int, tmp_path: Path, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(seed)
    config = load_config(lake=str(tmp_path / "lake"))
    build(config)
    model, story = MODELS[0], []
    for _ in range(_STEPS):
        for _ in range(dice.randrange(1, 3)):
            story.append(change(config, dice))
        if dice.random() < 0.3:
            model = dice.choice(MODELS)
        rows = dice.choice([2, 3, 3, 3, 10])
        config = load_config(lake=config.lake, overrides={"embed": {"chunk_rows": rows, "commit_every_chunks": 1}})
        story.append(f"{model[0]} by {rows}")
        if dice.random() < 0.5:
            with crash_at(dice.randrange(1, 12), monkeypatch) as seen:
                try:
                    night(config, model)
                except Crash:
                    story.append(f"killed before {seen[-1]}")
        context = night(config, model)
        found, wanted = outcomes(context), admitted(context)
        assert found[model] == wanted, story
        assert all(others <= wanted for others in found.values()), story


def test_a_withdrawal_after_a_new_grant_sweeps_again(tmp_path: Path, night: Night) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    build(config)
    for kind in (EventKind.GRANT, EventKind.WITHDRAW, EventKind.GRANT, EventKind.WITHDRAW) * 2:
        record(Lake.open(config.lake), [grant(person(1), kind)])
        context = night(config, MODELS[0])
        assert outcomes(context)[MODELS[0]] == admitted(context)
        assert len(admitted(context)) == (_FILES * _ROWS if kind is EventKind.GRANT else _FILES * _ROWS - 5)


def test_a_model_that_comes_back_embeds_again(tmp_path: Path, night: Night) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    build(config)
    for model in (*MODELS, *MODELS):
        context = night(config, model)
        found = outcomes(context)
        assert found.pop(model) == admitted(context)
        assert not any(found.values())


def test_photos_whose_outcomes_were_removed_are_embedded_again_wherever_the_removal_was_killed(
    tmp_path: Path, night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for marks of not a face, for decoders that were installed, and for erasures that are cancelled."""
    config = load_config(lake=str(tmp_path / "lake"))
    build(config)
    wanted = admitted(night(config, MODELS[0]))
    removed = pa.array([f"{file}/{row}.jpg" for file in (0, 2) for row in range(3)])
    for call in range(1, 20):
        crash = crash_at(call, monkeypatch)
        with writing(config, "test") as context, crash as seen, contextlib.suppress(Crash):
            remove_outcomes(
                context, OUTCOMES, ["image_id"], lambda rows: pc.invert(pc.is_in(rows["image_id"], removed))
            )
        assert outcomes(night(config, MODELS[0]))[MODELS[0]] == wanted, seen
        if len(seen) < call:
            break
    assert call > 2
