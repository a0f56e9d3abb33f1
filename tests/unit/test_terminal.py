"""What a person and a machine are told, on a terminal and in a log."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

import facelake
from facelake import terminal
from facelake.cli import app, operate
from facelake.errors import ConfigError, Refused
from facelake.events import Event, Notice, StageFinished, StageProgress, StageStarted
from facelake.stages.core.context import StageResult
from facelake.stages.operations.local_files import LocalFiles, LocalKind
from facelake.terminal import Terminal, error_boundary
from tests.conftest import FACELAKE

NIGHT: list[Event] = [
    StageStarted("embed", 1200, "images"),
    StageProgress("embed", 100, {"faces": 130}),
    StageProgress("embed", 110, {"faces": 140}),
    StageProgress("embed", 400, {"faces": 500}),
    Notice("embed", "the model [bold]descends[/]"),
    StageFinished("embed", 12.25, {"embedded": 1100, "rejected": 100, "swept": 0}),
    StageFinished("report", 0.01, {"pages": 0}, skipped=True),
]


class Clock:
    """Seconds that go on only when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(terminal.time, "monotonic", made)
    return made


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What stderr was told, without the time of day, which every plain line ends with."""
    said = capsys.readouterr().err.splitlines()
    assert all(re.search(r" \[\d\d:\d\d:\d\d\]$", line) for line in said), said
    return [line[:-11] for line in said]


def test_a_log_has_plain_lines_few_of_them(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    for event, seconds in zip(NIGHT, (0, 6, 1, 6, 0, 0, 0), strict=True):
        clock.now += seconds
        terminal.listen(event)
    assert lines(capsys) == [
        "embed starts: 1,200 images",
        "embed 100/1,200 images faces 130",
        "embed 400/1,200 images 42.9 images/s faces 500, about 19 s left",
        "note embed: the model [bold]descends[/]",
        "embed    12.2 s: embedded 1,100, rejected 100",
        "report   nothing to do",
    ]


def test_a_long_stage_says_less_often(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten hours, an event a second: a line every five seconds at first, one a minute in the end."""
    terminal = Terminal()
    terminal.listen(StageStarted("embed", 36_000, "images"))
    for second in range(36_000):
        clock.now += 1
        terminal.listen(StageProgress("embed", second))
    said = lines(capsys)
    assert len(said) == 647
    assert said[1].endswith(" images 1.0 images/s, about 10.0 h left")
    assert said[-1].endswith(" s left")
    assert len([line for line in said if re.match(r"embed \d\d?/", line)]) in (19, 20)  # of the first 100 seconds


def test_every_step_of_clustering_is_said(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.listen(StageStarted("cluster", 3, "steps"))
    for done, step in ((0, "scan"), (0, "scan"), (1, "join"), (2, "link")):
        terminal.listen(StageProgress("cluster", done, {"step": step}))
    assert lines(capsys) == ["cluster starts: 3 steps", "cluster step 1 of 3: scan", "cluster step 2 of 3: join", "cluster step 3 of 3: link"]  # fmt: skip


def test_variables_that_ask_for_colours_make_no_bars_of_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    terminal = Terminal()
    for event in NIGHT:
        terminal.listen(event)
    terminal.close()
    said = capsys.readouterr().err
    assert "\r" not in said
    assert "\x1b[" not in re.sub(r"\x1b\[[0-9;]*m", "", said)  # colours at the most, never a cursor moved


SCRIPT = """
import time
from facelake.events import *
from facelake.terminal import Terminal
terminal = Terminal()
terminal.listen(StageStarted("embed", 10, "images"))
terminal.listen(StageProgress("embed", 4))
time.sleep(0.3)
terminal.listen(StageFinished("embed", 1.0, {"embedded": 10}))
terminal.close()
"""


def test_a_terminal_has_bars() -> None:
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=theirs, env=environment) as process:
        os.close(theirs)
        said = b"".join(_all_of(ours))
        assert process.wait() == 0
    assert b"4/10" in said
    assert b"\x1b[?25l" in said  # the cursor is hidden while bars move


def _all_of(descriptor: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(descriptor, 4096)
        except OSError:
            return
        if not data:
            return
        yield data


def test_tables_in_a_log_have_one_line_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 300
    Terminal().table(
        "stages of this run", ["stage", "took"], [["admit", "1.0 s"], ["embed [b]", long], ["report", None]]
    )
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "stages of this run",
        "stage      took",
        "admit      1.0 s",
        f"embed [b]  {long}",
        "report",
    ]


@pytest.mark.parametrize(("as_json", "quiet"), [(True, False), (False, True), (True, True)])
def test_quiet_and_json_say_nothing_else(as_json: bool, quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=as_json, quiet=quiet)
    for event in NIGHT:
        terminal.listen(event)
    terminal.table("t", ["a"], [[1]])
    terminal.say("done")
    terminal.result({"ok": True})
    said = capsys.readouterr()
    assert said.out == ('{"ok": true}\n' if as_json else "")
    assert bool(said.err) is not quiet


