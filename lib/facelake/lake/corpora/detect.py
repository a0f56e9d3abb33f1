"""Finds out how photos are stored: the kind of the corpus and the origin of each column."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq

from facelake.config import Config, S3Section
from facelake.corpus_config import DEFAULT_EXCLUDE, ColumnRule, CorpusSection
from facelake.errors import ConfigError
from facelake.lake.corpora.field_ids import FieldIds
from facelake.lake.corpora.iceberg import iceberg_files
from facelake.lake.corpora.listing import CONTAINERS, TAR_SUFFIXES, list_photos
from facelake.lake.corpora.manifest import URI_COLUMNS, refuse_web
from facelake.lake.corpora.manifest_rows import MANIFEST_SUFFIXES, read_rows
from facelake.lake.corpora.parquet import ParquetForm
from facelake.lake.corpora.parquet_checks import type_at
from facelake.lake.corpora.rules import COLUMNS, ROW_COLUMNS, check_names, column_at
from facelake.lake.corpora.selection import MAGIC, LeftOut, Selection, is_photo_name
from facelake.lake.corpora.table_roots import part_of_table, refuse_inside_table, refuse_tables, table_at
from facelake.lake.corpora.tables import TableFile, TableSnapshot, delta_files
from facelake.lake.object_store import ObjectStore
from facelake.lake.retries import first_line
from facelake.lake.store import open_store, read_input

_SAMPLE = 20_000  # objects looked at to tell the kind, or more if none is of a known one
_BYTES_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "img", "photo", "picture", "bytes", "image_bytes")
_ENCODED = ("jpg", "jpeg", "png", "webp", "gif", "tiff", "bmp")  # column names of img2dataset
_ID_COLUMNS = ("image_id", "id", "key", "photo_id", "uuid", "file_name", "filename", "path", "name", "uri")


@dataclass(frozen=True, slots=True)
class CorpusSpec:
    """A corpus whose kind and columns are known; workers open it without looking again."""

    root: str
    """directory or bucket prefix"""
    kind: str
    s3: S3Section
    section: CorpusSection
    only: str | None = None
    """the one file under the root that is read"""
    form: ParquetForm | None = None
    """of Parquet files with encoded photos"""
    uri_column: str | None = None
    """of tables that name photos by URI"""
    rules: dict[str, ColumnRule] = field(default_factory=dict)
    fields: FieldIds | None = None
    """of an Iceberg table that names photos by URI"""

    @property
    def listed(self) -> bool:
        """Whether each photo is an object of its own, so that the lake's index divides them into parts."""
        return self.kind == "files" or self.uri_column is not None

    def selection(self) -> Selection:
        """The patterns of the config."""
        return Selection(tuple(self.section.include), tuple(self.section.exclude))

    def row_selection(self) -> Selection:
        """The patterns for photos that a manifest names: those by which folders are cleared of clutter say nothing."""
        return Selection(self.section.include, [text for text in self.section.exclude if text not in DEFAULT_EXCLUDE])

    def origins(self) -> dict[str, str]:
        """The origin of each column, for people."""
        rules = self.form.rules if self.form else self.rules
        origins = {name: _origin(rule) for name, rule in rules.items()}
        if self.form is not None and self.form.ids_by_content:
            origins["image_id"] = f"{self.form.name} and digest" if self.form.name else "digest of the photo"
        elif "image_id" not in origins:
            origins["image_id"] = "name and digest" if self.kind == "webdataset" else "path"
        image = self.form.image if self.form else self.uri_column
        return ({"image": image} if image else {}) | origins


def resolve_corpus(config: Config) -> CorpusSpec:
    """The kind and columns of the configured corpus, detected where the config leaves them out.

    Raises:
        ConfigError: nothing readable is there, or a column is missing that has no default.
        Retryable: the store fails.
    """
    section, s3 = config.corpus, config.s3
    root, only = _root_of(config.corpus_uri, s3)
    store = open_store(root, s3)
    own = open_store(config.lake.rstrip("/") + "/corpus", s3).uri == store.uri
    if own and only is None and section.kind in (None, "parquet") and section.columns == type(section.columns)():
        return CorpusSpec(store.uri, "parquet", s3, section, form=ParquetForm())
    kind = _table_kind(store, only, section)
    if kind not in ("delta", "iceberg"):
        refuse_inside_table(store, s3)
    kind = kind or _kind_of(store, only, section)
    spec = CorpusSpec(store.uri, kind, s3, section, only, rules=_given(section))
    if kind == "files":
        return _with_source(spec)
    if kind == "webdataset":
        return _with_source(spec)
    return _with_source(_of_table(store, spec))


