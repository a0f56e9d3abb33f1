"""What the lake's own corpus has of a source: `import` compares the photos that it is given with it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow.compute as pc

from facelake.config import Config
from facelake.contracts import reference
from facelake.lake.corpora.parquet import Corpus
from facelake.stages.admission.corpus_rewrite import own_corpus

_COLUMNS = ["image_id", "source_id", "content_sha256", "source_tag", "subject_ref"]


class KnownPhoto(NamedTuple):
    """Hashes of what is known of an imported photo."""

    digest: int
    tag: int
    subject: int
    """0 without a subject reference"""


@dataclass(slots=True)
class Imported:
    """The imported photos of a source, by the hash of their id: about 200 bytes each.

    Attributes:
        photos: the photos.
        named_subjects: whether one of them has a subject reference.
    """

    photos: dict[int, KnownPhoto] = field(default_factory=dict)
    named_subjects: bool = False

    @classmethod
    def of(cls, config: Config, source_id: str) -> Imported:
        """Read them from the small columns of the corpus files."""
        imported = cls()
        for corpus, path in own_corpus(config):
            imported._add(corpus, path, source_id)
        return imported

    def _add(self, corpus: Corpus, path: str, source_id: str) -> None:
        rows = corpus.columns(path, _COLUMNS)
        if rows["source_id"].null_count == rows.num_rows or source_id not in pc.unique(rows["source_id"]).to_pylist():
            return
        if "content_sha256" not in rows.column_names:
            rows = rows.append_column("content_sha256", corpus.index(path, trusted=False)["content_sha256"])
        columns = (rows[n].to_pylist() if n in rows.column_names else [None] * rows.num_rows for n in _COLUMNS)
        for image_id, source, digest, tag, subject in zip(*columns, strict=True):
            if image_id and source == source_id:
                self.photos[name_hash(image_id)] = KnownPhoto(
                    name_hash(digest or ""), name_hash(tag) if tag else -1, subject_hash(subject)
                )
                self.named_subjects = self.named_subjects or bool(subject)


def name_hash(text: str) -> int:
    """Return a 64-bit hash of an id, a digest or a tag."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest())


def subject_hash(subject: str | None) -> int:
    """Return a 64-bit hash of a subject's reference, 0 for none."""
    return name_hash(reference(subject)) if subject else 0


def imported_ids(config: Config, source_id: str) -> Iterator[str]:
    """Yield the ids of a source's photos in the lake's own corpus."""
    for corpus, path in own_corpus(config):
        rows = corpus.columns(path, ["image_id", "source_id"])
        own = rows.filter(pc.fill_null(pc.equal(rows["source_id"], source_id), False))
        yield from filter(None, own["image_id"].to_pylist())
