"""What an observer of a run is told."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from facelake.stages.core.context import Context, StageResult

VERSION = "unknown"
"""of facelake; read from the installed package, which code shipped to a cluster as an archive does not have"""
with contextlib.suppress(PackageNotFoundError):
    VERSION = version("facelake")


class Outcome(StrEnum):
    """How a stage or a run ended."""

    COMPLETE = "complete"
    FAILED = "failed"
    STARTED_OVER = "started over"
    """the ledger changed, and the stages start again"""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a stage or of a run."""

    outcome: Outcome
    result: StageResult | None = None
    """of a stage that was completed"""
    error: str | None = None
    """class of the error; its text may name people and stays in the lake's host"""


class Observer(Protocol):
    """Is told when a run and its stages start and end. Errors of its methods are reported, and not raised."""

    @property
    def name(self) -> str:
        """Section of the config that asks for it."""

    def run_started(self, context: Context) -> None:
        """A run started."""

    def stage_started(self, stage: str) -> None:
        """A stage started."""

    def stage_ended(self, stage: str, ending: Ending) -> None:
        """The stage ended."""

    def run_ended(self, ending: Ending) -> None:
        """The run ended; send what was not sent yet."""
