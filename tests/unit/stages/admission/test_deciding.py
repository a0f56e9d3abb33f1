"""The decisions as tasks: the same files whatever the tasks, and nothing committed if an answer is missing."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.engines.exchange import Block, Emit, Exchange, LocalExchange, Reduce, task_edges
from facelake.errors import Corrupt, Refused
from facelake.nightly import writing
from facelake.stages.admission import deciding
from facelake.stages.admission.admit import admit
from facelake.stages.admission.decision_tasks import DecisionTasks
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context

P = "identity-grouping"
FILES, ROWS = 12, 25
GONE, ERASED = "person-3", "school/erased.jpg"


def photos() -> list[list[dict[str, object]]]:
    """Corpus files in which ids are repeated within and across files, photos have no id, and bytes are repeated."""
    generator = np.random.default_rng(5)
    files = []
    for file in range(FILES):
        rows: list[dict[str, object]] = []
        for row in range(ROWS):
            number = int(generator.integers(0, FILES * ROWS))
            source = ["school", "club", "lake-without-basis"][number % 3]
            image = f"{source}/{number % 200:04d}.jpg"
            content = f"photo {number % 150}".encode()
            rows.append({"image_id": image, "image": content, "source_id": source, "subject_ref": f"person-{row % 9}"})
        rows[3]["image_id"] = None if file % 2 else ""
        files.append(rows)
    files[4][7]["image_id"] = ERASED
    return files


def wanted() -> list[str]:
    """Per photo the reason of its refusal, or "admitted", photo by photo."""
    rows = [row for file in photos() for row in file]
    theirs = {row["image"] for row in rows if row["subject_ref"] == GONE}
    seen: set[object] = set()
    reasons = []
    for row in rows:
        image = row["image_id"]
        if not image:
            reasons.append("no_id")
        elif image in seen:
            reasons.append("duplicate_id")
        elif image == ERASED:
            reasons.append("erased")
        elif row["subject_ref"] == GONE:
            reasons.append("withdrawn")
        elif row["source_id"] == "lake-without-basis":
            reasons.append("no_basis")
        else:
            reasons.append("withdrawn" if row["image"] in theirs else "admitted")
        seen.add(image)
    return reasons


def fill(context: Context) -> None:
    for rows in photos():
        write_corpus_file(context, rows)
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, source, (P,), "b") for source in ("school", "club")])
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, GONE)])
    context.lake.suppress([f"image:{ERASED}"])


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        fill(context)
        yield context


def in_tasks(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let admission have this number of tasks and of ranges of hashes."""
    rows = FILES * ROWS
    monkeypatch.setattr(deciding, "_DECIDED_ROWS", -(-rows // count))
    monkeypatch.setattr(deciding, "_HASHED_ROWS", -(-rows // count))
    monkeypatch.setattr(deciding, "_RANGE_ROWS", rows // count)
    edges = task_edges(np.full(FILES, ROWS), deciding._DECIDED_ROWS)
    assert len(edges) - 1 == min(count, FILES)


def on(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deciding, "_exchange", lambda context, rows: exchange)


def decided(context: Context) -> list[tuple[str, str]]:
    """The data files of the decisions in the order of the corpus: their names without nonce, and digests."""
    table = context.lake["admissions"]
    files = [
        (table.file(file, ["corpus_file"])["corpus_file"][0].as_py(), file.path) for file in table.snapshot().files
    ]
    return [
        (path.rpartition("-")[0], hashlib.sha256(context.lake.store.read(f"admissions/{path}")).hexdigest())
        for _, path in sorted(files)
    ]


def reasons(context: Context) -> list[str]:
    rows = context.lake["admissions"].read(["corpus_file", "corpus_row", "reason"])
    return [value or "admitted" for value in rows.sort_by([("corpus_file", "ascending"), ("corpus_row", "ascending")])["reason"].to_pylist()]  # fmt: skip


def test_every_photo_is_decided_as_one_by_one(context: Context) -> None:
    counts = admit(context).counts
    assert reasons(context) == wanted()
    by_reason = Counter(wanted())
    assert len(by_reason) == 6
    assert counts["admitted"] == by_reason.pop("admitted")
    assert {name: n for name, n in counts.items() if name.startswith("refused_")} == {
        f"refused_{reason}": n for reason, n in by_reason.items()
    }


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("at_once", [5, 64])
def test_the_files_do_not_depend_on_the_tasks(
    context: Context, threads: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deciding, "_PARTS_HERE", at_once)
    on(LocalExchange(threads), monkeypatch)
    found = []
    for tasks in (1, 2, 8):
        in_tasks(tasks, monkeypatch)
        counts = admit(context).counts
        assert reasons(context) == wanted()
        found.append((decided(context), counts["admitted"]))
        assert admit(context).skipped
        table = context.lake["admissions"]
        table.commit([], table.snapshot().files)
    assert found[0] == found[1] == found[2]
    assert len(found[0][0]) == FILES


class Losing(LocalExchange):
    """Loses an answer, or gives one twice."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
        blocks = super().run(items, first, *then, keys=keys)
        if then:
            return blocks
        return blocks[:-1] if self.how == "lost" else [*blocks, blocks[-1]]


@pytest.mark.parametrize("how", ["lost", "twice"])
def test_nothing_is_committed_if_an_answer_is_missing(
    context: Context, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(Losing(how), monkeypatch)
    with pytest.raises(Corrupt, match="answers came back"):
        admit(context)
    assert context.lake["admissions"].version() == -1


def test_few_photos_are_decided_here_also_if_a_cluster_is_configured(context: Context) -> None:
    spark = context.config.spark.model_copy(update={"master": "spark://nowhere:7077"})
    context.config = context.config.model_copy(update={"spark": spark})
    assert isinstance(deciding._exchange(context, 4_999_999), LocalExchange)
    assert admit(context).counts["admitted"] > 0


def test_only_files_whose_decisions_change_are_written_again(context: Context) -> None:
    """Repeated ids are no losses: the first photo of each stays admitted."""
    admit(context)
    before = {file.path for file in context.lake["admissions"].snapshot().files}
    assert admit(context).skipped
    write_corpus_file(context, [{"image_id": "school/new.jpg", "image": b"new", "source_id": "school"}])
    admit(context)
    added = {file.path for file in context.lake["admissions"].snapshot().files}
    assert (len(added - before), before - added) == (1, set())
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "person-4")])
    admit(context)
    after = {file.path for file in context.lake["admissions"].snapshot().files}
    assert (len(after), len(after & added)) == (FILES + 1, 1)  # the new file has none of that person


class Counted(tuple[str, ...]):
    """Counts how often it is read from its beginning."""

    __slots__ = ()
    times = 0

    def __iter__(self) -> Iterator[str]:
        Counted.times += 1
        return super().__iter__()


def test_the_digests_of_withdrawn_photos_are_prepared_once_for_all_files(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted(*args: Any) -> DecisionTasks:
        tasks = DecisionTasks(*args)
        assert len(tasks.contents) > 1
        return replace(tasks, contents=Counted(tasks.contents))

    monkeypatch.setattr(deciding, "DecisionTasks", counted)
    on(LocalExchange(), monkeypatch)
    in_tasks(2, monkeypatch)
    Counted.times = 0
    admit(context)
    assert reasons(context) == wanted()
    assert Counted.times == 1


def test_a_repeated_task_stages_the_same_files(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the run is refused then: nothing is left in the table's folder."""

    class Twice(LocalExchange):
        def run(self, items: Sequence[int], first: Emit, *then: Reduce, keys: int = 1) -> list[Block]:
            super().run(items, first, *then, keys=keys)
            return super().run(items, first, *then, keys=keys)

    admit(context)
    folder = Path(context.lake["admissions"].store.uri) / "admissions"
    before = {path.name for path in folder.glob("*.parquet")}
    assert len(before) == FILES
    record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "lake-without-basis", (P,), "b")])
    on(Twice(), monkeypatch)
    admit(context)
    files = {file.path for file in context.lake["admissions"].snapshot().files}
    assert {path.name for path in folder.glob("*.parquet")} == before | files
    other = replace(context, config=context.config.model_copy(update={"purpose": "another"}))
    left = {path.name for path in folder.glob("*.parquet")}
    with pytest.raises(Refused, match="would remove the faces"):
        admit(other)
    assert {path.name for path in folder.glob("*.parquet")} == left
