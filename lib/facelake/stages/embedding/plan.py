"""The command `plan`: the work of the next nightly run, from footers and tables alone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from facelake.config import Config
from facelake.errors import ConfigError
from facelake.partitions import must_be_one_lake
from facelake.stages.core.context import Context
from facelake.stages.core.partition_names import open_lake
from facelake.stages.embedding.corpus_size import corpus_size
from facelake.stages.embedding.cost_projection import check_budget, faces_per_photo, project, worker_memory_bytes
from facelake.stages.embedding.embed import plan_embed
from facelake.stages.embedding.pending import Pending
from facelake.stages.models.registry import config_model_digest, find_card, load_pack

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
        Refused: with `calibrate`, the projected cost exceeds the budget, or the terms of the model are not accepted.
    """
    must_be_one_lake(config)
    try:
        lake = open_lake(config)
    except ConfigError:
        lake = None
    corpus = corpus_size(config, lake)
    images = corpus.images
    figures: dict[str, Any] = {"corpus_files": corpus.files, "images": images, "image_bytes": corpus.image_bytes}
    figures |= {"largest_row_group": corpus.largest_row_group, **corpus.described}
    pending = None
    if lake is not None and lake["admissions"].version() >= 0:
        digest = config_model_digest(config, find_card(config.model.card))
        to_do = plan_embed(Context(config, lake, "plan", model_digest=digest))
        figures |= {
            "decided": lake["admissions"].snapshot().rows,
            "to_embed": to_do.images,
            "chunks": to_do.chunks,
        }
        figures["have_outcome"] = to_do.done_images
        figures["same_content"] = to_do.waiting
        pending = Pending.of(lake, corpus, config.purpose, datetime.now(UTC))
        figures |= {"not_decided": pending.photos, "now_allowed": pending.allowed, "now_refused": pending.ended}
    else:
        figures |= {
            "decided": 0,
            "to_embed": images,
            "chunks": -(-images // config.embed.chunk_rows),
            "have_outcome": 0,
            "not_decided": images,
        }
    mean = corpus.mean_bytes
    figures["worker_memory_bytes"] = worker_memory_bytes(mean, config.embed.batch_photos)
    if calibrate:
        photos = int(figures["to_embed"]) + (pending.photos + pending.allowed if pending else 0)
        projection = project(config, load_pack(config), photos, mean, faces_per_photo(lake))
        figures |= projection.figures()
        check_budget(config, projection)
    return figures | {"notes": pending.texts() if pending else _NEVER_ADMITTED}
