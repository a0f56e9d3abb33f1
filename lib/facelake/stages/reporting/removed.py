"""What changed since the previous run: why a report has more or fewer photos and faces than the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from facelake.contracts import Change
from facelake.plural import counted
from facelake.report import RunFigures, lost_in_words
from facelake.report.lost_faces import ERASED
from facelake.stages.admission.decision_changes import (
    ADDED,
    DECISION_CHANGES,
    NEWLY_ADMITTED,
    NEWLY_ERASED,
    NEWLY_REFUSED,
    NEWLY_WITHDRAWN,
    VANISHED,
)
from facelake.stages.reporting.history import RecordedStage

_SENTENCE = (  # what is counted, its verb for one and for several, and the rest
    (ADDED, "is", "are", "new"),
    (VANISHED, "is", "are", "no longer in the corpus"),
    (NEWLY_ERASED, "is", "are", "refused as erased before"),
    (NEWLY_WITHDRAWN, "was", "were", "withdrawn"),
    (NEWLY_REFUSED, "is", "are", "refused now for another reason"),
    (NEWLY_ADMITTED, "is", "are", "allowed that had been refused"),
)
_BEGAN_OR_ENDED = {
    str(Change.RETIRED): "without faces",
    str(Change.MERGED): "merged into others",
    str(Change.CREATED): "new",
    str(Change.SPLIT): "split off",
    str(Change.RESURRECTED): "back",
}


@dataclass(frozen=True, slots=True)
class Removed:
    """Counts since the previous run.

    Attributes:
        photos: photos that erasures removed.
        faces: faces that erasures removed.
        identities: identities that erasures ended.
        decisions: photos that the admissions since then count, by DECISION_CHANGES.
        swept_faces: faces that embed removed since then and that did not come back, by cause
            (stages/embedding/swept.py).
        changes: identities that began or ended in the galleries since then, by kind of change.
        replaced: photos whose outcome embed removed since then because their content or their cover changed.
    """

    photos: int = 0
    faces: int = 0
    identities: int = 0
    decisions: Mapping[str, int] = field(default_factory=dict)
    swept_faces: Mapping[str, int] = field(default_factory=dict)
    changes: Mapping[str, int] = field(default_factory=dict)
    replaced: int = 0

    @property
    def lost_faces(self) -> dict[str, int]:
        """Faces that are gone, by cause."""
        return dict(Counter({ERASED: self.faces}) + Counter(self.swept_faces))

    def of_read(self) -> str:
        """Return what explains a lower number of photos read."""
        return _listed((self.photos, "erased"), (self._count(VANISHED), "no longer in the corpus"), self._new)

    def of_admitted(self, fewer: float) -> str:
        """Return what explains a lower number of photos admitted; others than admitted ones are erased and removed,
        too.
        """
        less = (
            (self.photos, "erased"),
            (self._count(VANISHED), "no longer in the corpus"),
            (self._count(NEWLY_ERASED), "refused as erased before"),
            (self._count(NEWLY_WITHDRAWN), "withdrawn"),
            (self._count(NEWLY_REFUSED), "refused"),
        )
        listed = _listed(*less, self._new, (self._count(NEWLY_ADMITTED), "allowed"))
        more = self._count(ADDED) + self._count(NEWLY_ADMITTED)
        return f"{listed}, not all of them admitted" if sum(count for count, _ in less) - more > fewer else listed

    def of_faces(self) -> str:
        """Return what explains a lower number of faces."""
        return lost_in_words(self.lost_faces)

    def of_identities(self) -> str:
        """Return what explains a lower number of identities."""
        began_or_ended = ((self.changes.get(kind, 0), words) for kind, words in _BEGAN_OR_ENDED.items())
        return _listed((self.identities, "erased"), *began_or_ended)

    def in_words(self) -> str:
        """Return the changes in the photos as a sentence; empty if there are none."""
        erased = [(self.photos, "was" if self.photos == 1 else "were", "erased")] if self.photos else []
        has = "has" if self.replaced == 1 else "have"
        replaced = [(self.replaced, has, "other content or another cover now")] if self.replaced else []
        counts = [(self._count(name), one, several, words) for name, one, several, words in _SENTENCE]
        said = [(count, one if count == 1 else several, words) for count, one, several, words in counts if count]
        if not (parts := [*said, *replaced, *erased]):
            return ""
        count, verb, words = parts[0]
        first = f"{counted(count, 'photo')} {verb} {words}"
        rest = [f"{count:,} {verb} {words}" for count, verb, words in parts[1:]]
        return f"Since the previous run: {', '.join([first, *rest])}."

    def _count(self, name: str) -> int:
        return self.decisions.get(name, 0)

    @property
    def _new(self) -> tuple[int, str]:
        return self._count(ADDED), "new"


def _listed(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {text}" for count, text in counts if count)


def previous_admit(runs: Mapping[str, Sequence[RecordedStage]], history: Sequence[RunFigures]) -> RecordedStage | None:
    """Return the admission of the gallery that a report compares with; None if there is none.

    An admission that was followed by no `publish` of its own is passed over: its gallery is still the earlier one.

    Args:
        runs: the executions of every stage, oldest first.
        history: the galleries that the report compares, oldest first, the present one last.
    """
    publish = _previous_publish(runs, history)
    return next((run for run in reversed(runs["admit"]) if publish and run.started_at <= publish.started_at), None)


def _previous_publish(
    runs: Mapping[str, Sequence[RecordedStage]], history: Sequence[RunFigures]
) -> RecordedStage | None:
    version = history[-2].version if len(history) > 1 else 0
    published = [run for run in runs["publish"] if run.number("gallery") <= version]
    return published[-1] if published else None


def removed_since(runs: Mapping[str, Sequence[RecordedStage]], history: Sequence[RunFigures]) -> Removed:
    """Count what was added, erased, withdrawn, refused and removed since the gallery that a report compares with.

    Of a photo that came and went between several admissions, each is counted.

    Args:
        runs: the executions of every stage, with erasures, oldest first.
        history: the galleries that the report compares, oldest first, the present one last; without an earlier one
            nothing is counted.
    """
    before, publish = previous_admit(runs, history), _previous_publish(runs, history)
    if before is None or publish is None:
        return Removed()
    erasures = [run for run in runs["erase"] if run.started_at > before.started_at]
    photos, faces, identities = (
        int(sum(run.number(name) for run in erasures)) for name in ("images", "faces", "identities_retired")
    )
    decisions, swept, replaced = Counter[str](), Counter[str](), 0
    for run in runs["admit"]:
        if run.started_at > before.started_at:
            decisions.update({name: int(run.number(name)) for name in DECISION_CHANGES})
    for run in runs["embed"]:
        if run.started_at > publish.started_at:
            swept.update(run.counted("swept_faces"))
            replaced += int(run.number("swept_changed"))
    later = [run for run in runs["publish"] if run.started_at > publish.started_at]
    changes = Counter({kind: int(sum(run.number(f"changes_{kind}") for run in later)) for kind in _BEGAN_OR_ENDED})
    return Removed(photos, faces, identities, +decisions, +swept, +changes, replaced)
