"""The index of a corpus keeps nothing of who was erased."""

from __future__ import annotations

import pyarrow as pa
import pytest

from facelake.contracts import label
from facelake.lake.hash_key import keyed_hash
from facelake.stages.admission.index_tasks import without_erased

KEY = b"k" * 32


@pytest.mark.parametrize("spelling", ["Zo\u00eb", "Zoe\u0308", " Zo\u00eb ", "Zo\u200b\u00eb"])
def test_an_erased_reference_is_not_indexed_in_any_spelling(spelling: str) -> None:
    suppressed = frozenset([keyed_hash(KEY, label("subject", "Zo\u00eb"))])
    columns = {"image_id": ["a", "b"], "source_id": ["s", "s"], "subject_ref": [spelling, "Ann"]}
    rows = without_erased(suppressed, KEY, pa.table(columns))
    assert rows["subject_ref"].to_pylist() == [None, "Ann"]
    assert rows["erased"].to_pylist() == [True, False]
