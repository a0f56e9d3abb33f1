"""A graph on onnxruntime, on the CPU or on an NVIDIA GPU by its CUDA and TensorRT providers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import onnxruntime

from facelake.contracts import F32
from facelake.errors import ConfigError

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"
_WORKSPACE_BYTES = 1 << 30  # of TensorRT while it builds an engine


class ProviderOptions(Protocol):
    """What a provider needs of the configured runtime."""

    @property
    def name(self) -> str:
        """onnxruntime or tensorrt."""
        ...

    @property
    def device(self) -> str:
        """As torch names it: cpu, cuda, cuda:1."""
        ...

    @property
    def precision(self) -> str:
        """float32, bf16 or int8."""
        ...

    @property
    def cache(self) -> str:
        """The folder in which engines are kept; empty: none is kept."""
        ...


class OnnxGraph:
    """A graph on onnxruntime; on the CPU unless other providers are given."""

    def __init__(self, model: bytes, threads: int = 1, providers: Sequence[Any] = (CPU,)) -> None:
        """Load a graph.

        Args:
            providers: names or (name, options), in order of preference.

        Raises:
            ConfigError: onnxruntime does not use the first provider, and would compute elsewhere without a word.
        """
        if _name(providers[0]) != CPU and CUDA in onnxruntime.get_available_providers():
            onnxruntime.preload_dlls()  # CUDA and cuDNN from their wheels, which are on no library path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=list(providers))
        wanted, used = _name(providers[0]), self._session.get_providers()
        if wanted not in used:
            what = f"onnxruntime could not start {wanted}; it would use {', '.join(used)}"
            next_step = "run `facelake doctor` on this host, or set embed.device to cpu"
            raise ConfigError(what, where="embed.device", next_step=next_step)
        self._input = self._session.get_inputs()[0].name
        self.outputs = [item.name for item in self._session.get_outputs()]

    def run(self, blob: F32) -> list[F32]:
        """Implements Graph."""
        outputs: list[F32] = self._session.run(None, {self._input: blob})
        return outputs


def gpu_providers(
    runtime: ProviderOptions, model: bytes, input_name: str, shapes: tuple[Sequence[int], Sequence[int]], batch: int
) -> list[Any]:
    """The providers of a runtime on CUDA, best first, with their options.

    Args:
        model: the graph, whose digest is part of the key of TensorRT's engine cache.
        shapes: (c, h, w) of the smallest and of the largest input.
        batch: most inputs at once: TensorRT's profile covers 1 to that many.
    """
    number = int(runtime.device.partition(":")[2] or 0)
    # TF32 would reduce float32 to ten bits of mantissa
    cuda = (CUDA, {"device_id": number, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"})
    if runtime.name != "tensorrt":
        return [cuda, CPU]
    least, most = ("x".join(map(str, shape)) for shape in shapes)
    options: dict[str, Any] = {
        "device_id": number,
        "trt_max_workspace_size": _WORKSPACE_BYTES,
        "trt_profile_min_shapes": f"{input_name}:1x{least}",
        "trt_profile_opt_shapes": f"{input_name}:{batch}x{most}",
        "trt_profile_max_shapes": f"{input_name}:{batch}x{most}",
    }
    if runtime.cache:
        key = engine_key(model, f"{least}-{batch}x{most}", runtime, card(number))
        folder = Path(runtime.cache).expanduser() / "engines" / key
        folder.mkdir(parents=True, exist_ok=True)
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(folder)}
        options |= {"trt_timing_cache_enable": True, "trt_timing_cache_path": str(folder)}
    return [(TENSORRT, options), cuda, CPU]


def engine_key(model: bytes, shape: str, runtime: ProviderOptions, card_name: str) -> str:
    """The folder name of TensorRT's engines: of this model, shape, precision, card and version, and of no other."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", card_name).strip("-") or "card"
    key = "\0".join([hashlib.sha256(model).hexdigest(), shape, runtime.precision, name, onnxruntime.__version__])
    return f"{name}-{runtime.precision}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def card(number: int, folder: str = "/proc/driver/nvidia/gpus") -> str:
    """The name of a GPU as the driver lists it; empty where it lists none."""
    try:
        cards = sorted(Path(folder).iterdir())
        text = (cards[number] / "information").read_text()
    except (OSError, IndexError):
        return ""
    return next((line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model:")), "")


def providers() -> list[str]:
    """The providers that the installed onnxruntime was built with."""
    return list(onnxruntime.get_available_providers())


def _name(provider: Any) -> str:
    return str(provider if isinstance(provider, str) else provider[0])
