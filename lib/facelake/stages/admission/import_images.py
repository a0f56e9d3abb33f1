"""The stage `import`: copies a folder of photos into the lake's corpus and records the operator's grant in the
ledger.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.admit import decide
from facelake.contracts import CORPUS, Covers, EventKind, Refusal, Scope, SourceClass, label
from facelake.errors import ConfigError
from facelake.events import Notice, StageProgress
from facelake.lake.corpus import Corpus
from facelake.lake.tables import plain
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.admission.ledger import Entry, evidence_digest, read_ledger, record
from facelake.stages.admission.withdrawn_datasets import load_lineages, refuse_retracted_folder
from facelake.stages.core.context import Context, StageResult, StageRun, must_add_up

_COMMON = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_SUFFIXES |= {
    ".avif",
    ".heic",
    ".heif",
    ".jp2",
    ".ppm",
    ".pgm",
    ".tga",
}  # not all of these can be decoded; embed rejects those
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_OUTCOMES = ("imported", "present", "changed", "skipped", "erased", "retracted")
_PART_BYTES = 64 << 20
_ROWS_PER_GROUP = 64


@dataclass(frozen=True, slots=True)
class Grant:
    """The legal basis of the folder's photos as the operator states it."""

    basis: str
    purposes: tuple[str, ...] = ()
    evidence: str = ""
    exemption: str = ""
    covers: Covers = Covers.EVERYONE
    source_class: SourceClass | None = None


@dataclass(slots=True)
class _Part:
    """Rows that are collected for the next corpus file."""

    rows: list[dict[str, object]] = field(default_factory=list)
    size: int = 0


def import_folder(
    context: Context,
    folder: str,
    *,
    source: str | None = None,
    person_from: str | None = None,
    grant: Grant | None = None,
) -> StageResult:
    """Copy a folder's photos into the lake's own corpus and record their legal basis.

    The image_id is `source/relative path`. Photos already in the corpus are skipped; a photo of the same name with
    other
    content is counted as changed and skipped, because corpus rows are never rewritten. Files are read in name order.

    Args:
        source: the source_id; default: the folder's name.
        person_from: regex on the file name; its first group (or the whole match) is the subject_ref.
        grant: None records no grant: the photos will be refused until `facelake ledger grant`.

    Raises:
        ConfigError: no such folder, no photos in it, an invalid regex, or a corpus outside the lake.
    """
    root, pattern = check_folder(folder, person_from)
    if not owns_corpus(context.config):
        raise ConfigError(
            "the configured corpus is outside the lake",
            where="corpus",
            next_step="remove `corpus` from the config to import",
        )
    source_id = source or root.resolve().name
    lineages = load_lineages(context.config)
    refuse_retracted_folder(root, source_id, list(_files(root)), lineages)
    run = StageRun(context, "import")
    known = _known(context, source_id)
    counts: Counter[str] = Counter(dict.fromkeys((*_OUTCOMES, "files", "unlabelled"), 0))
    erased = context.lake.suppressed()
    part = _Part()
    for path in _files(root):
        counts["files"] += 1
        if not _is_photo(path):
            counts["skipped"] += 1
            continue
        try:
            data, image_id = path.read_bytes(), f"{source_id}/{path.relative_to(root).as_posix()}"
            image_id.encode()
        except (OSError, UnicodeEncodeError) as err:
            context.emit(Notice("import", f"skipped {path.name!a}: {type(err).__name__}"))
            counts["skipped"] += 1
            continue
        digest = hashlib.sha256(data).digest()
        if lineages.by_content(digest.hex()):
            counts["retracted"] += 1
            continue
        if image_id in known:
            counts["present" if known[image_id] == digest else "changed"] += 1
            continue
        match = pattern.search(path.name) if pattern else None
        counts["unlabelled"] += int(pattern is not None and match is None)
        subject = (match.group(1) if match.re.groups else match.group(0)) if match else None
        names = [
            label("image", image_id),
            label("source", source_id),
            label("content", digest.hex()),
            *([label("subject", subject)] if subject else []),
        ]
        if erased and any(context.lake.keyed_hash(name) in erased for name in names):
            counts["erased"] += 1
            continue
        part.rows.append({"image_id": image_id, "image": data, "source_id": source_id, "subject_ref": subject})
        part.size += len(data)
        counts["imported"] += 1
        context.emit(StageProgress("import", counts["imported"]))
        if part.size >= _PART_BYTES:
            part = _write(context, part)
    if not counts["files"] - counts["skipped"]:
        raise ConfigError("the folder holds no photos", where=str(root), next_step="give a folder with image files")
    _write(context, part)
    counts["granted"] = int(grant is not None and _grant(context, source_id, grant))
    seen = [(name, counts[name]) for name in _OUTCOMES]
    must_add_up("import", ("files", counts["files"]), *seen)
    if not counts["imported"] and not counts["granted"]:
        return run.skip(dict(counts))
    return run.finish(dict(counts), "")


