"""The command `verify`: checks the lake for consistency of counters, files, ids, vectors and the audit chain."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.cluster import columns
from facelake.config import Config
from facelake.contracts import I64, TABLES, Bool
from facelake.erase import Needles, Signer
from facelake.erase import verify as verify_signature
from facelake.errors import ConfigError, FacelakeError
from facelake.events import StageProgress
from facelake.lake.lake import Lake
from facelake.lake.store import read_input
from facelake.stages.admission.known_references import photos_named
from facelake.stages.admission.ledger_head import Pin, ledger_rows
from facelake.stages.core.audit import audit_faults
from facelake.stages.core.context import Context, StageRun
from facelake.stages.embedding.corpus_size import present_rows
from facelake.stages.embedding.embed import plan_embed
from facelake.stages.erasure.stage import residual
from facelake.stages.gallery.face_keys import FaceKeys
from facelake.stages.gallery.gallery_rows import matrix_of
from facelake.stages.gallery.versions import Gallery, current_gallery
from facelake.stages.governance.processing_register import REGISTER
from facelake.vectors import embedding_matrix


@dataclass(frozen=True, slots=True)
class Finding:
    """One inconsistency and the check that reported it."""

    check: str
    problem: str


def verify(context: Context, only: str | None = None) -> tuple[list[Finding], dict[str, int]]:
    """Run every check, or the one named `only`; returns the findings (empty if consistent) and counts. Writes
    nothing.
    """
    checks = {name: check for name, check in _CHECKS.items() if only in (None, name)}
    run = StageRun(context, "verify", len(checks), "checks")
    findings: list[Finding] = []
    counts: dict[str, int] = {}
    for done, (name, check) in enumerate(checks.items(), start=1):
        try:
            findings += [Finding(name, problem) for problem in check(context, counts)]
        except FacelakeError as err:
            findings.append(Finding(name, str(err)))
        context.emit(StageProgress("verify", done))
    run.skip(counts | {"findings": len(findings)})
    return findings, counts


def verify_residual(context: Context, texts: list[str]) -> tuple[int, dict[str, int]]:
    """Search every byte of the lake for identifiers; returns the number of objects scanned and the hits by key.

    A file name also stands for the ids of photos that end with it, which begin with their source.
    """
    ids = photos_named(context.config, context.lake, texts)
    return residual(context, Needles.of([*texts, *ids]))


def _files(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """Every data file that a log names exists with the size and row count of the log."""

    for name in TABLES:
        stored = {item.key: item.size_bytes for item in context.lake.store.list(name)}
        snapshot = context.lake[name].snapshot()
        counts[f"rows_{name}"] = snapshot.rows
        for file in snapshot.files:
            key = f"{name}/{file.path}"
            if key not in stored:
                yield f"{key} is named by the log but missing"
            elif stored[key] != file.size_bytes:
                yield f"{key} has {stored[key]} bytes, the log says {file.size_bytes}"
            else:
                with read_input(context.lake.store, key) as source:
                    rows = pq.ParquetFile(source).metadata.num_rows
                if rows != file.rows:
                    yield f"{key} has {rows} rows, the log says {file.rows}"


def _admissions(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """read = admitted + refused, and each corpus row has exactly one decision."""
    decided: Counter[str] = Counter()
    admitted = 0
    for _, rows in context.lake["admissions"].parts(["corpus_file", "corpus_row", "admitted", "reason"]):
        decided.update({rows["corpus_file"][0].as_py(): rows.num_rows} if rows.num_rows else {})
        admitted += pc.sum(rows["admitted"]).as_py() or 0
        wrong = pc.sum(pc.equal(rows["admitted"], pc.is_valid(rows["reason"]))).as_py() or 0
        if wrong:
            yield f"{wrong} rows of {rows['corpus_file'][0].as_py()} are admitted with a reason or refused without one"
        if pc.count_distinct(rows["corpus_row"]).as_py() != rows.num_rows:
            yield f"{rows['corpus_file'][0].as_py()} has a row with two decisions"
    counts["admitted"], counts["refused"] = admitted, decided.total() - admitted
    try:
        present = present_rows(context.config, context.lake)
    except ConfigError as err:
        if decided:
            yield f"the corpus cannot be compared: {err.what}"
        return
    counts["waiting"] = sum(rows for path, rows in present.items() if path not in decided)
    for path, rows in decided.items():
        if present.get(path, rows) != rows:
            yield f"{path} has {present[path]} rows, {rows} were decided (run `facelake nightly`)"


def _outcomes(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """admitted = embedded + rejected; no image has two outcomes, and no refused image has one."""
    numbers: dict[str, int] = {}  # of corpus files: a row is then one integer
    faces = np.unique(_corpus_rows(context, "faces", numbers))
    rejects = _corpus_rows(context, "rejects", numbers)
    admitted = np.unique(_corpus_rows(context, "admissions", numbers, only="admitted"))
    repeated = len(rejects) - len(np.unique(rejects))
    if repeated:
        yield f"{repeated} images are rejected twice"
    rejects = np.unique(rejects)
    both = np.intersect1d(faces, rejects, assume_unique=True)
    if len(both):
        yield f"{len(both)} images have faces and a reject row, e.g. {_row_name(both[0], numbers)}"
    counts["embedded"], counts["rejected"] = len(faces), len(rejects)
    outcomes = np.union1d(faces, rejects)
    stray = np.setdiff1d(outcomes, admitted, assume_unique=True)
    missing = np.setdiff1d(admitted, outcomes, assume_unique=True)
    if len(stray):
        yield f"{len(stray)} images have an outcome but are not admitted, e.g. {_row_name(stray[0], numbers)}"
    if len(missing):
        yield f"{len(missing)} admitted images have no outcome (run `facelake nightly`)"
    plan = plan_embed(context)
    if plan.images and not len(missing):
        yield f"{plan.images} images have outcomes of another model only (run `facelake nightly`)"


_ROW_BITS = 40


def _corpus_rows(context: Context, table: str, numbers: dict[str, int], only: str | None = None) -> I64:
    """Return the corpus rows (n,) that a table names, each as file number and row in one integer.

    Args:
        context: of the run.
        table: a table with corpus_file and corpus_row.
        numbers: numbers of corpus files; new files are added.
        only: a boolean column; rows where it is false are left out.
    """
    out = [np.zeros(0, np.int64)]
    for _, rows in context.lake[table].parts(["corpus_file", "corpus_row", *([only] if only else [])]):
        if only:
            rows = rows.filter(rows[only])
        files = rows["corpus_file"].combine_chunks().dictionary_encode()
        number = np.array([numbers.setdefault(name, len(numbers)) for name in files.dictionary.to_pylist()], np.int64)
        if rows.num_rows:
            out.append((number[files.indices.to_numpy()] << _ROW_BITS) | rows["corpus_row"].to_numpy())
    return np.concatenate(out)


def _row_name(value: int, numbers: dict[str, int]) -> str:
    name = next(name for name, number in numbers.items() if number == value >> _ROW_BITS)
    return f"row {value & ((1 << _ROW_BITS) - 1)} of {name}"


def _faces(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """Face ids are unique; embeddings are finite and of unit norm; boxes have an area."""
    bad_vectors = bad_boxes = 0
    keys = [np.zeros(0, np.int64)]
    for _, rows in context.lake["faces"].parts(["face_id", "embedding", "box"]):
        keys.append(columns.keys(rows["face_id"]))
        bad_vectors += int((~embedding_matrix(rows["embedding"])[1]).sum())
        bad_boxes += rows.num_rows - _boxes_with_area(rows["box"])
    face_ids = _Ids(context.lake, "faces", np.concatenate(keys))
    counts["faces"] = len(face_ids.keys)
    if repeated := face_ids.repeated():
        yield f"{repeated} face ids occur twice"
    if bad_vectors:
        yield f"{bad_vectors} embeddings are not finite unit vectors"
    if bad_boxes:
        yield f"{bad_boxes} boxes have no area"


def _boxes_with_area(column: pa.ChunkedArray) -> int:
    """Return how many boxes (x0, y0, x1, y1) have a positive width and height."""
    four = column.filter(pc.fill_null(pc.equal(pc.list_value_length(column), 4), False))
    boxes = pc.list_flatten(four).to_numpy().reshape(-1, 4)
    return int(((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])).sum())


# ---- faces, groups and gallery: ids as 64-bit keys, so that ten million take 80 MB


@dataclass(frozen=True, slots=True)
class _Ids:
    """The face ids of a table.

    Attributes:
        lake: the lake.
        table: its table; a gallery table is read as of the newest version.
        keys: (n,) their keys, in any order.
    """

    lake: Lake
    table: str
    keys: I64

    @classmethod
    def of(cls, lake: Lake, table: str, parts: Iterable[pa.Table]) -> _Ids:
        """Read the ids of a table's parts."""
        return cls(lake, table, np.concatenate([np.zeros(0, np.int64), *(columns.keys(p["face_id"]) for p in parts)]))

    def repeated(self) -> int:
        """Return how many rows hold an id that another row holds too."""
        extra = len(self.keys) - len(np.unique(self.keys))
        if not extra:
            return 0
        unique, count = np.unique(self.keys, return_counts=True)
        names = self._with_keys(unique[count > 1])  # a key may stand for two ids
        return len(names) - len(set(names))

    def missing_in(self, other: _Ids) -> tuple[int, str]:
        """Return how many ids the other table lacks, and an example."""
        missing = np.setdiff1d(self.keys, other.keys)
        return len(missing), min(self._with_keys(missing[:1])) if len(missing) else ""

    def _with_keys(self, keys: I64) -> list[str]:
        """Return the ids that have one of some keys; reads the table again."""
        snapshot = None
        gallery = current_gallery(self.lake)
        if self.table == "memberships" and gallery:
            snapshot = gallery.snapshot(self.table)
        ids: list[str] = []
        for _, rows in self.lake[self.table].parts(["face_id"], snapshot):
            ids += rows["face_id"].filter(pa.array(np.isin(columns.keys(rows["face_id"]), keys))).to_pylist()
        return ids


