"""What the lake knows of people, sources, photos and purposes, so that a mistyped reference is noticed."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import Config
from facelake.contracts import REFUSED_CLASSES, EventKind, Scope, label, reference, references
from facelake.errors import ConfigError, Retryable
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import INDEX, OpenedCorpus
from facelake.lake.lake import Lake
from facelake.stages.admission.ledger import Entry

_ALIKE = 0.75  # least difflib ratio of a name that is offered instead of an unknown one
_MOST_NAMED = 5  # sources that are named where none is alike
_COLUMNS = ("image_id", "source_id", "subject_ref")
_LOOK_ALIKE = str.maketrans(  # Cyrillic and Greek letters that are drawn as Latin ones (Unicode TR 39, confusables)
    "АВСЕНІЈКМОРЅТХУасеіјорѕухһԁѵѡΑΒΕΖΗΙΚΜΝΟΡΤΥΧοναρ", "ABCEHIJKMOPSTXYaceijopsyxhdvwABEZHIKMNOPTYXovap"
)
FLAG = "--even-if-unknown"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A reference that nothing in the lake matches.

    Attributes:
        kind: subject, source, image or purpose.
        name: the reference.
        near: what may have been meant, as text; empty if nothing is alike.
        alike: the names in `near`.
        certain: whether it is most likely a mistype: `near` is the same, is of another kind, or has the same numbers.
        same: whether `near` differs only in case, spaces, punctuation, compatibility forms, leading zeros, or letters
            that look like digits.
    """

    kind: str
    name: str
    near: str = ""
    alike: tuple[str, ...] = ()
    certain: bool = False
    same: bool = False

    def __str__(self) -> str:
        """Return a sentence for an error message."""
        return f"no {self.kind} {self.name!r}" + (f" ({self.near})" if self.near else "")


