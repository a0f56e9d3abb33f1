"""The same photo under another id: by its digest, or by an equal embedding (another file of the same pixels)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from facelake.config import Config
from facelake.contracts import Bool
from facelake.distinct import among, union
from facelake.erase.spellings import photo_forms
from facelake.lake.corpora.opening import INDEX
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.data_files import DataFile
from facelake.lake.tables import Table
from facelake.stages.admission.corpus_rewrite import own_corpus
from facelake.stages.admission.withdrawn_photos import contents_of_subjects, digests_here
from facelake.stages.core.context import Context
from facelake.stages.core.known_ids import hashed
from facelake.stages.erasure.decoding import look_of, look_of_unseen
from facelake.stages.erasure.request import Targets, is_in

_U64 = npt.NDArray[np.uint64]
_WITH_DIGESTS = ("faces", "rejects", INDEX)


def find_copies(context: Context, targets: Targets) -> set[str]:
    """Add the faces, embeddings, digests and pieces of the images to the targets; returns ids of their copies.

    What a copy has too is left out of the targets, because the copy may stay.
    """
    if not targets.request.purpose:  # photos that named the person before a withdrawal, and were renamed since
        named = contents_of_subjects(context.lake, targets.request.subjects)
        targets.contents |= digests_here(context.lake, named)
    search = _Search(targets)
    search.in_table(context.lake["faces"], "embedding")
    for name in _WITH_DIGESTS:  # the index also has photos that were refused, which have no outcome
        search.in_table(context.lake[name], "content_sha256", have_outcome=name != INDEX)
    known = set(targets.contents)
    search.in_corpus(context.config)
    for name in _WITH_DIGESTS if targets.contents != known else ():  # of photos that no run has seen
        search.in_table(context.lake[name], "content_sha256")
    search.leave_out_shared()
    return search.copies


@dataclass(slots=True)
class _Search:
    """A pass over tables and corpus.

    Attributes:
        targets: that it adds to.
        copies: ids of other images with an equal embedding or digest.
        shared: embeddings and digests that copies have.
        of_image: embeddings and digests by image of the targets.
        pieces: of the photos' bytes, by image of the targets.
        looks: of the photos, by image of the targets.
        with_faces: images of the targets with a face, which a worker decoded before: only those are decoded here.
        processed: hashes of the ids of images that have an outcome, whose digests are in the tables.
    """

    targets: Targets
    copies: set[str] = field(default_factory=set)
    shared: set[str | bytes] = field(default_factory=set)
    of_image: dict[str, set[str | bytes]] = field(default_factory=dict)
    pieces: dict[str, set[bytes]] = field(default_factory=dict)
    looks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    with_faces: set[str] = field(default_factory=set)
    processed: list[_U64] = field(default_factory=list)

    def in_table(self, table: Table, column: str, *, have_outcome: bool = False) -> None:
        """Collect a column of the targets' rows, then look for equal values in other rows."""
        known: set[str | bytes] = set(self.targets.embeddings if column == "embedding" else self.targets.contents)
        columns = ["image_id", column, *(["face_id"] if column == "embedding" else [])]
        heads: list[tuple[DataFile, _U64]] = []
        for file, rows in table.parts(columns):
            own = is_in(rows["image_id"], self.targets.images)
            if own.any():
                self._collect(rows.filter(pa.array(own)), column, known)
            heads.append((file, np.where(own, np.uint64(0), _heads(rows[column]))))
            if have_outcome:
                self.processed.append(hashed(rows["image_id"]))
        wanted = _heads(
            pa.chunked_array([pa.array(list(known), pa.binary() if column == "embedding" else pa.string())])
        )
        for file, words in heads:
            if len(wanted) and np.isin(words, wanted).any():
                self._compare(table.file(file, ["image_id", column]), column, known)
        if column == "embedding":
            self.targets.embeddings.update(value for value in known if isinstance(value, bytes))
        else:
            self.targets.contents.update(value for value in known if isinstance(value, str))

    def _collect(self, own: pa.Table, column: str, known: set[str | bytes]) -> None:
        values = own[column].to_pylist()
        known.update(value for value in values if value)
        for image, value in zip(own["image_id"].to_pylist(), values, strict=True):
            self.of_image.setdefault(image, set()).add(value)
        if column == "embedding":
            self.targets.faces.update(own["face_id"].to_pylist())
            self.with_faces.update(own["image_id"].to_pylist())

    def _compare(self, rows: pa.Table, column: str, known: set[str | bytes]) -> None:
        for image, value in zip(rows["image_id"].to_pylist(), rows[column].to_pylist(), strict=True):
            if value in known and image not in self.targets.images:
                self.copies.add(image)
                self.shared.add(value)

    def in_corpus(self, config: Config) -> None:
        """Read the photos of the targets in the lake's own corpus, then those that have no outcome yet."""
        processed = union(np.zeros(0, np.uint64), *self.processed)
        for corpus, path in own_corpus(config):
            ids = corpus.ids(path)
            own = self.targets.hits(ids)
            if not own.any():
                continue
            asked = ids["image_id"].filter(pa.array(own))
            without_outcome = set(asked.filter(pa.array(~among(hashed(asked), processed))).to_pylist())
            for image, data in _photos(corpus, path, own):
                digest = hashlib.sha256(data).hexdigest()
                self.targets.contents.add(digest)
                self.of_image.setdefault(image, set()).add(digest)
                self.pieces[image] = photo_forms(data)
                # a photo whose faces a withdrawal has removed, or that no run has seen, may show one
                decoding = look_of if image in self.with_faces else look_of_unseen
                if (image in self.with_faces or image in without_outcome) and (look := decoding(data)):
                    self.looks[image] = look
        if not self.targets.contents:
            return
        for corpus, path in own_corpus(config):
            rows = corpus.ids(path)
            unread = ~among(hashed(rows["image_id"]), processed) & ~self.targets.hits(rows)
            for image, data in _photos(corpus, path, unread):
                if image and (digest := hashlib.sha256(data).hexdigest()) in self.targets.contents:
                    self.copies.add(image)
                    self.shared.add(digest)

    def leave_out_shared(self) -> None:
        """Leave what copies have out of what the scan searches for and the suppression list refuses."""
        kept: set[str] = set()  # photos of which a copy stays
        for image, values in self.of_image.items():
            if values & self.shared:
                kept.add(image)
                self.shared |= values
                self.pieces.pop(image, None)
                self.looks.pop(image, None)
        self.targets.pieces.update(*self.pieces.values())
        self.targets.without_pieces = len(self.targets.images - kept) - sum(map(bool, self.pieces.values()))
        self.targets.looks.update(self.looks.values())
        self.targets.embeddings -= {value for value in self.shared if isinstance(value, bytes)}
        self.targets.contents -= {value for value in self.shared if isinstance(value, str)}


def _heads(column: pa.ChunkedArray) -> _U64:
    """Return the first 8 bytes (n,) of the values, by which most are told apart; 0 for nulls."""
    binary = pc.fill_null(column.cast(pa.binary()), b"")
    heads = (value.ljust(8, b"\0") for value in pc.binary_slice(binary, 0, 8).to_pylist())
    return np.frombuffer(b"".join(heads), "<u8")


def _photos(corpus: Corpus, path: str, rows: Bool) -> Iterator[tuple[str, bytes]]:
    """Yield (image_id, encoded bytes) of some rows (n,) of a corpus file; empty photos are left out."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], rows, [False]]).astype(np.int8)))
    for start, end in edges.reshape(-1, 2).tolist():
        for _, image, data in corpus.images(path, start, end):
            if data:
                yield image, data
