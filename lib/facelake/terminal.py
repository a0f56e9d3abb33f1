"""What a person sees: progress, summary tables, errors; and the one JSON line that a machine reads."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from rich.text import Text

from facelake.errors import FacelakeError
from facelake.events import Event, Notice, StageFinished, StageProgress, StageStarted

if TYPE_CHECKING:  # (commands that run no stage do not import them)
    from facelake.stages.core.context import StageResult

_LEAST_S, _MOST_S, _SHARE = 5.0, 60.0, 0.05
"""Plain lines of a stage are at least so far apart; later by this share of the time it has taken, up to a minute."""


class Terminal:
    """Progress on stderr: bars on a tty; elsewhere plain lines that end with the time (UTC), few enough for a log.

    Whether stderr is a tty is asked of itself alone: variables that ask for colours do not make bars of a log.
    """

    said_result = False
    """some terminal of this process has written its JSON object"""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, debug: bool = False) -> None:
        self.as_json, self.quiet, self.debug = as_json, quiet, debug
        self._live = sys.stderr.isatty()
        self._err = Console(stderr=True, highlight=False, soft_wrap=True)
        self.out = Console(highlight=False, soft_wrap=True, stderr=as_json)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line_s = 0.0
        self._step = ""
        self._began: dict[str, tuple[float, int, str]] = {}
        self._first: dict[str, tuple[float, int]] = {}

    def listen(self, event: Event) -> None:
        """The event listener."""
        if self.quiet:
            return
        if isinstance(event, Notice):
            self._say(f"[yellow]note[/] {event.stage}: {escape(event.text)}")
        elif isinstance(event, StageStarted):
            self._begin(event)
        elif isinstance(event, StageProgress):
            self._progress(event)
        elif isinstance(event, StageFinished):
            self._finish(event)

    def _say(self, text: str) -> None:
        if self._live:
            (self._bars.console if self._bars else self._err).print(text)
        else:
            self._err.print(f"{Text.from_markup(text).plain} [{datetime.now(UTC):%H:%M:%S}]", markup=False)

    def _begin(self, event: StageStarted) -> None:
        self._began[event.stage] = (time.monotonic(), event.total, event.unit)
        self._last_line_s, self._step = time.monotonic(), ""
        self._first.pop(event.stage, None)
        if self._live:
            if self._bars is None:
                columns = (
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                )
                self._bars = Progress(
                    *columns, TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=self._err
                )
                self._bars.start()
            self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total or None, note="")
        else:
            ahead = f": {event.total:,} {event.unit}" if event.total else ""
            self._say(f"{event.stage} starts{ahead}")

    def _progress(self, event: StageProgress) -> None:
        began, total, unit = self._began.get(event.stage, (time.monotonic(), 0, ""))
        rate = self._rate(event) if unit not in ("", "steps", "checks") else 0.0
        pace = f"{rate:,.1f} {unit}/s" if rate else ""
        extra = " ".join(f"{key} {value}" for key, value in event.counts.items() if value and key != "step")
        step = str(event.counts.get("step", ""))
        if self._bars is not None and event.stage in self._tasks:
            self._bars.update(self._tasks[event.stage], completed=event.done, note=f"{step} {pace} {extra}".strip())
        elif self._is_due(time.monotonic() - began, step):
            count = (
                f"step {event.done + 1} of {total}:"
                if step
                else f"{event.done:,}/{f'{total:,}' if total else '?'} {unit}"
            )
            said = " ".join(part for part in (count, step, pace, extra) if part)
            left = f", about {duration((total - event.done) / rate)} left" if total and rate else ""
            self._say(f"{event.stage} {said}{left}")

    def _rate(self, event: StageProgress) -> float:
        """Units per second since the first ones were done: what starting took would make it look slow. 0: not known."""
        now = time.monotonic()
        first_s, first = self._first.setdefault(event.stage, (now, event.done))
        return (event.done - first) / (now - first_s) if event.done > first and now > first_s else 0.0

    def _is_due(self, seconds: float, step: str) -> bool:
        """Whether a plain line is due: another step, or long enough since the last line."""
        now = time.monotonic()
        due = (step and step != self._step) or now - self._last_line_s >= min(max(_LEAST_S, _SHARE * seconds), _MOST_S)
        if due:
            self._last_line_s, self._step = now, step
        return bool(due)

    def _finish(self, event: StageFinished) -> None:
        if self._bars is not None and event.stage in self._tasks:
            self._bars.update(self._tasks[event.stage], visible=False)
        numbers = ", ".join(f"{k} {v:,}" for k, v in event.counts.items() if isinstance(v, int | float) and v)
        how = "nothing to do" if event.skipped and event.stage != "verify" else f"{event.seconds:.1f} s"
        self._say(f"[bold]{event.stage:<8}[/] {how}: {numbers or '-'}")

    def close(self) -> None:
        """Take the bars away."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table for people, without lines where it goes into a file or a log; nothing when a machine reads."""
        if self.as_json or self.quiet or not rows:
            return
        if not self.out.is_terminal:
            self._plain_table(title, columns, rows)
            return
        shown = Table(title=title, title_justify="left")
        for name in columns:
            shown.add_column(name, overflow="fold")
        for row in rows:
            shown.add_row(*(escape(_cell(value)) for value in row))
        self.out.print(shown)

    def _plain_table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Columns side by side, one row a line whatever its width: nothing is folded that somebody may grep."""
        cells = [columns, *([" ".join(_cell(value).split()) for value in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        self.out.print("\n".join([title, *lines]), markup=False)

    def figures(self, title: str, figures: Mapping[str, Any]) -> None:
        """A table of named figures."""
        self.table(title, ["figure", "value"], [[name, value] for name, value in figures.items()])

    def night(self, results: Sequence[StageResult]) -> None:
        """What each stage of a night did, and what the report made of it."""
        self.close()
        rows = [
            [one.stage, "nothing to do" if one.skipped else f"{one.seconds:,.1f} s", _short(one.counts)]
            for one in results
        ]
        rows.append(["in all", f"{sum(one.seconds for one in results):,.1f} s", ""])
        self.table("the night", ["stage", "took", "counts"], rows)
        for one in results:
            if one.stage == "report" and not one.skipped:
                act, look = one.counts["to_act_on"], one.counts["to_look_at"]
                found = [f"{act} to act on first"] * bool(act) + [f"{look} to look at"] * bool(look)
                self.say(f"in the report: {', '.join(found)}" if found else "nothing out of the ordinary")

    def say(self, text: str) -> None:
        """A line for people; nothing when a machine reads."""
        if not self.as_json and not self.quiet:
            self.out.print(text, markup=False)

    def result(self, body: Mapping[str, Any]) -> None:
        """The machine-readable object, as the last line of stdout."""
        if self.as_json:
            Terminal.said_result = True
            sys.stdout.write(json.dumps(body, default=str) + "\n")
            sys.stdout.flush()


def _cell(value: Any) -> str:
    """A value as people read it: no more digits than say something."""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def _short(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in counts.items() if isinstance(value, int | float))


def duration(seconds: float) -> str:
    """Roughly, as one says it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextmanager
