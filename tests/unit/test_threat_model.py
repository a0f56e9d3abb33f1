"""Every promise of the threat model names a test, and the tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def promises() -> list[tuple[str, list[str]]]:
    """What each row of the table promises, and the files of the tests that it names."""
    lines = (ROOT / "docs/threat-model.md").read_text().splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("|")][2:]
    assert all(len(row) == 3 for row in rows)
    return [(promise.strip(), re.findall(r"`(tests/[\w/.]+)`", tests)) for _, promise, tests in rows]


def test_every_promise_names_a_test() -> None:
    assert len(promises()) >= 15
    assert [promise for promise, tests in promises() if not tests] == []


def test_the_tests_of_the_promises_exist_and_have_tests() -> None:
    for promise, tests in promises():
        for name in tests:
            assert "def test_" in (ROOT / name).read_text(), (promise, name)
