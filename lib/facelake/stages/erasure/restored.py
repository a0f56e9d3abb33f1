"""Photos of the corpus that were erased before: a backup brought them back, or an erasure left them in the operator's
own store.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import pyarrow as pa

from facelake.contracts import label
from facelake.lake.corpora.detect import resolve_corpus
from facelake.stages.admission.corpus_rewrite import own_corpus, owns_corpus
from facelake.stages.core.context import Context
from facelake.stages.erasure.own_store import named_rows

_NAMES = {"image": "image_id", "source": "source_id", "subject": "subject_ref"}


def restored_photos(context: Context) -> list[str]:
    """Return the ids of photos that are on the suppression list, by themselves, their subject or their source.

    Photos that were erased for one purpose only stay in the corpus for the others, and are not among them.

    Raises:
        ConfigError: the corpus is not where the config says.
        Corrupt: the suppression list is damaged.
    """
    suppressed = context.lake.suppressed()

    @lru_cache(maxsize=1 << 16)  # sources and subjects repeat
    def is_erased(kind: str, name: str) -> bool:
        return context.lake.keyed_hash(label(kind, name)) in suppressed

    found = set[str]()
    for rows in _in_corpus(context) if suppressed else ():
        for row in rows.select(list(_NAMES.values())).to_pylist():
            if row["image_id"] and any(row[name] and is_erased(kind, row[name]) for kind, name in _NAMES.items()):
                found.add(row["image_id"])
    return sorted(found)


def _in_corpus(context: Context) -> Iterator[pa.Table]:
    if owns_corpus(context.config):
        yield from (corpus.ids(path) for corpus, path in own_corpus(context.config))
    else:
        yield from named_rows(context, resolve_corpus(context.config))
