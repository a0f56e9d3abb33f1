"""The request of an erasure, what the lake holds of it, and the note by which a killed erasure is completed.

The note is written before the first row is removed: afterwards nothing else in the lake says which photos, faces and
embeddings must not be found any more. It is deleted last, right before the certificate is written.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
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
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.lake import Lake
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.core.context import Context
from facelake.stages.gallery.versions import Gallery, current_gallery

PENDING = "erase-pending"
_MIN_NEEDLE = 6  # characters of a subject reference; shorter ones occur in a byte scan by chance


@dataclass(frozen=True, slots=True)
class Request:
    """What to erase. An identity is erased with every photo that shows it.

    With a purpose, only what was made for it is erased; photos and ledger stay for other purposes.
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
        """Return a request with its keys in one order, so that equal requests have equal names.

        Raises:
            ConfigError: nothing is named.
        """
        named = [tuple(sorted(set(values))) for values in (subjects, images, sources, identities)]
        if not any(named) or not all(value for values in named for value in values):
            next_step = "give --subject, --image, --source or --identity"
            raise ConfigError("the request names nothing to erase", where="erase", next_step=next_step)
        return cls(named[0], named[1], named[2], named[3], purpose)

    @property
    def key(self) -> str:
        """Return the key of its note, which reveals nothing of what is erased."""
        return f"{PENDING}/{hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:24]}.parquet"

    def labels(self) -> list[str]:
        """Return labels for the suppression list; hashed, for the certificate."""
        kinds = (("subject", self.subjects), ("source", self.sources), ("image", self.images))
        named = [f"{kind}:{value}" for kind, values in kinds for value in values]
        named += [f"identity:{value}" for value in self.identities]
        return [f"for:{self.purpose}:{name}" for name in named] if self.purpose else named


@dataclass(slots=True)
class Targets:
    """What an erasure removes, as far as the lake holds or held it."""

    request: Request
    images: set[str] = field(default_factory=set)
    faces: set[str] = field(default_factory=set)
    embeddings: set[bytes] = field(default_factory=set)
    places: set[str] = field(default_factory=set)
    """photos in the operator's own store"""

    def hits(self, rows: pa.Table) -> Bool:
        """Return which rows (n,) of a table with image_id, source_id, subject_ref are erased."""
        request = self.request
        wanted = (("image_id", self.images), ("source_id", request.sources), ("subject_ref", request.subjects))
        hit = np.zeros(rows.num_rows, bool)
        for column, values in wanted:
            if values:
                hit |= pc.fill_null(pc.is_in(rows[column], strings(values)), False).to_numpy()
        return hit

    def needles(self) -> Needles:
        """Return what the residual scan searches for: identifiers that do not occur by chance, and the embeddings.

        A subject reference such as "7" occurs in counts and dates everywhere; its images and faces are searched for
        instead, and the columns that held it are rewritten. Names of sources stay, since they are not of a person. When
        only one purpose is erased, photo and subject stay for the others: faces and vectors are searched for.
        """
        names = (
            () if self.request.purpose else (*self.images, *(v for v in self.request.subjects if len(v) >= _MIN_NEEDLE))
        )
        return Needles.of([*self.faces, *names], self.embeddings)


def strings(values: Sequence[str] | set[str]) -> pa.Array:
    """Return values as an Arrow array, to look rows up by."""
    return pa.array(sorted(values), pa.string())


