"""The command `plan --at`: a forecast for any number of photos from the config's settings and measured costs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from facelake.config import Config
from facelake.errors import ConfigError
from facelake.stages.capacity.cost_model import Cost, Workload, estimate
from facelake.stages.capacity.measured_costs import COSTS
from facelake.stages.capacity.scaling_limits import scaling_limits
from facelake.stages.models.registry import find_card

_REQUESTS = {"GET": "get", "HEAD": "head", "PUT": "put", "LIST": "list_", "DELETE": "delete"}


def workload(
    config: Config, images: float, *, faces_per_image: float = 1.0, dim: int | None = None, mean_bytes: float = 100_000
) -> Workload:
    """The workload of `images` photos under the config's settings, nodes and price; `dim` defaults to the model's.

    Raises:
        ConfigError: a number is not positive and finite.
    """
    for name, value in (("--at", images), ("--faces-per-photo", faces_per_image), ("--mean-bytes", mean_bytes)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"{value:g} is not above 0", where=name, next_step="give a positive number, for example --at 1e8"
            )
    return Workload(
        images=round(images),
        faces_per_image=faces_per_image,
        dim=dim or find_card(config.model.card).encoder.dim,
        mean_bytes=mean_bytes,
        chunk_rows=config.embed.chunk_rows,
        commit_every_chunks=config.embed.commit_every_chunks,
        nodes=config.plan.nodes,
        cores_per_node=config.plan.cores_per_node,
        price_per_node_hour=config.plan.price_per_node_hour,
    )


def outlook(work: Workload) -> dict[str, Any]:
    """The costs of each stage, of the run and of the residual scan, and the scaling limits; reads and writes
    nothing.
    """
    costs = estimate(work)
    stages = {name: _figures(cost, work) for name, cost in costs.stages.items()}
    return {
        "images": work.images,
        "faces": work.faces,
        "identities": work.identities,
        "corpus_files": work.corpus_files,
        "chunks": work.chunks,
        "dim": work.dim,
        "mean_bytes": work.mean_bytes,
        "nodes": work.nodes,
        "cores_per_node": work.cores_per_node,
        "stages": stages,
        "night": _figures(costs.nightly_run(), work),
        "walls": [asdict(limit) | {"broken": limit.exceeded} for limit in scaling_limits(work)],
    }


def sources() -> list[list[Any]]:
    """The measured costs as rows of name, value, unit and source of the measurement."""
    return [[name, figure.value, figure.unit, figure.where] for name, figure in COSTS.items()]


def _figures(cost: Cost, work: Workload) -> dict[str, Any]:
    node_hours, price = cost.node_hours(work), work.price_per_node_hour
    return {
        "hours": round(cost.seconds(work) / 3600, 4),
        "core_hours": round((cost.driver_cpu_s + cost.worker_cpu_s) / 3600, 4),
        "driver_hours": round(cost.driver_cpu_s / 3600, 4),
        "node_hours": round(node_hours, 4),
        "cost": None if price is None else round(node_hours * price, 2),
        "requests": {name: round(getattr(cost, key)) for name, key in _REQUESTS.items()},
        "read_bytes": round(cost.read_bytes),
        "written_bytes": round(cost.written_bytes),
        "shuffled_bytes": round(cost.shuffled_bytes),
        "driver_memory_bytes": round(cost.driver_bytes),
        "log_entries": cost.log_entries,
        "data_files": cost.data_files,
    }
