"""The values that a report page shows: gathered by the report stage, laid out by page.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RUNS_COMPARED = 10
"""earlier runs that a page compares with"""


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One figure of the summary."""

    label: str
    value: str
    change: str
    """difference from the previous run, in words; empty when there is no previous run"""


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
    """counts in equal bins over the range of the chart"""
    pairs: int
    """number of pairs that were counted"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A threshold on the similarity axis."""

    name: str
    at: float
    meaning: str


@dataclass(frozen=True, slots=True)
class Similarity:
    """Histograms of the cosine similarity of stored embeddings."""

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
class MergeOrSplit:
    """A merge or a split, with the identities before and after it."""

    kind: str
    title: str
    before: tuple[Sheet, ...]
    after: tuple[Sheet, ...]


@dataclass(frozen=True, slots=True)
class ChangedIdentity:
    """One identity that changed in this version."""

    kind: str
    identity_id: str
    other_id: str | None
    """merged: the identity that has its faces; split, resurrected: the one that it was part of"""
    size_before: int
    size_after: int
    new: int | None
    """faces that were in no identity before; None: not recorded, as for the others"""
    gone: int | None
    """faces that are no longer grouped"""
    moved_in: int | None
    """faces that were in other identities"""
    moved_out: int | None
    """faces that are in other identities now"""


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage took, compared with what was expected."""

    stage: str
    when: str
    """`this run`, or the day on which the stage last had work"""
    seconds: float
    expected_s: float | None
    expected_by: str
    """where the expectation comes from"""
    memory_bytes: int
    usual_bytes: int | None
    cost: float | None
    """None without a price in the config"""
    counts: str


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The figures of one run that published a gallery; None where a figure was not measured."""

    version: int
    day: str
    mode: str
    figures: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure by which runs are compared."""

    key: str
    name: str
    unit: str
    """count, share, cosine, sds or seconds"""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that an operator should look at, and the next step."""

    level: str
    """act: act before the gallery is used; look: check today; know: for information"""
    message: str
    next_step: str


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything that is on the page."""

    title: str
    purpose: str
    run_id: str
    lake: str
    created_at: str
    key_figures: Sequence[KeyFigure]
    since: str
    """how the photos changed since the previous run, as a sentence; empty if they did not"""
    alerts: Sequence[Alert]
    funnel: Sequence[Bar]
    refused: Sequence[Bar]
    rejected: Sequence[Bar]
    rejected_note: str
    similarity: Similarity
    sizes: Sequence[Bar]
    sizes_note: str
    changes: Sequence[Bar]
    changed: Sequence[ChangedIdentity]
    changed_note: str
    events: Sequence[MergeOrSplit]
    events_note: str
    stages: Sequence[StageCost]
    stages_note: str
    history: Sequence[RunFigures]
    """oldest first, this run last"""
    measures: Sequence[Measure]
    sheets: Sequence[Sheet]
    sheets_note: str