@pytest.mark.parametrize(("error", "code"), [(ConfigError("a is b", where="c", next_step="do d"), 2), (Refused("a is b", where="c", next_step="do d"), 1), (KeyError("a is b"), 1), (KeyboardInterrupt(), 130)])  # fmt: skip
def test_errors_are_one_line_with_a_next_step(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, error_boundary(Terminal(as_json=True, quiet=True)):
        raise error
    said = capsys.readouterr()
    assert stop.value.code == code
    (line,) = said.err.splitlines()
    assert line.startswith("error: ")
    assert "Next: " in line or "run again" in line
    assert json.loads(said.out)["ok"] is False


def test_an_error_of_the_disk_is_no_fault_to_report(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), error_boundary(Terminal(quiet=True)):
        raise OSError(errno.EROFS, "Read-only file system", "/mnt/lake/lease.json")
    said = capsys.readouterr().err
    assert said.startswith("error: Read-only file system [/mnt/lake/lease.json]. Next: check the disk")


def commands() -> list[tuple[str, click.Command]]:
    """Every command with its path."""

    def below(path: str, command: Any) -> Iterator[tuple[str, click.Command]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from below(f"{path} {name}".strip(), inner)
        else:
            yield path, command

    return list(below("", typer.main.get_command(app)))


@pytest.mark.parametrize(("path", "command"), commands(), ids=[path for path, _ in commands()])
def test_every_command_can_be_quiet_and_speak_json(path: str, command: click.Command) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--quiet", "--debug"} <= options
    assert command.help, f"{path} does not say what it does"


def test_bad_arguments_end_with_json_too() -> None:
    done = subprocess.run([*FACELAKE, "nightly", "--nightly", "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "No such option" in done.stderr
    assert json.loads(done.stdout)["error"]["next"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell: str, tmp_path: Path) -> None:
    words = {"bash": {"COMP_WORDS": "facelake nig", "COMP_CWORD": "1"}}
    other = {"_TYPER_COMPLETE_ARGS": "facelake nig", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    environment = os.environ | {"_FACELAKE_COMPLETE": f"complete_{shell}"} | words.get(shell, other)
    facelake = Path(sys.executable).parent / "facelake"
    done = subprocess.run([str(facelake)], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert "nightly" in done.stdout
    assert "erase" not in done.stdout


def test_a_run_ends_with_a_table_and_the_alerts(capsys: pytest.CaptureFixture[str]) -> None:
    admit = StageResult("admit", {"read": 1280, "admitted": 1248}, 2.25)
    cluster = StageResult("cluster", {"faces": 255}, 0.1, skipped=True, details={"mode": "full"})
    Terminal().run_summary([admit, cluster, StageResult("report", {"pages": 1, "to_act_on": 0, "to_look_at": 2}, 0.5)])
    assert capsys.readouterr().out.splitlines() == [
        "stages of this run",
        "stage    took           counts",
        "admit    2.2 s          read 1,280, admitted 1,248",
        "cluster  nothing to do  faces 255",
        "report   0.5 s          pages 1, to_act_on 0, to_look_at 2",
        "total    2.9 s",
        "alerts in the report: 2 to check",
    ]
    Terminal().run_summary([StageResult("report", {"pages": 1, "to_act_on": 0, "to_look_at": 0}, 0.5)])
    assert capsys.readouterr().out.splitlines()[-1] == "no alerts in the report"
    known = StageResult("report", {"pages": 0, "to_act_on": 1, "to_look_at": 0}, 0.1, skipped=True)
    Terminal().run_summary([known])
    assert capsys.readouterr().out.splitlines()[-1] == "alerts in the report: 1 with action required"


def test_tables_show_times_to_the_second_and_lists_without_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    then = datetime(2026, 11, 27, 5, 40, 16, 802925, UTC)
    Terminal().table("ledger", ["at", "purposes"], [[then, ["identity-grouping", "print"]]])
    assert capsys.readouterr().out.splitlines()[-1] == "2026-11-27 05:40:16  identity-grouping, print"


def test_the_version_is_printed() -> None:
    done = subprocess.run([*FACELAKE, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"facelake {facelake.__version__}"


def test_figures_with_several_parts_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal().figures("plan", {"images": 3, "memory": {"driver_bytes": 5, "worker_bytes": 7}})
    assert "driver bytes 5, worker bytes 7" in capsys.readouterr().out


def test_cleanup_prints_the_first_of_many_files_of_a_kind() -> None:
    files = [LocalFiles(f"/tmp/facelake-{n}", LocalKind.TEMPORARY, 10, in_use=False) for n in range(30)]
    key = LocalFiles("/keys/k", LocalKind.KEY, 1, in_use=False)
    rows = operate._rows([*files, key], [])
    assert [row[0] for row in rows] == [*(item.path for item in files[:8]), "22 more (--json lists all)", "/keys/k"]
    assert sum(int(str(row[2])) for row in rows) == 301
