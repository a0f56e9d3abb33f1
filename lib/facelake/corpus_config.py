"""The section `corpus` of the configuration: where photos are stored, and where the columns of a photo come from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

CORPUS_KINDS = ("parquet", "huggingface", "img2dataset", "webdataset", "files", "manifest", "delta", "iceberg")
DEFAULT_EXCLUDE = (
    *(".*", "@eaDir", "__MACOSX", "Thumbs.db", "thumbs.db", "desktop.ini", "#recycle", "$RECYCLE.BIN"),
    *("thumbs/", "Thumbs/", "_thumbs/", "thumbnails/", "Thumbnails/"),
)
"""small copies would be further photos of the same people"""


class Section(BaseModel):
    """A section of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def location(value: str | None) -> str | None:
    """Check the scheme of a location; raises ValueError for one that facelake does not read."""
    if value is not None and value.lower().startswith(("http://", "https://")):
        raise ValueError("photos are not fetched from the web; give a directory or s3://bucket/prefix")
    if value is not None and "://" in value and not value.startswith(("s3://", "file://")):
        raise ValueError("must be a directory or s3://bucket/prefix")
    if value is not None and re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/[^/]", value):  # s3:/bucket would be a local folder
        raise ValueError("must be a directory or s3://bucket/prefix, with two slashes")
    return value


class ColumnRule(Section):
    """Where the value of a column comes from: a constant, a column or struct field, or a regex on the path.

    A plain string is short for `column`. With `regex` and no `column`, the regex is searched in the path of the photo:
    its first group, or the whole match, is the value.
    """

    constant: str | None = Field(None, min_length=1, description="the same value for every photo")
    column: str | None = Field(None, min_length=1, description="a column; `a.b` is field b of the struct a")
    regex: str | None = Field(None, min_length=1, description="searched in the path, or in `column`")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"column": value}
        if isinstance(value, Mapping) and isinstance(value.get("constant"), int | float):
            return dict(value) | {"constant": str(value["constant"])}
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> ColumnRule:
        if (self.constant is None) == (self.column is None and self.regex is None):
            raise ValueError("give either constant, or column and/or regex")
        try:
            re.compile(self.regex or "")
        except re.error as err:
            raise ValueError(f"not a regular expression: {err}") from None
        return self


class CorpusColumns(Section):
    """Where each column of the corpus comes from; a column that is left out is detected."""

    image: ColumnRule | None = Field(None, description="the encoded photo, or its URI in a manifest")
    image_id: ColumnRule | None = Field(None, description="unique in the corpus")
    source_id: ColumnRule | None = Field(None, description="who or what supplied the photo")
    subject_ref: ColumnRule | None = Field(None, description="the custodian's reference for the person depicted")
    captured_at: ColumnRule | None = Field(None, description="time of capture")
    source_class: ColumnRule | None = Field(None, description="see docs/tables.md")


class CorpusSection(Section):
    """Where the photos are and how they are stored. A plain string is short for `uri`. See docs/image-stores.md."""

    uri: str | None = Field(None, description="directory, file or s3:// of the corpus; null: <lake>/corpus")
    kind: (
        Literal["parquet", "huggingface", "img2dataset", "webdataset", "files", "manifest", "delta", "iceberg"] | None
    ) = Field(None, description="layout of the photos; null: detected, as `facelake plan` shows")
    columns: CorpusColumns = Field(
        CorpusColumns(),
        description="per column `image`, `image_id`, `source_id`, `subject_ref`, `captured_at` or `source_class` its "
        "origin: the name of a column, or one of `{constant: …}`, `{column: …}`, `{regex: …}`; what is left out is "
        "detected",
    )
    include: list[str] = Field(
        default_factory=list, description="file name patterns to read; empty: every image format, whatever the case"
    )
    exclude: list[str] = Field(
        list(DEFAULT_EXCLUDE), description="patterns of file and folder names, or of paths, to leave out"
    )
    follow_links: bool = Field(False, description="read symbolic links in a directory; links in a circle never")
    on_erase: Literal["list", "delete"] = Field(
        "list",
        description="photos outside the lake that an erasure concerns: list them for the operator, or delete the files "
        "(kinds files and manifest)",
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"uri": value} if isinstance(value, str) else value or {}

    @field_validator("uri")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        return location(value)
