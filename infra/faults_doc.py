"""docs/faults.md out of the notes that the fault suite leaves:

FACELAKE_FAULTS=docs/faults.json bash infra/test.sh tests/faults -m 'slow or not slow'
.venv/bin/python infra/faults_doc.py > docs/faults.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Faults and what comes of them

Made by the fault suite, not by hand: each test notes its line after its last assertion, so a line stands here only if
the test passed when the table was made (`infra/faults_doc.py` says how to make it again). "Equal" means: the identity
of every face, and all rows of `faces` and `rejects` bit for bit, are those of a lake whose night was not disturbed.

The store's faults are injected by a proxy of the tests' own before a real SeaweedFS; hosts are network namespaces with
disks of their own (`lib/facelake/testing/hosts.py`), joined by virtual cables that are pulled. A test without a line
here (`tests/faults` has more) had not passed on the machine where the table was made.

| fault | outcome | counts | test |
|---|---|---|---|
"""


def page(notes: list[dict[str, object]]) -> str:
    """The page's text."""
    lines = []
    for note in sorted(notes, key=lambda item: str(item["fault"])):
        counts = note["counts"]
        assert isinstance(counts, dict)
        said = ", ".join(f"{key} {value}" for key, value in counts.items())
        lines.append(f"| {note['fault']} | {note['outcome']} | {said} | `{note['test']}` |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(json.loads((ROOT / "docs" / "faults.json").read_text())))
