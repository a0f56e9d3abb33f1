"""Terminal output: progress, summary tables, error lines, and the JSON result for scripts."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
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

if TYPE_CHECKING:  # commands that run no stage need not import the stages
    from facelake.stages.core.context import StageResult

_MIN_INTERVAL_S, _MAX_INTERVAL_S, _INTERVAL_SHARE = 5.0, 60.0, 0.05
"""Plain progress lines of a stage are this share of its elapsed time apart, within the two bounds."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""C0 and C1 controls (escape sequences begin with them) and the marks that reverse the direction of text"""
_LEAST_POSITIONAL = 1e-9
"""smaller figures are shown with an exponent"""
_results_written = 0  # JSON results of this process; only `result_was_written` reads it


class Terminal:
    """Prints progress on stderr: bars on a tty; elsewhere plain lines that end with the UTC time, few enough for a log.

    Only stderr itself decides whether it is a tty: environment variables that ask for colours do not put bars in a log.
    """

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
        """Print an event; the listener to pass to a run."""
        if self.quiet:
            return
        if isinstance(event, Notice):
            self._say(f"[yellow]note[/] {event.stage}: {escape(printable(event.text))}")
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
                self._bars = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[note]}"),
                    console=self._err,
                )
                self._bars.start()
            self._tasks[event.stage] = self._bars.add_task(event.stage, total=event.total or None, note="")
        else:
            unit = event.unit.removesuffix("s") if event.total == 1 else event.unit
            total = f": {event.total:,} {unit}" if event.total else ""
            self._say(f"{event.stage} starts{total}")

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
                else f"{event.done:,}{f'/{total:,}' if total else ''} {unit}"
            )
            status = " ".join(part for part in (count, step, pace, extra) if part)
            eta = f", about {format_duration((total - event.done) / rate)} left" if total and rate else ""
            self._say(f"{event.stage} {status}{eta}")

    def _rate(self, event: StageProgress) -> float:
        """Return units per second since the first were done, so that start-up time does not count; 0 if unknown."""
        now = time.monotonic()
        first_s, first = self._first.setdefault(event.stage, (now, event.done))
        return (event.done - first) / (now - first_s) if event.done > first and now > first_s else 0.0

    def _is_due(self, seconds: float, step: str) -> bool:
        """Return whether to print a plain line: another step has begun, or the last line is old enough."""
        now = time.monotonic()
        interval_s = min(max(_MIN_INTERVAL_S, _INTERVAL_SHARE * seconds), _MAX_INTERVAL_S)
        due = (step and step != self._step) or now - self._last_line_s >= interval_s
        if due:
            self._last_line_s, self._step = now, step
        return bool(due)

    def _finish(self, event: StageFinished) -> None:
        if self._bars is not None and event.stage in self._tasks:
            self._bars.update(self._tasks[event.stage], visible=False)
        numbers = ", ".join(f"{k} {v:,}" for k, v in event.counts.items() if v)
        outcome = "nothing to do" if event.skipped and event.stage != "verify" else f"{event.seconds:.1f} s"
        self._say(f"[bold]{event.stage:<8}[/] {outcome}{': ' if numbers else ''}{numbers}")

    def close(self) -> None:
        """Remove the progress bars."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Print a table, without borders if stdout is a file or a log; with --json or --quiet print nothing."""
        if self.as_json or self.quiet or not rows:
            return
        if not self.out.is_terminal:
            self._plain_table(title, columns, rows)
            return
        grid = Table(title=title, title_justify="left")
        for name in columns:
            grid.add_column(name, overflow="fold")
        for row in rows:
            grid.add_row(*(escape(_cell(value)) for value in row))
        self.out.print(grid)

    def _plain_table(self, title: str, columns: list[str], rows: list[list[Any]]) -> None:
        """Print one row per line whatever its width, so that a value can be found with grep."""
        cells = [columns, *([" ".join(_cell(value).split()) for value in row] for row in rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        self.out.print("\n".join([title, *lines]), markup=False)

    def figures(self, title: str, figures: Mapping[str, Any]) -> None:
        """Print a table of named figures."""
        self.table(title, ["figure", "value"], [[name, _figure(value)] for name, value in figures.items()])

    def run_summary(self, results: Sequence[StageResult]) -> None:
        """Print what each stage of a run did, and how many alerts the report raised."""
        self.close()
        rows = [
            [result.stage, "nothing to do" if result.skipped else f"{result.seconds:,.1f} s", _short(result.counts)]
            for result in results
        ]
        rows.append(["total", f"{sum(result.seconds for result in results):,.1f} s", ""])
        self.table("stages of this run", ["stage", "took", "counts"], rows)
        for result in results:
            if result.stage == "report":
                act, look = result.counts["to_act_on"], result.counts["to_look_at"]
                alerts = [f"{act} with action required"] * bool(act) + [f"{look} to check"] * bool(look)
                self.say(f"alerts in the report: {', '.join(alerts)}" if alerts else "no alerts in the report")

    def say(self, text: str) -> None:
        """Print a line; with --json or --quiet print nothing."""
        if not self.as_json and not self.quiet:
            self.out.print(printable(text), markup=False)

    def warn(self, text: str) -> None:
        """Print a line on stderr, also with --json; with --quiet print nothing."""
        if not self.quiet:
            self._say(f"[yellow]note[/] {escape(printable(text))}")

    def alert(self, message: str, report: str) -> None:
        """Print on stderr, also with --json and --quiet, why a run whose work is done ends with exit code 1."""
        self.close()
        self._say(escape(printable(f"alert: {message.rstrip('.')}; report: {report}")))

    def result(self, body: Mapping[str, Any]) -> None:
        """With --json print the result as one JSON object, the last line of stdout."""
        if self.as_json:
            global _results_written
            _results_written += 1
            sys.stdout.write(json.dumps(body, default=str) + "\n")
            sys.stdout.flush()


def result_was_written() -> bool:
    """Return whether a terminal of this process has already printed its JSON result."""
    return _results_written > 0


def printable(text: str) -> str:
    """Return text without control characters, which could rewrite the screen; they are shown as escapes.

    Names in a lake come from others. Line ends and tabs stay.
    """
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _cell(value: Any) -> str:
    """Format a value for a table: at most four significant digits, times to the second, lists without brackets."""
    if isinstance(value, float):
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        short = f"{value:.4g}"
        return f"{Decimal(short):f}" if abs(value) > _LEAST_POSITIONAL else short  # 0.00001 beside 0.0001, not 1e-05
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_cell, value))
    return "" if value is None else printable(str(value))


