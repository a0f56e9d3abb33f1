"""Records the effect of each fault on the lake for docs/faults.md, which infra/faults_doc.py generates."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_NOTES: list[dict[str, Any]] = []
Note = Callable[..., None]


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Call at the end of a test, after all assertions: the fault, the reaction to it, and counts."""

    def add(fault: str, outcome: str, **counts: int) -> None:
        where = f"{request.node.path.name}::{request.node.name}"
        _NOTES.append({"fault": fault, "outcome": outcome, "counts": counts, "test": where})

    return add


@pytest.fixture(scope="session", autouse=True)
def _write_notes() -> Iterator[None]:
    """FACELAKE_FAULTS=FILE: write the notes of this session, keeping the file's notes of tests that did not run."""
    yield
    path = os.environ.get("FACELAKE_FAULTS")
    if path and _NOTES:
        file = Path(path)
        old = json.loads(file.read_text()) if file.exists() else []
        ran = {item["test"] for item in _NOTES}
        kept = [item for item in old if item["test"] not in ran]
        file.write_text(json.dumps(sorted([*kept, *_NOTES], key=lambda item: str(item["test"])), indent=1) + "\n")
