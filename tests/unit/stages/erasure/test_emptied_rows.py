"""Rows that an erasure empties keep neither the name of an erased source nor the digest of a photo."""

from __future__ import annotations

from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, evidence_digest, record
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.operations.verify import verify_residual

PHOTO = b"a photo of the family"
SOURCES = {"smith-family": PHOTO, "school": b"a photo of somebody else"}


def photo(body: bytes, source: str, subject: str | None = None) -> dict[str, object]:
    return {"image_id": f"{len(body)}.jpg", "image": body, "source_id": source, "subject_ref": subject}


def traces(context: Context, *texts: str) -> dict[str, int]:
    hits = verify_residual(context, list(texts))
    return hits.found | hits.inside


@pytest.mark.parametrize("own", [True, False])
def test_nothing_has_the_name_of_an_erased_source(own: bool, tmp_path: Path) -> None:
    """Neither at once nor after the next run, which reads a store of one's own again."""
    overrides = {}
    if not own:
        photos = tmp_path / "photos"
        for source, body in SOURCES.items():
            (photos / source).mkdir(parents=True)
            (photos / source / "a.jpg").write_bytes(body)
        overrides = {"corpus": {"uri": str(photos), "columns": {"source_id": {"regex": "^([^/]+)/"}}}}
    with writing(load_config(lake=str(tmp_path / "lake"), overrides=overrides), "test") as context:
        for source in SOURCES:
            evidence = evidence_digest(f"release of {source}")
            grant = Entry(EventKind.GRANT, Scope.SOURCE, source, ("identity-grouping",), "b", evidence_sha256=evidence)
            record(context.lake, [grant])
        if own:
            write_corpus_file(context, [photo(body, source) for source, body in SOURCES.items()])
        context.now = datetime.now(UTC)
        assert admit(context).counts["admitted"] == 2
        assert traces(context, "smith-family")
        erase(context, Request.of(sources=["smith-family"]))
        told = ("smith-family", sha256(PHOTO).hexdigest(), evidence_digest("release of smith-family"))
        assert not traces(context, *told)
        assert admit(context).counts["admitted"] == 1
        assert not traces(context, *told)
        assert traces(context, "school")


def test_the_digest_of_an_erased_photo_does_not_stay(tmp_path: Path) -> None:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", ("identity-grouping",), "b")])
        write_corpus_file(context, [photo(PHOTO, "school", "person-000001")])
        context.now = datetime.now(UTC)
        admit(context)
        assert traces(context, sha256(PHOTO).hexdigest())
        erase(context, Request.of(subjects=["person-000001"]))
        assert not traces(context, sha256(PHOTO).hexdigest())
        assert traces(context, "school")  # the source was not erased
