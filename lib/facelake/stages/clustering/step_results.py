"""The result of each step of a full clustering, for the driver; a step whose result is stored is not run again.

F is the number of faces, as in `stored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from facelake.cluster.calibrate import Calibration, Similarities
from facelake.cluster.quality_norm import Gate
from facelake.contracts import F32, I32, I64
from facelake.stages.clustering.stored import Stored


@dataclass(frozen=True, slots=True)
class StepCost(Stored):
    """What a step took."""

    PREFIX: ClassVar[str] = "cost"
    seconds: float
    driver_peak_bytes: int


@dataclass(frozen=True, slots=True)
class Scanned(Stored):
    """Number of faces, number of rows by State, and (F,) quality and photo key of each face."""

    PREFIX: ClassVar[str] = "done/scan"
    faces: int
    states: I64
    quality: F32
    photo: I64


@dataclass(frozen=True, slots=True)
class Sampled(Stored):
    """What a sample says of the corpus: quality normalisation, first calibration, evidence for nuisance directions."""

    PREFIX: ClassVar[str] = "done/sample"
    gate: Gate
    calibration: Calibration
    nuisance: str


@dataclass(frozen=True, slots=True)
class Indexed(Stored):
    """Size of the index."""

    PREFIX: ClassVar[str] = "done/index"
    cells: int
    lists: int
    parts: int


@dataclass(frozen=True, slots=True)
class Joined(Stored):
    """Histograms of neighbours' similarities, and how many pairs were compared."""

    PREFIX: ClassVar[str] = "done/join"
    similarities: Similarities
    pairs: int


@dataclass(frozen=True, slots=True)
class SecondPass(Stored):
    """The second-pass search is complete; its results are with the parts."""

    PREFIX: ClassVar[str] = "done/deep"


@dataclass(frozen=True, slots=True)
class LocallyGrouped(Stored):
    """Number of edges of the graph, counted from both ends."""

    PREFIX: ClassVar[str] = "done/local"
    edges: int


@dataclass(frozen=True, slots=True)
class Grouped(Stored):
    """(F,) group of each face, and the part where it is at home."""

    PREFIX: ClassVar[str] = "done/groups"
    labels: I32
    part: I32


@dataclass(frozen=True, slots=True)
class Linked(Stored):
    """(F,) labels after groups of one person were joined; `modes` is the evidence for merged modes, or empty."""

    PREFIX: ClassVar[str] = "done/link"
    labels: I32
    pairs: int
    modes: str


@dataclass(frozen=True, slots=True)
class Settled(Stored):
    """(F,) labels after singletons were assigned."""

    PREFIX: ClassVar[str] = "done/settle"
    labels: I32


@dataclass(frozen=True, slots=True)
class Bounded(Stored):
    """(F,) labels after loose groups were divided; `text` says how many, or is empty where none was a candidate."""

    PREFIX: ClassVar[str] = "done/bound"
    labels: I32
    divided: int
    text: str


@dataclass(frozen=True, slots=True)
class Overlapped(Stored):
    """(F,) labels after overlapping groups were joined; `text` says how many, or is empty without a candidate."""

    PREFIX: ClassVar[str] = "done/overlap"
    labels: I32
    text: str


@dataclass(frozen=True, slots=True)
class Rejoined(Stored):
    """(F,) final labels; `text` says how many groups were joined, or is empty where the step does not apply."""

    PREFIX: ClassVar[str] = "done/rejoin"
    labels: I32
    text: str
