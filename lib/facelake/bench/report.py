"""bench report: a lake of synthetic faces without photos, its report by the command line, and what that took."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from typing import Any

from facelake.bench.erase import build_lake
from facelake.config import Config
from facelake.errors import ConfigError
from facelake.events import Listener
from facelake.night import writing
from facelake.stages.analyse import analyse


def report_of(config: Config, faces: int, emit: Listener) -> dict[str, Any]:
    """Make a lake of `faces` (20 per person) and have `facelake report` run on it, in a process of its own.

    Raises:
        ConfigError: there is something at the lake's root already; the report failed.
    """
    with writing(config, "bench", emit) as context:
        if context.lake["faces"].version() >= 0:
            raise ConfigError("there is a lake already", where=config.lake, next_step="give an empty --lake")
        context.lake.mark_as_demo()  # faces of nobody need no assessment
        build_lake(context, faces)
        analyse(context)
    command = [sys.executable, "-m", "facelake", "report", "--lake", config.lake, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    if done.returncode or not said.get("ok"):
        why = (done.stderr.splitlines() or ["nothing was said"])[-1]
        raise ConfigError(f"the report failed: {why}", where=config.lake, next_step=f"run it: {' '.join(command)}")
    made = said["stages"]["report"]
    return {
        "faces": faces,
        "seconds": made["seconds"],
        "page_bytes": made["bytes"],
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024,
    }
