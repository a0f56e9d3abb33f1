"""A reviewer's session over a lake: for one purpose, with every view in the audit trail before it is given away."""

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
from facelake.lake.corpus import Corpus
from facelake.lake.lease import Lease
from facelake.lake.store import probe
from facelake.lake.tables import Snapshot
from facelake.publish.similarity import evenly
from facelake.stages.core.audit import append_audit
from facelake.stages.core.context import Context
from facelake.stages.core.face_crops import Cutter
from facelake.stages.gallery.face_index import Known, Positions, admitted_rows
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.stages.governance.processing_register import must_be_assessed
from facelake.stages.models.registry import limits_of
from facelake.stages.review.visibility import Standing
from facelake.vectors import embedding_matrix

MOST_COMPARED = 2_000
"""faces of one identity that are read; of larger ones so many, spread evenly over their likeness"""
_FRESH_S = 1.0  # so long what the ledger said is taken for what it says
_CROP_PX = 192
_CROPS, _SHEETS = 2_000, 8  # kept in memory


@dataclass(frozen=True, slots=True)
class Sheet:
    """The faces of one identity as the lake has them, the most like its prototype first."""

    identity: str
    size: int
    """faces of the identity; more than rows when it is very large"""
    faces: pa.Table
    admitted: pa.Table
    """the admissions of their photos, in the same order"""
    vectors: F32


@dataclass(frozen=True, slots=True)
class Moment:
    """What one answer is made of."""

    gallery: Gallery
    known: Known
    standing: Standing
    admissions: Snapshot

    @property
    def key(self) -> tuple[Any, ...]:
        """Other sheets belong to another key."""
        return self.gallery.version, self.gallery.row["created_at"], self.admissions.version


