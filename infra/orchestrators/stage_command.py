"""Runs one stage of facelake for an orchestrator: a command in facelake's own environment, with its JSON result.

Only the standard library is used, because orchestrators have environments of their own. A stage that is run again
continues where the previous attempt stopped, so every retry is safe.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

STAGES = ("admit", "embed", "cluster", "publish", "report")
_BAD_ARGUMENTS = 2


class StageFailed(Exception):
    """The stage failed or was refused; another attempt may succeed."""


class BadConfig(Exception):
    """The config or an argument is wrong (exit code 2); another attempt would fail too."""


def run_stage(stage: str, *, command: str = "", config: str = "", wait_s: int = 600) -> dict[str, Any]:
    """Run a stage and return its counts and details, by name.

    Args:
        stage: one of STAGES; admission runs before every other, because decisions must be those of today.
        command: the `facelake` executable; empty: the environment's FACELAKE, else `facelake` of the PATH.
        config: path or s3:// URI of the YAML config; empty: the environment's FACELAKE_CONFIG.
        wait_s: seconds to wait for another writer of the lake.

    Returns:
        `skipped`, `seconds` and the counts of the stage, and `gallery`, the version after it, if there is one.

    Raises:
        BadConfig: exit code 2.
        StageFailed: another exit code, or an executable that cannot be started.
    """
    executable = command or os.environ.get("FACELAKE", "facelake")
    config = config or os.environ.get("FACELAKE_CONFIG", "")
    if not config:
        raise BadConfig("no config is given: set FACELAKE_CONFIG to its path or s3:// URI")
    arguments = [executable, "nightly", "--only", stage, "-c", config, "--wait", str(wait_s), "--json"]
    try:
        done = subprocess.run(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as err:
        raise StageFailed(f"{executable} cannot be started: {err.strerror}") from err
    result = _last_object(done.stdout)
    if done.returncode:
        error = result.get("error", {})
        text = f"{stage}: {error.get('what', f'exit code {done.returncode}')}. Next: {error.get('next', 'see the log')}"
        raise BadConfig(text) if done.returncode == _BAD_ARGUMENTS else StageFailed(text)
    gallery = {"gallery": result["gallery"]} if "gallery" in result else {}
    return {**result["stages"][stage], **gallery}


def _last_object(output: str) -> dict[str, Any]:
    try:
        return dict(json.loads(output.splitlines()[-1]))
    except (IndexError, ValueError):
        return {}
