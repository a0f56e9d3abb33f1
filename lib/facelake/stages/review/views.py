"""The review page's views: the faces of one identity in two parts, or of two identities side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelake.contracts import F32, I64, Bool
from facelake.distinct import union
from facelake.errors import ConfigError
from facelake.publish.similarity import (
    evenly_spaced,
    mean_between,
    mean_within,
    nearest_links,
    split_in_two,
    unit_mean,
)
from facelake.stages.review.session import ReviewSession, ReviewState, Sheet

_LINKED = 512  # faces of each column that are searched for the most similar pairs
_LINKS = 6


@dataclass(frozen=True, slots=True)
class ShownFace:
    """One face of a view."""

    face_id: str
    image_id: str
    quality: float | None
    similarity: float
    """cosine to the template of its identity"""
    other: float | None
    """cosine to the other column: the template of the other identity, or the mean of the other part"""
    shared: bool
    """another face of the view is in the same photo"""


@dataclass(frozen=True, slots=True)
class Side:
    """One column of a view: an identity, or a part of one."""

    identity: str
    part: str
    """all, main or rest"""
    size: int
    """faces of the identity"""
    total: int
    """faces of this column that may be shown"""
    hidden: int
    """faces of the identity that may not be shown"""
    compared: int
    """faces of the identity that were read"""
    offset: int
    inside: float | None
    """mean cosine of the pairs in this column"""
    faces: list[ShownFace]


@dataclass(frozen=True, slots=True)
class Link:
    """A pair of very similar faces, one of each column."""

    a: str
    b: str
    similarity: float


@dataclass(frozen=True, slots=True)
class View:
    """Two columns of faces to compare."""

    gallery_version: int
    kind: str
    """one: an identity and its proposed parts; pair: two identities"""
    sides: list[Side]
    between: float | None
    """mean cosine of the faces of one column with those of the other"""
    prototypes: float | None
    """cosine of the two templates; None for one identity"""
    links: list[Link]
    linked: list[int]
    """faces of each column that were searched for links"""
    shared_photos: int
    """photos with faces of both columns"""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column with all of its faces."""

    sheet: Sheet
    part: str
    at: I64
    """rows of the sheet, in the order of the page"""
    similarity: F32
    other: F32 | None
    hidden: int

    @property
    def vectors(self) -> F32:
        return self.sheet.vectors[self.at]

    @property
    def images(self) -> list[str]:
        images: list[str] = self.sheet.faces["image_id"].take(pa.array(self.at)).to_pylist()
        return images


def view_one(session: ReviewSession, identity: str, offset: tuple[int, int] = (0, 0), limit: int = 60) -> View:
    """Return an identity as two parts, the larger part first; 2-means clustering proposes the parts.

    Raises:
        ConfigError: the identity is not in the gallery, or may not be used for the purpose.
    """
    state = session.state()
    sheet = session.sheet(state, identity)
    shown = visible_rows(state, sheet)
    vectors = sheet.vectors[shown]
    rest = split_in_two(vectors)
    template = state.identities.templates(session.context.lake, [identity])[0]
    columns = []
    for name, part, others in (("main", ~rest, rest), ("rest", rest, ~rest)):
        toward = unit_mean(vectors[others]) if others.any() else None
        columns.append(_column(sheet, name, shown[part], template, toward, hidden=len(sheet.vectors) - len(shown)))
    return _view(session, state, "one", columns, None, (offset, limit))


def view_pair(session: ReviewSession, a: str, b: str, offset: tuple[int, int] = (0, 0), limit: int = 60) -> View:
    """Return two identities side by side; the faces most similar to the other identity come first.

    Raises:
        ConfigError: an identity is not in the gallery, or may not be used for the purpose, or both are the same.
    """
    if a == b:
        raise ConfigError("it is the same identity twice", where=a, next_step="name two")
    state = session.state()
    sheets = [session.sheet(state, name) for name in (a, b)]
    templates = state.identities.templates(session.context.lake, [a, b])
    columns = []
    for number, sheet in enumerate(sheets):
        shown = visible_rows(state, sheet)
        toward, hidden = templates[1 - number], len(sheet.vectors) - len(shown)
        columns.append(_column(sheet, "all", shown, templates[number], toward, hidden=hidden))
    return _view(session, state, "pair", columns, float(templates[0] @ templates[1]), (offset, limit))