def find_targets(context: Context, request: Request, also: Callable[[Context, Targets], None] | None = None) -> Targets:
    """Find images by admissions, corpus and gallery, faces by their images, and what an earlier attempt noted.

    Args:
        also: adds images that are known elsewhere, before their faces are looked up.
    """
    targets = _noted(context.lake, request) or Targets(request, set(request.images))
    gallery = current_gallery(context.lake)
    if request.identities:
        targets.images |= _of_identities(context, request, gallery, known=bool(targets.images))
    for _, rows in context.lake["admissions"].parts(["image_id", "source_id", "subject_ref"]):
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)
    for corpus, path in own_corpus(context.config):
        rows = corpus.ids(path)
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)
    if also:
        also(context, targets)
    wanted = strings(targets.images)
    for file, rows in context.lake["faces"].parts(["image_id"]):
        if pc.any(pc.is_in(rows["image_id"], wanted)).as_py():
            faces = context.lake["faces"].file(file, ["face_id", "image_id", "embedding"])
            faces = faces.filter(pc.is_in(faces["image_id"], wanted))
            targets.faces.update(faces["face_id"].to_pylist())
            targets.embeddings.update(faces["embedding"].to_pylist())
    for rows in gallery.parts("memberships", ["face_id", "image_id"]) if gallery else ():
        targets.faces.update(rows["face_id"].filter(pc.is_in(rows["image_id"], wanted)).to_pylist())
    return targets


def _of_identities(context: Context, request: Request, gallery: Gallery | None, known: bool) -> set[str]:
    """Return every image that shows one of the identities.

    Raises:
        ConfigError: an identity is not active, and no earlier attempt has noted its images.
    """
    names = strings(request.identities)
    images: set[str] = set()
    present: set[str] = set()
    for rows in gallery.parts("memberships", ["identity_id", "image_id"]) if gallery else ():
        own = rows.filter(pc.is_in(rows["identity_id"], names))
        present.update(own["identity_id"].to_pylist())
        images.update(own["image_id"].to_pylist())
    missing = [name for name in request.identities if name not in present]
    if missing and not known:
        what = f"no active identity {missing[0]!r}"
        raise ConfigError(what, where=context.lake.uri, next_step="see `facelake gallery show`")
    return images


def read_keys(path: str) -> dict[str, list[str]]:
    """Read keys to erase, by kind, from a CSV file with the columns kind and key.

    Raises:
        ConfigError: the file cannot be read, or a line has an unknown kind or no key; nothing is erased then.
    """
    kinds = ("subject", "image", "source", "identity")
    keys: dict[str, list[str]] = {kind: [] for kind in kinds}
    try:
        with Path(path).expanduser().open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                kind, key = (row.get("kind") or "").strip(), (row.get("key") or "").strip()
                if kind not in kinds or not key:
                    what = f"line {reader.line_num} names no {', '.join(kinds)} with a key"
                    raise ConfigError(what, where=path, next_step="correct it; nothing was erased")
                keys[kind].append(key)
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise ConfigError(f"cannot be read: {err}", where=path, next_step="give a CSV file in UTF-8") from err
    return keys


def note(context: Context, targets: Targets) -> None:
    """Write the note by which this erasure can be completed after a kill."""
    values = [
        *((kind, value.encode()) for kind in ("images", "faces", "places") for value in sorted(getattr(targets, kind))),
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
    noted: dict[str, set[bytes]] = {kind: set() for kind in ("images", "faces", "embeddings", "places")}
    for kind, value in zip(*(column.to_pylist() for column in table.columns), strict=True):
        noted[kind].add(value)
    images, faces, places = ({value.decode() for value in noted[kind]} for kind in ("images", "faces", "places"))
    return Targets(request, images, faces, noted["embeddings"], places)


def unfinished(lake: Lake) -> list[Request]:
    """Return erasures that were started and have no certificate yet."""
    requests = []
    for item in lake.store.list(PENDING):
        metadata = pq.read_schema(pa.BufferReader(lake.store.read(item.key))).metadata or {}
        body: dict[str, Any] = json.loads(metadata[b"request"])
        purpose = body.pop("purpose")
        requests.append(Request(**{kind: tuple(values) for kind, values in body.items()}, purpose=purpose))
    return requests


def own_corpus(config: Config) -> Iterator[tuple[Corpus, str]]:
    """Yield corpus files inside the lake, which `import` wrote; an external corpus is never written."""
    if not owns_corpus(config):
        return
    corpus = Corpus(config.corpus_uri, config.s3)
    try:
        paths = corpus.paths()
    except ConfigError:
        return
    for path in paths:
        yield corpus, path
