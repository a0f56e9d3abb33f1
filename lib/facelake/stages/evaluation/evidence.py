"""What a few comparisons can say of accuracy: counts and intervals at one similarity, and how many more are needed."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from facelake.contracts import F32
from facelake.publish.thresholds import FALSE_MATCH_RATES, LEAST_ERRORS, interval

MOST_LABELLED = 4_000
"""labelled faces that are compared"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Comparisons of different people (impostors) and of one person (genuine), and their errors at a similarity.

    Attributes:
        at: the similarity; None: nothing was counted.
        impostors: comparisons of different people.
        false_matches: those that reach the similarity.
        fmr_low: lower end of the 95 % interval of the false match rate; None without comparisons.
        fmr_high: upper end.
        highest_impostor: the highest similarity of different people.
        genuine: comparisons of one person.
        false_non_matches: those below the similarity.
        fnmr_low: lower end of the 95 % interval of the false non-match rate.
        fnmr_high: upper end.
        lowest_genuine: the lowest similarity of one person.
    """

    at: float | None
    impostors: int
    false_matches: int | None
    fmr_low: float | None
    fmr_high: float | None
    highest_impostor: float | None
    genuine: int
    false_non_matches: int | None
    fnmr_low: float | None
    fnmr_high: float | None
    lowest_genuine: float | None

    @classmethod
    def of(cls, impostor: F32, genuine: F32, at: float | None) -> Evidence:
        """Count the errors of comparisons (n,) and (m,) at a similarity."""
        false_matches = int((impostor >= at).sum()) if at is not None else None
        false_non_matches = int((genuine < at).sum()) if at is not None else None
        none = None, None
        return cls(
            at,
            len(impostor),
            false_matches,
            *(interval(false_matches, len(impostor)) if false_matches is not None else none),
            float(impostor.max()) if len(impostor) else None,
            len(genuine),
            false_non_matches,
            *(interval(false_non_matches, len(genuine)) if false_non_matches is not None else none),
            float(genuine.min()) if len(genuine) else None,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)

    def texts(self) -> list[str]:
        """Return what the comparisons say, in sentences."""
        said = []
        if self.impostors:
            text = f"{self.impostors:,} comparisons of different people, at most {self.highest_impostor:.3f} similar"
            said.append(text + _errors(self.false_matches, "reach", self.at, (self.fmr_low, self.fmr_high)))
        else:
            said.append("no comparison of different people")
        if self.genuine:
            text = f"{self.genuine:,} comparisons of one person, at least {self.lowest_genuine:.3f} similar"
            said.append(text + _errors(self.false_non_matches, "are below", self.at, (self.fnmr_low, self.fnmr_high)))
        return said


def _errors(count: int | None, verb: str, at: float | None, ends: tuple[float | None, float | None]) -> str:
    if count is None or ends[0] is None or ends[1] is None:
        return ""
    return f"; {count:,} {verb} {at:.3f}: a rate of {ends[0]:.2%} to {ends[1]:.2%} (95 % interval)"


def comparisons_needed(rate: float) -> int:
    """Return the comparisons of different people from which errors at a false match rate are counted."""
    return math.ceil(LEAST_ERRORS / rate - 1e-6)


def needed_texts(impostors: int) -> list[str]:
    """Return which false match rates cannot be counted with so many comparisons of different people, and what can.

    n labelled faces of many people make n * (n - 1) / 2 comparisons, nearly all of different people.
    """
    texts = []
    for rate in FALSE_MATCH_RATES:
        needed = comparisons_needed(rate)
        faces = math.ceil(math.sqrt(2 * needed))
        text = f"to count errors at FMR {Decimal(str(rate)):f}: {needed:,} comparisons of different people, "
        text += f"as of {faces:,} labelled faces of many people"
        text += f" (but at most {MOST_LABELLED:,} labelled faces are compared)" if faces > MOST_LABELLED else ""
        texts += [text] if impostors < needed else []
    return texts