def visible_rows(state: ReviewState, sheet: Sheet) -> I64:
    """Return the rows of a sheet whose faces may be shown now."""
    return np.flatnonzero(state.rights.may_show(sheet.faces, sheet.admitted))


def _column(sheet: Sheet, part: str, at: I64, template: F32, toward: F32 | None, *, hidden: int) -> _Column:
    """Return a column: a part by similarity to its identity, a whole identity by similarity to the other one."""
    similarity = sheet.vectors[at] @ template
    other = sheet.vectors[at] @ toward if toward is not None else None
    by = similarity if part != "all" or other is None else other
    order = np.lexsort((at, -by))
    return _Column(sheet, part, at[order], similarity[order], other[order] if other is not None else None, hidden)


def _view(
    session: ReviewSession,
    state: ReviewState,
    kind: str,
    columns: list[_Column],
    templates_cosine: float | None,
    paging: tuple[tuple[int, int], int],
) -> View:
    """Cut the columns into pages, write the view to the audit trail, and only then permit crops of its faces."""
    offset, limit = paging
    images = [set(column.images) for column in columns]
    in_both = images[0] & images[1]
    pages = [np.arange(len(column.at))[start : start + limit] for column, start in zip(columns, offset, strict=True)]
    sides = [
        _side(column, page, start, _repeated(column) | np.array([name in in_both for name in column.images], bool))
        for column, page, start in zip(columns, pages, offset, strict=True)
    ]
    links, linked = _links(columns)
    rows = [(column.sheet, column.at[page]) for column, page in zip(columns, pages, strict=True)]
    faces = [face.face_id for side in sides for face in side.faces]
    identities = list(dict.fromkeys(column.sheet.identity for column in columns))
    session.audit(
        "view", gallery_version=state.gallery.version, identities=identities, faces=session.hashes(faces),
        links=[session.hashes([link.a, link.b]) for link in links],
    )  # fmt: skip
    session.viewed.update(dict.fromkeys(identities, state.gallery.version))
    linked_ids = {face for link in links for face in (link.a, link.b)}
    for sheet, at in rows:
        extra = [i for i, face in enumerate(sheet.faces["face_id"].to_pylist()) if face in linked_ids]
        chosen = pa.array(union(at, np.array(extra, np.int64)))
        session.mark_shown(sheet.faces.take(chosen), sheet.admitted.take(chosen))
    between = mean_between(columns[0].vectors, columns[1].vectors)
    return View(state.gallery.version, kind, sides, between, templates_cosine, links, linked, len(in_both))


def _repeated(column: _Column) -> Bool:
    """Return the faces (n,) of a column whose photo has another face of the column."""
    names, inverse, counts = np.unique(np.array(column.images, object).astype(str), return_inverse=True,
                                       return_counts=True)  # fmt: skip
    return np.asarray(counts[inverse] > 1) if len(names) else np.zeros(0, bool)


def _side(column: _Column, page: I64, start: int, shared: Bool) -> Side:
    rows = column.sheet.faces.take(pa.array(column.at[page])).select(["face_id", "image_id", "quality"]).to_pylist()
    faces = [
        ShownFace(
            row["face_id"], row["image_id"], row["quality"], float(column.similarity[i]),
            float(column.other[i]) if column.other is not None else None, bool(shared[i]),
        )
        for i, row in zip(page.tolist(), rows, strict=True)
    ]  # fmt: skip
    sheet = column.sheet
    return Side(
        sheet.identity, column.part, sheet.size, len(column.at), column.hidden, len(sheet.vectors), start,
        mean_within(column.vectors), faces,
    )  # fmt: skip


def _links(columns: list[_Column]) -> tuple[list[Link], list[int]]:
    chosen = [column.at[evenly_spaced(len(column.at), _LINKED)] for column in columns]
    a, b = (column.sheet.vectors[at] for column, at in zip(columns, chosen, strict=True))
    names = [
        column.sheet.faces["face_id"].take(pa.array(at)).to_pylist() for column, at in zip(columns, chosen, strict=True)
    ]
    return [Link(names[0][i], names[1][j], cosine) for i, j, cosine in nearest_links(a, b, _LINKS)], [len(a), len(b)]
