"""The command `verify`: checks the lake for consistency of counters, files, ids, vectors and the audit chain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facelake.contracts import I64, TABLES, Refusal
from facelake.distinct import among, distinct, union, without
from facelake.erase import Bounds, Needles, scan
from facelake.errors import ConfigError, FacelakeError
from facelake.events import StageProgress
from facelake.lake.store import read_input
from facelake.stages.admission.known_references import photos_named
from facelake.stages.admission.withdrawals import was_erased
from facelake.stages.core.context import Context, StageRun
from facelake.stages.embedding.corpus_size import present_rows
from facelake.stages.embedding.embed import plan_embed
from facelake.stages.erasure.lake_scan import residual
from facelake.stages.erasure.notes import pending
from facelake.stages.operations.verify_gallery import FaceIds, check_chain
from facelake.stages.operations.verify_trail import check_audit, check_leases, check_ledger, check_suppressed
from facelake.stages.operations.verify_vectors import check_faces


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
    run.skip({"findings": len(findings)})  # what was counted is in the result
    counts["unfinished_erasures"] = len(pending(context.lake))
    return findings, counts


@dataclass(frozen=True, slots=True)
class ResidualHits:
    """What a search of the lake for identifiers found.

    Attributes:
        scanned: objects searched.
        found: hits by object key.
        inside: hits by the key of other objects, in which identifiers occur only inside of longer words.
        never_erased: the identifiers, if none of them was found, that are no reference or id of an earlier erasure.
    """

    scanned: int
    found: dict[str, int]
    inside: dict[str, int]
    never_erased: tuple[str, ...] = ()


def verify_residual(context: Context, texts: list[str]) -> ResidualHits:
    """Search every byte of the lake for identifiers.

    A file name also stands for the ids of photos that end with it, which begin with their source, and an id for longer
    paths that end with it. A reference is also found as part of the file name of a photo, whoever it shows.
    """
    ids = photos_named(context.config, context.lake, texts)
    paths = [text for text in texts if "/" in text]
    names, whole = sorted(set(texts) - set(paths)), Needles.of([*paths, *ids], bounds=Bounds.PATH)
    scanned, hits = residual(context, whole, Needles.of(names, bounds=Bounds.ANYWHERE))
    words, found, inside = Needles.of(names, bounds=Bounds.WORD), dict[str, int](), dict[str, int]()
    for key, count in sorted(hits.items()):
        try:
            data = context.lake.store.read(key)
        except FileNotFoundError:  # deleted meanwhile
            continue
        own = max(scan(key, data, whole), scan(key, data, words))
        (found if own else inside)[key] = own or count
    return ResidualHits(scanned, found, inside, () if hits else tuple(_never_erased(context, texts)))


def _never_erased(context: Context, texts: list[str]) -> Iterator[str]:
    suppressed, kinds = context.lake.suppressed(), ("subject", "image", "source")
    for text in texts:
        if not was_erased(context.lake, suppressed, [(kind, text) for kind in kinds], context.config.purpose):
            yield text


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
    admitted = emptied = 0
    for _, rows in context.lake["admissions"].parts(["corpus_file", "corpus_row", "admitted", "reason"]):
        decided.update({rows["corpus_file"][0].as_py(): rows.num_rows} if rows.num_rows else {})
        admitted += pc.sum(rows["admitted"]).as_py() or 0
        emptied += pc.sum(pc.equal(rows["reason"], str(Refusal.EMPTIED))).as_py() or 0
        wrong = pc.sum(pc.equal(rows["admitted"], pc.is_valid(rows["reason"]))).as_py() or 0
        if wrong:
            yield f"{wrong} rows of {rows['corpus_file'][0].as_py()} are admitted with a reason or refused without one"
        if pc.count_distinct(rows["corpus_row"]).as_py() != rows.num_rows:
            yield f"{rows['corpus_file'][0].as_py()} has a row with two decisions"
    counts["admitted"], counts["refused"] = admitted, decided.total() - admitted - emptied
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
    faces = distinct(_corpus_rows(context, "faces", numbers))
    rejects = _corpus_rows(context, "rejects", numbers)
    admitted = distinct(_corpus_rows(context, "admissions", numbers, only="admitted"))
    repeated = len(rejects) - len(distinct(rejects))
    if repeated:
        yield f"{repeated} images are rejected twice"
    rejects = distinct(rejects)
    both = faces[among(faces, rejects)]
    if len(both):
        yield f"{len(both)} images have faces and a reject row, e.g. {_row_name(both[0], numbers)}"
    counts["embedded"], counts["rejected"] = len(faces), len(rejects)
    outcomes = union(faces, rejects)
    stray = without(outcomes, admitted)
    missing = without(admitted, outcomes)
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
    found = check_faces(context)
    face_ids = FaceIds(context.lake, "faces", found.keys)
    counts["faces"] = len(face_ids.keys)
    if repeated := face_ids.repeated():
        yield f"{repeated} face ids occur twice"
    if found.bad_vectors:
        yield f"{found.bad_vectors} embeddings are not finite unit vectors"
    if found.bad_boxes:
        yield f"{found.bad_boxes} boxes have no area"


_CHECKS: dict[str, Callable[[Context, dict[str, int]], Iterator[str]]] = {
    "files": _files,
    "admissions": _admissions,
    "outcomes": _outcomes,
    "faces": _faces,
    "chain": check_chain,
    "ledger": check_ledger,
    "audit": check_audit,
    "suppressed": check_suppressed,
    "leases": check_leases,
}
