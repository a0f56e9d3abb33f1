"""The review page's list of identities: by size, age or change, or found by id, subject reference or photo.

An identity is listed only if one of its faces may be shown now; one found by subject or photo only if a face of those
photos may be. A page reads a few rows per identity, by their positions, and no embedding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import I64, Change, label, reference
from facelake.publish.matching import places
from facelake.publish.similarity import evenly_spaced
from facelake.stages.gallery.face_index import FaceIndex, admissions_of_faces, photos_of_subject
from facelake.stages.review.session import MAX_COMPARED, ReviewSession, ReviewState

_PROBED = 4  # faces of each identity that are checked first; if none may be shown, up to MAX_COMPARED are
_MOST_FACES = 10_000  # after as many of identities that may not be shown, a request answers with what it has
_SCANNED_PAGES = 20  # pages' worth of identities that one request examines at most
_MATCHES = 1_000  # identities that a search lists at most
_MERGES = 100  # of one identity, one after another, that are followed
_KINDS = tuple(Change)

Bytes = npt.NDArray[np.int8]


class Listing(StrEnum):
    """Which identities are listed, and in which order."""

    LARGEST = "largest"
    NEWEST = "newest"
    CHANGED = "changed"
    """changed by the newest gallery version; the largest first"""
    IDENTITY = "identity"
    """whose id is, or begins with, the text; of a merged identity: the one that replaced it"""
    SUBJECT = "subject"
    """with faces in photos whose subject reference is the text"""
    PHOTO = "photo"
    """with faces in the photo whose id is the text"""


@dataclass(frozen=True, slots=True)
class ListedIdentity:
    """One identity of the list."""

    identity: str
    size: int
    """faces of the identity, including those that may not be shown"""
    first_version: int
    change: str | None
    """what the newest gallery version changed"""
    matches: int | None
    """faces in the photos that were searched for; None unless the search was by subject or photo"""
    face: str
    """face id of the listed face"""
    image: str
    """its photo"""


@dataclass(frozen=True, slots=True)
class IdentityPage:
    """A page of the list."""

    gallery_version: int
    identities: list[ListedIdentity]
    next: int | None
    """start of the next page; None after the last one"""


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Identities in the order of the list, before the ledger is asked."""

    at: I64
    """(n,) positions among the reviewable identities"""
    matches: dict[str, pa.Array] | None = None
    """per identity the face ids in the photos that were searched for; None: any of its faces counts"""


@dataclass(frozen=True, slots=True)
class _Best:
    """The best face of an identity that may be shown."""

    face: pa.Table
    """one row"""
    admitted: pa.Table
    """the admission of its photo"""
    shown: int
    """faces that may be shown, of those examined"""


@dataclass(frozen=True, slots=True)
class _Showable:
    """The identities of a block of which a face may be shown."""

    identities: list[tuple[int, _Best]]
    """positions, each with the best face"""
    examined: int
    """identities of the block that were examined, from its start; at least one"""


def browse(session: ReviewSession, listing: Listing, text: str = "", after: int = 0, limit: int = 24) -> IdentityPage:
    """Return a page of identities that may be used for the purpose.

    Args:
        session: the review session.
        listing: which identities, in which order.
        text: what a search looks for; orders ignore it.
        after: `next` of the page before.
        limit: identities per page.

    Raises:
        Refused: the purpose is not in force any more, or the audit trail cannot be written.
    """
    state = session.state()
    text = reference(text)
    found = session.remembered(
        ("browse", listing, text, *state.key), lambda: _candidates(session, state, listing, text)
    )
    rows: list[tuple[int, _Best]] = []
    position, stop = after, min(len(found.at), after + _SCANNED_PAGES * limit)
    while position < stop and len(rows) < limit:
        block = found.at[position : min(position + limit - len(rows), stop)]
        showable = _showable(session, state, block, found.matches)
        rows += showable.identities
        position += showable.examined
        if showable.examined < len(block):
            break
    changes = _changes_by_position(session, state)
    identities = [_listed(state, at, best, changes, counted=found.matches is not None) for at, best in rows]
    session.audit(
        "browse", gallery_version=state.gallery.version, listing=str(listing),
        sought=session.context.lake.keyed_hash(label(listing, text))[:32] if text else None,
        identities=[item.identity for item in identities], faces=session.hashes([item.face for item in identities]),
    )  # fmt: skip
    if rows:
        faces, admitted = (
            pa.concat_tables(tables) for tables in zip(*((b.face, b.admitted) for _, b in rows), strict=True)
        )
        session.mark_shown(faces, admitted)
    return IdentityPage(state.gallery.version, identities, position if position < len(found.at) else None)


def _listed(state: ReviewState, at: int, best: _Best, changes: Bytes, *, counted: bool) -> ListedIdentity:
    identities, face = state.identities, best.face.to_pylist()[0]
    return ListedIdentity(
        identities.names[at].as_py(), int(identities.size[at]), int(identities.first_version[at]),
        str(_KINDS[changes[at]]) if changes[at] >= 0 else None, best.shown if counted else None,
        face["face_id"], face["image_id"],
    )  # fmt: skip


# ---- candidates


