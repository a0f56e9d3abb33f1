"""Contact sheets for the report: which faces to show, and their crops from the corpus. All of it is personal data.

Identities and memberships are read in batches. Of the faces that are shown, their rows and their photos are read; each
corpus file is read once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Change
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.errors import FacelakeError
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import open_images
from facelake.lake.sampling import batches
from facelake.plural import counted
from facelake.report import MergeOrSplit, Sheet
from facelake.stages.admission.withdrawals import LedgerState
from facelake.stages.core.context import Context
from facelake.stages.core.face_crops import crop_of
from facelake.stages.gallery.versions import Gallery
from facelake.stages.models.registry import limits_of

_CROP_PX = 96
_MAX_CROP_BYTES = 3 << 20
"""of all crops of a page; keeps a page under 5 MB"""
_FACE = ["face_id", "image_id", "box", "content_sha256", "corpus_file", "corpus_row"]


@dataclass(frozen=True, slots=True)
class ShownIdentity:
    """An identity that is shown, with its size and cohesion."""

    identity_id: str
    size: int
    cohesion: float


@dataclass(slots=True)
class BestFaces:
    """The faces of one identity that are nearest to its template, by the identity that they were in before a merge."""

    by_former: dict[str | None, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, former: str | None, score: float, face: str, most: int) -> None:
        """Add a face; the list is cut to the `most` best faces whenever it is eight times as long."""
        faces = self.by_former[former]
        faces.append((-score, face))
        if len(faces) > 8 * most:
            faces[:] = sorted(faces)[:most]

    def faces(self, most: int) -> list[str]:
        """Return the best faces of the identity."""
        return _best(self.by_former.values(), most)

    def from_former(self, former: str, most: int) -> list[str]:
        """Return the best faces that were in identity `former` before."""
        return _best([self.by_former.get(former, [])], most)

    def not_from(self, former: str, most: int) -> list[str]:
        """Return the best faces that were not in identity `former` before."""
        return _best([faces for name, faces in self.by_former.items() if name != former], most)


def _best(groups: Iterable[Sequence[tuple[float, str]]], most: int) -> list[str]:
    return [face for _, face in sorted(item for group in groups for item in group)[:most]]


def sheets(
    context: Context, gallery: Gallery, largest: Sequence[ShownIdentity], events: Sequence[Mapping[str, Any]]
) -> tuple[list[Sheet], list[MergeOrSplit], int]:
    """Return sheets of the largest identities, merges and splits before and after, and how many crops are missing.

    Args:
        events: rows of `changes` of this gallery version: merges and splits, the largest first.
    """
    most = context.config.report.faces_per_identity
    names = {identity.identity_id for identity in largest}
    names |= {event[key] for event in events for key in ("identity_id", "other_id") if event[key]}
    best = _best_faces(context, gallery, names, most)
    merges = [(event["identity_id"], event["other_id"]) for event in events if event["kind"] == Change.MERGED]
    needed = {face for faces in best.values() for face in faces.faces(most)}
    for merged, kept in merges:
        if kept in best:
            needed |= {*best[kept].from_former(merged, most), *best[kept].not_from(merged, most)}
    crops = _Crops(context, needed)
    shown_events = [_event(event, best, crops, most) for event in events]
    shown = [
        Sheet(
            identity.identity_id,
            f"{counted(identity.size, 'face')}, cohesion {identity.cohesion:.2f}",
            crops.of_identity(best, identity, most),
        )
        for identity in largest
    ]
    return shown, shown_events, crops.missing


def _best_faces(context: Context, gallery: Gallery, names: set[str], most: int) -> dict[str, BestFaces]:
    best: dict[str, BestFaces] = defaultdict(BestFaces)
    wanted = pa.array(sorted(names), pa.string())
    snapshot = context.lake["memberships"].snapshot(gallery.row["memberships_version"])
    columns = ["face_id", "identity_id", "former_id", "score"]
    for part in batches(context.lake["memberships"], columns, snapshot):
        for row in part.filter(pc.is_in(part["identity_id"], wanted)).to_pylist():
            best[row["identity_id"]].add(row["former_id"], row["score"] or 0.0, row["face_id"], most)
    return best


class _Crops:
    """Crops by face id, handed out until the byte limit of a page is reached."""

    def __init__(self, context: Context, faces: set[str]) -> None:
        self._crops = crops_of(context, faces)
        self._bytes = 0
        self.missing = 0

    def take(self, faces: Sequence[str]) -> tuple[bytes, ...]:
        """Return the crops that exist and still fit on the page; count the others as missing."""
        out = []
        for face in faces:
            crop = self._crops.get(face)
            if crop is None or self._bytes + len(crop) > _MAX_CROP_BYTES:
                self.missing += 1
                continue
            self._bytes += len(crop)
            out.append(crop)
        return tuple(out)

    def of_identity(self, best: Mapping[str, BestFaces], identity: ShownIdentity, most: int) -> tuple[bytes, ...]:
        """Return the crops of an identity's best faces."""
        return self.take(best[identity.identity_id].faces(most)) if identity.identity_id in best else ()


