"""An erasure remembers how the photos look: for every purpose, or for the one that is erased."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.embed.looks import SuppressedLooks
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase

P, OTHER = "identity-grouping", "print"


@pytest.mark.parametrize("purpose", [None, P])
def test_an_erased_photo_is_recognised_when_it_was_encoded_again(tmp_path: Path, purpose: str | None) -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24), np.uint8)).convert("RGB")
    photo, again = io.BytesIO(), io.BytesIO()
    small.resize((300, 300)).save(photo, "JPEG", quality=95)
    small.resize((300, 300)).save(again, "JPEG", quality=50)
    seen = np.asarray(Image.open(again))
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        row = {"image_id": "school/1.jpg", "image": photo.getvalue(), "source_id": "school", "subject_ref": "person-1"}
        write_corpus_file(context, [row])
        record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "school", (P, OTHER), "b")])
        context.now = datetime.now(UTC)
        admit(context)
        erase(context, Request.of(subjects=["person-1"], purpose=purpose))
        looks = context.lake.suppressed_looks()
        assert SuppressedLooks.of(looks, context.lake.salt, P).resembles(seen)
        assert SuppressedLooks.of(looks, context.lake.salt, OTHER).resembles(seen) == (purpose is None)
