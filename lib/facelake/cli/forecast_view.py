"""Prints the forecast of `facelake plan --at`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from facelake.terminal import Terminal

_UNITS = ("", "k", "M", "G", "T", "P")


def show(terminal: Terminal, forecast: Mapping[str, Any], *, with_sources: bool) -> None:
    """Print tables of stages and scaling limits, and on request of the measured costs behind them."""
    columns = ["stage", "hours", "core-h", "driver-h", "node-h", "cost", "GET", "PUT", "LIST"]
    columns += ["read B", "written B", "shuffled B", "driver B", "log entries", "files"]
    rows = [_row(name, figures) for name, figures in {**forecast["stages"], "the run": forecast["night"]}.items()]
    head = f"{short(forecast['images'])} photos, {short(forecast['faces'])} faces of {forecast['dim']}, "
    terminal.table(head + f"{forecast['nodes']} nodes of {forecast['cores_per_node']} cores", columns, rows)
    terminal.table(
        "scaling limits, lowest first",
        ["stage", "limit on", "reached at photos", "limit", "here", "", "raised by"],
        [
            [
                limit["stage"],
                limit["what"],
                short(limit["at_images"]),
                short(limit["limit"]),
                short(limit["here"]),
                "EXCEEDED" if limit["broken"] else "",
                limit["moved_by"],
            ]
            for limit in forecast["walls"]
        ],
    )
    if with_sources:
        from facelake.stages.capacity.forecast import sources as rows_of

        terminal.table("costs", ["name", "figure", "unit", "measured by"], rows_of())
    if any(limit["broken"] for limit in forecast["walls"]):
        terminal.say("A stage beyond a limit would fail or take longer than one night; its figures are extrapolated.")
    terminal.say("The scan is the cost of one erasure; it is not part of the run.")


def _row(name: str, figures: Mapping[str, Any]) -> list[Any]:
    requests = figures["requests"]
    hours = [figures[key] for key in ("hours", "core_hours", "driver_hours", "node_hours", "cost")]
    counts = [requests["GET"] + requests["HEAD"], requests["PUT"], requests["LIST"]]
    sizes = [figures[key] for key in ("read_bytes", "written_bytes", "shuffled_bytes", "driver_memory_bytes")]
    sizes += [figures["log_entries"], figures["data_files"]]
    return [name, *hours, *(short(value) for value in counts + sizes)]


def short(value: float) -> str:
    """Format a count or size with three digits and a unit prefix, as 1.23M."""
    for unit in _UNITS[:-1]:
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{_UNITS[-1]}"
