"""The summary of a report: figures of the last run, compared with the run before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facelake.contracts import I64
from facelake.report import KeyFigure, RunFigures, format_share
from facelake.stages.reporting.history import RecordedStage
from facelake.stages.reporting.promises import AdmissionCounts
from facelake.stages.reporting.removed import Removed


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the figures are compared with.

    Attributes:
        admit: the admission of the previous run; None if there is none.
        removed: what was erased and withdrawn since.
    """

    admit: RecordedStage | None
    removed: Removed


def key_figures(
    admissions: AdmissionCounts, faces: int, sizes: I64, history: Sequence[RunFigures], compared: Comparison
) -> list[KeyFigure]:
    """Return the figures of the summary.

    Args:
        admissions: the decisions of the last admission.
        faces: faces in the lake.
        sizes: (identities,) faces of each identity.
        history: figures of the runs, oldest first, this run last.
        compared: what they are compared with.
    """
    now = history[-1].figures if history else {}
    before = history[-2].figures if len(history) > 1 else {}
    read, admitted = (compared.admit.number(key) if compared.admit else None for key in ("read", "admitted"))
    fewer_admitted = (admitted or 0) - admissions.admitted
    removed, identities, single = compared.removed, len(sizes), int((sizes == 1).sum())
    reviews, single_before = now.get("reviews"), before.get("single_share")
    return [
        KeyFigure("photos read", f"{admissions.read:,}", _difference(admissions.read, read, removed.of_read())),
        KeyFigure("admitted", f"{admissions.admitted:,}",
                  _difference(admissions.admitted, admitted, removed.of_admitted(fewer_admitted))),
        KeyFigure("faces", f"{faces:,}", _difference(faces, before.get("faces"), removed.of_faces())),
        KeyFigure("identities", f"{identities:,}",
                  _difference(identities, before.get("identities"), removed.of_identities())),
        KeyFigure("of a single face", format_share(single, identities),
                  "" if single_before is None else f"{format_share(single_before, 1)} in the previous run"),
        KeyFigure("questions for review", "–" if reviews is None else f"{reviews:,.0f}",
                  _difference(reviews or 0, before.get("reviews"))),
    ]  # fmt: skip


def _difference(now: float, before: float | None, removed: str = "") -> str:
    if before is None:
        return ""
    more = now - before
    if not more:
        return "as in the previous run"
    since = f" (since then {removed})" if removed and more < 0 else ""
    return f"{abs(more):,.0f} {'more' if more > 0 else 'fewer'} than in the previous run{since}"
