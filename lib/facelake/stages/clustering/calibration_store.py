"""What the last full clustering measured, and counts of the incremental runs since; no data of a face is in it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace

from facelake.cluster.array_codec import decode
from facelake.cluster.calibrate import Calibration
from facelake.cluster.quality_norm import Gate
from facelake.contracts import F32
from facelake.errors import ConfigError
from facelake.lake.lake import Lake

MEASURES = "measures/cluster"
"""Nuisance directions and quality normalisation of the last full clustering."""
_SINCE = "measures/since.json"


@dataclass(frozen=True, slots=True)
class StoredMeasures:
    """What the last full clustering measured of the corpus, as stored."""

    gate: Gate
    directions: F32
    """(dim, r) nuisance directions"""


@dataclass(frozen=True, slots=True)
class Measures:
    """The figures by which the faces of a corpus are compared."""

    gate: Gate
    cuts: Calibration
    directions: F32


@dataclass(frozen=True, slots=True)
class Since:
    """What happened since the last full clustering."""

    cuts: dict[str, object]
    config: str
    """digest of the settings of clustering then"""
    model_digest: str
    faces: int
    nights: int = 0
    come: int = 0
    gone: int = 0
    corrections: tuple[int, ...] = ()
    """numbers of the corrections in force in the last run"""

    def another_night(self, come: int, gone: int, corrections: list[int]) -> Since:
        """Return the counts after an incremental run."""
        return replace(
            self,
            nights=self.nights + 1,
            come=self.come + come,
            gone=self.gone + gone,
            corrections=tuple(corrections),
        )


def read_since(lake: Lake) -> Since | None:
    """What happened since; None if no full clustering was recorded, or its record cannot be read."""
    try:
        stored = json.loads(lake.store.read(_SINCE))
        return Since(**stored | {"corrections": tuple(stored["corrections"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def write_since(lake: Lake, since: Since) -> None:
    """Write it for the next run."""
    lake.store.write(_SINCE, json.dumps(asdict(since)).encode())


def read_measures(lake: Lake) -> Measures:
    """The measures of the last full clustering.

    Raises:
        ConfigError: there are none, or they cannot be read.
    """
    since = read_since(lake)
    if since is None or "edge" not in since.cuts:
        raise ConfigError("nothing was clustered yet", where=lake.uri, next_step="run `facelake nightly` first")
    try:
        stored = decode(StoredMeasures, lake.store.read(MEASURES))
    except (FileNotFoundError, ValueError) as err:
        next_step = "run `facelake nightly --rebase` once"
        raise ConfigError("the last clustering left no readable measures", where=lake.uri, next_step=next_step) from err
    fields = {name: since.cuts[name] for name in Calibration.__dataclass_fields__ if name in since.cuts}
    return Measures(stored.gate, Calibration(**fields), stored.directions)  # type: ignore[arg-type]
