"""What an erasure is asked for, what the lake knows of it, and the note by which a killed one is finished.

The note is written before the first row goes: once the rows are gone, nothing else in the lake could tell which photos,
faces and embeddings must not be found any more. It goes last, right before the certificate.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.config import Config
from facelake.contracts import Bool
from facelake.erase import Needles
from facelake.errors import ConfigError
from facelake.lake.corpus import Corpus
from facelake.lake.lake import Lake
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.core.context import Context
from facelake.stages.gallery.versions import Gallery, current_gallery

PENDING = "erase-pending"
_TELLING = 6  # characters from which on a subject reference can be told from chance in a byte scan


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be erased. An identity goes with every photo that it is in.

    With a purpose, only what was made for it goes: the photos and the ledger stay for others.
    """

    subjects: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    identities: tuple[str, ...] = ()
    purpose: str | None = None

    @classmethod
    def of(
        cls,
        subjects: Sequence[str] = (),
        images: Sequence[str] = (),
        sources: Sequence[str] = (),
        identities: Sequence[str] = (),
        purpose: str | None = None,
    ) -> Request:
        """In one order, so that the same request has the same name.

        Raises:
            ConfigError: nothing is named.
        """
        named = [tuple(sorted(set(values))) for values in (subjects, images, sources, identities)]
        if not any(named) or not all(value for values in named for value in values):
            next_step = "give --subject, --image, --source or --identity"
            raise ConfigError("nothing to erase is named", where="erase", next_step=next_step)
        return cls(named[0], named[1], named[2], named[3], purpose)

    @property
    def key(self) -> str:
        """Where its note lies; says nothing of what is asked for."""
        return f"{PENDING}/{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:24]}.parquet"

    def labels(self) -> list[str]:
        """Names for the suppression list and, hashed, for the certificate."""
        kinds = (("subject", self.subjects), ("source", self.sources), ("image", self.images))
        named = [f"{kind}:{value}" for kind, values in kinds for value in values]
        named += [f"identity:{value}" for value in self.identities]
        return [f"for:{self.purpose}:{name}" for name in named] if self.purpose else named


@dataclass(slots=True)
class Targets:
    """What is to go, as far as the lake knows or knew it."""

    request: Request
    images: set[str] = field(default_factory=set)
    faces: set[str] = field(default_factory=set)
    embeddings: set[bytes] = field(default_factory=set)

    def hits(self, rows: pa.Table) -> Bool:
        """Per row of a table with image_id, source_id, subject_ref: is it to go?"""
        request = self.request
        wanted = (("image_id", self.images), ("source_id", request.sources), ("subject_ref", request.subjects))
        found = np.zeros(rows.num_rows, bool)
        for column, values in wanted:
            if values:
                found |= pc.fill_null(pc.is_in(rows[column], strings(values)), False).to_numpy()
        return found

    def needles(self) -> Needles:
        """Identifiers that are long enough to be told from chance, and the embeddings.

        A subject reference such as "7" occurs in counts and dates everywhere; the images and faces it stood for are
        looked for instead, and the columns that held it are rewritten. A source's name is nobody's: it stays. When only
        one purpose is erased, the photo and its subject are known to the others: its faces and vectors are what goes.
        """
        names = (
            () if self.request.purpose else (*self.images, *(v for v in self.request.subjects if len(v) >= _TELLING))
        )
        return Needles.of([*self.faces, *names], self.embeddings)


def strings(values: Sequence[str] | set[str]) -> pa.Array:
    """Values to look rows up by."""
    return pa.array(sorted(values), pa.string())


def find_targets(context: Context, request: Request) -> Targets:
    """Images by the admissions, the corpus and the gallery; faces by their images; and what an earlier try noted."""
    targets = _noted(context.lake, request) or Targets(request, set(request.images))
    gallery = current_gallery(context.lake)
    if request.identities:
        targets.images |= _of_identities(context, request, gallery, known=bool(targets.images))
    for _, rows in context.lake["admissions"].parts(["image_id", "source_id", "subject_ref"]):
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)
    for corpus, path in own_corpus(context.config):
        rows = corpus.ids(path)
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)
    wanted = strings(targets.images)
    for file, rows in context.lake["faces"].parts(["image_id"]):
        if pc.any(pc.is_in(rows["image_id"], wanted)).as_py():
            found = context.lake["faces"].file(file, ["face_id", "image_id", "embedding"])
            found = found.filter(pc.is_in(found["image_id"], wanted))
            targets.faces.update(found["face_id"].to_pylist())
            targets.embeddings.update(found["embedding"].to_pylist())
    if gallery:
        rows = gallery.read("memberships", ["face_id", "image_id"])
        targets.faces.update(rows["face_id"].filter(pc.is_in(rows["image_id"], wanted)).to_pylist())
    return targets