class ReviewSession:
    """Open it with `ReviewSession.open`; safe to use from several threads."""

    def __init__(self, context: Context, purpose: str, reviewer: str) -> None:
        self.context, self.purpose, self.reviewer = context, purpose, reviewer
        self.name = secrets.token_hex(6)
        self.skipped: set[tuple[str, str | None]] = set()
        self.met: dict[str, int] = {}
        """identities that were shown, and in which gallery last"""
        self._corpus = Corpus(context.config.corpus_uri, context.config.s3)
        self._cutter = Cutter()
        self._lock, self._making, self._noting = threading.Lock(), threading.Lock(), threading.Lock()
        self._moment: Moment | None = None
        self._read_s = 0.0
        self._positions: tuple[tuple[Any, ...], Positions] | None = None
        self._sheets: OrderedDict[tuple[Any, ...], Sheet] = OrderedDict()
        self._shown: dict[str, tuple[Sheet, int]] = {}
        self._crops: OrderedDict[str, bytes] = OrderedDict()

    @classmethod
    def open(cls, context: Context, purpose: str, reviewer: str) -> ReviewSession:
        """Begin, if the lake's governance allows to look at faces for the purpose.

        Raises:
            ConfigError: no assessment is named, or nothing was published.
            Refused: no identity is in force for the purpose; the store ignores conditional writes.
        """
        must_be_assessed(context.config)
        probe(context.lake.store)
        session = cls(context, purpose, reviewer)
        moment = session.moment()
        session.note("opened", gallery_version=moment.gallery.version)
        threading.Thread(target=session._warm, daemon=True, name="facelake-review-warm").start()
        return session

    def _warm(self) -> None:
        with contextlib.suppress(FacelakeError):  # (whoever asks next is told)
            self._located(self.moment())

    def close(self) -> None:
        """End."""
        self._cutter.close()
        self.note("closed")

    # ---- what is so now

    def moment(self, anew: bool = False) -> Moment:
        """The newest gallery and what may be shown of it, at most a second old.

        Args:
            anew: not even that old.

        Raises:
            ConfigError: nothing was published.
            Refused: no identity is in force for the purpose any more.
        """
        with self._lock:
            before = self._moment
            if before and not anew and time.monotonic() - self._read_s < _FRESH_S:
                return before
            self._moment = None  # (what cannot be read anew is not taken from before)
            began, lake = time.monotonic(), self.context.lake
            gallery = current_gallery(lake)
            if gallery is None:
                raise ConfigError("no gallery was published yet", where=lake.uri, next_step="run `facelake nightly`")
            standing = Standing.of(lake, self.purpose, before.standing if before else None)
            same = before is not None and before.gallery.row == gallery.row
            known = before.known if before and same else Known.of(gallery, self.purpose)
            if not known.place:
                made = gallery.row["purpose"]
                what = f"no identity is in force for the purpose {self.purpose!r}; the gallery was made for {made!r}"
                next_step = "name the purpose it was made for, or record grants for yours and publish a gallery for it"
                raise Refused(what, where=lake.uri, next_step=next_step)
            if before and (not same or before.standing is not standing):
                self._crops.clear()
            self._moment, self._read_s = Moment(gallery, known, standing, lake["admissions"].snapshot()), began
            return self._moment

    def _located(self, moment: Moment) -> Positions:
        """Made once per gallery version."""
        key = moment.key[:2]
        with self._making:
            if self._positions is None or self._positions[0] != key:
                self._positions = key, Positions.of(self.context.lake, moment.gallery)
            return self._positions[1]

    def sheet(self, moment: Moment, identity: str) -> Sheet:
        """Read an identity's faces; not yet what may be shown.

        Raises:
            ConfigError: it is not in this gallery, or not in force for the purpose.
        """
        if identity not in moment.known.place:
            winner = moment.known.merged.get(identity)
            what = f"{identity} is part of {winner} now" if winner else f"there is no identity {identity!r} to review"
            raise ConfigError(what, where=f"gallery {moment.gallery.version}", next_step="take the next question")
        key = (identity, *moment.key)
        with self._lock:
            if key in self._sheets:
                self._sheets.move_to_end(key)
                return self._sheets[key]
        try:
            made = self._read(moment, identity)
        except Corrupt:  # files were rewritten (an erasure, a sweep) since their rows were counted
            with self._making:
                self._positions = None
            made = self._read(moment, identity)
        with self._lock:
            self._sheets[key] = made
            while len(self._sheets) > _SHEETS:
                self._sheets.popitem(last=False)
        return made

    def _read(self, moment: Moment, identity: str) -> Sheet:
        lake, located = self.context.lake, self._located(moment)
        at = located.of_identity(identity)
        at = np.zeros(0, np.int64) if at is None else at
        faces = located.faces(lake, at[evenly(len(at), MOST_COMPARED)])
        vectors, sound = embedding_matrix(faces["embedding"])
        faces, vectors = faces.filter(pa.array(sound)).drop_columns(["embedding"]), vectors[sound]
        return Sheet(identity, len(at), faces, admitted_rows(lake, moment.admissions, faces), vectors)

    # ---- what leaves

    def note(self, event: str, **facts: Any) -> str:
        """Into the audit trail, before what it tells of happens. Faces are named by their keyed hashes there."""
        who = {"event": event, "session": self.name, "purpose": self.purpose, "reviewer": self.reviewer}
        with self._noting:
            return append_audit(self.context.lake, "review", who | facts)

    def hashes(self, faces: Sequence[str]) -> list[str]:
        """Keyed hashes of face ids: an erased face's id may be nowhere in the lake."""
        return [self.context.lake.keyed_hash(f"face:{face}")[:32] for face in faces]

    def reveal(self, sheet: Sheet, rows: I64) -> None:
        """Call when a view is in the audit: from now on crops of these faces are given out."""
        self._cutter.start()
        names = sheet.faces["face_id"].take(pa.array(rows)).to_pylist()
        with self._lock:
            self._shown.update(zip(names, ((sheet, row) for row in rows.tolist()), strict=True))

    def was_shown(self, face: str) -> bool:
        """Has this session shown the face?"""
        return face in self._shown

    def crop(self, face: str) -> bytes | None:
        """A JPEG of a face that was shown; None when the photo cannot be had any more.

        Raises:
            ConfigError: this session has not shown the face.
            Refused: it may not be shown any more.
        """
        if face not in self._shown:
            raise ConfigError("this face was not shown", where=face, next_step="open its identity")
        sheet, number = self._shown[face]
        rows = sheet.faces.slice(number, 1)
        if not self.moment().standing.may_show(rows, sheet.admitted.slice(number, 1))[0]:
            raise Refused("this face may not be shown any more", where=face, next_step="take the next question")
        with self._lock:
            if face in self._crops:
                self._crops.move_to_end(face)
                return self._crops[face]
        row = rows.to_pylist()[0]
        try:
            data = self._corpus.image(row["corpus_file"], row["corpus_row"])
        except (Refused, ConfigError, StopIteration, FileNotFoundError):
            return None
        limits = limits_of(self.context.config.embed)
        made = self._cutter.cut(data, row["content_sha256"] or "", list(row["box"]), _CROP_PX, limits)
        if made is not None:
            with self._lock:
                self._crops[face] = made
                while len(self._crops) > _CROPS:
                    self._crops.popitem(last=False)
        return made

    # ---- what is written

    @contextmanager
    def writing(self) -> Iterator[Context]:
        """The right to write, for a moment.

        Raises:
            Busy: a night or somebody else holds it.
        """
        lease = Lease(self.context.lake.store, "review")
        try:
            lease.__enter__()
        except Refused as err:
            what = f"nothing was recorded, because {err.what}"
            raise Busy(what, where=err.where, next_step="try again when it has ended; what you selected stays") from err
        try:
            yield replace(self.context, lease=lease)
        finally:
            lease.__exit__(None, None, None)