def _candidates(session: ReviewSession, state: ReviewState, listing: Listing, text: str) -> _Candidates:
    identities = state.identities
    by_size = np.argsort(-identities.size, kind="stable")
    if listing is Listing.LARGEST:
        return _Candidates(by_size)
    if listing is Listing.NEWEST:
        return _Candidates(np.lexsort((-identities.size, -identities.first_version)))
    if listing is Listing.CHANGED:
        return _Candidates(by_size[_changes_by_position(session, state)[by_size] >= 0])
    if not text:
        return _Candidates(by_size[:0])
    if listing is Listing.IDENTITY:
        return _Candidates(_with_id(state, text))
    if listing is Listing.SUBJECT:
        return _in_photos(state, photos_of_subject(session.context.lake, text, state.admissions))
    return _in_photos(state, pa.array([text]))


def _changes_by_position(session: ReviewSession, state: ReviewState) -> Bytes:
    """Return what the gallery version changed per reviewable identity (n,): a number in _KINDS, or -1."""
    return session.remembered(("changes", *state.key[:2]), lambda: _read_changes(state))


def _read_changes(state: ReviewState) -> Bytes:
    code = np.full(len(state.identities.names), -1, np.int8)
    kinds = pa.array([str(kind) for kind in _KINDS])
    for rows in state.gallery.parts("changes", ["gallery_version", "kind", "identity_id"]):
        recent = rows.filter(pc.equal(rows["gallery_version"], state.gallery.version))
        at = places(recent["identity_id"], state.identities.names)
        kind = places(recent["kind"], kinds)
        code[at[at >= 0]] = kind[at >= 0]
    return code


def _with_id(state: ReviewState, text: str) -> I64:
    identities = state.identities
    wanted, followed = text, 0
    while wanted in identities.merged and followed < _MERGES:
        wanted, followed = identities.merged[wanted], followed + 1
    if wanted in identities.place:
        return np.array([identities.place[wanted]], np.int64)
    return np.flatnonzero(np.asarray(pc.starts_with(identities.names, wanted)))[:_MATCHES]


def _in_photos(state: ReviewState, photos: pa.Array) -> _Candidates:
    """Return the identities with faces in some photos, those with most of them first."""
    parts = [pa.schema([("face_id", pa.string()), ("identity_id", pa.string())]).empty_table()]
    for rows in state.gallery.parts("memberships", ["face_id", "identity_id", "image_id"]):
        parts.append(rows.filter(pc.is_in(rows["image_id"], photos)).drop_columns(["image_id"]))
    members = pa.concat_tables(parts)
    counts = Counter(members["identity_id"].to_pylist())
    names = [name for name, _ in counts.most_common() if name in state.identities.place][:_MATCHES]
    matches = {
        name: members.filter(pc.equal(members["identity_id"], name))["face_id"].combine_chunks() for name in names
    }
    return _Candidates(np.array([state.identities.place[name] for name in names], np.int64), matches)


# ---- what the ledger permits


def _showable(session: ReviewSession, state: ReviewState, block: I64, matches: dict[str, pa.Array] | None) -> _Showable:
    """Examine the identities of a block: first a few faces of each, then more of those without one that may be shown.

    Ends early after many faces, so that a request stays short where many large identities may not be shown.
    """
    names = state.identities.names.take(pa.array(block)).to_pylist()

    def read(index: FaceIndex) -> _Showable:
        at = [_positions(index, name, matches) for name in names]
        first = [positions[: MAX_COMPARED if matches else _PROBED] for positions in at]
        best = _best_faces(session, state, index, first)
        faces, examined = 0, len(names)
        for number, positions in enumerate(at):
            if best[number] is None and len(positions) > len(first[number]):
                sample = positions[evenly_spaced(len(positions), MAX_COMPARED)]
                best[number] = _best_faces(session, state, index, [sample])[0]
                faces += len(sample)
            if faces > _MOST_FACES:
                examined = number + 1
                break
        pairs = zip(block[:examined].tolist(), best[:examined], strict=True)
        return _Showable([(place, face) for place, face in pairs if face is not None], examined)

    return session.with_index(state, read)


def _positions(index: FaceIndex, name: str, matches: dict[str, pa.Array] | None) -> I64:
    """Return the positions of an identity's faces that still exist, the most similar to its template first."""
    at = index.of_identity(name)
    if at is None:
        return np.zeros(0, np.int64)
    if matches is not None:
        at = at[np.asarray(pc.is_in(index.face_ids.take(pa.array(at)).cast(pa.string()), matches[name]))]
    return index.present(at)


def _best_faces(session: ReviewSession, state: ReviewState, index: FaceIndex, at: list[I64]) -> list[_Best | None]:
    """Return per list of positions the first face that may be shown, if any."""
    lake = session.context.lake
    faces = index.faces(lake, np.concatenate([np.zeros(0, np.int64), *at]))
    admitted = admissions_of_faces(lake, state.admissions, faces)
    may_show = state.rights.may_show(faces, admitted)
    ends = np.cumsum([len(positions) for positions in at])
    best: list[_Best | None] = []
    for start, end in zip(ends - [len(positions) for positions in at], ends, strict=True):
        shown = np.flatnonzero(may_show[start:end]) + start
        row = pa.array(shown[:1])
        best.append(_Best(faces.take(row), admitted.take(row), len(shown)) if len(shown) else None)
    return best
