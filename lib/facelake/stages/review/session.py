"""A reviewer's session over a lake, for one purpose. Every view is in the audit trail before its faces are sent."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import pyarrow as pa

from facelake.contracts import F32
from facelake.errors import Busy, ConfigError, Corrupt, FacelakeError, Refused
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import open_images
from facelake.lake.lease import Lease
from facelake.lake.store import probe
from facelake.lake.tables import Snapshot
from facelake.publish.similarity import evenly_spaced
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.core.face_crops import CropWorkers
from facelake.stages.gallery.face_index import DISPLAYED, FaceIndex, ReviewableIdentities, admissions_of_faces
from facelake.stages.gallery.versions import Gallery, require_gallery
from facelake.stages.governance.processing_register import require_assessment
from facelake.stages.models.registry import limits_of
from facelake.stages.review.visibility import DisplayRights
from facelake.vectors import embedding_matrix

MAX_COMPARED = 2_000
"""faces of one identity that are read; of larger identities a sample, spread evenly over the similarity"""
_STATE_MAX_AGE_S = 1.0  # gallery and ledger are read again after this time
_CROP_PX = 192
_CACHED_CROPS, _CACHED_SHEETS = 2_000, 8
_REMEMBERED_LISTS = 6
_REMEMBERED_FACES = 100_000  # that may be cropped and answered; each needs a few hundred bytes

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sheet:
    """The faces of one identity, by falling similarity to its template."""

    identity: str
    size: int
    """faces of the identity; more than rows if the identity was sampled"""
    faces: pa.Table
    admitted: pa.Table
    """the admissions of their photos, in the same order"""
    vectors: F32


@dataclass(frozen=True, slots=True)
class ReviewState:
    """The state of the lake on which a response is based."""

    gallery: Gallery
    identities: ReviewableIdentities
    rights: DisplayRights
    admissions: Snapshot

    @property
    def key(self) -> tuple[Any, ...]:
        """Key of cached sheets: sheets of another gallery or other admissions have another key."""
        return self.gallery.version, self.gallery.row["created_at"], self.admissions.version


class ReviewSession:
    """A session, opened by `ReviewSession.open`; safe to use from several threads."""

    def __init__(self, context: Context, purpose: str, reviewer: str) -> None:
        self.context, self.purpose, self.reviewer = context, purpose, reviewer
        self.name = secrets.token_hex(6)
        self.skipped: set[tuple[str, str | None]] = set()
        self.viewed: dict[str, int] = {}
        """identities that were shown, with the gallery version of the last view"""
        self._corpus = open_images(resolve_corpus(context.config), context.lake.uri, context.config.s3)
        self._crop_workers = CropWorkers()
        self._lock, self._index_lock, self._audit_lock = threading.Lock(), threading.Lock(), threading.Lock()
        self._state: ReviewState | None = None
        self._state_read_at = 0.0
        self._index: tuple[tuple[Any, ...], FaceIndex] | None = None
        self._sheets: OrderedDict[tuple[Any, ...], Sheet] = OrderedDict()
        self._shown: OrderedDict[str, tuple[pa.Table, pa.Table, int]] = OrderedDict()
        self._remembered: OrderedDict[tuple[Hashable, ...], object] = OrderedDict()
        self._crops: OrderedDict[str, bytes] = OrderedDict()

    @classmethod
    def open(cls, context: Context, purpose: str, reviewer: str) -> ReviewSession:
        """Open a session if the governance of the lake permits viewing faces for the purpose.

        Raises:
            ConfigError: the config names no assessment, or no gallery was published.
            Refused: no identity may be used for the purpose; the store ignores conditional writes.
        """
        require_assessment(context.config)
        probe(context.lake.store)
        session = cls(context, purpose, reviewer)
        state = session.state()
        session.audit("opened", gallery_version=state.gallery.version)
        threading.Thread(target=session._warm, daemon=True, name="facelake-review-warm").start()
        return session

    def _warm(self) -> None:
        with contextlib.suppress(FacelakeError):  # the next request meets the same error and reports it
            self._face_index(self.state())

    def close(self) -> None:
        """Stop the worker processes and record the end of the session."""
        self._crop_workers.close()
        self.audit("closed")

    # ---- state of the lake

    def state(self, *, fresh: bool = False) -> ReviewState:
        """Return the newest gallery and the faces that may be shown; at most a second old.

        Args:
            fresh: read the lake again in any case.

        Raises:
            ConfigError: no gallery was published.
            Refused: no identity may be used for the purpose any more.
        """
        with self._lock:
            before = self._state
            if before and not fresh and time.monotonic() - self._state_read_at < _STATE_MAX_AGE_S:
                return before
            self._state = None  # an outdated state must not be used if reading the new one fails
            read_at, lake = time.monotonic(), self.context.lake
            gallery = require_gallery(lake)
            rights = DisplayRights.of(lake, self.purpose, before.rights if before else None)
            same = before is not None and before.gallery.row == gallery.row
            identities = before.identities if before and same else ReviewableIdentities.of(gallery, self.purpose)
            if not identities.place:
                published_for = gallery.row["purpose"]
                what = (
                    f"no identity is in force for the purpose {self.purpose!r}; "
                    f"the gallery was published for {published_for!r}"
                )
                next_step = "give that purpose, or record grants for yours and publish a gallery for it"
                raise Refused(what, where=lake.uri, next_step=next_step)
            if before and (not same or before.rights is not rights):
                self._crops.clear()
            self._state = ReviewState(gallery, identities, rights, lake["admissions"].snapshot())
            self._state_read_at = read_at
            return self._state

    def _face_index(self, state: ReviewState) -> FaceIndex:
        """Return the face index of the gallery; it is built once per gallery version."""
        key = state.key[:2]
        with self._index_lock:
            if self._index is None or self._index[0] != key:
                self._index = key, FaceIndex.of(self.context.lake, state.gallery)
            return self._index[1]

    def sheet(self, state: ReviewState, identity: str) -> Sheet:
        """Return an identity's faces, including those that may not be shown.

        Raises:
            ConfigError: the identity is not in this gallery, or may not be used for the purpose.
        """
        if identity not in state.identities.place:
            merged_into = state.identities.merged.get(identity)
            what = f"{identity} was merged into {merged_into}" if merged_into else f"no identity {identity!r} to review"
            raise ConfigError(what, where=f"gallery {state.gallery.version}", next_step="go to the next question")
        key = (identity, *state.key)
        with self._lock:
            if key in self._sheets:
                self._sheets.move_to_end(key)
                return self._sheets[key]
        sheet = self.with_index(state, lambda index: self._read(state, index, identity))
        with self._lock:
            self._sheets[key] = sheet
            while len(self._sheets) > _CACHED_SHEETS:
                self._sheets.popitem(last=False)
        return sheet

    def with_index(self, state: ReviewState, read: Callable[[FaceIndex], _T]) -> _T:
        """Return what `read` returns for the face index of the gallery; it is called again with a new index if data
        files were rewritten.
        """
        try:
            return read(self._face_index(state))
        except Corrupt:  # an erasure or a sweep rewrote data files since the index was built
            with self._index_lock:
                self._index = None
            return read(self._face_index(state))

    def _read(self, state: ReviewState, index: FaceIndex, identity: str) -> Sheet:
        lake = self.context.lake
        at = index.of_identity(identity)
        at = np.zeros(0, np.int64) if at is None else at
        read = index.present(at[evenly_spaced(len(at), MAX_COMPARED)])
        faces = index.faces(lake, read, (*DISPLAYED, "embedding"))
        faces = faces.append_column("how", index.how.take(pa.array(read)).cast(pa.string()))
        vectors, is_valid = embedding_matrix(faces["embedding"])
        faces, vectors = faces.filter(pa.array(is_valid)).drop_columns(["embedding"]), vectors[is_valid]
        return Sheet(identity, len(at), faces, admissions_of_faces(lake, state.admissions, faces), vectors)

    def remembered(self, key: tuple[Hashable, ...], make: Callable[[], _T]) -> _T:
        """Return a value that was computed for a key before, or compute it; a few values are kept."""
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return cast(_T, self._remembered[key])
        value = make()
        with self._lock:
            self._remembered[key] = value
            while len(self._remembered) > _REMEMBERED_LISTS:
                self._remembered.popitem(last=False)
        return value

    # ---- audit trail and crops

    def audit(self, event: str, **facts: Any) -> str:
        """Append an event to the audit trail, before it takes effect. Faces are named by their keyed hashes."""
        session = {"event": event, "session": self.name, "purpose": self.purpose, "reviewer": self.reviewer}
        with self._audit_lock:
            return append_audit(self.context.lake, "review", session | facts, self.context.sign)

    def hashes(self, faces: Sequence[str]) -> list[str]:
        """Return keyed hashes of face ids; the lake may not contain the id of an erased face in clear."""
        return [self.context.lake.keyed_hash(f"face:{face}")[:32] for face in faces]

    def mark_shown(self, faces: pa.Table, admitted: pa.Table) -> None:
        """Permit crops and answers of these faces; call after the view was written to the audit trail.

        Args:
            faces: the columns DISPLAYED of table `faces`.
            admitted: the admissions of their photos, in the same order.
        """
        self._crop_workers.start()
        names = faces["face_id"].to_pylist()
        with self._lock:
            for number, name in enumerate(names):
                self._shown.pop(name, None)
                self._shown[name] = faces, admitted, number
            while len(self._shown) > _REMEMBERED_FACES:
                self._shown.popitem(last=False)

    def was_shown(self, face: str) -> bool:
        """Return whether this session has shown the face, and not very many others since."""
        return face in self._shown

    def not_showable(self, state: ReviewState, faces: Sequence[str]) -> list[str]:
        """Return those of some faces that may not be shown any more.

        Raises:
            ConfigError: this session has not shown one of them, or very many others since.
        """
        rows = [self._shown_rows(face) for face in faces]
        if not rows:
            return []
        may_show = state.rights.may_show(*map(pa.concat_tables, zip(*rows, strict=True)))
        return [face for face, allowed in zip(faces, may_show, strict=True) if not allowed]

    def _shown_rows(self, face: str) -> tuple[pa.Table, pa.Table]:
        """Return the row of a face that was shown, and that of its photo's admission.

        Raises:
            ConfigError: this session has not shown the face, or very many others since.
        """
        with self._lock:
            shown = self._shown.get(face)
        if shown is None:
            raise ConfigError("this face was not shown", where=face, next_step="open its identity first")
        return shown[0].slice(shown[2], 1), shown[1].slice(shown[2], 1)

    def crop(self, face: str) -> bytes | None:
        """Return a JPEG of a face that was shown; None when its photo cannot be read any more.

        Raises:
            ConfigError: this session has not shown the face.
            Refused: the face may not be shown any more.
        """
        rows, admitted = self._shown_rows(face)
        if not self.state().rights.may_show(rows, admitted)[0]:
            raise Refused("this face may not be shown any more", where=face, next_step="go to the next question")
        with self._lock:
            if face in self._crops:
                self._crops.move_to_end(face)
                return self._crops[face]
        row = rows.to_pylist()[0]
        try:
            at = row["corpus_row"]
            data = next(self._corpus.images(row["corpus_file"], at, at + 1))[2]
        except (Refused, ConfigError, StopIteration, FileNotFoundError):
            return None
        limits = limits_of(self.context.config.embed)
        crop = self._crop_workers.cut(data, row["content_sha256"] or "", list(row["box"]), _CROP_PX, limits)
        if crop is not None:
            with self._lock:
                self._crops[face] = crop
                while len(self._crops) > _CACHED_CROPS:
                    self._crops.popitem(last=False)
        return crop

    # ---- writing

    @contextmanager
    def writing(self) -> Iterator[Context]:
        """Hold the lake's write lease.

        Raises:
            Busy: a run or another process holds it.
        """
        lease = Lease(self.context.lake.store, "review")
        try:
            lease.__enter__()
        except Refused as err:
            what = f"nothing was recorded, because {err.what}"
            next_step = "try again when it has ended; your selection is kept"
            raise Busy(what, where=err.where, next_step=next_step) from err
        try:
            yield replace(self.context, lease=lease)
        finally:
            lease.__exit__(None, None, None)
