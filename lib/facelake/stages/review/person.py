"""The review page's view of one identity: its faces over time, and why they are together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa

from facelake.contracts import F32, I64
from facelake.errors import ConfigError
from facelake.publish.corrections import in_force
from facelake.publish.similarity import mean_within
from facelake.stages.gallery.face_index import capture_times
from facelake.stages.review.session import ReviewSession, ReviewState, Sheet
from facelake.stages.review.views import visible_rows


@dataclass(frozen=True, slots=True)
class DatedFace:
    """One face of an identity."""

    face_id: str
    image_id: str
    captured_at: datetime | None
    """time of the photo; None where it is not known"""
    quality: float | None
    similarity: float
    """cosine to the template of the identity"""
    nearest: float | None
    """highest cosine to another face of the identity that may be shown; None if there is none"""
    how: str | None
    """grouped by a full clustering, joined by an incremental one, or corrected by a reviewer"""
    shared: bool
    """another face of the identity is in the same photo"""


@dataclass(frozen=True, slots=True)
class Person:
    """An identity with a page of its faces, the earliest photo first, photos without a date last."""

    gallery_version: int
    identity: str
    first_version: int
    size: int
    """faces of the identity"""
    total: int
    """faces that may be shown"""
    hidden: int
    """faces that may not be shown"""
    compared: int
    """faces that were read; fewer than `size` if the identity was sampled"""
    inside: float | None
    """mean cosine of the faces' pairs"""
    how: dict[str, int]
    """faces by how they were assigned"""
    corrections: list[int]
    """numbers of the corrections in force that name the identity"""
    offset: int
    faces: list[DatedFace]


@dataclass(frozen=True, slots=True)
class PathFace:
    """One face of a connection."""

    face_id: str
    image_id: str


@dataclass(frozen=True, slots=True)
class Why:
    """Why two faces of an identity are together, by the figures of the last clustering (`facelake explain`)."""

    similarity: float
    """cosine of the two faces, nuisance directions removed"""
    discount: float
    """reduction because of poor quality"""
    limit: float
    """similarity less discount from which two faces are linked"""
    weakest: float
    """weakest link of the strongest connection"""
    path: list[PathFace]
    """faces of that connection, both ends included"""
    sentences: list[str]


def person(session: ReviewSession, identity: str, offset: int = 0, limit: int = 60) -> Person:
    """Return an identity and a page of its faces over time.

    Raises:
        ConfigError: the identity is not in the gallery, or none of its faces may be shown for the purpose.
    """
    state = session.state()
    sheet, shown = _visible(session, state, identity)
    faces = sheet.faces.take(pa.array(shown))
    times = capture_times(session.context.lake, faces)
    order = _by_time(times, faces["image_id"])
    page = order[offset : offset + limit]
    template = state.identities.templates(session.context.lake, [identity])[0]
    vectors = sheet.vectors[shown]
    rows = _dated(faces, times, vectors, template, page)
    session.audit(
        "identity", gallery_version=state.gallery.version, identities=[identity], offset=offset,
        faces=session.hashes([row.face_id for row in rows]),
    )  # fmt: skip
    session.viewed[identity] = state.gallery.version
    at = pa.array(shown[page])
    session.mark_shown(sheet.faces.take(at), sheet.admitted.take(at))
    place = state.identities.place[identity]
    return Person(
        state.gallery.version, identity, int(state.identities.first_version[place]), sheet.size, len(shown),
        len(sheet.vectors) - len(shown), len(sheet.vectors), mean_within(vectors),
        dict(Counter(how for how in faces["how"].to_pylist() if how)), _corrections(session, identity), offset, rows,
    )  # fmt: skip


