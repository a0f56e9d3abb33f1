"""Libraries record nothing about their use, here and on workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_RUN = """
import os
from facelake.config import Config
from facelake.embed import Pipeline, PipelineOptions
from facelake.stages.models.registry import load_pack
pipeline = Pipeline(load_pack(Config()), PipelineOptions())
assert not list(pipeline.run([(0, "a", b"no photo")]))[0].faces
import sys
from facelake.embed.openvino_runtime import openvino_core
assert openvino_core().available_devices
assert sys.modules["openvino_telemetry"] is None
from facelake.engines.ray_isolation import isolate_local_ray
isolate_local_ray(Config().ray)
import ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=os.environ["RAY_FOLDER"])
@ray.remote
def switches():
    import facelake
    import onnxruntime
    return os.environ["ORT_DISABLE_TELEMETRY"], os.environ["RAY_USAGE_STATS_ENABLED"]
assert ray.get(switches.remote()) == ("1", "0")
ray.shutdown()
"""


def test_nothing_is_written_outside_the_lake_by_the_libraries(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    cache = os.environ.get("FACELAKE_CACHE") or os.path.expanduser("~/.cache/facelake")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "RAY_", "DO_NOT"))}
    environment |= {"HOME": str(home), "FACELAKE_CACHE": cache, "RAY_FOLDER": f"/tmp/fl-{os.getpid()}"}
    subprocess.run([sys.executable, "-c", _RUN], env=environment, check=True, capture_output=True, timeout=300)
    assert [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()] == []