def _chain(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """faces = grouped = members; sizes agree; every referenced identity exists."""
    lake, gallery = context.lake, current_gallery(context.lake)
    faces = _Ids.of(lake, "faces", (rows for _, rows in lake["faces"].parts(["face_id"])))
    groups = _Ids.of(lake, "groups", (rows for _, rows in lake["groups"].parts(["face_id"])))
    if lake["groups"].version() >= 0:
        yield from _same(groups, faces)
    if gallery is not None:
        yield from _same(_Ids.of(lake, "memberships", gallery.parts("memberships", ["face_id"])), groups)
        yield from _gallery(gallery, counts)


def _same(left: _Ids, right: _Ids) -> Iterator[str]:
    if repeated := left.repeated():
        yield f"{left.table} contains {repeated} faces twice"
    stray, example = left.missing_in(right)
    if stray:
        yield f"{left.table} names {stray} faces that {right.table} lacks, e.g. {example}"
    missing, _ = right.missing_in(left)
    if missing:
        yield f"{right.table} has {missing} faces that {left.table} lacks (run `facelake nightly`)"


@dataclass(slots=True)
class _Identities:
    """The identities of a gallery version as arrays, ordered by the key of the id."""

    keys: I64
    active: Bool
    size: I64
    merged_into: I64
    """key of the winner; 0 for none"""
    bad_templates: int

    @classmethod
    def of(cls, gallery: Gallery) -> _Identities:
        """Read them file by file."""
        parts: list[tuple[I64, Bool, I64, I64]] = []
        bad = 0
        for rows in gallery.parts("identities", ["identity_id", "status", "size", "merged_into", "prototype"]):
            active = np.asarray(pc.equal(rows["status"], "active"))
            winner = np.where(
                np.asarray(pc.is_valid(rows["merged_into"])), columns.keys(pc.fill_null(rows["merged_into"], "")), 0
            )
            parts.append((columns.keys(rows["identity_id"]), active, rows["size"].to_numpy(), winner))
            bad += _bad_templates(rows["prototype"].filter(pa.array(active)))
        nothing = (np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.int64), np.zeros(0, np.int64))
        keys, active, size, merged = (np.concatenate(part) for part in zip(nothing, *parts, strict=True))
        order = np.argsort(keys, kind="stable")
        return cls(keys[order], active[order], size[order], merged[order], bad)

    def find(self, keys: I64) -> I64:
        """Return the position (m,) of each key, -1 where it is not an identity's."""
        return FaceKeys(self.keys).find_keys(keys)


