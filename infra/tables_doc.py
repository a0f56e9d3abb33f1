"""Print docs/tables.md from the schemas:  .venv/bin/python infra/tables_doc.py > docs/tables.md  (a test compares)."""

from __future__ import annotations

import pyarrow as pa

from facelake.contracts import CORPUS, TABLES

HEAD = """# Tables

Generated from `lib/facelake/contracts/schemas.py` by `infra/tables_doc.py`. All tables but the corpus are Delta tables
under the lake root; any Delta reader (DuckDB, Polars, Spark) reads them. Readers of the gallery start at `galleries`:
its row with the highest version names the Delta versions of `identities`, `memberships` and `changes` that belong
together.

Only row counts are kept as statistics in the log, and no table is partitioned: minimum, maximum and partition values
would keep an identifier readable after its row was erased.
"""


def section(name: str, schema: pa.Schema) -> str:
    """Return a table as Markdown."""
    rows = [f"| `{f.name}` | {f.type} | {(f.metadata or {}).get(b'doc', b'').decode()} |" for f in schema]
    return "\n".join([f"## {name}", "", "| column | type | meaning |", "|---|---|---|", *rows, ""])


def document() -> str:
    """Return the text of docs/tables.md."""
    return "\n".join(
        [
            HEAD,
            section("corpus (Parquet, never written by the nightly run)", CORPUS),
            *(section(*t) for t in TABLES.items()),
        ]
    )


if __name__ == "__main__":
    import sys

    sys.stdout.write(document())
