"""bench report: a lake of synthetic faces without photos, its report by the command line, and what that took."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from facelake.bench.erase import build_lake
from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.events import Listener
from facelake.nightly import run_night, writing
from facelake.stages.gallery.analytics import analyse


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
    command = [sys.executable, "-m", "facelake.bench.report", config.lake]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.splitlines() or ["nothing was said"])[-1]
        raise ConfigError(f"the report failed: {why}", where=config.lake, next_step="run `facelake report` on it")
    return {"faces": faces, **json.loads(done.stdout.splitlines()[-1])}


def _alone(lake: str) -> dict[str, Any]:
    """The report as the only work of this process; VmHWM, since getrusage would count the parent's memory too."""
    (made,) = (result for result in run_night(load_config(lake=lake), only=["report"]) if result.stage == "report")
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": round(made.seconds, 2), "page_bytes": made.counts["bytes"], "peak_rss_bytes": peak * 1024}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_alone(sys.argv[1])) + "\n")
