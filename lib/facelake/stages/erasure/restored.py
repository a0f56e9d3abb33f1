"""Photos of the corpus that were erased before: a backup brought them back, or an erasure left them in the operator's
own store.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from facelake.lake.corpora.detect import resolve_corpus
from facelake.stages.admission.corpus_rewrite import own_corpus, owns_corpus
from facelake.stages.admission.index_tasks import suppression_check
from facelake.stages.core.context import Context
from facelake.stages.erasure.own_store import named_rows


def restored_photos(context: Context) -> list[str]:
    """Return the ids of photos that are on the suppression list, by themselves, their subject or their source.

    Photos that were erased for one purpose only stay in the corpus for the others, and are not among them.

    Raises:
        ConfigError: the corpus is not where the config says.
        Corrupt: the suppression list is damaged.
    """
    suppressed = context.lake.suppressed()
    is_erased = suppression_check(suppressed, context.lake.salt) if suppressed else None
    if is_erased is None:
        return []
    found = set[str]()
    for rows in _in_corpus(context):
        found.update(rows["image_id"].filter(pa.array(is_erased(rows))).drop_null().to_pylist())
    return sorted(found)


def _in_corpus(context: Context) -> Iterator[pa.Table]:
    if owns_corpus(context.config):
        yield from (corpus.ids(path) for corpus, path in own_corpus(context.config))
    else:
        yield from named_rows(context, resolve_corpus(context.config))
