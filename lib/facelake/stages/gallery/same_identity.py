"""Finds photos that most likely show the person of some given photos, although nothing but the faces says so."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from facelake.contracts import EventKind, Scope, reference, references
from facelake.errors import FacelakeError
from facelake.lake.lake import Lake
from facelake.plural import counted, first_of
from facelake.stages.admission.same_photos import CONTENT, contents_of
from facelake.stages.gallery.versions import current_gallery

_NAMED = 5  # photos and identities that a sentence names


@dataclass(frozen=True, slots=True)
class OtherPhotos:
    """Photos with a face of the same identities.

    Attributes:
        identities: ids, sorted.
        photos: ids of the photos that were not given, sorted.
    """

    identities: tuple[str, ...] = ()
    photos: tuple[str, ...] = ()

    def in_words(self, what: str) -> str:
        """Return a sentence on them; `what` is the noun for the given photos, such as "erased"."""
        one = len(self.photos) == 1
        shown = first_of(self.photos, _NAMED)
        home = "identity" if len(self.identities) == 1 else "identities"
        text = (
            f"{counted(len(self.photos), 'photo')} {'has' if one else 'have'} a face of the same {home} as the {what}"
        )
        return f"{text} ({', '.join(self.identities[:_NAMED])}), and {'is' if one else 'are'} not among them: {shown}"


def other_photos(lake: Lake, photos: Collection[str]) -> OtherPhotos:
    """Return the photos that have a face of the people of the given ones, by the newest gallery.

    An identity is of these people if one of the photos shows nobody else, or if half of its photos are among them: the
    other people of a group photo are not meant.
    """
    gallery = current_gallery(lake)
    if gallery is None or not photos:
        return OtherPhotos()
    wanted, columns = pa.array(sorted(photos), pa.string()), ["image_id", "identity_id"]
    shown: dict[str, list[str]] = defaultdict(list)
    for rows in gallery.parts("memberships", columns):
        own = rows.filter(pc.is_in(rows["image_id"], wanted))
        for image, identity in zip(*(own[name].to_pylist() for name in columns), strict=True):
            shown[image].append(identity)
    alone = {identities[0] for identities in shown.values() if len(identities) == 1}
    own_photos = Counter(identity for identities in shown.values() for identity in set(identities))
    others: dict[str, set[str]] = {identity: set() for identity in own_photos}
    candidates = pa.array(sorted(others), pa.string())
    for rows in gallery.parts("memberships", columns):
        rest = rows.filter(
            pc.and_(pc.is_in(rows["identity_id"], candidates), pc.invert(pc.is_in(rows["image_id"], wanted)))
        )
        for image, identity in zip(*(rest[name].to_pylist() for name in columns), strict=True):
            others[identity].add(image)
    meant = [
        name for name in sorted(others) if others[name] and (name in alone or own_photos[name] >= len(others[name]))
    ]
    return OtherPhotos(tuple(meant), tuple(sorted(set().union(*(others[name] for name in meant)))))


def others_of_withdrawn(lake: Lake, since: int) -> str | None:
    """Return a sentence on photos that most likely show subjects who withdraw and that do not name them, if there are
    any; or on why that is not known: the events are recorded, and no error is to hide that.

    Args:
        lake: the lake.
        since: number of events of the ledger before the withdrawals.
    """
    try:
        return _others_of_withdrawn(lake, since)
    except FacelakeError as err:
        return f"whether other photos show somebody who withdraws could not be looked up: {err}"


def _others_of_withdrawn(lake: Lake, since: int) -> str | None:
    events = lake["ledger"].read(["seq", "kind", "scope", "key"]).sort_by("seq").slice(since).to_pylist()
    withdrawn = (str(EventKind.WITHDRAW), str(Scope.SUBJECT))
    subjects = {reference(row["key"]) for row in events if (row["kind"], row["scope"]) == withdrawn}
    if not subjects or current_gallery(lake) is None:
        return None
    names = pa.array(sorted(subjects), pa.string())
    contents = pa.concat_arrays(
        [
            pa.array([], pa.string()),
            *(contents_of(rows, names) for _, rows in lake["admissions"].parts(["subject_ref", CONTENT])),
        ]
    )
    photos: set[str] = set()
    for _, rows in lake["admissions"].parts(["subject_ref", "image_id", CONTENT]):
        # photos with the same bytes are refused as withdrawn, whomever they name
        own = pc.or_(
            pc.fill_null(pc.is_in(references(rows["subject_ref"]), names), False), pc.is_in(rows[CONTENT], contents)
        )
        photos.update(filter(None, rows["image_id"].filter(own).to_pylist()))
    found = other_photos(lake, photos)
    if not found.photos:
        return None
    return f"{found.in_words('withdrawn')}; they stay. `facelake erase --identity ID` or `--image ID` erases them"
