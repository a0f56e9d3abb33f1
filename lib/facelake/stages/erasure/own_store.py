"""Photos that an erasure concerns and that lie in the operator's own store, outside the lake.

facelake deletes them only if the config says so, and only where a photo is an object. All others are listed for the
operator, and the certificate counts them: it does not claim that they are gone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from facelake.contracts import DataFileName
from facelake.errors import ConfigError, Refused
from facelake.events import Notice
from facelake.lake.corpora.detect import CorpusSpec, resolve_corpus
from facelake.lake.corpora.opening import INDEX, OpenedCorpus
from facelake.lake.corpora.photos import UNREADABLE, PhotoReader
from facelake.lake.tables import Table
from facelake.plural import counted, first_of
from facelake.stages.admission.corpus_rewrite import owns_corpus
from facelake.stages.admission.index_tasks import forget
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Targets

_IDS = ["image_id", "source_id", "subject_ref"]


def find_in_index(context: Context, targets: Targets) -> None:
    """Add the images of the request that the index names."""
    for _, rows in context.lake[INDEX].parts(_IDS):
        targets.images.update(v for v in rows["image_id"].filter(pa.array(targets.hits(rows))).to_pylist() if v)


def find_places(context: Context, targets: Targets) -> None:
    """Add the places of photos outside the lake: of the index, and of the store itself, as an earlier erasure may have
    removed them from the index.

    Raises:
        ConfigError: the corpus is not where the config says: nobody could tell which photos are left there.
    """
    if targets.request.purpose or owns_corpus(context.config):
        return
    try:
        spec = resolve_corpus(context.config)
    except ConfigError as err:
        what = f"the corpus cannot be read, so that the photos that are left in it are not known: {err.what}"
        next_step = "mount it, or run in the folder from which `corpus` in the config leads to it; "
        next_step += "if it is gone for good, take `corpus` out of the config"
        raise ConfigError(what, where=err.where, next_step=next_step) from err
    for rows in named_rows(context, spec):
        hit = rows.filter(pa.array(targets.hits(rows)))
        targets.held |= hit.num_rows > 0
        targets.images.update(v for v in hit["image_id"].to_pylist() if v)
        targets.places.update(_place(spec, row) for row in hit.to_pylist())


def named_rows(context: Context, spec: CorpusSpec) -> Iterator[pa.Table]:
    """Yield the names and places of the photos that the index and the corpus name."""
    columns = [*_IDS, "uri", "corpus_file", "corpus_row"]
    for _, rows in context.lake[INDEX].parts(columns):
        yield rows
    try:
        if spec.listed:
            yield from OpenedCorpus(spec).entries()
        elif spec.form is not None and not spec.form.ids_by_content:
            corpus = OpenedCorpus(spec)
            for part in corpus.parts():
                rows = corpus.ids(part)
                rows = rows.append_column("corpus_file", pa.array([part.name] * rows.num_rows, pa.string()))
                yield rows.append_column("corpus_row", pa.array(np.arange(rows.num_rows)))
    except ConfigError:
        return  # a corpus that cannot be read; `admit` reports it


def _place(spec: CorpusSpec, row: dict[str, object]) -> str:
    """A photo's location, for the operator and for deletion."""
    if spec.listed:
        return str(row["uri"])
    return f"{spec.root}/{row['corpus_file']} row {row['corpus_row']} ({row['image_id']})"


def delete_places(context: Context, targets: Targets) -> Counter[str]:
    """Delete the photos where the config allows it; those that are left stay in `targets.places`.

    Left are also photos of which another name would keep the bytes, and those outside of the corpus or inside the lake:
    whoever writes a manifest could otherwise have any file deleted, such as the ledger.

    Returns:
        `own_store_deleted`, and `own_store_not_found`: photos that the lake knew and that are not at their place. They
        were deleted before, or moved; they are in `targets.places` no more.
    """
    counts = Counter(own_store_deleted=0)
    if not targets.places or context.config.corpus.on_erase != "delete":
        return counts
    spec = resolve_corpus(context.config)
    if not spec.listed:
        return counts
    photos = PhotoReader(OpenedCorpus(spec).store, spec.s3)
    done, missing = set[str](), []
    for place in sorted(targets.places):
        context.check_lease()
        if not _is_only_ours(context, spec, place):
            continue
        try:
            store, key = photos.locate(place)
            there = store.stat(key) is not None
            store.purge(key)  # earlier versions of an object that was deleted are purged too
        except (*UNREADABLE, Refused):
            continue
        done.add(place)
        counts["own_store_deleted"] += there
        missing += [] if there else [place]
    targets.places -= done
    if missing:
        text = f"{counted(len(missing), 'photo')} of the index {'is' if len(missing) == 1 else 'are'} not at the place"
        context.emit(Notice("erase", f"{text} any more: {first_of(missing)}. Delete them yourself if they were moved"))
        counts["own_store_not_found"] = len(missing)
    return counts


def _is_only_ours(context: Context, spec: CorpusSpec, place: str) -> bool:
    """Whether a photo lies in the corpus's folder or prefix, outside of the lake, and is no link and has no second
    name.
    """
    if place.startswith("s3://") or (spec.root.startswith("s3://") and not os.path.isabs(place) and "://" not in place):
        root = spec.root.rstrip("/") + "/"
        whole = place if place.startswith("s3://") else root + place
        lake = context.lake.uri.rstrip("/") + "/"
        return whole.startswith(root) and not whole.startswith(lake) and ".." not in whole.split("/")
    if spec.root.startswith("s3://"):
        return False
    root_path = Path(spec.root.removeprefix("file://")).resolve()
    path = Path(os.path.normpath(root_path / place.removeprefix("file://")))
    if not path.is_relative_to(root_path) or path.resolve() != path or _in_folder(path, context.lake.uri):
        return False
    return not path.exists() or path.stat().st_nlink == 1


def _in_folder(path: Path, folder: str) -> bool:
    return not folder.startswith("s3://") and path.is_relative_to(Path(folder).resolve())


def complete_places(context: Context, targets: Targets) -> list[str]:
    """The photos that are left, each with its complete location."""
    if not targets.places:
        return []
    spec = resolve_corpus(context.config)
    root = spec.root.rstrip("/")
    relative = {place for place in targets.places if spec.listed and "://" not in place and not place.startswith("/")}
    return sorted({*(f"{root}/{place}" for place in relative), *(targets.places - relative)})


def blank_index(context: Context, targets: Targets) -> None:
    """Remove what the index says of the images; their rows stay, without a name."""
    if targets.request.purpose:
        return
    table: Table = context.lake[INDEX]
    sources, adds, removes = targets.request.hidden_sources(context.lake.salt), [], []
    for file, ids in table.parts(_IDS):
        hit = targets.hits(ids)
        if hit.any():
            parsed = DataFileName.parse(file.path)
            # listed parts keep their name; the others get one that the next update does not recognise
            name = (
                parsed.with_nonce("") if parsed.part == "listed" else DataFileName(corpus=parsed.corpus, part="erased")
            )
            adds.append(table.stage(forget(table.file(file), hit, sources).select(table.schema.names), name))
            removes.append(file)
    if adds:
        context.check_lease()
        table.commit(adds, removes)
