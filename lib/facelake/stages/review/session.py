"""A reviewer's session over a lake, for one purpose. Every view is in the audit trail before its faces are sent."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from facelake.contracts import F32, I64
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
from facelake.stages.gallery.face_index import FaceIndex, ReviewableIdentities, admissions_of_faces
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
        self._shown: dict[str, tuple[Sheet, int]] = {}
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
        try:
            sheet = self._read(state, identity)
        except Corrupt:  # an erasure or a sweep rewrote data files since the index was built
            with self._index_lock:
                self._index = None
            sheet = self._read(state, identity)
        with self._lock:
            self._sheets[key] = sheet
            while len(self._sheets) > _CACHED_SHEETS:
                self._sheets.popitem(last=False)
        return sheet

    def _read(self, state: ReviewState, identity: str) -> Sheet:
        lake, index = self.context.lake, self._face_index(state)
        at = index.of_identity(identity)
        at = np.zeros(0, np.int64) if at is None else at
        faces = index.faces(lake, at[evenly_spaced(len(at), MAX_COMPARED)])
        vectors, is_valid = embedding_matrix(faces["embedding"])
        faces, vectors = faces.filter(pa.array(is_valid)).drop_columns(["embedding"]), vectors[is_valid]
        return Sheet(identity, len(at), faces, admissions_of_faces(lake, state.admissions, faces), vectors)

    # ---- audit trail and crops

    def audit(self, event: str, **facts: Any) -> str:
        """Append an event to the audit trail, before it takes effect. Faces are named by their keyed hashes."""
        session = {"event": event, "session": self.name, "purpose": self.purpose, "reviewer": self.reviewer}
        with self._audit_lock:
            return append_audit(self.context.lake, "review", session | facts, self.context.sign)

    def hashes(self, faces: Sequence[str]) -> list[str]:
        """Return keyed hashes of face ids; the lake may not contain the id of an erased face in clear."""
        return [self.context.lake.keyed_hash(f"face:{face}")[:32] for face in faces]

    def mark_shown(self, sheet: Sheet, rows: I64) -> None:
        """Permit crops of these faces; call after the view was written to the audit trail."""
        self._crop_workers.start()
        names = sheet.faces["face_id"].take(pa.array(rows)).to_pylist()
        with self._lock:
            self._shown.update(zip(names, ((sheet, row) for row in rows.tolist()), strict=True))

    def was_shown(self, face: str) -> bool:
        """Return whether this session has shown the face."""
        return face in self._shown

    def crop(self, face: str) -> bytes | None:
        """Return a JPEG of a face that was shown; None when its photo cannot be read any more.

        Raises:
            ConfigError: this session has not shown the face.
            Refused: the face may not be shown any more.
        """
        if face not in self._shown:
            raise ConfigError("this face was not shown", where=face, next_step="open its identity")
        sheet, number = self._shown[face]
        rows = sheet.faces.slice(number, 1)
        if not self.state().rights.may_show(rows, sheet.admitted.slice(number, 1))[0]:
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
