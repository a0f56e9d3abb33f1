"""Chooses a runtime per network and host by measuring those that the host has; the choice is kept on the host.

Float32 runtimes sum products in different orders. Their embeddings differ by less than half precision, in which they
are stored, resolves (docs/embedding.md), so that the model digest does not name the runtime. A candidate whose outputs
differ from onnxruntime's by more than rounding is not chosen. All workers of a host use one choice: the first measures
while the others wait, and the result is kept in a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import numpy as np

from facelake.contracts import F32
from facelake.embed.cpu_features import Precision, this_cpu
from facelake.embed.onnx_runtime import card
from facelake.embed.runtime import (
    Graph,
    Network,
    Runtime,
    RuntimeName,
    must_have,
    open_network,
    torch_sees_gpu,
    unavailable,
)
from facelake.errors import ConfigError

_LOG = logging.getLogger(__name__)
_FORMAT = 2  # of the kept choices; raised when they are measured in another way
_BUDGET_S, _ROUNDS, _TIMEOUT_S = 4.0, 8, 120
_MARGIN = 0.92  # another runtime is chosen if it takes less than this share of onnxruntime's time: more is no noise
_CPU_RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino")
_GPU_RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "tensorrt")
_PIECES = (1, 2)  # inputs at once, besides the full batch
_CELLS = (3, 8, 28)  # per side of the random patterns of which inputs are made, from coarse to fine
# Least cosine of embeddings to onnxruntime's in float32 with which a runtime computes the same function.
_LEAST_COSINE = {"float32": 0.99999, "int8": 0.9999, "bf16": 0.999}


@dataclass(frozen=True, slots=True)
class Choice:
    """The runtime of one network on this host, and why."""

    role: str
    name: str
    piece: int
    """most inputs of one call on a CPU; 0: all that are there"""
    reason: str
    ms: dict[str, float] = field(default_factory=dict)
    """CPU milliseconds (GPU: wall-clock) per input by candidate, as `openvino x2`; empty if nothing was measured"""

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"{self.role}: {self.name}, {self.reason}"


def resolve(network: Network, runtime: Runtime) -> tuple[Runtime, Choice]:
    """The fixed runtime on which a network runs on this host.

    With `auto` a detector on a CPU stays on onnxruntime: another runtime moves landmarks by up to .05 pixels, and face
    ids name the rounded box, so that hosts with different runtimes would give one face two ids.

    Raises:
        ConfigError: the host does not have the configured runtime, or none that is native to the precision.
    """
    if network.role == "detector":
        runtime = replace(runtime, precision="float32")
    if runtime.name != "auto":
        must_have(runtime)
        return runtime, Choice(network.role, runtime.name, runtime.piece, "fixed by embed.runtime")
    names, refused = _candidates(runtime)
    if network.role == "detector" and runtime.device == "cpu":
        names = [name for name in names if name == "onnxruntime"]
    if not names:
        return _no_candidate(runtime, refused), Choice(network.role, "torch", 0, "the only one on this host")
    if len(names) == 1 and runtime.device != "cpu":
        choice = Choice(network.role, names[0], 0, "the only one on this host")
    else:
        choice = _kept(network, runtime, names)
    return replace(runtime, name=cast(RuntimeName, choice.name), piece=choice.piece), choice


def device_runtime(runtime: Runtime) -> Runtime:
    """`auto` on a GPU: torch where it is installed and sees the GPU; else unchanged, onnxruntime's providers per graph.

    torch keeps pixels on the device, and its pipeline differs from the one that onnxruntime serves, so that this is not
    decided per graph. Default pack on an H200, photos per second of one process: torch 147, onnxruntime's CUDA provider
    13 (docs/embedding.md).
    """
    torch = replace(runtime, name="torch")
    if unavailable(torch) is not None:
        return runtime
    return torch if torch_sees_gpu() or not _candidates(runtime)[0] else runtime


def must_have_any(runtime: Runtime) -> None:
    """Check that this host has the configured runtime, or with `auto` one that fits.

    Raises:
        ConfigError: it does not.
    """
    if runtime.name != "auto":
        must_have(runtime)
    elif not _candidates(runtime)[0]:
        _no_candidate(runtime, _candidates(runtime)[1])


def open_resolved(network: Network, runtime: Runtime) -> tuple[Graph, Choice]:
    """Load a network on the runtime that `resolve` gives.

    Raises:
        ConfigError: as resolve; or onnxruntime cannot start a provider.
    """
    fixed, choice = resolve(network, runtime)
    _LOG.info("%s", choice.summary)
    return open_network(network, fixed), choice


def _candidates(runtime: Runtime) -> tuple[list[RuntimeName], dict[str, str]]:
    """Runtimes that this host has, and why it does not have the others."""
    wanted = _CPU_RUNTIMES if runtime.device == "cpu" else _GPU_RUNTIMES
    reasons = {name: unavailable(replace(runtime, name=name)) for name in wanted}
    return [n for n in wanted if reasons[n] is None], {n: r for n, r in reasons.items() if r is not None}


def _no_candidate(runtime: Runtime, refused: dict[str, str]) -> Runtime:
    """torch, if it serves this device and precision.

    Raises:
        ConfigError: it does not.
    """
    torch = replace(runtime, name="torch")
    if runtime.precision == "bf16":
        must_have(replace(runtime, name="openvino"))
    if (reason := unavailable(torch)) is None:
        return torch
    what = "; ".join(f"{name}: {why}" for name, why in (refused | {"torch": reason}).items())
    raise ConfigError(f"no runtime fits: {what}", where="embed.runtime", next_step="run `facelake doctor` on this host")


def _kept(network: Network, runtime: Runtime, names: Sequence[RuntimeName]) -> Choice:
    """The choice that this host keeps for the network; measured if there is none."""
    if not runtime.cache:
        return _measured(network, runtime, names)
    folder = Path(os.environ.get("FACELAKE_CACHE") or Path(runtime.cache).expanduser()) / "runtimes"
    path = folder / f"{_key(network, runtime, names)}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            if (choice := _read(path)) is None:
                choice = _measured(network, runtime, names)
                _write(path, choice)
            return choice
    except OSError as err:
        _LOG.warning("the choice of a runtime cannot be kept in %s: %s", folder, err.strerror or err)
        return _measured(network, runtime, names)


def _key(network: Network, runtime: Runtime, names: Sequence[RuntimeName]) -> str:
    """A digest of everything on which the choice depends: network, host, versions, precision."""
    cpu = this_cpu()
    parts = [
        _FORMAT, hashlib.sha256(network.model).hexdigest(), network.role, network.shape, network.batch,
        runtime.device, runtime.precision, runtime.threads, cpu.model, sorted(cpu.flags), list(names),
        _version("onnxruntime"), _version("onnxruntime-gpu"), _version("openvino"),
        card(0) if runtime.device != "cpu" else "",
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> Choice | None:
    try:
        return Choice(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):  # not there, or not written by this version
        return None


def _write(path: Path, choice: Choice) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(asdict(choice), file)
    Path(file.name).replace(path)


_CHILD = "import sys; sys.path[:] = {path!r}; from facelake.embed.calibration import measure_in; measure_in({folder!r})"


def _measured(network: Network, runtime: Runtime, names: Sequence[RuntimeName]) -> Choice:
    """Measure in a process of its own: the libraries of runtimes that are not chosen would stay in memory."""
    with tempfile.TemporaryDirectory(prefix="facelake-runtime-") as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(network.model)
        names_of_fields = ("role", "shape", "smallest", "input_name", "any_size", "mean", "scale")
        fields = {name: getattr(network, name) for name in names_of_fields}
        task = {"network": fields | {"batch": network.batch}, "runtime": asdict(runtime), "names": list(names)}
        (folder / "task.json").write_text(json.dumps(task))
        code = _CHILD.format(path=sys.path, folder=scratch)
        environment = os.environ | {"OMP_NUM_THREADS": str(runtime.threads)}
        try:
            subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True, timeout=_TIMEOUT_S
            )
            return Choice(**json.loads((folder / "choice.json").read_text()))
        except (subprocess.SubprocessError, OSError, ValueError) as err:
            detail = getattr(err, "stderr", b"") or b""
            last = (detail.decode(errors="replace").strip().splitlines() or [type(err).__name__])[-1][:200]
            _LOG.warning("calibration failed, the runtime is %s: %s", names[0], last)
            return Choice(network.role, names[0], 0, f"the calibration failed ({last})")


def measure_in(folder: str) -> None:
    """Entry point of the measuring process: reads the task in `folder` and writes the choice there."""
    task = json.loads(Path(folder, "task.json").read_text())
    sizes = {name: tuple(task["network"][name]) if task["network"][name] else None for name in ("shape", "smallest")}
    network = Network(model=Path(folder, "model.onnx").read_bytes(), **(task["network"] | sizes))
    choice = measure(network, Runtime(**task["runtime"]), task["names"])
    Path(folder, "choice.json").write_text(json.dumps(asdict(choice)))


def sample_input(network: Network) -> F32:
    """Inputs (batch, *shape) float32 with the values and the smoothness of photos.

    Rounding is relative to a network's usual values: of noise around one grey level, bf16 leaves another direction than
    float32 (SFace: cosine .986 on a processor with AMX, where faces have .9999).
    """
    random, (channels, height, width) = np.random.default_rng(0), network.shape
    pixels = np.zeros((network.batch, channels, height, width), np.float32)
    for cells in _CELLS:
        tall, wide = -(-height // cells), -(-width // cells)
        coarse = random.uniform(0, 255 / len(_CELLS), (network.batch, channels, cells, cells))
        pixels += coarse.repeat(tall, 2).repeat(wide, 3)[:, :, :height, :width].astype(np.float32)
    return ((pixels - network.mean) * network.scale).astype(np.float32)


def measure(network: Network, runtime: Runtime, names: Sequence[RuntimeName]) -> Choice:
    """Measure candidates in turns for some seconds; the first of `names` is kept unless another is clearly faster."""
    on_gpu = runtime.device != "cpu"
    blob = sample_input(network)
    reference = open_network(network, Runtime(threads=runtime.threads, precision=_in_file(runtime))).run(blob)
    graphs: dict[str, Graph] = {}
    refused: dict[str, str] = {}
    for name in names:
        try:
            # pieces are cut below, so that one loaded graph serves all sizes
            graph = open_network(network, replace(runtime, name=name, piece=network.batch))
            outputs = graph.run(blob)
        except Exception as err:  # noqa: BLE001  runtimes raise errors of their own types for graphs they cannot read
            refused[name] = " ".join(str(err).split())[:120]
            continue
        if (difference := _difference(outputs, reference, network.role, runtime.precision)) is not None:
            refused[name] = difference
            continue
        graphs[name] = graph
    if not graphs:
        raise RuntimeError("; ".join(f"{name}: {why}" for name, why in refused.items()))
    sizes = [network.batch] if on_gpu else sorted({*(size for size in _PIECES if size < network.batch), network.batch})
    clock = time.perf_counter if on_gpu else time.process_time
    ms = _times({(name, size): graph for name, graph in graphs.items() for size in sizes}, blob, clock)
    return _choose(network.role, ms, refused, on_gpu=on_gpu)


def _in_file(runtime: Runtime) -> Precision:
    return "int8" if runtime.precision == "int8" else "float32"


def _times(graphs: dict[tuple[str, int], Graph], blob: F32, clock: Callable[[], float]) -> dict[tuple[str, int], float]:
    """Milliseconds per input by (runtime, inputs per call): the least of some rounds, measured in turns."""
    least: dict[tuple[str, int], float] = {}
    began = time.monotonic()
    for number in range(_ROUNDS + 1):
        for key, graph in graphs.items():
            graph.run(blob[: key[1]])  # a runtime may prepare itself for another number of inputs
            start = clock()
            for first in range(0, len(blob), key[1]):
                graph.run(blob[first : first + key[1]])
            taken = 1000 * (clock() - start) / len(blob)
            if number:  # the first round allocates memory
                least[key] = min(taken, least.get(key, np.inf))
        if number >= 2 and time.monotonic() - began > _BUDGET_S:
            break
    return least


def _choose(role: str, ms: dict[tuple[str, int], float], refused: dict[str, str], *, on_gpu: bool) -> Choice:
    """The fastest runtime and size; the first runtime if no other is faster by more than noise."""
    best = {name: min((key for key in ms if key[0] == name), key=ms.__getitem__) for name, _ in ms}
    first = next(iter(best.values()))
    fastest = min(best.values(), key=ms.__getitem__)
    chosen = fastest if ms[fastest] < _MARGIN * ms[first] else first
    others = [f"{name} {ms[key]:.2f}" for name, key in best.items() if key != chosen]
    others += [f"{name} not usable: {why}" for name, why in refused.items()]
    unit = "ms each" if on_gpu else "CPU ms each"
    reason = f"measured {ms[chosen]:.2f} {unit} in batches of {chosen[1]}"
    if others:
        reason += f" ({'; '.join(others)})"
    figures = {f"{name} x{size}": round(value, 3) for (name, size), value in ms.items()}
    return Choice(role, chosen[0], 0 if on_gpu else chosen[1], reason, figures)


def _difference(outputs: list[F32], reference: list[F32], role: str, precision: str) -> str | None:
    """Return how outputs differ from the reference by more than the precision explains; None if they do not."""
    for output, wanted in zip(outputs, reference, strict=True):
        if output.shape != wanted.shape or not np.isfinite(output).all():
            return "outputs have another shape or are not finite"
        if role == "detector":
            most = float(np.abs(wanted).max(initial=0))
            if not np.allclose(output, wanted, rtol=1e-3, atol=1e-4 * (1 + most)):
                return f"outputs differ by up to {float(np.abs(output - wanted).max()):.2g}"
            continue
        norm = np.linalg.norm(output, axis=1) * np.linalg.norm(wanted, axis=1)
        cosine = float(((output * wanted).sum(1) / np.maximum(norm, 1e-30)).min())
        if cosine < _LEAST_COSINE[precision]:
            return f"outputs differ, cosine {cosine:.6f}"
    return None
