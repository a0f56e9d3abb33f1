"""The command `doctor`."""

from __future__ import annotations

from typing import Any

import typer

from facelake.cli.command import Invocation, command
from facelake.cli.run import app
from facelake.terminal import Terminal


@command(app)
def doctor(call: Invocation) -> None:
    """Say what this host has: processor, runtimes and what `auto` picks, memory, store, Java; and what is missing.

    Exit code 1 if something is missing.
    """
    from facelake.stages.operations.doctor import examine

    result = examine(call.config())
    _show(call.terminal, result)
    call.terminal.result(result)
    if not result["ok"]:
        raise typer.Exit(1)


def _show(terminal: Terminal, result: dict[str, Any]) -> None:
    cpu, memory = result["cpu"], result["memory_bytes"]
    terminal.say(f"processor: {cpu['model']}, {cpu['cores']} cores, {' '.join(cpu['features']) or 'no known features'}")
    terminal.say(f"GPU: {result['gpu'] or 'none listed by the driver'}; providers: {', '.join(result['providers'])}")
    terminal.say(f"memory: {memory['available'] >> 20} of {memory['total'] >> 20} MiB available, "
                 f"enough for {result['workers_by_memory']} workers, of which each keeps one core busy")  # fmt: skip
    terminal.say(f"Java: {result['java'] or 'none'}; store: {result['store']}")
    terminal.say(f"key of hashes: {result['hash_key'] or 'unknown'}")
    versions = [[name, number or "not installed"] for name, number in result["versions"].items()]
    terminal.table("versions", ["package", "version"], versions)
    runtimes = [[name, why or "available"] for name, why in result["runtimes"].items()]
    terminal.table("runtimes", ["runtime", "state"], runtimes)
    choices = [[choice["role"], choice["runtime"], choice["reason"]] for choice in result["choices"]]
    terminal.table("choices", ["network", "runtime", "reason"], choices)
    if result["images_per_s_per_worker"]:
        terminal.say(f"images per second of one worker, on noise: {result['images_per_s_per_worker']}")
    for item in result["missing"]:
        terminal.say(f"missing: {item['what']}: {item['command']}")