def _origin(rule: ColumnRule) -> str:
    if rule.constant is not None:
        return f"constant {rule.constant!r}"
    regex = f" by {rule.regex!r}" if rule.regex else ""
    return (f"column {rule.column}" if rule.column else "path") + regex


def _given(section: CorpusSection) -> dict[str, ColumnRule]:
    return {name: rule for name in COLUMNS if (rule := getattr(section.columns, name)) is not None}


def _with_source(spec: CorpusSpec) -> CorpusSpec:
    rules = spec.form.rules if spec.form else spec.rules
    if "source_id" not in rules:
        raise ConfigError(
            f"the corpus of kind {spec.kind} has no source_id, on which every legal basis depends",
            where="corpus.columns",
            next_step="add columns: {source_id: {constant: NAME}}, or name a column",
        )
    return spec


def _root_of(uri: str, s3: S3Section) -> tuple[str, str | None]:
    """(folder, file in it or None) of the configured location."""
    uri = uri.rstrip("/")
    if uri.startswith("s3://"):
        folder, _, name = uri.rpartition("/")
        named = name.lower().endswith((*MANIFEST_SUFFIXES, *TAR_SUFFIXES)) and folder != "s3:/"
        if not named or open_store(folder, s3).stat(name) is None:
            return uri, None
    else:
        path = os.path.abspath(os.path.expanduser(uri.removeprefix("file://")))
        if not os.path.isfile(path):
            return uri, None
        folder, name = os.path.split(path)
    return folder, name


def _table_kind(store: ObjectStore, only: str | None, section: CorpusSection) -> str | None:
    """The kind that the config gives, or that of the table whose folder the corpus is; None if it is to be detected.

    Raises:
        ConfigError: files of a table would be read without its log.
    """
    if only is None and section.kind in ("delta", "iceberg"):
        return section.kind
    kind = table_at(store)
    if kind and (only is not None or section.kind):
        raise part_of_table(kind, store.uri, store.uri + (f"/{only}" if only else ""))
    return kind or section.kind


def _kind_of(store: ObjectStore, only: str | None, section: CorpusSection) -> str:
    if only is not None:
        return _kind_of_file(store, only, section)
    parquet, manifests, photos, tars = None, None, 0, 0
    for number, item in enumerate(_everything(store, section, LeftOut())):
        if number >= _SAMPLE and (parquet or manifests or photos or tars):
            break
        name = item.lower()
        parquet = parquet or (item if name.endswith(".parquet") and not _private(item) else None)
        manifests = manifests or (item if name.endswith(MANIFEST_SUFFIXES) and not _private(item) else None)
        photos += is_photo_name(name)
        tars += name.endswith(TAR_SUFFIXES)
    held = parquet if parquet and _bytes_column(store, parquet, _schema(store, parquet), section) else None
    _refuse_mixed({"Parquet files with photos": held, "tar files": tars, "photos": photos}, store.uri)
    if held:
        return _kind_of_file(store, held, section)
    if tars:
        return "webdataset"
    if section.columns.image is not None and manifests:
        return "manifest"
    if photos:
        return "files"
    if manifests and _uri_column_of(store, manifests, section):
        return "manifest"
    if parquet:
        return "parquet"  # reported with the columns that it lacks
    next_step = "create one with `facelake import DIR`, or set `corpus` in the config"
    raise ConfigError(
        "the corpus is missing or contains no photos in a known layout", where=store.uri, next_step=next_step
    )


def _refuse_mixed(present: Mapping[str, object], where: str) -> None:
    """Raise ConfigError if there are photos of several kinds: the corpus would lack those of all but one."""
    kinds = [name for name, found in present.items() if found]
    if len(kinds) > 1:
        next_step = "set corpus.kind to read one kind and leave the others out, or move each to a folder of its own"
        raise ConfigError(f"the corpus holds {' and '.join(kinds)}", where=where, next_step=next_step)