def _of_identities(context: Context, request: Request, gallery: Gallery | None, known: bool) -> set[str]:
    """Every image in which one of the identities was found.

    Raises:
        ConfigError: an identity that is not active, unless an earlier try has noted its images.
    """
    members = gallery.read("memberships", ["identity_id", "image_id"]) if gallery else None
    there = set(members["identity_id"].to_pylist()) if members else set()
    missing = [name for name in request.identities if name not in there]
    if missing and not known:
        what = f"no active identity {missing[0]!r}"
        raise ConfigError(what, where=context.lake.uri, next_step="see `facelake gallery show`")
    if members is None:
        return set()
    return set(members["image_id"].filter(pc.is_in(members["identity_id"], strings(request.identities))).to_pylist())


def read_keys(path: str) -> dict[str, list[str]]:
    """Keys to erase by kind, out of a CSV file with the columns kind and key.

    Raises:
        ConfigError: it cannot be read, or a line is of an unknown kind or without a key; nothing is erased then.
    """
    kinds = ("subject", "image", "source", "identity")
    found: dict[str, list[str]] = {kind: [] for kind in kinds}
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                kind, key = (row.get("kind") or "").strip(), (row.get("key") or "").strip()
                if kind not in kinds or not key:
                    what = f"line {reader.line_num} names no {', '.join(kinds)} with a key"
                    raise ConfigError(what, where=path, next_step="correct it; nothing was erased")
                found[kind].append(key)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(f"cannot be read: {err}", where=path, next_step="give a CSV file in UTF-8") from err
    return found


def note(context: Context, targets: Targets) -> None:
    """Leave the note by which this erasure can be finished, whatever happens."""
    values = [
        *((kind, value.encode()) for kind in ("images", "faces") for value in sorted(getattr(targets, kind))),
        *(("embeddings", value) for value in sorted(targets.embeddings)),
    ]
    table = pa.table({"kind": [kind for kind, _ in values], "value": pa.array([v for _, v in values], pa.binary())})
    request = {b"request": json.dumps(asdict(targets.request)).encode()}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(request), sink, compression="zstd", write_statistics=False)
    context.lake.store.write(targets.request.key, sink.getvalue().to_pybytes())


def _noted(lake: Lake, request: Request) -> Targets | None:
    try:
        table = pq.read_table(pa.BufferReader(lake.store.read(request.key)))
    except FileNotFoundError:
        return None
    held: dict[str, set[bytes]] = {kind: set() for kind in ("images", "faces", "embeddings")}
    for kind, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
        held[kind].add(value)
    images, faces = ({value.decode() for value in held[kind]} for kind in ("images", "faces"))
    return Targets(request, images, faces, held["embeddings"])


def unfinished(lake: Lake) -> list[Request]:
    """Erasures that began and have no certificate yet."""
    found = []
    for item in lake.store.list(PENDING):
        metadata = pq.read_schema(pa.BufferReader(lake.store.read(item.key))).metadata or {}
        body: dict[str, Any] = json.loads(metadata[b"request"])
        purpose = body.pop("purpose")
        found.append(Request(**{kind: tuple(values) for kind, values in body.items()}, purpose=purpose))
    return found


def own_corpus(config: Config) -> Iterator[tuple[Corpus, str]]:
    """Corpus files that live inside the lake, which `import` made; a custodian's corpus is not ours to write."""
    if not owns_corpus(config):
        return
    corpus = Corpus(config.corpus_uri, config.s3)
    try:
        paths = corpus.paths()
    except ConfigError:
        return
    for path in paths:
        yield corpus, path
