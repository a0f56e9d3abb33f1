"""How `facelake plan --at` shows a night that was never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facelake.terminal import Terminal

_UNITS = ("", "k", "M", "G", "T", "P")


def show(terminal: Terminal, found: Mapping[str, Any], sources: bool) -> None:
    """Tables of stages and walls, and on request of the costs that they were made of."""
    columns = ["stage", "hours", "core-h", "driver-h", "node-h", "cost", "GET", "PUT", "LIST"]
    columns += ["read B", "written B", "shuffled B", "driver B", "log entries", "files"]
    rows = [_row(name, figures) for name, figures in {**found["stages"], "the night": found["night"]}.items()]
    head = f"{short(found['images'])} photos, {short(found['faces'])} faces of {found['dim']}, "
    terminal.table(head + f"{found['nodes']} nodes of {found['cores_per_node']} cores", columns, rows)
    terminal.table(
        "walls, the first in front",
        ["stage", "what", "at photos", "limit", "here", "", "moved by"],
        [
            [
                wall["stage"],
                wall["what"],
                short(wall["at_images"]),
                short(wall["limit"]),
                short(wall["here"]),
                "BROKEN" if wall["broken"] else "",
                wall["moved_by"],
            ]
            for wall in found["walls"]
        ],
    )
    if sources:
        from facelake.stages.capacity.forecast import sources as rows_of

        terminal.table("costs", ["name", "figure", "unit", "measured by"], rows_of())
    if any(wall["broken"] for wall in found["walls"]):
        terminal.say("A stage beyond a wall would fail or not end in a night; its figures are arithmetic only.")
    terminal.say("The scan is what one erasure takes; it is not in the night.")


def _row(name: str, figures: Mapping[str, Any]) -> list[Any]:
    requests = figures["requests"]
    hours = [figures[key] for key in ("hours", "core_hours", "driver_hours", "node_hours", "cost")]
    counts = [requests["GET"] + requests["HEAD"], requests["PUT"], requests["LIST"]]
    sizes = [figures[key] for key in ("read_bytes", "written_bytes", "shuffled_bytes", "driver_memory_bytes")]
    sizes += [figures["log_entries"], figures["data_files"]]
    return [name, *hours, *(short(value) for value in counts + sizes)]


def short(value: float) -> str:
    """A count or size in thousands, millions, ... with three digits."""
    for unit in _UNITS[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{_UNITS[-1]}"
