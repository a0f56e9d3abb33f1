"""What was erased or withdrawn since the previous run: why a report has fewer photos and faces than the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from facelake.contracts import Refusal
from facelake.report import RunFigures
from facelake.stages.reporting.history import RecordedStage


@dataclass(frozen=True, slots=True)
class Removed:
    """Counts since the previous run.

    Attributes:
        photos: photos that erasures removed.
        faces: faces that erasures removed.
        identities: identities that erasures ended.
        withdrawn_photos: photos that are refused as withdrawn now and were not before.
        withdrawn_faces: faces that embed removed because of that; 0 where other photos were refused or are missing too,
            since it is not recorded which faces were whose.
    """

    photos: int = 0
    faces: int = 0
    identities: int = 0
    withdrawn_photos: int = 0
    withdrawn_faces: int = 0

    def of_read(self) -> str:
        """Return what explains a lower number of photos read."""
        return _listed((self.photos, "erased"))

    def of_admitted(self, fewer: float) -> str:
        """Return what explains a lower number of photos admitted; erasures also remove photos that were refused."""
        listed = _listed((self.photos, "erased"), (self.withdrawn_photos, "withdrawn"))
        return f"{listed}, not all of them admitted" if self.photos + self.withdrawn_photos > fewer else listed

    def of_faces(self) -> str:
        """Return what explains a lower number of faces."""
        return _listed((self.faces, "erased"), (self.withdrawn_faces, "withdrawn"))

    def of_identities(self) -> str:
        """Return what explains a lower number of identities."""
        return _listed((self.identities, "erased"))


def _listed(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {text}" for count, text in counts if count)


def previous_admit(runs: Mapping[str, Sequence[RecordedStage]], history: Sequence[RunFigures]) -> RecordedStage | None:
    """Return the admission of the gallery that a report compares with; None if there is none.

    An admission that was followed by no `publish` of its own is passed over: its gallery is still the earlier one.

    Args:
        runs: the executions of every stage, oldest first.
        history: the galleries that the report compares, oldest first, the present one last.
    """
    version = history[-2].version if len(history) > 1 else 0
    published = [run.started_at for run in runs["publish"] if run.number("gallery") <= version]
    return next((run for run in reversed(runs["admit"]) if published and run.started_at <= published[-1]), None)


def removed_since(
    runs: Mapping[str, Sequence[RecordedStage]], before: RecordedStage | None, refused: Mapping[str, int]
) -> Removed:
    """Count what was erased and withdrawn since an earlier admission.

    Args:
        runs: the executions of every stage, with erasures, oldest first.
        before: the earlier admission; None: nothing is counted.
        refused: photos that are refused now, by reason.
    """
    if before is None:
        return Removed()
    erasures = [run for run in runs["erase"] if run.started_at > before.started_at]
    photos, faces, identities = (
        int(sum(run.number(name) for run in erasures)) for name in ("images", "faces", "identities_retired")
    )
    refused_before = before.reasons("refused_")
    more = {name: max(0, count - refused_before.get(name, 0)) for name, count in refused.items()}
    withdrawn = more.pop(Refusal.WITHDRAWN, 0)
    more.pop(Refusal.ERASED, None)
    now, embed = runs["admit"][-1], runs["embed"][-1] if runs["embed"] else None
    complete = now.number("read") >= before.number("read") - photos
    only = withdrawn and complete and not any(more.values())
    swept = int(embed.number("swept")) if only and embed and embed.run_id == now.run_id else 0
    return Removed(photos, faces, identities, withdrawn, swept)