def _everything(store: ObjectStore, section: CorpusSection, left_out: LeftOut) -> Iterator[str]:
    """Yield the keys of all files that are not left out; a missing folder has none."""
    selection = Selection(("*",), tuple(section.exclude))
    linked = (*CONTAINERS, *MANIFEST_SUFFIXES)
    listing = list_photos(store, selection, left_out, follow_links=section.follow_links, linked=linked)
    try:
        for item in refuse_tables(listing, store.uri):
            yield item.key
    except ConfigError as err:
        if err.what != "no such folder":
            raise


def _private(key: str) -> bool:
    return any(part.startswith("_") for part in key.split("/"))


def _kind_of_file(store: ObjectStore, path: str, section: CorpusSection) -> str:
    if path.lower().endswith(TAR_SUFFIXES):
        return "webdataset"
    if path.lower().endswith(".parquet"):
        schema = _schema(store, path)
        column = _bytes_column(store, path, schema, section)
        if column is not None and column.endswith(".bytes"):
            return "huggingface"
        if column in _ENCODED and "key" in schema.names:
            return "img2dataset"
        if column is not None or not _uri_column_of(store, path, section):
            return "parquet"
    return "manifest"


def _schema(store: ObjectStore, path: str) -> pa.Schema:
    try:
        with read_input(store, path) as source, pq.ParquetFile(source) as file:
            check_names(file.schema_arrow.names, (), path)
            return file.schema_arrow
    except (pa.ArrowInvalid, OSError) as err:
        what = f"not a readable Parquet file (truncated or damaged): {first_line(err)}"
        raise ConfigError(what, where=f"{store.uri}/{path}", next_step="replace the file or move it out") from err


def _bytes_column(
    store: ObjectStore, path: str, schema: pa.Schema, section: CorpusSection, fields: FieldIds | None = None
) -> str | None:
    """The column, or struct field, with encoded photos; None if there is none.

    A column of another name than the usual ones must hold the first bytes of an image format.
    """
    given = section.columns.image
    certain = [given.column] if given and given.column else list(_BYTES_COLUMNS)
    for name in certain if given else [*certain, *schema.names]:
        kind = type_at(schema, name)
        if kind is not None and pa.types.is_struct(kind) and _is_binary(type_at(schema, f"{name}.bytes")):
            return f"{name}.bytes"
        if _is_binary(kind) and (name in certain or _holds_images(store, path, name, fields)):
            return name
    return None


def _holds_images(store: ObjectStore, path: str, name: str, fields: FieldIds | None) -> bool:
    with read_input(store, path) as source, pq.ParquetFile(source) as file:
        if fields:
            name = fields.paths_in(file.schema_arrow, f"{store.uri}/{path}").get(name, "")
        if name not in file.schema_arrow.names:
            return False
        batches = islice(file.iter_batches(2, columns=[name]), 32)  # few rows: they may all be one large value
        values = (value for batch in batches for value in batch.column(0).to_pylist() if value)
        return any(value.startswith(MAGIC) or value[4:8] == b"ftyp" for value in values)


def _is_binary(kind: pa.DataType | None) -> bool:
    return kind is not None and str(kind) in ("binary", "large_binary", "binary_view")


def _uri_column_of(store: ObjectStore, path: str, section: CorpusSection, fields: FieldIds | None = None) -> str | None:
    """The column with the URIs of photos, by the first rows; a column of web addresses only if there is no other."""
    first = next(read_rows(store, path, fields), None)
    if first is None:
        return None
    given = section.columns.image
    if given is not None and given.column:
        return given.column if column_at(first, given.column) is not None else None
    web = None
    for name in URI_COLUMNS:
        if name not in first.column_names or not _is_text(first.schema.field(name).type):
            continue
        value = next((str(v) for v in first[name].to_pylist() if v), None)
        if value is not None and not value.lower().startswith(("http://", "https://")):
            return name
        web = web or (name if value else None)
    return web


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return str(kind) in ("string", "large_string", "string_view")


def table_files(store: ObjectStore, spec: CorpusSpec, left_out: LeftOut) -> list[TableFile]:
    """The files of a Delta or Iceberg snapshot, or of a manifest."""
    return _snapshot(store, spec, left_out).files


