"""Labels of faces from a CSV file with the columns image and person."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from facelake.errors import ConfigError

_NAMED = 20  # people without a face in an identity whose names are given


@dataclass(frozen=True, slots=True)
class LabelledFaces:
    """Faces with their labels, ordered by image id."""

    faces: list[str]
    people: list[str]
    missing: int
    """labels whose image has no face in the lake"""


@dataclass(frozen=True, slots=True)
class People:
    """How many labelled people are right in the gallery.

    Attributes:
        people: labelled people.
        absent: who have no face in an identity.
        right: whose faces are in one identity, without a face of another labelled person.
        divided: whose faces are in several identities.
        mixed: who share an identity with another labelled person; some of them may be divided, too.
        absent_names: the first of those who are absent, in alphabetical order.
    """

    people: int
    absent: int
    right: int
    divided: int
    mixed: int
    absent_names: Sequence[str] = ()

    @classmethod
    def of(cls, labelled: Collection[str], pairs: Iterable[tuple[str, str]]) -> People:
        """Count from the labelled people, and pairs of one of them and the identity of a face of theirs."""
        everyone = set(labelled)
        identities: dict[str, set[str]] = defaultdict(set)
        people: dict[str, set[str]] = defaultdict(set)
        for person, identity in pairs:
            identities[person].add(identity)
            people[identity].add(person)
        divided = {person for person, own in identities.items() if len(own) > 1}
        mixed = {person for person, own in identities.items() if any(len(people[name]) > 1 for name in own)}
        right = identities.keys() - divided - mixed
        absent = sorted(everyone - identities.keys())
        counts = (len(everyone), len(absent), len(right), len(divided), len(mixed))
        return cls(*counts, absent_names=absent[:_NAMED])

    def in_words(self) -> str:
        """Return the counts as a sentence."""
        people = f"{self.people:,} labelled {'person' if self.people == 1 else 'people'}"
        right = f"{self.right:,} in one identity of their own"
        absent = f", {self.absent:,} without a face in an identity" if self.absent else ""
        if self.absent_names:
            more = self.absent - len(self.absent_names)
            absent += f": {', '.join(self.absent_names)}" + (f" and {more:,} more" if more else "")
        wrong = f"{self.divided:,} divided between identities, {self.mixed:,} mixed with others"
        return f"{people}: {right}, {wrong}{absent}"


def read_labels(path: str) -> dict[str, str]:
    """Return the person in each image, by the name of the image.

    Raises:
        ConfigError: the file cannot be read, or lacks the columns image and person.
    """
    rows = read_rows(path, "--labels")
    if not rows or not {"image", "person"} <= set(rows[0]):
        raise missing_columns(path, rows, "image and person")
    return {row["image"]: row["person"] for row in rows}


def missing_columns(path: str, rows: list[dict[str, str]], needed: str) -> ConfigError:
    """Return the error for a file of labels whose first line does not name the needed columns."""
    if not rows:
        next_step = "the first line names the columns, each further line has one photo"
        return ConfigError(f"no label: the file needs the columns {needed}", where=path, next_step=next_step)
    what = f"the labels need the columns {needed}; the first line is {','.join(filter(None, rows[0]))!r}"
    return ConfigError(
        what, where=path, next_step="rename the columns; if this line is a label, add a header before it"
    )


def read_rows(path: str, option: str) -> list[dict[str, str]]:
    """Return the lines of a CSV file of labels, by the names of its header.

    Raises:
        ConfigError: the file cannot be read; `option` names it.
    """
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"the labels cannot be read: {err}", where=path, next_step=f"check {option}") from err


def label_faces(faces: pa.Table, person_of: dict[str, str]) -> LabelledFaces:
    """Assign labels to faces; in a labelled photo with several faces, the largest face gets the label.

    Args:
        faces: columns face_id, image_id and box.
        person_of: person by image id, by image id without its source, or by file name.
    """
    largest: dict[str, tuple[float, str]] = {}
    columns = (faces[name].to_pylist() for name in ("face_id", "image_id", "box"))
    for face, image, box in zip(*columns, strict=True):
        candidate = ((box[2] - box[0]) * (box[3] - box[1]) if box else 0.0, face)
        largest[image] = max(largest.get(image, candidate), candidate)
    labelled = [
        (face, key) for image, (_, face) in sorted(largest.items()) if (key := _key(image, person_of)) is not None
    ]
    people = [person_of[key] for _, key in labelled]
    missing = len(set(person_of) - {key for _, key in labelled})
    return LabelledFaces([face for face, _ in labelled], people, missing)


def _key(image_id: str, person_of: dict[str, str]) -> str | None:
    """Return the key of an image in `person_of`: its id, its path without the source, or its file name."""
    for name in (image_id, image_id.partition("/")[2], image_id.rpartition("/")[2]):
        if name in person_of:
            return name
    return None