@dataclass(slots=True)
class Known:
    """The references in the corpus, the admissions and the ledger.

    Attributes:
        subjects: of photos and ledger events.
        sources: of photos and ledger events.
        with_photos: sources of photos only.
        purposes: of the config, the ledger and the leases.
        images: those of the photos that were asked for, by image_id.
        sources_of: sources of the photos that name the subjects that were asked for, by reference.
    """

    subjects: set[str] = field(default_factory=set)
    sources: set[str] = field(default_factory=set)
    with_photos: set[str] = field(default_factory=set)
    purposes: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    sources_of: dict[str, set[str]] = field(default_factory=dict)
    _similar_images: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, lake: Lake, images: Collection[str] = (), subjects: Collection[str] = ()) -> Known:
        """Read them.

        Args:
            config: the config, which names corpus and purpose.
            lake: the lake.
            images: image ids of which to say whether they exist.
            subjects: references of which to say which sources have photos of them.
        """
        known = cls.of_records(config, lake)
        wanted = {reference(image) for image in images}
        asked = pa.array(sorted(map(reference, subjects)), pa.string())
        for rows in identified(config, lake):
            known.subjects.update(filter(None, references(pc.unique(rows["subject_ref"])).to_pylist()))
            known.with_photos.update(filter(None, references(pc.unique(rows["source_id"])).to_pylist()))
            known._look_for(rows["image_id"], wanted)
            add_sources(known.sources_of, rows, asked)
        known.sources |= known.with_photos
        return known

    @classmethod
    def of_records(cls, config: Config, lake: Lake) -> Known:
        """Read the references of the config, the ledger and the leases only, without those of the photos."""
        events = lake["ledger"].read(["scope", "key", "purposes"]).to_pylist()
        leased = lake["leases"].read(["purpose"])["purpose"].to_pylist()
        known = cls(
            subjects={reference(row["key"]) for row in events if row["scope"] == Scope.SUBJECT},
            sources={reference(row["key"]) for row in events if row["scope"] == Scope.SOURCE},
            # acknowledgements of leases name no purpose
            purposes={reference(name) for row in events for name in row["purposes"] or ()}
            | {reference(name) for name in leased if name},
        )
        return known._with_purpose_of(config)

    @classmethod
    def of_config(cls, config: Config) -> Known:
        """Return the references of the config only: there is no lake yet."""
        return cls()._with_purpose_of(config)

    def _with_purpose_of(self, config: Config) -> Known:
        if not any(item.certain for item in self.unknown("purpose", [config.purpose])):  # else mistyped in the config
            self.purposes.add(reference(config.purpose))
        return self

    def _look_for(self, ids: pa.ChunkedArray, wanted: set[str]) -> None:
        """Note which wanted photos are among the ids, and ids that differ from one in case or punctuation only."""
        if not wanted:
            return
        spelled = references(ids)
        self.images.update(spelled.filter(pc.is_in(spelled, pa.array(sorted(wanted), pa.string()))).to_pylist())
        for image in sorted(wanted):
            same_file = pc.ends_with(spelled, pattern="/" + image.rpartition("/")[2])
            others = spelled.filter(pc.fill_null(same_file, False)).to_pylist()  # in another folder or source
            self._similar_images.setdefault(image, set()).update(others[:_MOST_NAMED])
        lower = pc.utf8_lower(pc.utf8_normalize(spelled, "NFKC"))
        plain = pc.replace_substring_regex(lower, r"[^\pL\pN]", "")
        asked = {_plain(image): image for image in sorted(wanted)}
        at = pc.is_in(plain, pa.array(sorted(asked), pa.string()))
        for image in spelled.filter(at).to_pylist():
            name = asked.get(_plain(image))
            if name is not None:
                self._similar_images.setdefault(name, set()).add(image)

    def unknown(self, kind: str, names: Iterable[str]) -> Iterator[Unknown]:
        """Yield the references of a kind (subject, source, image, purpose) that the lake does not have."""
        own = {"subject": self.subjects, "source": self.sources, "purpose": self.purposes, "image": self.images}
        for name in map(reference, names):
            if name not in own[kind]:
                item = self._unknown(kind, name, own)
                # of two spellings the one that is recorded may be the mistyped one
                absent = kind == "source" and item.alike and not self.with_photos.intersection(item.alike)
                yield replace(item, near=f"{item.near}, which no photo has") if absent and item.certain else item

    def alike(self, kind: str, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Yield (name, other) for references of a kind (subject, source) that differ from a named one that exists only
        in case, punctuation, compatibility forms, leading zeros, or letters of other scripts that look the same: they
        may be the same person.
        """
        own = self.subjects if kind == "subject" else self.sources
        wanted = {as_seen(name): name for name in map(reference, names) if name in own}
        for other in sorted(own):
            name = wanted.get(as_seen(other)) if wanted else None
            if name is not None and name != other:
                yield name, other

    def _unknown(self, kind: str, name: str, own: dict[str, set[str]]) -> Unknown:
        for other in ("subject", "source"):
            if other != kind and kind != "purpose" and name in own[other]:
                return Unknown(kind, name, f"it is a {other}: --{other} {name}", certain=True)
        if kind == "image":
            near = sorted(self._similar_images.get(name, set()) - {name})[:_MOST_NAMED]
            return Unknown(kind, name, f"there is {_either(near)}" if near else "", certain=bool(near))
        same = sorted(other for other in own[kind] if _plain(other) == _plain(name))
        if same:
            return Unknown(kind, name, f"there is {same[0]!r}", (same[0],), certain=True, same=True)
        padded = sorted(other for other in own[kind] if _without_zeros(other) == _without_zeros(name))
        if padded:  # a spreadsheet turns 008 into 8
            return Unknown(kind, name, f"there is {_either(padded)}", tuple(padded), certain=True, same=True)
        drawn = sorted(other for other in own[kind] if _as_drawn(other) == _as_drawn(name))
        if drawn:  # 2O26 is 2026
            return Unknown(kind, name, f"did you mean {_either(drawn)}", tuple(drawn), certain=True, same=True)
        near_ones = difflib.get_close_matches(name, sorted(own[kind]), n=3, cutoff=_ALIKE)
        same_numbers = [other for other in near_ones if _numbers(other) == _numbers(name)]
        if kind == "subject":  # person-0041 and person-0042 are two people, of whom none is offered for the other
            near_ones = same_numbers
        if near_ones:
            certain = near_ones[:1] == same_numbers[:1]
            return Unknown(kind, name, f"did you mean {_either(near_ones)}", tuple(near_ones), certain=certain)
        named = sorted(own[kind])[:_MOST_NAMED] if kind == "source" else []
        return Unknown(kind, name, f"it has {', '.join(map(repr, named))}" if named else "")


def _numbers(name: str) -> list[str]:
    return re.findall(r"\d+", name)


def withdrawn_as_seen(lake: Lake) -> dict[str, str]:
    """Return the subjects with a withdrawal, by `as_seen`."""
    events = lake["ledger"].read(["kind", "scope", "key"]).to_pylist()
    ended = (row["key"] for row in events if (row["kind"], row["scope"]) == (EventKind.WITHDRAW, Scope.SUBJECT))
    return {as_seen(key): reference(key) for key in ended}


def also_there(known: Known, kind: str, names: Iterable[str]) -> Iterator[str]:
    """Yield a sentence for each reference that is nearly one that is named, and is not named itself."""
    named = set(map(reference, names))
    for name, other in known.alike(kind, named):
        if other not in named:
            yield f"the lake also has the {kind} {other!r}, not {name!r}: name it too if both are one"


def also_ended(known: Known, entries: Sequence[Entry]) -> Iterator[str]:
    """Yield what `also_there` says of the withdrawals and expiries among new ledger events."""
    ending = [entry for entry in entries if entry.kind is not EventKind.GRANT]
    for scope in Scope:
        yield from also_there(known, scope, [entry.key for entry in ending if entry.scope is scope])


def refuse_unknown(unknown: Sequence[Unknown], action: str) -> None:
    """Refuse an action on references that match nothing.

    Raises:
        ConfigError: there are some; it names them and what is alike.
    """
    if unknown:
        shown = "; ".join(map(str, unknown[:5])) + (f"; and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        next_step = f"correct the reference; nothing was recorded. To {action} all the same, add {FLAG}"
        raise ConfigError(f"the lake has {shown}", where=action, next_step=next_step)


def doubts(known: Known, entries: Sequence[Entry]) -> tuple[list[Unknown], list[Unknown]]:
    """Return what in new ledger events looks mistyped: what must be refused, and what is to be questioned only.

    A withdrawal or expiry must match something, or it has no effect. A grant may come before its photos; but a source
    or purpose that nobody used is questioned, and refused if it is nearly one that exists. A subject is questioned if
    it resembles one that exists.
    """
    refused: dict[Unknown, None] = {}
    questioned: dict[Unknown, None] = {}
    for entry in entries:
        names = [*known.unknown(entry.scope, [entry.key]), *known.unknown("purpose", entry.purposes)]
        for item in names:
            if entry.kind is not EventKind.GRANT or (item.certain and item.kind != "subject"):
                refused[item] = None
            elif item.near or item.kind == "purpose":  # a first source has nothing to be compared with
                questioned[item] = None
    return list(refused), list(questioned)


def without_photos(known: Known, entries: Iterable[Entry]) -> Iterator[tuple[Entry, str]]:
    """Yield each grant of a subject that nothing names, where subjects are named at all, with a sentence."""
    for entry in entries:
        named = entry.kind is EventKind.GRANT and entry.scope is Scope.SUBJECT and known.subjects
        for item in known.unknown("subject", [entry.key]) if named else ():
            if not item.near:
                yield entry, f"no photo has the subject {item.name!r}: the grant has no effect until one comes"


def barred(known: Known, entries: Iterable[Entry]) -> Iterator[str]:
    """Yield a sentence for each grant that states a refused class of a source that the lake has.

    Such a grant permits nothing, and no later event lifts it: every photo of the source is refused from then on.
    """
    for entry in entries:
        bars = (entry.kind, entry.scope) == (EventKind.GRANT, Scope.SOURCE) and entry.source_class in REFUSED_CLASSES
        if bars and reference(entry.key) in known.sources:
            yield f"photos of class {entry.source_class} are refused: this would refuse {entry.key!r} for good"


def refuse_barred(known: Known, entries: Iterable[Entry]) -> None:
    """Refuse grants that would bar a source of the lake by a mistyped class.

    Raises:
        ConfigError: there is one.
    """
    for text in barred(known, entries):
        next_step = f"give contributed, commissioned, archive or research; if the source is to be barred, add {FLAG}"
        raise ConfigError(f"{text}, whatever is recorded later", where="source class", next_step=next_step)


def erased_before(lake: Lake, entries: Sequence[Entry]) -> dict[Entry, str]:
    """Return a sentence for each grant of a subject or source that was erased, for all purposes or for one of the
    grant's: it would bring back the name in vain.
    """
    suppressed = lake.suppressed()
    found: dict[Entry, str] = {}
    for entry in entries if suppressed else ():
        for purpose in (None, *entry.purposes) if entry.kind is EventKind.GRANT else ():
            if lake.keyed_hash(label(entry.scope, entry.key, purpose)) in suppressed:
                what = f"the {entry.scope} {entry.key!r} was erased" + (f" for {purpose!r}" if purpose else "")
                found.setdefault(entry, f"{what}: its photos are refused for good, whatever is granted")
    return found


def refuse_erased(lake: Lake, entries: Sequence[Entry]) -> None:
    """Refuse grants of subjects and sources that were erased.

    Raises:
        ConfigError: there is one; nothing was recorded.
    """
    for text in erased_before(lake, entries).values():
        next_step = "leave it out; new photos that somebody agreed to later need another reference"
        raise ConfigError(text, where="ledger", next_step=next_step)


def not_suppressed(lake: Lake, unknown: Iterable[Unknown]) -> list[Unknown]:
    """Return the unknown references that were not erased before: erasing a person again is no mistake."""
    suppressed = lake.suppressed()
    return [item for item in unknown if lake.keyed_hash(label(item.kind, item.name)) not in suppressed]


def photos_named(config: Config, lake: Lake, names: Sequence[str]) -> set[str]:
    """Return the ids of photos whose path ends with one of some names."""
    ids: set[str] = set()
    for rows in identified(config, lake):
        for name in names:
            ends = pc.ends_with(rows["image_id"], pattern="/" + name)
            ids.update(filter(None, rows["image_id"].filter(pc.fill_null(ends, False)).to_pylist()))
    return ids


def identified(config: Config, lake: Lake) -> Iterator[pa.Table]:
    """Yield the identifying columns of the decided photos, of the index, and of the corpus, which may have newer
    ones.
    """
    for table in ("admissions", INDEX):
        for _, rows in lake[table].parts(list(_COLUMNS)):
            yield rows
    try:
        spec = resolve_corpus(config)
        if spec.listed or spec.form is None or spec.form.ids_by_content:
            return  # the index names its photos; listing them again could take long
        corpus = OpenedCorpus(spec)
        for part in corpus.parts():
            with suppress(ConfigError, Retryable):  # a file that cannot be read stops `admit`, but no withdrawal
                yield corpus.ids(part)
    except ConfigError:
        return  # no photo was imported yet


def add_sources(found: dict[str, set[str]], rows: pa.Table, subjects: pa.Array) -> None:
    """Add the sources of rows that name some subjects, in the spelling of `reference`, by subject."""
    names = references(rows["subject_ref"])
    own = pc.fill_null(pc.is_in(names, subjects), False)
    if not len(subjects) or not pc.any(own).as_py():
        return
    pairs = pa.table({"subject": names.filter(own), "source": references(rows["source_id"].filter(own))})
    for row in pairs.group_by(["subject", "source"]).aggregate([]).to_pylist():
        if row["source"]:
            found.setdefault(row["subject"], set()).add(row["source"])


def _without_zeros(text: str) -> str:
    """Return a reference as `_plain` does, without leading zeros of its numbers."""
    return re.sub(r"\d+", lambda number: number[0].lstrip("0") or "0", _plain(text))


def _as_drawn(text: str) -> str:
    """Return a reference as `_plain` does, with letters that look like digits or Latin letters as these."""
    return _plain(text.translate(_LOOK_ALIKE)).translate(str.maketrans("oil", "011"))


def as_seen(text: str) -> str:
    """Return what references that look nearly the same have in common, leading zeros left out."""
    return re.sub(r"\d+", lambda number: number[0].lstrip("0") or "0", _as_drawn(text))


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))


def _plain(text: str) -> str:
    """Return a reference without case, spaces, punctuation and compatibility forms (such as digits of full width), for
    comparison with what may have been meant.
    """
    plain = unicodedata.normalize("NFKC", text)
    return "".join(character.lower() for character in plain if character.isalnum())
