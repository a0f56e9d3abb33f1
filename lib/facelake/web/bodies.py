"""Request bodies of the review page, and response bodies that are not values of `stages/review`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1, max_length=200)]
Reason = Annotated[str, Field(max_length=500)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Response(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class SignIn(_Request):
    """The ticket of the printed link."""

    ticket: Annotated[str, Field(max_length=200)]


class AnswerIn(_Request):
    """A reviewer's answer about the faces shown."""

    kind: Literal["merge", "split", "reject", "confirm", "distinct", "not_a_face"]
    identity: Name | None = None
    other: Name | None = None
    faces: Annotated[list[Name], Field(max_length=5_000)] = []
    reason: Reason = ""
    supersede: bool = False
    gallery_version: int


class UndoIn(_Request):
    """A correction to undo."""

    seq: int
    reason: Reason = ""


class SkipIn(_Request):
    """A question to postpone."""

    identity: Name
    other: Name | None = None


class BrowseIn(_Request):
    """Which identities to list, and from where on."""

    listing: Literal["largest", "newest", "changed", "identity", "subject", "photo"]
    text: Annotated[str, Field(max_length=200)] = ""
    after: Annotated[int, Field(ge=0, le=1_000_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=100)] = 24


class SessionOut(_Response):
    """The reviewer, the purpose, and the gallery under review."""

    purpose: str
    reviewer: str
    gallery_version: int
    lake: str


class CorrectionOut(_Response):
    """One correction, without the faces that it names."""

    seq: int
    kind: str
    identity_a: str | None
    identity_b: str | None
    reason: str | None
    reviewer: str | None
    recorded_at: datetime
    counts: bool | None
    undoes: list[int] | None
    faces: int


class ErrorOut(_Response):
    """An error: what happened, where, and the next step."""

    kind: str
    what: str
    where: str
    next: str
    contradicts: list[CorrectionOut] = []