def _figure(value: object) -> object:
    """Return a figure for display; the parts of a figure that has several on one line."""
    if not isinstance(value, Mapping):
        return value
    return ", ".join(f"{str(name).replace('_', ' ')} {part}" for name, part in value.items())


def _short(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {value:,}" for key, value in counts.items())


def format_duration(seconds: float) -> str:
    """Format a duration roughly: seconds below 2 min (tenths below 10 s), minutes below 2 h, otherwise hours."""
    if 0 < seconds < 9.95:
        return f"{max(seconds, 0.1):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


_OF_THE_DISK = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT)
"""errors that the host's administrator can mend"""


@contextmanager
def error_boundary(terminal: Terminal) -> Iterator[None]:
    """Turn an error into one line on stderr, a JSON object with --json, and the process's exit code."""
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
            "interrupted; committed work is kept. Next: run again to continue.",
            130,
            {"what": "interrupted"},
        )
    except (typer.Exit, SystemExit):
        raise
    except Exception as err:  # noqa: BLE001  the only place that may catch every error
        reason = (str(err).strip().splitlines() or [""])[0]
        if isinstance(err, OSError) and err.errno in _OF_THE_DISK:
            line = f"{err.strerror} [{err.filename or 'unknown file'}]. Next: check the disk, the path and its rights; "
            _fail(terminal, err, line + "then run again.", 1, {"what": err.strerror, "where": str(err.filename)})
        line = f"unexpected {type(err).__name__}: {reason}. Next: run with --debug and report it."
        _fail(terminal, err, line, 1, {"what": f"{type(err).__name__}: {err}"})
    finally:
        terminal.close()


def _fail(terminal: Terminal, err: BaseException, line: str, code: int, body: dict[str, Any]) -> None:
    terminal.close()
    if terminal.debug:
        traceback.print_exception(err)
    sys.stderr.write(f"error: {printable(' '.join(line.split()))}\n")
    terminal.result({"ok": False, "error": {"kind": type(err).__name__, **body}})
    raise SystemExit(code)
