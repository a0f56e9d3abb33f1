"""Photos that are new, gone or decided otherwise, however the corpus files were divided before."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from facelake.config import load_config
from facelake.contracts import DataFileName, label
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.decision_changes import decision_changes

P = "identity-grouping"
Decisions = dict[str | None, str | None]


def stored(lake: Lake, corpus_file: str, decisions: Decisions, nonce: str) -> str:
    table = lake["admissions"]
    rows = {name: [None] * len(decisions) for name in table.schema.names}
    rows |= {"image_id": list(decisions), "reason": list(decisions.values())}
    body = pa.table(rows, schema=pa.schema([field.remove_metadata() for field in table.schema]))
    return table.stage(body, DataFileName.of_corpus_file(corpus_file, nonce)).path


def test_photos_are_compared_by_id_across_corpus_files(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        lake = context.lake
        before = [
            stored(lake, "a", {"stays": None, "gone": None, "withdraws": None, "moves": None}, "before"),
            stored(
                lake, "b", {"expires": None, "returns": "expired", "moves and ends": None, None: "erased"}, "before"
            ),
            stored(lake, "c", {"refused": "no_basis", "gone too": "no_basis"}, "before"),
        ]
        after = [
            stored(lake, "a", {"stays": None, "withdraws": "withdrawn", "new": None}, "after"),
            stored(lake, "b", {"expires": "expired", "returns": None, "moves": None}, "after"),
            stored(
                lake, "d", {"refused": "withdrawn", "moves and ends": "other_purpose", "new too": "no_basis"}, "after"
            ),
        ]
        found = decision_changes(lake, before, after, P)
        counts = {"added": 2, "vanished": 2, "newly_withdrawn": 1, "newly_refused": 2, "newly_admitted": 1}
        assert dict(found) == counts
        assert decision_changes(lake, before, before, P) == {}
        assert decision_changes(lake, [], after, P)["added"] == 9
        assert decision_changes(lake, before, [], P)["vanished"] == 9
        lake.suppress([label("image", "stays"), label("image", "gone too"), f"for:another:{label('image', 'expires')}"])
        assert decision_changes(lake, before, [], P) == {"vanished": 7, "newly_erased": 2}
