"""Loads the lists of withdrawn data sets and checks corpora, folders and model cards against them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from facelake.admit.lineage import Lineages, RetractedList
from facelake.config import Config, conf_dir, read_yaml_as
from facelake.contracts import label, parse_json, parse_yaml
from facelake.embed import ModelCard
from facelake.errors import Refused
from facelake.lake.corpora.opening import OpenedCorpus
from facelake.lake.lake import Lake

_DEFAULT_ACCEPTED = {
    "opencv": dict.fromkeys(
        ("VGGFace2", "MS1MV2"),
        "named on the default card; no encoder under a permissive licence is known to be free of them",
    )
}
_DECLARING = ("name", "dataset", "dataset_name", "pretty_name", "title", "lineage", "derived_from", "source_datasets")
SIDECAR_BYTES = 256 << 10
SIDECARS = (".json", ".yaml", ".yml")
_SCHEMA_METADATA = ("pandas", "ARROW:schema")
MOST_NAMES = 200_000  # file names looked at; the ids of all photos are checked as well


def retracted_lists(config: Config) -> list[RetractedList]:
    """conf/retracted.yaml and the operator's own lists.

    Raises:
        ConfigError: a list that cannot be read or is invalid.
    """
    paths = [conf_dir() / "retracted.yaml", *(Path(path).expanduser() for path in config.governance.retracted)]
    return [read_yaml_as(RetractedList, path) for path in paths]


def load_lineages(config: Config) -> Lineages:
    """The index over all lists."""
    return Lineages(entry for sets in retracted_lists(config) for entry in sets.sets)


def retracted_contents(config: Config) -> dict[str, str]:
    """Names of withdrawn sets by the SHA-256 of their files."""
    sets = [entry for sets in retracted_lists(config) for entry in sets.sets]
    return {digest: entry.name for entry in sets for digest in entry.content_sha256}


@dataclass(frozen=True, slots=True)
class RefusedContents(Mapping[str, str]):
    """Why a photo with some SHA-256 must not be decoded: a withdrawn set, or an erased photo. Sent to workers.

    Attributes:
        retracted: names of withdrawn sets by digest.
        suppressed: keyed hashes of the suppression list.
        salt: key of the hashes.
        purpose: of the run.
    """

    retracted: Mapping[str, str]
    suppressed: frozenset[str]
    salt: bytes
    purpose: str

    def __getitem__(self, digest: str) -> str:
        if digest in self.retracted:
            return self.retracted[digest]
        for purpose in (None, self.purpose):
            name = label("content", digest, purpose).encode()
            if self.suppressed and hmac.new(self.salt, name, hashlib.sha256).hexdigest() in self.suppressed:
                return "an erased person"
        raise KeyError(digest)

    def __iter__(self) -> Iterator[str]:
        return iter(self.retracted)

    def __len__(self) -> int:
        return len(self.retracted) + len(self.suppressed)  # an empty mapping would be taken for none


def refused_contents(config: Config, lake: Lake) -> RefusedContents:
    """Photos that must not be decoded, by the SHA-256 of their files."""
    return RefusedContents(retracted_contents(config), lake.suppressed(), lake.salt, config.purpose)


def accepted_lineage(config: Config, card: ModelCard) -> dict[str, str]:
    """The withdrawn sets in the reported training lineage of a model, each with the reason why it is accepted.

    Raises:
        Refused: the card declares a set that the config does not accept.
    """
    lineages = load_lineages(config)
    configured = config.model.accept_lineage
    reasons = _DEFAULT_ACCEPTED.get(card.name, {}) if configured is None else configured
    accepted = {canonical: why for name, why in reasons.items() for canonical in lineages.of_card([name], "")}
    lineage = lineages.of_card(card.withdrawn_lineage, card.training_data)
    for name in lineage:
        if name not in accepted:
            what = f"the reported training lineage of {card.name!r} includes a withdrawn set: {lineages.why(name)}"
            next_step = f"choose another model, or add {name!r} with the reason to model.accept_lineage"
            raise Refused(what, where="model.card", next_step=next_step)
    return {name: accepted[name] for name in lineage}


def refuse_retracted_corpus(corpus: OpenedCorpus, lineages: Lineages) -> None:
    """Check whether a corpus is a withdrawn set, by its location, file names, metadata and sidecar files.

    Raises:
        Refused: it is; the message names the set, who withdrew it and when.
    """
    if match := lineages.in_name(corpus.uri):
        raise _refused(lineages, match, corpus.uri, "its location contains the name")
    sizes = {item.key: item.size_bytes for item in islice(corpus.store.list(), MOST_NAMES)}
    notes = [key for key in sizes if key.rpartition("/")[2] == "property" and sizes[key] < 256]
    match = lineages.in_folder(sizes, corpus.store.read(notes[0]).decode("ascii", "replace") if notes else None)
    if match:
        raise _refused(lineages, match, corpus.uri, "its file names match")
    for where, text in _declarations(corpus, sizes):
        match = lineages.declared(text)
        if match:
            raise _refused(lineages, match, where, f"it declares {text[:80]!r}")


def refuse_retracted_folder(root: Path, source_id: str, files: Sequence[Path], lineages: Lineages) -> None:
    """Check whether a folder is a withdrawn set.

    Raises:
        Refused: as refuse_retracted_corpus.
    """
    notes = [path for path in files if path.name == "property"]
    text = notes[0].read_text("ascii", "replace")[:256] if notes else None
    paths = [path.relative_to(root).as_posix() for path in files]
    refuse_retracted_names((source_id, root.resolve().name), str(root), paths, text, lineages)
    small = (path for path in files if path.name.lower().endswith(SIDECARS) and path.stat().st_size <= SIDECAR_BYTES)
    refuse_declared(str(root), ((path.name, path.read_bytes()) for path in small), lineages)


def refuse_retracted_names(
    names: Sequence[str], location: str, paths: Sequence[str], property_text: str | None, lineages: Lineages
) -> None:
    """Check whether photos to be imported are a withdrawn set.

    Args:
        names: the source_id, and the name of the folder.
        location: for the error.
        paths: of the files, relative.
        property_text: content of a file named `property`, None if there is none.
        lineages: the withdrawn sets.

    Raises:
        Refused: as refuse_retracted_corpus.
    """
    for name in names:
        if match := lineages.in_name(name):
            raise _refused(lineages, match, location, f"{name!r} contains the name")
    if match := lineages.in_folder(paths, property_text):
        raise _refused(lineages, match, location, "its file names match")


def refuse_declared(location: str, sidecars: Iterable[tuple[str, bytes]], lineages: Lineages) -> None:
    """Check whether a JSON or YAML file beside photos names a withdrawn set; `sidecars` are (name, content).

    Raises:
        Refused: as refuse_retracted_corpus.
    """
    for name, data in sidecars:
        for declared in _declared_names(_parsed(data)):
            if match := lineages.declared(declared):
                raise _refused(lineages, match, f"{location}/{name}", f"it declares {declared[:80]!r}")


def retracted_rows(lineages: Lineages, idents: Sequence[str | None], sources: Sequence[str | None]) -> list[str | None]:
    """Per corpus row the withdrawn set that its image_id or source_id identifies, or None."""
    of_source = {source: lineages.in_name(source) for source in set(sources) if source}
    return [
        match or of_source.get(source or "") for match, source in zip(lineages.in_ids(idents), sources, strict=True)
    ]


def _refused(lineages: Lineages, match: str, where: str, how: str) -> Refused:
    what = f"this is {match}: {how}. {lineages.why(match)}"
    return Refused(
        what,
        where=where,
        next_step="delete the copy; if it is another data set, record its origin and rename what only shares the name",
    )


def _declarations(corpus: OpenedCorpus, sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(location, text) of self-descriptions: metadata of the Parquet files, and name fields of JSON and YAML files."""
    for where, name, value in corpus.declared():
        if name not in _SCHEMA_METADATA:
            yield where, f"{name} {value}"
    for key, size in sizes.items():
        if key.lower().endswith(SIDECARS) and size <= SIDECAR_BYTES:
            for text in _declared_names(_parsed(corpus.store.read(key))):
                yield f"{corpus.uri}/{key}", text


def _parsed(data: bytes) -> Any:
    """The parsed JSON, or the first YAML document; None if it is neither, or not within the limits."""
    for parse in (parse_json, parse_yaml):
        try:
            return parse(data)
        except ValueError:
            continue
    return None


def _declared_names(body: Any) -> Iterator[str]:
    if isinstance(body, dict):
        for key, value in body.items():
            if str(key).lower() in _DECLARING:
                for text in value if isinstance(value, list) else [value]:
                    yield str(text)
