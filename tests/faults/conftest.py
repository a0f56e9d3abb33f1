"""What each fault did to the lake: noted for docs/faults.md, which infra/faults_doc.py makes of it."""

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
    """Call at the end of a test, when everything was asserted: fault, what was done about it, counts."""

    def add(fault: str, outcome: str, **counts: int) -> None:
        where = f"{request.node.path.name}::{request.node.name}"
        _NOTES.append({"fault": fault, "outcome": outcome, "counts": counts, "test": where})

    return add


@pytest.fixture(scope="session", autouse=True)
def _write_notes() -> Iterator[None]:
    """FACELAKE_FAULTS=FILE: the notes of this session, in addition to those in the file of tests that did not run."""
    yield
    path = os.environ.get("FACELAKE_FAULTS")
    if path and _NOTES:
        file = Path(path)
        old = json.loads(file.read_text()) if file.exists() else []
        ran = {item["test"] for item in _NOTES}
        kept = [item for item in old if item["test"] not in ran]
        file.write_text(json.dumps(sorted([*kept, *_NOTES], key=lambda item: str(item["test"])), indent=1) + "\n")
