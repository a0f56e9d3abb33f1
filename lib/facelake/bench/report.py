"""The command `bench report`: time and memory of the report of a lake of synthetic faces without photos."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from facelake.bench.erase import build_lake
from facelake.bench.memory import own_peak_bytes
from facelake.config import Config, load_config
from facelake.errors import ConfigError
from facelake.events import Listener
from facelake.nightly import run_night, writing
from facelake.stages.gallery.analytics import analyse


def report_of(config: Config, faces: int, emit: Listener) -> dict[str, Any]:
    """Create a lake of `faces` synthetic faces (20 per person) and run `facelake report` on it in a separate process.

    Raises:
        ConfigError: the lake's root is not empty, or the report failed.
    """
    with writing(config, "bench", emit) as context:
        if context.lake["faces"].version() >= 0:
            raise ConfigError("the lake already exists", where=config.lake, next_step="give an empty --lake")
        context.lake.mark_as_demo()  # synthetic faces need no impact assessment
        build_lake(context, faces)
        analyse(context)
    command = [sys.executable, "-m", "facelake.bench.report", config.lake]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.splitlines() or ["no output"])[-1]
        raise ConfigError(f"the report failed: {why}", where=config.lake, next_step="run `facelake report` on it")
    return {"faces": faces, **json.loads(done.stdout.splitlines()[-1])}


def _measure(lake: str) -> dict[str, Any]:
    """Run the report as the only work of this process. Memory is VmHWM, since getrusage includes the parent's
    memory.
    """
    (report,) = (result for result in run_night(load_config(lake=lake), only=["report"]) if result.stage == "report")
    return {
        "seconds": round(report.seconds, 2),
        "page_bytes": report.counts["bytes"],
        "peak_rss_bytes": own_peak_bytes(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure(sys.argv[1])) + "\n")
