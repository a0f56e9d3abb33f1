"""The stage `import`: copies photos into the lake's corpus and records the operator's grant in the ledger."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.admit.lineage import Lineages
from facelake.config import Config
from facelake.contracts import CORPUS, SEARCHABLE, label, reference
from facelake.errors import ConfigError
from facelake.events import Notice, StageProgress
from facelake.lake.corpora.parquet import Corpus
from facelake.lake.corpora.photos import Place
from facelake.lake.corpora.selection import LeftOut
from facelake.lake.data_files import plain
from facelake.partitions import is_of_partition
from facelake.stages.admission.corpus_rewrite import empty_rows, owns_corpus
from facelake.stages.admission.import_grants import (
    Grant,
    record_grant,
    refuse_erased_source,
    refuse_mistyped,
    refuse_other_basis,
)
from facelake.stages.admission.import_sources import ImportSource, Naming, SourcePhoto, count_photos, naming_of
from facelake.stages.admission.imported import Imported, KnownPhoto, imported_ids, name_hash, subject_hash
from facelake.stages.admission.known_references import Known, as_seen, withdrawn_as_seen
from facelake.stages.admission.shared_references import shared_references
from facelake.stages.admission.withdrawn_datasets import load_lineages, refuse_declared, refuse_retracted_names
from facelake.stages.core.context import Context, StageResult, StageRun, must_add_up

_COMMON = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_OUTCOMES = ("imported", "present", "changed", "replaced", "named", "skipped", "erased", "retracted")
_PART_BYTES = 64 << 20
_ROWS_PER_GROUP = 64
_CHANGED = "changed since their import, the lake keeps the earlier content (--replace takes the new one)"
_REPLACED = "changed since their import, and replaced"
_NAMED = "imported without a subject reference before, which they have now"
_RENAMED = "imported with another subject reference before, and given that of --person-from now"
_OTHERWISE = "imported with another subject reference than --person-from gives now (--replace gives them that one)"
_WITHDREW = "keep the subject reference of their import, whose person has withdrawn; --person-from gives another one"
_RETRACTED = "kept out, as photos of a withdrawn data set"
_UNLABELLED = "without a subject reference, because --person-from does not match"
_ALIKE = "of a subject that is written nearly as one who has withdrawn; if both are one person, withdraw for it too"
_SHORT = f"with a subject reference of fewer than {SEARCHABLE} bytes, which erasures cannot search for"
_ABSENT = (
    "imported earlier and no longer there, they stay in the lake (`facelake erase --image ID` removes one for good)"
)


@dataclass(slots=True)
class _Part:
    """Rows that are collected for the next corpus file."""

    rows: list[dict[str, object]] = field(default_factory=list)
    replaces: list[str] = field(default_factory=list)
    size: int = 0


def import_folder(
    context: Context,
    folder: str,
    *,
    source: str | None = None,
    person_from: str | None = None,
    person_prefix: str = "",
    grant: Grant | None = None,
    follow_links: bool = False,
    replace_changed: bool = False,
) -> StageResult:
    """Copy the photos of a folder, bucket prefix or tar file into the lake's own corpus and record their legal basis.

    The image_id is `source/relative path`. Photos already in the corpus are skipped, without reading them if their file
    is unchanged. A photo of the same name with other content is counted as changed and skipped, unless it is to be
    replaced. Photos that the lake has and the folder no longer has stay in the lake. Files are read in name order,
    several at a time; an interrupted import is continued by running it again. Everything that is treated specially is
    counted and named; no single file stops the import.

    Args:
        source: the source_id; default: the partition, or the folder's name.
        person_from: regex on the file name, or on the path below the folder if it contains a `/`; its first group is
            the subject_ref. Known photos that have none get theirs, those with another one only with
            `replace_changed`. None: the photos get none, which is refused if earlier photos of the source have some; an
            empty text: none in any case.
        person_prefix: put before each subject_ref.
        grant: None records no grant: the photos will be refused until `facelake ledger grant`.
        follow_links: import what symbolic links lead to; loops are left out.
        replace_changed: import photos with new content or another subject under a known name, and empty the rows of
            the earlier ones; the next run removes the faces of those.

    Raises:
        ConfigError: no such folder, no photos in it, a regex that is invalid or matches none, none where earlier photos
            have references, or a corpus outside the lake.
    """
    origin = check_source(folder, context.config, follow_links=follow_links)
    if not owns_corpus(context.config):
        raise ConfigError(
            "the configured corpus is outside the lake",
            where="corpus",
            next_step="remove `corpus` from the config to import",
        )
    source_id = source or context.config.partition or origin.name
    _must_be_of_partition(context.config, source_id)
    refuse_erased_source(context, source_id)
    lineages = load_lineages(context.config)
    files = origin.files()
    names = [item.key for item in files]
    refuse_retracted_names((source_id, origin.name), origin.location, names, origin.property_text(), lineages)
    refuse_declared(origin.location, origin.sidecars(files), lineages)
    if grant is not None:
        refuse_mistyped(Known.of_records(context.config, context.lake), grant, context.config.purpose)
        refuse_other_basis(context, source_id, grant)
    naming = naming_of(person_from, person_prefix)
    total = count_photos(origin, naming.pattern)
    run = StageRun(context, "import", total, "photos")
    copy = _Copy(
        context,
        lineages,
        source_id,
        naming,
        replace_changed=replace_changed,
        nameless=person_from is not None,
    )
    copy.run(origin)
    counts = copy.counts
    if not counts["files"]:
        others = "".join(f"; left out: {line}" for line in origin.left_out.lines())
        what = f"there are no photos{others}"
        raise ConfigError(what, where=origin.location, next_step="give a folder with image files")
    for line in origin.left_out.lines():
        context.emit(Notice("import", f"left out: {line}"))
    for line in copy.remarks():
        context.emit(Notice("import", line))
    counts["skipped"] += origin.left_out.counts.total()
    counts["files"] += origin.left_out.counts.total()
    counts["granted"] = int(grant is not None and record_grant(context, source_id, grant))
    counts["subjects"] = copy.subjects
    must_add_up("import", ("files", counts["files"]), *((name, counts[name]) for name in _OUTCOMES))
    left_out = {f"skipped_{reason.replace(' ', '_')}": n for reason, n in sorted(origin.left_out.counts.items())}
    if not any(counts[name] for name in ("imported", "replaced", "named", "granted")):
        return run.skip(dict(counts) | left_out)
    return run.finish(dict(counts) | left_out, "")


def _must_be_of_partition(config: Config, source: str) -> None:
    """Raise ConfigError if photos of a source belong into another partition."""
    if not is_of_partition(config, source):
        next_step = f"give --partition {source!r} and --source {source!r}, or leave --source out"
        raise ConfigError(
            f"source {source!r} is not that of partition {config.partition!r}", where="--source", next_step=next_step
        )


class _Copy:
    """One import: reads photos that are not known and writes them in parts."""

    def __init__(
        self,
        context: Context,
        lineages: Lineages,
        source_id: str,
        naming: Naming,
        *,
        replace_changed: bool,
        nameless: bool,
    ) -> None:
        self._context, self._lineages = context, lineages
        self._source_id, self._naming = source_id, naming
        self._replace_changed = replace_changed
        self._erased = context.lake.suppressed()
        earlier = Imported.of(context.config, source_id)
        self._known = earlier.photos
        self._withdrawn = withdrawn_as_seen(context.lake)
        self._withdrawn_by_hash = {subject_hash(name): name for name in self._withdrawn.values()}
        self._must_name = earlier.named_subjects and naming.pattern is None and not nameless
        self._absent = set(self._known)  # hashes of the ids that the source has not shown yet
        self._part = _Part()
        self._special = LeftOut()
        self._subjects: set[str] = set()
        self.counts: Counter[str] = Counter(dict.fromkeys((*_OUTCOMES, "files", "unlabelled", "absent"), 0))

    def run(self, origin: ImportSource) -> None:
        """Import every photo of a source."""
        ahead: deque[SourcePhoto] = deque()

        def places() -> Iterator[Place]:
            for photo in origin.photos():
                self.counts["files"] += 1
                if self._must_read(photo):
                    ahead.append(photo)
                    yield photo.place

        for data in origin.reader(self._context.config.s3).read_all(places()):
            photo = ahead.popleft()
            if data is None:
                origin.left_out.add("unreadable", photo.path)
                self.counts["files"] -= 1  # counted with what is left out
            else:
                self._take(photo, data)
            self._progress()
        self._write()
        self.counts["absent"] = len(self._absent)

    def remarks(self) -> list[str]:
        """Return one line for each kind of photo that was treated specially, with its count and the first names."""
        lines = self._special.lines()
        if erased := self.counts["erased"]:
            lines.append(f"{erased} erased earlier, and kept out")  # their names are not to be written again
        if self._absent:
            absent = LeftOut()
            for image_id in imported_ids(self._context.config, self._source_id):
                if name_hash(image_id) in self._absent:
                    absent.add(_ABSENT, image_id)
            lines += absent.lines()
        return [*lines, *shared_references(self._context, self._source_id, self._subjects)]

    @property
    def subjects(self) -> int:
        """Number of subject references of the photos that were taken."""
        return len(self._subjects)

    def _progress(self) -> None:
        counts = {"imported": self.counts["imported"]}
        self._context.emit(StageProgress("import", self.counts["files"] - self.counts["skipped"], counts))

    def _must_read(self, photo: SourcePhoto) -> bool:
        """Whether a photo has to be read; counts it if not."""
        ident = name_hash(self._image_id(photo))
        self._absent.discard(ident)
        known = self._known.get(ident)
        if known is None or self._gets_name(known, photo):
            return True
        if self._has_other_subject(known, photo):
            self._special.add(_WITHDREW if known.subject in self._withdrawn_by_hash else _OTHERWISE, photo.path)
        if known.tag == name_hash(photo.tag) or (photo.digest and known.digest == name_hash(photo.digest)):
            self.counts["present"] += 1
            self._progress()
            return False
        return True

    def _gets_name(self, known: KnownPhoto, photo: SourcePhoto) -> bool:
        """Whether a known photo gets a subject reference: it has none, or another one that is to be replaced.

        That of somebody who has withdrawn stays: the photo would be of nobody in particular, and admitted again.
        """
        wanted = not known.subject or (self._replace_changed and known.subject not in self._withdrawn_by_hash)
        return self._has_other_subject(known, photo) and wanted

    def _has_other_subject(self, known: KnownPhoto, photo: SourcePhoto) -> bool:
        """Whether --person-from gives a known photo a subject reference that it does not have."""
        subject = self._naming.subject(photo.path)
        return subject is not None and known.subject != subject_hash(subject)

    def _image_id(self, photo: SourcePhoto) -> str:
        return f"{self._source_id}/{photo.path}"

    def _take(self, photo: SourcePhoto, data: bytes) -> None:
        image_id, digest = self._image_id(photo), hashlib.sha256(data).hexdigest()
        if self._lineages.by_content(digest):
            self._note("retracted", _RETRACTED, photo)
            return
        known = self._known.get(name_hash(image_id))
        same = known is not None and known.digest == name_hash(digest)
        if known is not None and same and not self._gets_name(known, photo):
            self.counts["present"] += 1
            return
        if known is not None and not same and not self._replace_changed:
            self._note("changed", _CHANGED, photo)
            return
        if self._must_name:
            what = f"earlier photos of source {self._source_id!r} have subject references, and new ones would have none"
            next_step = "give the same --person-from again, or --person-from '' to import them without references"
            raise ConfigError(
                f"{what}: an erasure of a subject would not find them", where=photo.path, next_step=next_step
            )
        subject = self._naming.subject(photo.path)
        subject = self._withdrawn_by_hash.get(known.subject, subject) if known else subject
        names = [
            label("image", image_id),
            label("source", self._source_id),
            label("content", digest),
            *([label("subject", subject)] if subject else []),
        ]
        if self._erased and any(self._context.lake.keyed_hash(name) in self._erased for name in names):
            self.counts["erased"] += 1
            return
        self._note_subject(subject, photo)
        row: dict[str, object] = {
            "image_id": image_id,
            "image": data,
            "source_id": self._source_id,
            "subject_ref": subject,
        }
        self._part.rows.append(row | {"content_sha256": digest, "source_tag": photo.tag})
        self._part.size += len(data)
        self._known[name_hash(image_id)] = KnownPhoto(name_hash(digest), name_hash(photo.tag), subject_hash(subject))
        if known is None:
            self.counts["imported"] += 1
        else:
            if same:
                self._note("named", _RENAMED if known.subject else _NAMED, photo)
            else:
                self._note("replaced", _REPLACED, photo)
            self._part.replaces.append(image_id)
        if self._part.size >= _PART_BYTES:
            self._write()

    def _note_subject(self, subject: str | None, photo: SourcePhoto) -> None:
        if subject is None:
            if self._naming.pattern is not None:
                self._note("unlabelled", _UNLABELLED, photo)
            return
        name = reference(subject)
        self._subjects.add(name)
        if len(subject.encode()) < SEARCHABLE:
            self._special.add(_SHORT, photo.path)
        if self._withdrawn and self._withdrawn.get(as_seen(subject), name) != name:
            self._special.add(_ALIKE, photo.path)

    def _write(self) -> None:
        if self._part.rows:
            self._context.check_lease()
            # the earlier rows first: if the import is killed here, the next one finds these photos to be new
            empty_rows(self._context.config, self._part.replaces)
            write_corpus_file(self._context, self._part.rows)
        self._part = _Part()

    def _note(self, count: str, remark: str, photo: SourcePhoto) -> None:
        self.counts[count] += 1
        self._special.add(remark, photo.path)


def check_source(location: str, config: Config, *, follow_links: bool = False) -> ImportSource:
    """Open the source of an import.

    Raises:
        ConfigError: no such folder.
    """
    return ImportSource.of(location, config.s3, follow_links=follow_links, exclude=config.corpus.exclude)


def write_corpus_file(context: Context, rows: list[dict[str, object]], name: str | None = None) -> str:
    """Write one corpus file with rows of the schema CORPUS; by default its name sorts after the existing ones."""
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    name = name or f"part-{sum(1 for _ in corpus.store.list()):06d}-{secrets.token_hex(4)}.parquet"
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist([_with_digest(row) for row in rows], schema=plain(CORPUS))
    # encoded photos do not compress, and statistics would repeat identifiers in the footer
    pq.write_table(table, sink, row_group_size=_ROWS_PER_GROUP, compression="none", write_statistics=False)
    corpus.store.write(name, sink.getvalue().to_pybytes())
    return name


def _with_digest(row: dict[str, object]) -> dict[str, object]:
    image = row.get("image")
    if not isinstance(image, bytes) or "content_sha256" in row:
        return row
    return row | {"content_sha256": hashlib.sha256(image).hexdigest()}


def photos_of(folder: str) -> list[Path]:
    """Photos of common formats in a folder and its subfolders, sorted by path; for benchmarks.

    Raises:
        ConfigError: there are none.
    """
    photos = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in _COMMON)
    if not photos:
        raise ConfigError("no photos", where=folder, next_step=f"give a folder with {', '.join(_COMMON)} files")
    return photos
