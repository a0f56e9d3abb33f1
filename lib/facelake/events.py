"""Typed events that stages emit. The terminal, the log file and the metrics are listeners."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage begins; it will process `total` items of `unit` (0: not known)."""

    stage: str
    total: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """`done` items of the stage's total are processed; `counts` are for display."""

    stage: str
    done: int
    counts: Mapping[str, int | float | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ended; `skipped` if its input was unchanged and no work was done."""

    stage: str
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """A message for the operator."""

    stage: str
    text: str


Event = StageStarted | StageProgress | StageFinished | Notice
Listener = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """A listener that ignores every event."""


def fan_out(*listeners: Listener) -> Listener:
    """One listener that passes each event to several."""

    def listen(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return listen


class Tracker:
    """A listener that keeps the progress of the run, which other processes read from the lease."""

    def __init__(self, run_id: str) -> None:
        self._run_id, self._counts = run_id, dict[str, int | float | str]()
        self._stage, self._unit, self._done, self._total = "", "", 0, 0
        self._started = datetime.now(UTC)

    def listen(self, event: Event) -> None:
        """Record an event; pass this method where a listener is expected."""
        if isinstance(event, StageStarted):
            self._stage, self._unit, self._done, self._total = event.stage, event.unit, 0, event.total
            self._started, self._counts = datetime.now(UTC), {}
        elif isinstance(event, StageProgress):
            self._done, self._counts = event.done, dict(event.counts)
        elif isinstance(event, StageFinished):
            self._stage = ""

    def state(self) -> dict[str, Any]:
        """Run, current stage (empty between stages), its progress and start time. No personal data."""
        state = {"run": self._run_id, "stage": self._stage, "unit": self._unit, "done": self._done}
        return state | {"total": self._total, "began": self._started.isoformat(), "counts": self._counts}


def log_listener(run_id: str) -> Listener:
    """A listener that logs one JSON object per event to the logger `facelake.events`."""
    logger = logging.getLogger("facelake.events")

    def listen(event: Event) -> None:
        record = {"ts": datetime.now(UTC).isoformat(), "run": run_id, "event": type(event).__name__}
        logger.info(json.dumps(record | dataclasses.asdict(event), default=str))

    return listen
