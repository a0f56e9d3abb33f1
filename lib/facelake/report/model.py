"""What a night's page shows: values, gathered by the report stage and laid out by page.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NIGHTS_COMPARED = 10
"""nights before this one that a page compares with"""


@dataclass(frozen=True, slots=True)
class Head:
    """One headline number."""

    label: str
    value: str
    change: str
    """against the night before, in words; empty when there is none"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One row of a table with bars."""

    label: str
    count: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Series:
    """One histogram."""

    name: str
    bins: Sequence[int]
    """equal bins over the range of the chart"""
    pairs: int
    """pairs behind it"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A threshold on the axis of similarity."""

    name: str
    at: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike faces are: cosines, as stored."""

    series: Sequence[Series]
    low: float
    high: float
    marks: Sequence[Mark]
    note: str
    """what was sampled, and how much of it"""


@dataclass(frozen=True, slots=True)
class Sheet:
    """Face crops of one identity, or of a part of one."""

    title: str
    note: str
    crops: tuple[bytes, ...]
    """JPEG bytes"""


@dataclass(frozen=True, slots=True)
class Turn:
    """A merge or a split: who was there before, who is there after."""

    kind: str
    said: str
    before: tuple[Sheet, ...]
    after: tuple[Sheet, ...]


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage took, against what was to be expected."""

    stage: str
    when: str
    """this night, or when it last had work"""
    seconds: float
    expected_s: float | None
    expected_by: str
    """where the expectation comes from"""
    memory_bytes: int
    usual_bytes: int | None
    cost: float | None
    """None without a price in the config"""
    did: str


@dataclass(frozen=True, slots=True)
class Night:
    """One night's figures, for comparison; None where it was not measured."""

    version: int
    day: str
    mode: str
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure that nights are compared by."""

    key: str
    name: str
    unit: str
    """count, share, cosine, sds or seconds"""


@dataclass(frozen=True, slots=True)
class Concern:
    """Something an operator should know, and what to do about it."""

    level: str
    """act: look before the gallery is used; look: look today; know: nothing to do"""
    said: str
    next_step: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page."""

    title: str
    purpose: str
    run_id: str
    lake: str
    made_at: str
    heads: Sequence[Head]
    concerns: Sequence[Concern]
    funnel: Sequence[Bar]
    refused: Sequence[Bar]
    rejected: Sequence[Bar]
    rejected_note: str
    similarity: Similarity
    sizes: Sequence[Bar]
    sizes_note: str
    changes: Sequence[Bar]
    turns: Sequence[Turn]
    turns_note: str
    stages: Sequence[StageCost]
    stages_note: str
    nights: Sequence[Night]
    """oldest first; the last one is this one"""
    measures: Sequence[Measure]
    sheets: Sequence[Sheet]
    sheets_note: str
