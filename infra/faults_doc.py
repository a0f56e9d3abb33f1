"""Print docs/faults.md from the notes that the fault suite writes:

FACELAKE_FAULTS=docs/faults.json bash infra/test.sh tests/faults -m 'slow or not slow'
.venv/bin/python infra/faults_doc.py > docs/faults.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Fault tests

Generated from the fault suite: each test writes its line after its last assertion, so that a line is here only if the
test passed when the table was generated (`infra/faults_doc.py` contains the commands). "Equal" means that the identity
of every face, and all rows of `faces` and `rejects` bit for bit, are those of a lake whose run was not disturbed.

Faults of the store are injected by a proxy in front of a real SeaweedFS. Hosts are network namespaces with their own
disks (`lib/facelake/testing/hosts.py`), joined by virtual cables that are unplugged. A test of `tests/faults` without a
line here had not passed on the machine where the table was generated.

| fault | outcome | counts | test |
|---|---|---|---|
"""


def page(notes: list[dict[str, object]]) -> str:
    """Return the text of the page."""
    lines = []
    for note in sorted(notes, key=lambda item: str(item["fault"])):
        counts = note["counts"]
        assert isinstance(counts, dict)
        figures = ", ".join(f"{key} {value}" for key, value in counts.items())
        lines.append(f"| {note['fault']} | {note['outcome']} | {figures} | `{note['test']}` |")
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(json.loads((ROOT / "docs" / "faults.json").read_text())))