def boundary(terminal: Terminal) -> Iterator[None]:
    """The job boundary: an error becomes one line, a JSON object if asked for, and an exit code."""
    try:
        yield
    except FacelakeError as err:
        _fail(
            terminal,
            err,
            str(err),
            err.exit_code,
            {"what": err.what, "where": err.where, "next": err.next_step},
        )
    except KeyboardInterrupt as err:
        _fail(
            terminal,
            err,
            "interrupted; what was committed stays, run again to go on.",
            130,
            {"what": "interrupted"},
        )
    except (typer.Exit, SystemExit):
        raise
    except Exception as err:  # noqa: BLE001  the one place where nothing may pass
        said = (str(err).strip().splitlines() or [""])[0]
        line = f"unexpected {type(err).__name__}: {said}. Next: run with --debug and report it."
        _fail(terminal, err, line, 1, {"what": f"{type(err).__name__}: {err}"})
    finally:
        terminal.close()


def _fail(terminal: Terminal, err: BaseException, line: str, code: int, body: dict[str, Any]) -> None:
    terminal.close()
    if terminal.debug:
        traceback.print_exception(err)
    sys.stderr.write(f"error: {' '.join(line.split())}\n")
    terminal.result({"ok": False, "error": {"kind": type(err).__name__, **body}})
    raise SystemExit(code)