def why(session: ReviewSession, identity: str, face: str, other: str | None = None) -> Why:
    """Explain why a face is in an identity.

    Args:
        session: the review session.
        identity: in which both faces are.
        face: a face that this session has shown.
        other: the face that it is compared with; None: the face nearest to the template.

    Raises:
        ConfigError: the identity is not in the gallery; a face is not in it, or was not shown; nothing was clustered.
        Refused: the audit trail cannot be written.
    """
    # numba is loaded with it, which takes seconds that the start of the page does not need
    from facelake.cluster.explain import face_pair, widest_path
    from facelake.cluster.nuisance import without
    from facelake.stages.clustering.calibration_store import read_measures
    from facelake.stages.clustering.explain import correction_text, deciding, pair_texts

    state, lake = session.state(), session.context.lake
    sheet, shown = _visible(session, state, identity)
    ids = sheet.faces["face_id"].take(pa.array(shown)).to_pylist()
    if other is None:
        template = state.identities.templates(lake, [identity])[0]
        other = ids[int(np.argmax(sheet.vectors[shown] @ template))]
    elif not session.was_shown(other):
        raise ConfigError("this face was not shown", where=other, next_step="open its identity")
    for name in (face, other):
        if name not in ids or not session.was_shown(face):
            raise ConfigError("this face was not shown", where=name, next_step="open its identity")
    known = read_measures(lake)
    vectors = without(sheet.vectors[shown], known.directions)
    quality = sheet.faces["quality"].take(pa.array(shown)).to_numpy().astype(np.float32)
    ends = [ids.index(other), ids.index(face)]
    pair = face_pair(vectors[ends], quality[ends], known.gate, known.cuts)
    path = widest_path(vectors, quality, known.gate, *ends)
    rows = in_force(lake["corrections"].read().to_pylist())
    texts = [*pair_texts(pair, path, known.cuts), *map(correction_text, deciding(rows, [{other}, {face}]))]
    at = pa.array(shown[path.faces])
    faces = sheet.faces.take(at)
    names = faces["face_id"].to_pylist()
    session.audit(
        "explain", gallery_version=state.gallery.version, identities=[identity], faces=session.hashes(names)
    )  # fmt: skip
    session.mark_shown(faces, sheet.admitted.take(at))
    chain = [PathFace(*names) for names in zip(names, faces["image_id"].to_pylist(), strict=True)]
    return Why(pair.similarity, pair.discount, pair.graph_cut, path.weakest, chain, texts)


def _visible(session: ReviewSession, state: ReviewState, identity: str) -> tuple[Sheet, I64]:
    """Return an identity's sheet and its rows that may be shown; refuse it like an unknown one if there are none."""
    if identity in state.identities.place:
        sheet = session.sheet(state, identity)
        shown = visible_rows(state, sheet)
        if len(shown):
            return sheet, shown
    where = f"gallery {state.gallery.version}"
    raise ConfigError(f"no identity {identity!r} to review", where=where, next_step="go to the next question")


def _by_time(times: pa.ChunkedArray, images: pa.ChunkedArray) -> I64:
    """Return the order (n,) of faces by time of the photo, those without a time last, by photo."""
    rows = pa.table({"time": times, "image": images, "row": pa.array(np.arange(len(times)))})
    ordered = rows.sort_by([("time", "ascending"), ("image", "ascending"), ("row", "ascending")])
    return np.asarray(ordered["row"].to_numpy(), np.int64)


def _dated(faces: pa.Table, times: pa.ChunkedArray, vectors: F32, template: F32, page: I64) -> list[DatedFace]:
    photos = Counter(faces["image_id"].to_pylist())
    cosine = vectors[page] @ vectors.T
    cosine[np.arange(len(page)), page] = -np.inf  # a face is not its own neighbour
    nearest = cosine.max(axis=1, initial=-np.inf)
    rows = faces.select(["face_id", "image_id", "quality", "how"]).take(pa.array(page)).to_pylist()
    return [
        DatedFace(
            row["face_id"], row["image_id"], times[int(at)].as_py(), row["quality"], float(vectors[at] @ template),
            float(value) if np.isfinite(value) else None, row["how"], photos[row["image_id"]] > 1,
        )
        for at, row, value in zip(page, rows, nearest.tolist(), strict=True)
    ]  # fmt: skip


def _corrections(session: ReviewSession, identity: str) -> list[int]:
    rows = session.context.lake["corrections"].read(["seq", "kind", "undoes", "identity_a", "identity_b"]).to_pylist()
    return [row["seq"] for row in in_force(rows) if identity in (row["identity_a"], row["identity_b"])]
