"""The command `plan`: the work of the next nightly run, from footers and tables alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from facelake.config import Config
from facelake.engines.embed_process import needs_ray
from facelake.lake.lake import Lake, has_lake
from facelake.lake.store import open_store
from facelake.partitions import must_be_one_lake
from facelake.plural import counted
from facelake.stages.core.context import Context
from facelake.stages.core.partition_names import open_lake
from facelake.stages.embedding.corpus_size import CorpusSize, corpus_size
from facelake.stages.embedding.cost_projection import check_budget, faces_per_photo, project, worker_memory_bytes
from facelake.stages.embedding.embed import plan_embed
from facelake.stages.embedding.pending import Pending
from facelake.stages.models.registry import config_model_digest, find_card, load_pack

_WORK = (
    *("decided", "to_embed", "chunks", "have_outcome", "same_content"),
    *("not_decided", "now_allowed", "now_refused", "embed_again"),
)
_NEVER_ADMITTED = [
    "`to embed` counts all photos of the corpus, since none was checked against the ledger yet; `facelake admit`, the"
    " first stage of `facelake nightly`, checks them and leaves out those without a legal basis"
]


def plan(config: Config, *, calibrate: bool = False) -> dict[str, Any]:
    """Figures of the corpus and of the work to do, and `notes` on what they leave out, as sentences.

    A lake that does not exist yet counts as empty. Time and cost include new photos that were not decided yet.

    Args:
        calibrate: run the models for a few seconds to project time and cost.

    Raises:
        ConfigError: the corpus is missing; the lake cannot be opened; or photos were erased, and the key that their
            names are hashed with is not given.
        Refused: with `calibrate`, the projected cost exceeds the budget, or the terms of the model are not accepted.
    """
    must_be_one_lake(config)
    lake = open_lake(config) if has_lake(open_store(config.lake, config.s3)) else None
    corpus = corpus_size(config, lake, with_erased=True)
    images = corpus.images
    figures: dict[str, Any] = {"corpus_files": corpus.files, "images": images, "image_bytes": corpus.image_bytes}
    figures |= {"largest_row_group": corpus.largest_row_group, **corpus.described}
    work, pending = _work(config, lake, corpus)
    figures |= work
    if pending:  # rows without a photo, which the report does not count either
        figures["images"] -= pending.emptied
        figures["decided"] -= pending.emptied
    mean = corpus.mean_bytes
    figures["worker_memory_bytes"] = worker_memory_bytes(mean, config.embed.batch_photos)
    photos = int(figures["to_embed"]) + (pending.photos + pending.allowed + pending.again if pending else 0)
    figures["next_run"] = photos
    if calibrate:
        projection = project(config, load_pack(config), photos, mean, faces_per_photo(lake))
        figures |= projection.figures() | {"on_ray": needs_ray(config.embed, config.ray, photos)}
        check_budget(config, projection)
    return figures | {"notes": pending.texts() if pending else _NEVER_ADMITTED}


def next_run_in_words(figures: Mapping[str, Any]) -> str:
    """Return what the next nightly run has to embed, from the figures of `plan`, as a sentence.

    `about`: new photos may have no legal basis, or the bytes of known ones. By the numbers: as many photos added as
    removed are not noticed.
    """
    photos = figures["next_run"]
    if not photos:
        return "the next run: no photo to embed, unless photos were replaced by as many others"
    counts = [
        ("to_embed", "checked"),
        ("not_decided", "new"),
        ("now_allowed", "newly allowed"),
        ("embed_again", "again"),
    ]
    if not figures["decided"]:  # `to embed` counts the new ones, too
        counts = [("next_run", "new")]
    parts = ", ".join(f"{figures[key]:,} {words}" for key, words in counts if figures[key])
    return f"the next run: about {counted(photos, 'photo')} to embed ({parts})"


def _work(config: Config, lake: Lake | None, corpus: CorpusSize) -> tuple[dict[str, int], Pending | None]:
    """Return the figures of the work to do, and what `admit` has to do; None if it never ran."""
    if lake is None or lake["admissions"].version() < 0:
        images = corpus.images
        figures = dict.fromkeys(_WORK, 0) | {"to_embed": images, "not_decided": images}
        return figures | {"chunks": -(-images // config.embed.chunk_rows)}, None
    digest = config_model_digest(config, find_card(config.model.card))
    to_do = plan_embed(Context(config, lake, "plan", model_digest=digest))
    pending = Pending.of(lake, corpus, config, datetime.now(UTC), to_do.done_images)
    decided = lake["admissions"].snapshot().rows
    embed = decided, to_do.images, to_do.chunks, to_do.done_images, to_do.waiting
    return dict(
        zip(_WORK, (*embed, pending.photos, pending.allowed, pending.ended, pending.again), strict=True)
    ), pending
