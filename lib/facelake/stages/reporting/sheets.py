"""Contact sheets for the report: whose faces to show, and their crops out of the corpus. Personal data, all of it.

Read are: the identities and memberships in batches, the rows of the few faces that are shown, and their photos, each
corpus file once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import Change
from facelake.embed.decode import DecodeLimits, Photo, decode
from facelake.errors import FacelakeError
from facelake.lake.corpus import Corpus
from facelake.lake.sampling import batches
from facelake.report import Sheet, Turn, several
from facelake.stages.core.context import Context
from facelake.stages.core.face_crops import crop_of
from facelake.stages.gallery.versions import Gallery
from facelake.stages.models.registry import limits_of

_CROP_PX = 96
_MOST_BYTES = 3 << 20
"""of crops on one page, so that with everything else it stays under 5 MB"""
_FACE = ["face_id", "box", "corpus_file", "corpus_row"]


@dataclass(frozen=True, slots=True)
class Shown:
    """An identity that is shown: its id, size and cohesion."""

    identity_id: str
    size: int
    cohesion: float


@dataclass(slots=True)
class Chosen:
    """Faces of one identity, the best first, apart by the identity that they were in before a merge."""

    by_former: dict[str | None, list[tuple[float, str]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, former: str | None, score: float, face: str, most: int) -> None:
        """Keep the faces nearest to the prototype."""
        held = self.by_former[former]
        held.append((-score, face))
        if len(held) > 8 * most:
            held[:] = sorted(held)[:most]

    def faces(self, most: int) -> list[str]:
        """The best ones."""
        return _best(self.by_former.values(), most)

    def came_from(self, former: str, most: int) -> list[str]:
        """The best ones of those who were `former` before."""
        return _best([self.by_former.get(former, [])], most)

    def not_from(self, former: str, most: int) -> list[str]:
        """The best ones of the others."""
        return _best([held for name, held in self.by_former.items() if name != former], most)


def _best(groups: Iterable[Sequence[tuple[float, str]]], most: int) -> list[str]:
    return [face for _, face in sorted(one for group in groups for one in group)[:most]]


def sheets(
    context: Context, gallery: Gallery, largest: Sequence[Shown], events: Sequence[Mapping[str, Any]]
) -> tuple[list[Sheet], list[Turn], int]:
    """Sheets of the largest identities, before and after of the merges and splits, and how many crops are missing.

    Args:
        events: rows of `changes` of this gallery version, merges and splits, the most telling first.
    """
    most = context.config.report.faces_per_identity
    named = {one.identity_id for one in largest}
    named |= {event[key] for event in events for key in ("identity_id", "other_id") if event[key]}
    chosen = _choose(context, gallery, named, most)
    merges = [(event["identity_id"], event["other_id"]) for event in events if event["kind"] == Change.MERGED]
    wanted = {face for one in chosen.values() for face in one.faces(most)}
    for gone, kept in merges:
        if kept in chosen:
            wanted |= {*chosen[kept].came_from(gone, most), *chosen[kept].not_from(gone, most)}
    crops = _Crops(context, wanted)
    turns = [_turn(event, chosen, crops, most) for event in events]
    shown = [
        Sheet(one.identity_id, f"{several(one.size, 'face')}, cohesion {one.cohesion:.2f}", crops.of(chosen, one, most))
        for one in largest
    ]
    return shown, turns, crops.left_out


def _choose(context: Context, gallery: Gallery, named: set[str], most: int) -> dict[str, Chosen]:
    found: dict[str, Chosen] = defaultdict(Chosen)
    wanted = pa.array(sorted(named), pa.string())
    snapshot = context.lake["memberships"].snapshot(gallery.row["memberships_version"])
    columns = ["face_id", "identity_id", "former_id", "score"]
    for part in batches(context.lake["memberships"], columns, snapshot):
        for row in part.filter(pc.is_in(part["identity_id"], wanted)).to_pylist():
            found[row["identity_id"]].add(row["former_id"], row["score"] or 0.0, row["face_id"], most)
    return found


class _Crops:
    """Crops by face; no more bytes than a page may have, in the order in which they are asked for."""

    def __init__(self, context: Context, wanted: set[str]) -> None:
        self._made = crops_of(context, wanted)
        self._bytes = 0
        self.left_out = 0

    def take(self, faces: Sequence[str]) -> tuple[bytes, ...]:
        """Those that there are."""
        out = []
        for face in faces:
            crop = self._made.get(face)
            if crop is None or self._bytes + len(crop) > _MOST_BYTES:
                self.left_out += 1
                continue
            self._bytes += len(crop)
            out.append(crop)
        return tuple(out)

    def of(self, chosen: Mapping[str, Chosen], one: Shown, most: int) -> tuple[bytes, ...]:
        """Those of an identity."""
        return self.take(chosen[one.identity_id].faces(most)) if one.identity_id in chosen else ()


def _turn(event: Mapping[str, Any], chosen: Mapping[str, Chosen], crops: _Crops, most: int) -> Turn:
    """Before and after of a merge or a split, made of who is where now and where each face was before it."""
    mine, other = event["identity_id"], event["other_id"] or ""
    now, left = chosen.get(other, Chosen()), chosen.get(mine, Chosen())
    half = most // 2
    if event["kind"] == Change.MERGED:
        came, stood = now.came_from(mine, most), now.not_from(mine, most)
        said = f"{mine} ({several(event['size_before'], 'face')}) was joined to {other}"
        before = (Sheet(mine, "no longer there", crops.take(came)), Sheet(other, "kept its id", crops.take(stood)))
        both = crops.take(came[:half] + stood[: most - half])
        return Turn("merged", said, before, (Sheet(other, "both", both),))
    new, stayed = left.faces(most), now.faces(most)
    said = f"{mine} ({several(event['size_after'], 'face')}) was split off {other}"
    both = crops.take(new[:half] + stayed[: most - half])
    after = (Sheet(mine, "new", crops.take(new)), Sheet(other, "kept its id", crops.take(stayed)))
    return Turn("split", said, (Sheet(other, "both", both),), after)


def crops_of(context: Context, wanted: set[str]) -> dict[str, bytes]:
    """A JPEG of each face whose photo can still be had."""
    places: dict[str, dict[int, list[tuple[str, list[float]]]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(context, wanted):
        if row["box"]:
            places[row["corpus_file"]][row["corpus_row"]].append((row["face_id"], row["box"]))
    try:
        corpus = Corpus(context.config.corpus_uri, context.config.s3)
    except FacelakeError:
        return {}
    found: dict[str, bytes] = {}
    for path, by_row in sorted(places.items()):
        try:
            for number, _, data in corpus.images(path, min(by_row), max(by_row) + 1):
                if number in by_row:
                    found |= _cut(data, by_row[number], limits_of(context.config.embed))
        except FacelakeError:  # the photos are gone or cannot be read: the page says how many faces are missing
            continue
    return found


def _rows(context: Context, wanted: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of the faces; files are looked through until all are found, and only hits are read further."""
    table, left = context.lake["faces"], set(wanted)
    for file in table.snapshot().files:
        if not left:
            return
        names = pa.array(sorted(left), pa.string())
        if not pc.any(pc.is_in(table.file(file, ["face_id"])["face_id"], names)).as_py():
            continue
        rows = table.file(file, _FACE)
        for row in rows.filter(pc.is_in(rows["face_id"], names)).to_pylist():
            left.discard(row["face_id"])
            yield row


def _cut(data: bytes, faces: Sequence[tuple[str, list[float]]], limits: DecodeLimits) -> dict[str, bytes]:
    photo = decode(data, limits)
    return {face: crop_of(photo, box, _CROP_PX) for face, box in faces} if isinstance(photo, Photo) else {}
