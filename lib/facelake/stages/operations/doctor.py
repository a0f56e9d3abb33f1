"""What this host has for a run, and what is missing, with the command that brings it. Reads no photo."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from facelake.config import Config
from facelake.embed import Pack
from facelake.embed.calibration import Choice, resolve
from facelake.embed.cpu_features import this_cpu
from facelake.embed.models import detector_network, encoder_network
from facelake.embed.onnx_runtime import card, providers
from facelake.embed.runtime import Runtime, RuntimeName, unavailable
from facelake.errors import FacelakeError
from facelake.lake.store import open_store, probe
from facelake.stages.core.hash_keys import hash_key_advice
from facelake.stages.embedding.cost_projection import project, worker_memory_bytes
from facelake.stages.models.registry import load_pack, pipeline_options

_RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino", "tensorrt", "torch")
_PACKAGES = ("facelake", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "ray", "pyspark", "deltalake")
_LEAST_JAVA, _JAVA_TIMEOUT_S = 17, 20
_MEAN_BYTES = 100_000  # of a photo of 640 pixels, for the calibration


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that this host lacks for the config."""

    what: str
    command: str
    """the command or setting that brings it"""


def examine(config: Config) -> dict[str, Any]:
    """Examine this host for a config.

    Returns:
        cpu, memory, versions, runtimes (None or why it cannot be used, by name), providers, choices (of the config's
        runtime), images_per_s of one worker by a calibration on noise, store, hash_key, java; `missing`, a list of what
        and command; `ok`, whether nothing is missing.
    """
    missing: list[Missing] = []
    cpu = this_cpu()
    figures: dict[str, Any] = {
        "cpu": {"model": cpu.model, "cores": os.cpu_count(), "features": cpu.features()},
        "gpu": card(0) or None,
        "memory_bytes": _memory(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "providers": providers(),
        "runtimes": _runtimes(config.embed.device),
        "precisions": {"bf16": cpu.lacking("bf16"), "int8": cpu.lacking("int8")},
    }
    figures |= _embedding(config, missing)
    figures["java"] = _java(missing)
    figures["store"] = _store(config, missing)
    figures["hash_key"] = _hash_key(config, missing)
    workers_bytes = worker_memory_bytes(_MEAN_BYTES, config.embed.batch_photos)
    figures["workers_by_memory"] = figures["memory_bytes"]["available"] // workers_bytes
    if not figures["workers_by_memory"]:
        missing.append(Missing(f"a worker needs {workers_bytes >> 20} MiB of memory", "use a host with more memory"))
    figures["missing"] = [{"what": item.what, "command": item.command} for item in missing]
    return {"ok": not missing, **figures}


def _runtimes(device: str) -> dict[str, str | None]:
    devices = {"tensorrt": "cuda"} if device == "cpu" else {}
    return {name: unavailable(Runtime(name, devices.get(name, device))) for name in _RUNTIMES}


def _embedding(config: Config, missing: list[Missing]) -> dict[str, Any]:
    """The runtimes that the config's networks get here, and images per second of one worker."""
    try:
        pack = load_pack(config)
        choices = _choices(config, pack)
        rate = 1 / project(config, pack, 1, _MEAN_BYTES, 1.0).seconds_per_photo
    except FacelakeError as err:
        missing.append(Missing(f"{err.where}: {err.what}", err.next_step))
        return {"choices": [], "images_per_s_per_worker": None}
    shown = [
        {"role": choice.role, "runtime": choice.name, "at_once": choice.piece, "reason": choice.reason, "ms": choice.ms}
        for choice in choices
    ]
    return {"choices": shown, "images_per_s_per_worker": round(rate, 2)}


def _choices(config: Config, pack: Pack) -> list[Choice]:
    options = pipeline_options(config, pack.card)
    runtime = replace(options.runtime, precision="float32")
    networks = (detector_network(pack), runtime), (encoder_network(pack, options.batch_faces), options.runtime)
    return [resolve(network, of_network)[1] for network, of_network in networks]


def _memory() -> dict[str, int]:
    """Bytes of memory of the host, total and available; a limit of the container counts."""
    memory = psutil.virtual_memory()
    total = int(memory.total)
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists() and (value := limit.read_text().strip()).isdigit():
        total = min(total, int(value))
    return {"total": total, "available": min(total, int(memory.available))}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _java(missing: list[Missing]) -> str | None:
    """The version of the Java that Spark would start; None if there is none."""
    home = os.environ.get("JAVA_HOME")
    command = str(Path(home, "bin", "java")) if home else shutil.which("java")
    try:
        done = subprocess.run(
            [command or "java", "-version"], capture_output=True, text=True, timeout=_JAVA_TIMEOUT_S, check=False
        )
        number = re.search(r'version "(\d+)([^"]*)"', done.stderr)
    except (OSError, subprocess.SubprocessError):
        number = None
    if number is None or int(number[1]) < _LEAST_JAVA:
        what = f"Java {_LEAST_JAVA} or newer, which Spark needs for more than spark.in_process_below faces"
        missing.append(Missing(what, "apt-get install openjdk-17-jre-headless, or set JAVA_HOME"))
    return f"{number[1]}{number[2]}" if number else None


def _store(config: Config, missing: list[Missing]) -> str:
    """Whether the lake's store supports what a run needs. A folder that does not exist yet is not created."""
    try:
        if "://" not in config.lake and not Path(config.lake).expanduser().exists():
            return _folder_to_be(Path(config.lake).expanduser(), missing)
        probe(open_store(config.lake, config.s3))
    except FacelakeError as err:
        missing.append(Missing(f"{err.where}: {err.what}", err.next_step))
        return "refused"
    return "conditional writes work"


def _hash_key(config: Config, missing: list[Missing]) -> str | None:
    """The state of the key of hashes; None if the store does not say."""
    try:
        advice = hash_key_advice(config)
    except FacelakeError:
        return None  # the store's own check has reported it
    if advice.mend and not advice.new:
        missing.append(Missing(f"governance.hash_key: {advice.state}", advice.mend))
    return f"{advice.state}. Next: {advice.mend}" if advice.mend else advice.state


def _folder_to_be(folder: Path, missing: list[Missing]) -> str:
    parent = next(path for path in folder.absolute().parents if path.exists())
    if os.access(parent, os.W_OK):
        return "the folder does not exist yet and can be created"
    missing.append(Missing(f"{folder}: {parent} is not writable", "give another --lake"))
    return "refused"