def check_folder(folder: str, person_from: str | None) -> tuple[Path, re.Pattern[str] | None]:
    """Check the arguments of an import: the folder and the compiled regex.

    Raises:
        ConfigError: no such folder, or an invalid regex.
    """
    root = Path(os.path.expanduser(folder))
    if not root.is_dir():
        raise ConfigError("no such folder", where=str(root), next_step="give the folder that holds the photos")
    try:
        return root, re.compile(person_from) if person_from else None
    except re.error as err:
        raise ConfigError(
            f"not a regular expression: {err}", where="--person-from", next_step="correct the regular expression"
        ) from err


def _files(root: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            # a link could bring in any file of this host
            if not name.startswith(".") and path.is_file() and not path.is_symlink():
                yield path


def _is_photo(path: Path) -> bool:
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        return file.read(4).startswith(_MAGIC)


def _known(context: Context, source_id: str) -> dict[str, bytes]:
    """SHA-256 of each photo of this source in the lake's corpus, by image_id."""
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    try:
        paths = corpus.paths()
    except ConfigError:
        return {}  # the corpus is empty before the first import
    known: dict[str, bytes] = {}
    for path in paths:
        if not pc.any(pc.equal(corpus.ids(path)["source_id"], source_id)).as_py():
            continue
        for _, image_id, data in corpus.images(path, 0, corpus.inspect(path).rows):
            known[image_id] = hashlib.sha256(data).digest()
    return known


def write_corpus_file(context: Context, rows: list[dict[str, object]], name: str | None = None) -> str:
    """Write one corpus file with rows of the schema CORPUS; by default its name sorts after the existing ones."""
    corpus = Corpus(context.config.corpus_uri, context.config.s3)
    name = name or f"part-{sum(1 for _ in corpus.store.list()):06d}-{secrets.token_hex(4)}.parquet"
    sink = pa.BufferOutputStream()
    table = pa.Table.from_pylist(rows, schema=plain(CORPUS))
    # encoded photos do not compress, and statistics would repeat identifiers in the footer
    pq.write_table(table, sink, row_group_size=_ROWS_PER_GROUP, compression="none", write_statistics=False)
    corpus.store.write(name, sink.getvalue().to_pybytes())
    return name


def _write(context: Context, part: _Part) -> _Part:
    if part.rows:
        write_corpus_file(context, part.rows)
    return _Part()


def _grant(context: Context, source_id: str, grant: Grant) -> bool:
    """Record the grant for purposes without one; a repeated import does not renew a withdrawn or expired grant."""
    purposes = grant.purposes or (context.config.purpose,)
    ledger = read_ledger(context.lake)
    verdicts = {p: decide(ledger, source_id, None, p, context.now).reason for p in purposes}
    needed = [p for p, reason in verdicts.items() if reason in (Refusal.NO_BASIS, Refusal.OTHER_PURPOSE)]
    for purpose, reason in verdicts.items():
        if reason is not None and purpose not in needed:
            reason_text = f"the basis of {source_id!r} for {purpose!r} is {reason}, and importing does not renew it"
            context.emit(Notice("import", f"{reason_text}: see `facelake ledger grant`"))
    if needed:
        evidence = evidence_digest(grant.evidence or f"import of source {source_id}")
        event = Entry(EventKind.GRANT, Scope.SOURCE, source_id, tuple(needed), grant.basis, grant.exemption, evidence)
        record(context.lake, [replace(event, covers=grant.covers, source_class=grant.source_class)])
    return bool(needed)


def photos_of(folder: str) -> list[Path]:
    """Photos of common formats in a folder and its subfolders, sorted by path; for benchmarks.

    Raises:
        ConfigError: there are none.
    """
    photos = sorted(path for path in Path(folder).expanduser().rglob("*") if path.suffix.lower() in _COMMON)
    if not photos:
        raise ConfigError("no photos", where=folder, next_step=f"give a folder with {', '.join(_COMMON)} files")
    return photos