def _bad_templates(column: pa.ChunkedArray) -> int:
    """Return how many templates are not finite unit vectors."""
    lengths = pc.list_value_length(column).fill_null(0).to_numpy()
    if not len(lengths):
        return 0
    if (lengths != lengths[0]).any() or not lengths[0]:
        return int((lengths != np.bincount(lengths).argmax()).sum()) or len(lengths)
    norm = np.linalg.norm(matrix_of(column, int(lengths[0])), axis=1)
    return int((~(np.abs(norm - 1) < 1e-3)).sum())


def _gallery(gallery: Gallery, counts: dict[str, int]) -> Iterator[str]:
    identities = _Identities.of(gallery)
    active = int(identities.active.sum())
    counts["identities"], counts["gallery"] = active, gallery.version
    members, stray = 0, np.zeros(0, np.int64)
    sizes = np.zeros(len(identities.keys) + 1, np.int64)
    for rows in gallery.parts("memberships", ["identity_id"]):
        keys = columns.keys(rows["identity_id"])
        at = identities.find(keys)
        known = (at >= 0) & identities.active[at] if len(identities.active) else at >= 0
        stray = np.union1d(stray, keys[~known])
        sizes += np.bincount(at[known], minlength=len(sizes))
        members += rows.num_rows
    if len(stray):
        yield f"{len(stray)} memberships name an identity that is not active"
    wrong = int((identities.active & (identities.size != sizes[:-1])).sum())
    if wrong:
        yield f"{wrong} identities have a size that differs from their members"
    if identities.bad_templates:
        yield f"{identities.bad_templates} templates are not finite unit vectors"
    lost = int((identities.find(identities.merged_into[identities.merged_into != 0]) < 0).sum())
    if lost:
        yield f"{lost} identities were merged into an identity that does not exist"
    yield from _change_events(gallery, identities)
    if (gallery.row["identities"], gallery.row["faces"]) != (active, members):
        yield "the gallery's recorded counts differ from its tables"


