"""What goes over the wire: requests, and answers that are not the values of `stages/review/views.py` themselves."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=200)]
Reason = Annotated[str, Field(max_length=500)]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Told(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class SignIn(_Asked):
    """The ticket of the printed link."""

    ticket: Annotated[str, Field(max_length=200)]


class AnswerIn(_Asked):
    """What a reviewer says of what he was shown."""

    kind: Literal["merge", "split", "reject", "confirm", "distinct"]
    identity: Name | None = None
    other: Name | None = None
    faces: Annotated[list[Name], Field(max_length=5_000)] = []
    reason: Reason = ""
    supersede: bool = False
    gallery_version: int


class UndoIn(_Asked):
    """A correction to take back."""

    seq: int
    reason: Reason = ""


class SkipIn(_Asked):
    """A question to leave for later."""

    identity: Name
    other: Name | None = None


class SessionOut(_Told):
    """Who looks, for what, at what."""

    purpose: str
    reviewer: str
    gallery_version: int
    lake: str


class CorrectionOut(_Told):
    """One correction, without the faces that it names."""

    seq: int
    kind: str
    identity_a: str | None
    identity_b: str | None
    reason: str | None
    reviewer: str | None
    recorded_at: datetime
    counts: bool
    undoes: list[int] | None
    faces: int


class ErrorOut(_Told):
    """What went wrong, and what to do next."""

    kind: str
    what: str
    where: str
    next: str
    contradicts: list[CorrectionOut] = []
