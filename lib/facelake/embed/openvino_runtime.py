"""A graph on OpenVINO, on the CPU, one request at a time."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from facelake.contracts import F32
from facelake.errors import ConfigError

_HINTS = {"float32": "f32", "bf16": "bf16", "int8": "f32"}
"""precision of the operators that the file leaves in floating point"""


@cache
def openvino_core() -> Any:
    """OpenVINO's core; one per process.

    The package openvino-telemetry, which OpenVINO's wheel depends on, would report its use: it is made impossible to
    import first, whereupon OpenVINO takes its own stub.

    Raises:
        ImportError: it is not installed.
    """
    if sys.modules.get("openvino") is None:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # an import of it fails from here on
    import openvino

    return openvino.Core()


class OpenVinoGraph:
    """A graph on OpenVINO; PRelu needs no surgery there."""

    def __init__(self, model: bytes, threads: int = 1, precision: str = "float32") -> None:
        """Compile a graph.

        Raises:
            ConfigError: OpenVINO chose another precision than the requested one.
            ImportError: it is not installed.
            RuntimeError: it cannot read the graph.
        """
        core, hint = openvino_core(), _HINTS[precision]
        network = core.read_model(model)
        names = [output.get_any_name() for output in network.outputs]
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": hint,
            "ENABLE_CPU_PINNING": False,  # workers would all be pinned to the same cores
        }
        compiled = core.compile_model(network, "CPU", settings)
        applied = str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())
        if applied != hint:
            what = f"OpenVINO computes in {applied} here, not in {hint}"
            raise ConfigError(what, where="embed.precision", next_step="set embed.precision to float32")
        self._request: Any = compiled.create_infer_request()
        self._ports = list(compiled.outputs)
        self.outputs: list[str] = names

    def run(self, blob: F32) -> list[F32]:
        """Implements Graph. Outputs are copied, because OpenVINO reuses their memory."""
        self._request.infer([blob], share_inputs=True)
        return [self._request.get_tensor(port).data.copy() for port in self._ports]
