"""bench gallery: what each command on a gallery costs, on a lake of synthetic faces.

The faces are of given groups, or of a world of embeddings, which is clustered first.

Every command runs in a process of its own, so that its peak memory is not another's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from facelake.bench.memory import PeakMemory, own_peak_bytes, reset_own_peak
from facelake.bench.nights import pack_of_dimension
from facelake.bench.synthetic_lake import Population, add_faces, subject_of, write_groups
from facelake.bench.world_lake import World, add_night, subject_of_person
from facelake.config import Config
from facelake.errors import ConfigError
from facelake.events import Listener, StageFinished, StageProgress, StageStarted
from facelake.nightly import reading, run_night, writing
from facelake.stages.clustering.calibration_store import MEASURES, read_since, write_since
from facelake.stages.clustering.stage import cluster
from facelake.stages.core.context import Context

_ARRIVING, _ERASED = 0.012, 100  # share of faces that an incremental run adds; subjects that are erased
_SAMPLED = 30_000  # faces of which the measures of clustering are taken


@dataclass(frozen=True, slots=True)
class GallerySize:
    """The size of the synthetic lake.

    Attributes:
        faces: how many.
        dim: dimensions of an embedding.
        per_identity: mean faces per identity.
        seed: of everything.
        world: folder of the world that the faces come from; "": they are made for the lake.
    """

    faces: int
    dim: int
    per_identity: int
    seed: int
    world: str = ""

    @classmethod
    def of_world(cls, folder: str) -> GallerySize:
        """Return the size of a world with at least one night.

        Raises:
            ConfigError: there is none in the folder.
        """
        world = World.of(folder)
        faces = world.faces(0)
        return cls(faces, world.dimension(), max(faces // len(world.people()), 1), 0, folder)


def bench_gallery(config: Config, size: GallerySize, emit: Listener) -> dict[str, Any]:
    """Make a lake at the config's URI and run every command on it.

    Returns:
        `faces`, `identities`, `lake_bytes`, and `commands`: by name `seconds`, `driver_cpu_seconds` (of the command's
        process), `driver_peak_bytes` (its resident set), `peak_bytes` (all processes), `peak_unmapped_bytes` (the same
        without pages of mapped files), `read_bytes` and `written_bytes` (by all processes).

    Raises:
        ConfigError: there is a lake at the URI already, or a command failed.
    """
    with writing(config, "bench", emit) as context:
        if context.lake["faces"].version() >= 0:
            raise ConfigError("there is a lake already", where=config.lake, next_step="give an empty --lake")
    names = [name for name in _COMMANDS if size.world or name != "cluster"]
    emit(StageStarted("bench", len(names), "commands"))
    figures: dict[str, Any] = {}
    for done, name in enumerate(names):
        emit(StageProgress("bench", done, {"step": name}))
        figures[name] = _measured(config, size, name)
    emit(StageFinished("bench", 0.0, {"commands": len(names)}))
    lake = reading(config).lake
    return {
        **asdict(size),
        "identities": lake["identities"].snapshot().rows,
        "lake_bytes": sum(item.size_bytes for item in lake.store.list()),
        "commands": figures,
    }


def _measured(config: Config, size: GallerySize, name: str) -> dict[str, Any]:
    order = {"command": name, "size": asdict(size), "config": config.model_dump(mode="json")}
    command = [sys.executable, "-m", "facelake.bench.gallery", json.dumps(order)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigError(f"{name} failed: {reason}", where="bench gallery", next_step="run it with another --lake")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _population(size: GallerySize) -> Population:
    return Population(size.faces, size.dim, size.per_identity, size.seed)


# ---- the commands


def _build(config: Config, size: GallerySize) -> None:
    with writing(config, "bench") as context:
        context.lake.mark_as_demo()
        if size.world:
            add_night(context, World.of(size.world), 0)
        else:
            add_faces(context, _population(size), 0, size.faces)
            write_groups(context, _population(size), size.faces)


def _publish(config: Config, size: GallerySize) -> None:
    from facelake.stages.gallery.publish import publish

    with writing(config, "bench") as context:
        publish(context)


def _analyse(config: Config, size: GallerySize) -> None:
    from facelake.stages.gallery.analytics import analyse

    with writing(config, "bench") as context:
        analyse(context)


def _arrive(config: Config, size: GallerySize) -> None:
    """Add faces, and what a full clustering would have recorded where none ran; the runs that follow use both."""
    with writing(config, "bench") as context:
        if size.world:
            return add_night(context, World.of(size.world), 1)
        add_faces(context, _population(size), size.faces, max(int(size.faces * _ARRIVING), 1))
        _record_measures(context, size)


def _record_measures(context: Context, size: GallerySize) -> None:
    """Record the measures of a full clustering of a sample as those of the lake, whose groups are given."""
    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder:
        sample = replace(size, faces=min(size.faces, _SAMPLED))
        with writing(context.config.model_copy(update={"lake": folder}), "bench") as other:
            other.lake.mark_as_demo()
            other.pack = pack_of_dimension(other, size.dim)
            add_faces(other, _population(sample), 0, sample.faces)
            cluster(other)
            since = read_since(other.lake)
            assert since is not None
            write_since(context.lake, replace(since, faces=size.faces))
            context.lake.store.write(MEASURES, other.lake.store.read(MEASURES))


def _cluster(config: Config, size: GallerySize) -> None:
    with writing(config, "bench") as context:
        context.pack = pack_of_dimension(context, size.dim)
        cluster(context)


def _verify(config: Config, size: GallerySize) -> None:
    from facelake.stages.operations.verify import verify

    findings, _ = verify(reading(config))
    problems = [f.problem for f in findings if "corpus" not in f.problem]  # the lake has faces but no photos
    if problems:
        raise ConfigError(problems[0], where="verify", next_step="report it")


def _export(config: Config, size: GallerySize) -> None:
    from facelake.stages.sharing.export import export_gallery

    with tempfile.TemporaryDirectory(prefix="facelake-bench-") as folder, writing(config, "bench") as context:
        export_gallery(context, folder, config.purpose, "bench")


def _report(config: Config, size: GallerySize) -> None:
    run_night(config, only=["report"])


def _erase(config: Config, size: GallerySize) -> None:
    from facelake.stages.erasure.request import Request
    from facelake.stages.erasure.stage import erase

    with writing(config, "bench") as context:
        erase(context, Request.of(subjects=_some_subjects(size), copies="erase"))  # worlds have equal photos


def _some_subjects(size: GallerySize) -> list[str]:
    people: list[int] | range = World.of(size.world).people() if size.world else range(_population(size).identities)
    chosen = np.random.default_rng(1).choice(len(people), min(_ERASED, len(people) // 2 or 1), replace=False)
    name = subject_of_person if size.world else subject_of
    return [name(people[int(place)]) for place in np.sort(chosen)]


_COMMANDS: dict[str, Callable[[Config, GallerySize], None]] = {
    "build": _build,
    "cluster": _cluster,
    "publish": _publish,
    "analytics": _analyse,
    "verify": _verify,
    "export": _export,
    "report": _report,
    "arrive": _arrive,
    "cluster_increment": _cluster,
    "publish_increment": _publish,
    "analytics_increment": _analyse,
    "erase": _erase,
}


def _main() -> None:
    order = json.loads(sys.argv[1])
    config = Config.model_validate(order["config"])
    with PeakMemory(every_s=0.2) as memory:
        reset_own_peak()
        began, worked = time.monotonic(), time.process_time()
        _COMMANDS[order["command"]](config, GallerySize(**order["size"]))
        seconds, worked = time.monotonic() - began, time.process_time() - worked
        read, written = memory.moved_bytes()
    figures = {
        "seconds": round(seconds, 2),
        "driver_cpu_seconds": round(worked, 2),
        "driver_peak_bytes": own_peak_bytes(),
        "peak_bytes": memory.peak_bytes,
        "peak_unmapped_bytes": memory.peak_unmapped_bytes,
        "read_bytes": read,
        "written_bytes": written,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    _main()