def _change_events(gallery: Gallery, identities: _Identities) -> Iterator[str]:
    events, unknown = [np.zeros(0, np.uint64)], np.zeros(0, np.int64)
    for rows in gallery.parts("changes", ["gallery_version", "identity_id"]):
        keys = columns.keys(rows["identity_id"])
        events.append(columns.mix(keys, 1) ^ columns.mix(rows["gallery_version"].to_numpy(), 2))
        unknown = np.union1d(unknown, keys[identities.find(keys) < 0])
    every = np.concatenate(events)
    if repeated := len(every) - len(np.unique(every)):
        yield f"{repeated} change events are recorded twice"
    if len(unknown):
        yield f"{len(unknown)} change events name an identity that does not exist"


def _audit(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """The hash chain of the audit records is intact and signed by a pinned key; the ledger is the one it pins."""
    keys = pinned_keys(context.config)
    counts["pinned_keys"] = len(keys)
    yield from audit_faults(context.lake, keys)
    yield from _registers(context, keys)


def pinned_keys(config: Config) -> list[str]:
    """Return the fingerprints that signatures are checked against: the config's, or that of this host's key, if any."""
    path = Path(config.governance.signing_key).expanduser()
    if config.governance.trusted_keys or not path.exists():
        return config.governance.trusted_keys
    return [Signer.load_or_create(path).fingerprint]


def _registers(context: Context, keys: list[str]) -> Iterator[str]:
    """Every record of processing is signed."""
    for item in context.lake.store.list(REGISTER):
        record = json.loads(context.lake.store.read(item.key))
        body = {name: value for name, value in record.items() if name != "signature"}
        if not any(verify_signature(body, record.get("signature"), key) for key in keys or (None,)):
            yield f"{item.key} has no valid signature of a pinned key"


def _ledger(context: Context, counts: dict[str, int]) -> Iterator[str]:
    """The ledger's events are those that were recorded, by its own pin and by the newest pin in the audit trail."""
    rows, _ = ledger_rows(context.lake)
    counts["ledger_events"] = rows.num_rows
    pins = []
    for item in context.lake.store.list("audit"):
        body = json.loads(context.lake.store.read(item.key)).get("body", {})
        if isinstance(body, dict) and isinstance(body.get("ledger"), dict):
            pins.append(Pin(int(body["ledger"]["events"]), tuple(body["ledger"]["digests"])))
    if pins and (fault := pins[-1].fault(rows)):
        yield f"{fault} (pinned by the audit trail)"


_CHECKS: dict[str, Callable[[Context, dict[str, int]], Iterator[str]]] = {
    "files": _files,
    "admissions": _admissions,
    "outcomes": _outcomes,
    "faces": _faces,
    "chain": _chain,
    "ledger": _ledger,
    "audit": _audit,
}