def _event(event: Mapping[str, Any], best: Mapping[str, BestFaces], crops: _Crops, most: int) -> MergeOrSplit:
    """Return a merge or split with faces before and after it, from the present and the former identity of each face."""
    name, other = event["identity_id"], event["other_id"] or ""
    faces, other_faces = best.get(name, BestFaces()), best.get(other, BestFaces())
    half = most // 2
    if event["kind"] == Change.MERGED:
        joined, kept = other_faces.from_former(name, most), other_faces.not_from(name, most)
        title = f"{name} ({counted(event['size_before'], 'face')}) was merged into {other}"
        before = (
            Sheet(name, "no longer exists", crops.take(joined)),
            Sheet(other, "keeps its id", crops.take(kept)),
        )
        combined = crops.take(joined[:half] + kept[: most - half])
        return MergeOrSplit("merged", title, before, (Sheet(other, "merged", combined),))
    split_off, kept = faces.faces(most), other_faces.faces(most)
    title = f"{name} ({counted(event['size_after'], 'face')}) was split off {other}"
    combined = crops.take(split_off[:half] + kept[: most - half])
    after = (Sheet(name, "new", crops.take(split_off)), Sheet(other, "keeps its id", crops.take(kept)))
    return MergeOrSplit("split", title, (Sheet(other, "before the split", combined),), after)


def crops_of(context: Context, face_ids: set[str]) -> dict[str, bytes]:
    """Return a JPEG crop of each face whose photo can still be read and may be used now, by face id."""
    rows = list(_rows(context, face_ids))
    images = pa.array([row["image_id"] for row in rows], pa.string())
    barred = LedgerState.of(context.lake).barred_images(context.config.purpose, context.now, images)
    withdrawn = set(barred.to_pylist())
    places: dict[str, dict[int, list[tuple[str, list[float]]]]] = defaultdict(lambda: defaultdict(list))
    contents: dict[tuple[str, int], str] = {}  # a place may hold another photo since
    for row in rows:
        if row["box"] and row["image_id"] not in withdrawn:
            places[row["corpus_file"]][row["corpus_row"]].append((row["face_id"], row["box"]))
            contents[row["corpus_file"], row["corpus_row"]] = row["content_sha256"]
    try:
        corpus = open_images(resolve_corpus(context.config), context.lake.uri, context.config.s3)
    except FacelakeError:
        return {}
    crops: dict[str, bytes] = {}
    for path, by_row in sorted(places.items()):
        try:
            for number, _, data in corpus.images(path, min(by_row), max(by_row) + 1, by_row):
                if number in by_row and sha256(data).hexdigest() == contents[path, number]:
                    crops |= _cut(data, by_row[number], limits_of(context.config.embed))
        except FacelakeError:  # missing or unreadable photos: the page states how many faces are left out
            continue
    return crops


def _rows(context: Context, face_ids: set[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the faces; reading stops with the data file that holds the last of them."""
    table, missing = context.lake["faces"], set(face_ids)
    for file in table.snapshot().files:
        if not missing:
            return
        names = pa.array(sorted(missing), pa.string())
        if not pc.any(pc.is_in(table.file(file, ["face_id"])["face_id"], names)).as_py():
            continue
        rows = table.file(file, _FACE)
        for row in rows.filter(pc.is_in(rows["face_id"], names)).to_pylist():
            missing.discard(row["face_id"])
            yield row


def _cut(data: bytes, faces: Sequence[tuple[str, list[float]]], limits: DecodeLimits) -> dict[str, bytes]:
    photo = decode(data, limits)
    return {face: crop_of(photo, box, _CROP_PX) for face, box in faces} if isinstance(photo, Photo) else {}
