"""The command `bench index`: how fast small objects are listed and indexed, beside the store's bare listing."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from facelake.config import Config, GovernanceSection
from facelake.corpus_config import CorpusSection
from facelake.errors import ConfigError
from facelake.events import Listener
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import OpenedCorpus
from facelake.lake.object_store import ObjectStore
from facelake.lake.store import open_store
from facelake.nightly import writing
from facelake.stages.admission.index import update_index

_WRITERS, _BATCH, _PHOTO_BYTES = 16, 1000, 2000


def time_index(config: Config, uri: str, photos: int, emit: Listener) -> dict[str, Any]:
    """Write `photos` small objects under `uri`, unless they are there, then list, index, and index again.

    Raises:
        ConfigError: the prefix holds another number of objects, or the lake exists.
    """
    store = open_store(uri, config.s3)
    _fill(store, photos)
    section = CorpusSection.model_validate(
        {"uri": uri, "kind": "files", "columns": {"source_id": {"constant": "bench"}}}
    )
    config = config.model_copy(update={"governance": GovernanceSection(dpia="a benchmark"), "corpus": section})
    figures: dict[str, Any] = {"photos": photos}
    began = time.perf_counter()
    listed = sum(1 for _ in store.list())
    figures["list_per_s"] = round(listed / (time.perf_counter() - began))
    with writing(config, "bench", emit) as context:
        if context.lake["images"].version() >= 0:
            raise ConfigError("the lake already exists", where=config.lake, next_step="give an empty --lake")
        for name in ("index", "index_again"):
            began, before = time.perf_counter(), _peak_mb()
            index = update_index(context, OpenedCorpus(resolve_corpus(config)))
            seconds = time.perf_counter() - began
            figures |= {f"{name}_per_s": round(photos / seconds), f"{name}_hashed": index.hashed}
            figures[f"{name}_grown_mb"] = _peak_mb() - before
    figures["peak_rss_mb"] = _peak_mb()
    return figures


def _fill(store: ObjectStore, photos: int) -> None:
    present = sum(1 for _ in islice(store.list(), photos + 1))
    if present == photos:
        return
    if present:
        what = f"the prefix holds {present} objects, not {photos}"
        raise ConfigError(what, where=store.uri, next_step="give an empty prefix to --corpus")

    def write(number: int) -> None:
        body = b"\xff\xd8\xff" + number.to_bytes(8) * (_PHOTO_BYTES // 8)
        store.write(f"{number // _BATCH:05d}/{number:08d}.jpg", body)

    with ThreadPoolExecutor(_WRITERS) as pool:
        for start in range(0, photos, _BATCH):
            list(pool.map(write, range(start, min(start + _BATCH, photos))))


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