def _snapshot(store: ObjectStore, spec: CorpusSpec, left_out: LeftOut) -> TableSnapshot:
    if spec.kind == "delta":
        return delta_files(store)
    if spec.kind == "iceberg":
        return iceberg_files(store, spec.s3)
    if spec.only is not None:
        return TableSnapshot([TableFile(spec.only, -1, 0, {})])
    suffixes = MANIFEST_SUFFIXES if spec.kind == "manifest" else (".parquet",)
    keys = (
        key
        for key in _everything(store, spec.section, left_out)
        if key.lower().endswith(suffixes) and not _private(key)
    )
    found = keys if spec.kind == "manifest" else islice(keys, 1)
    return TableSnapshot([TableFile(key, -1, 0, {}) for key in found])


def _of_table(store: ObjectStore, spec: CorpusSpec) -> CorpusSpec:
    """The columns of a corpus whose photos are rows of files."""
    section = spec.section
    snapshot = _snapshot(store, spec, LeftOut())
    if not snapshot.files:
        next_step = "create one with `facelake import DIR`, or set `corpus` in the config"
        raise ConfigError("the corpus is missing or contains no .parquet file", where=store.uri, next_step=next_step)
    first, fields = snapshot.files[0], snapshot.fields
    schema = snapshot.schema or _schema_of(store, first.path)
    names = list(dict.fromkeys([*schema.names, *first.constants]))
    image = None if spec.kind == "manifest" else _bytes_column(store, first.path, schema, section, fields)
    # later files may have columns that the first one lacks; without a source in it, nobody has a basis
    rules = {name: ColumnRule(column=name) for name in COLUMNS if name in names or name in ROW_COLUMNS}
    rules.pop("image_id", None)
    optional = frozenset(rules) | {"image_id"}
    rules |= spec.rules
    if image is None and spec.kind in ("manifest", "delta", "iceberg"):
        uri = _uri_column_of(store, first.path, section, fields)
        if uri is None:
            what = f"no column with the URIs of photos; there are {', '.join(names[:12])}"
            next_step = (
                "set corpus.columns.image to the name of one; a CSV file is separated by commas and has a header"
            )
            raise ConfigError(what, where=f"{store.uri}/{first.path}", next_step=next_step)
        rows = column_at(next(read_rows(store, first.path, fields)), uri)
        refuse_web([str(v) for v in rows.slice(0, 1).to_pylist() if v] if rows else [], store.uri)
        rules.setdefault("image_id", ColumnRule(column=_id_column(schema, names, uri) or uri))
        return CorpusSpec(spec.root, spec.kind, spec.s3, section, spec.only, None, uri, rules, fields)
    form = _form(schema, names, image or "image", spec, rules)
    form = replace(form, optional=optional - set(spec.rules), fields=fields, strict=form.strict and not fields)
    return CorpusSpec(spec.root, spec.kind, spec.s3, section, spec.only, form=form)


def _schema_of(store: ObjectStore, path: str) -> pa.Schema:
    if path.lower().endswith(".parquet"):
        return _schema(store, path)
    rows = next(read_rows(store, path), None)
    return rows.schema if rows is not None else pa.schema([])


def _form(
    schema: pa.Schema, names: Sequence[str], image: str, spec: CorpusSpec, rules: dict[str, ColumnRule]
) -> ParquetForm:
    if image.endswith(".bytes"):
        name = f"{image.removesuffix('.bytes')}.path"
        if "image_id" in names:
            rules.setdefault("image_id", ColumnRule(column="image_id"))
        stored_name = name if type_at(schema, name) is not None else None
        return ParquetForm(image, rules, stored_name, strict=False, blank_without_photo=True)
    strict = (
        image == "image"
        and "image_id" not in rules
        and ("image_id" in names or (spec.kind == "parquet" and _plain(names)))
    )
    if strict:
        rules.setdefault("image_id", ColumnRule(column="image_id"))
        rules.setdefault("source_id", ColumnRule(column="source_id"))
        return ParquetForm(image, rules)
    column = "key" if image in _ENCODED and "key" in names else _id_column(schema, names, None)
    if column:
        rules.setdefault("image_id", ColumnRule(column=column))
    return ParquetForm(image, rules, strict=False, blank_without_photo=True)


def _plain(names: Sequence[str]) -> bool:
    """Whether files without an image_id look like facelake's own form all the same, so that the error says so."""
    return "image" not in names


def _id_column(schema: pa.Schema, names: Sequence[str], default: str | None) -> str | None:
    for name in _ID_COLUMNS:
        if name in schema.names and (_is_text(schema.field(name).type) or pa.types.is_integer(schema.field(name).type)):
            return name
    return default
