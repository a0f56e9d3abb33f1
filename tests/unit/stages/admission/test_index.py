"""The index of a corpus has every photo, and nothing of who was erased."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope, label
from facelake.events import Event, Notice
from facelake.lake.hash_key import keyed_hash
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.index_tasks import without_erased
from facelake.stages.admission.ledger import Entry, record

KEY = b"k" * 32


@pytest.mark.parametrize("spelling", ["Zo\u00eb", "Zoe\u0308", " Zo\u00eb ", "Zo\u200b\u00eb"])
def test_an_erased_reference_is_not_indexed_in_any_spelling(spelling: str) -> None:
    suppressed = frozenset([keyed_hash(KEY, label("subject", "Zo\u00eb"))])
    columns = {"image_id": ["a", "b"], "source_id": ["s", "s"], "subject_ref": [spelling, "Ann"]}
    rows = without_erased(suppressed, KEY, pa.table(columns))
    assert rows["subject_ref"].to_pylist() == [None, "Ann"]
    assert rows["erased"].to_pylist() == [True, False]


def test_photos_that_arrive_while_a_run_decides_again_are_all_indexed(tmp_path: Path) -> None:
    """A run decides again, and lists again, when the ledger changes; parts of both listings had the same names."""
    corpus = tmp_path / "photos"
    corpus.mkdir()
    section = {"uri": str(corpus), "columns": {"source_id": {"constant": "s"}}}
    with writing(load_config(lake=str(tmp_path / "lake"), overrides={"corpus": section}), "a run") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", ("identity-grouping",), "b")])
        for count, name in enumerate("abc", 1):
            (corpus / f"{name}.jpg").write_bytes(name.encode())
            assert admit(context).counts["admitted"] == count
        parts = context.lake["images"].read(["corpus_file", "image_id"]).to_pylist()
    assert len({row["corpus_file"] for row in parts}) == len(parts) == 3


def test_photos_of_erased_people_that_a_backup_brought_back_are_reported(tmp_path: Path) -> None:
    """They are refused; but their bytes are in the lake again, which nothing else says."""
    events: list[Event] = []
    with writing(load_config(lake=str(tmp_path / "lake")), "a backup", events.append) as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "s", ("identity-grouping",), "b")])
        context.lake.suppress([label("subject", "ann")])
        rows = [
            {"image_id": f"s/{name}", "image": b"x", "source_id": "s", "subject_ref": name} for name in ("ann", "b")
        ]
        write_corpus_file(context, rows)
        counts = admit(context).counts
    assert (counts["admitted"], counts["refused_erased"]) == (1, 1)
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert any("1 photo of erased people is in the lake's own corpus again" in text for text in notices)
