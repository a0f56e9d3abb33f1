"""What is said of a name without a face: it left the corpus, only the ledger has it, it was erased, or it is mistyped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facelake.bench import erase as erasure_bench
from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.clustering.explain import _asked, _group_of
from facelake.stages.core.context import Context
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.sharing.export import show

FORGOTTEN = "of photos that have left the corpus the lake keeps no name"


@pytest.fixture
def context(tmp_path: Path) -> Iterator[Context]:
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        erasure_bench.build_lake(context, 100)
        yield context


def told(context: Context, name: str) -> tuple[str, str]:
    """The errors of `gallery show` and of `explain`."""
    with pytest.raises(ConfigError) as shown:
        show(context.lake, name, None, by_photo=True)
    with pytest.raises(ConfigError) as explained:
        _group_of(context.lake, _asked(context.lake, name))
    return shown.value.what, explained.value.what


def test_names_without_a_photo(context: Context) -> None:
    """The ledger still knows a withdrawn person whose photos are gone; of an erased one it says what it says of a typo."""
    for kind in (EventKind.GRANT, EventKind.WITHDRAW):
        record(context.lake, [Entry(kind, Scope.SUBJECT, "subject-00000001", ("p",), "b")])
    record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SUBJECT, "200005", ("p",), "b")])
    known = "subject '200005': no photo in the corpus names it; the ledger has 1 event for it"
    assert told(context, "200005") == (known, known)
    assert show(context.lake, "subject-00000001", None, by_photo=True)[1]
    erase(context, Request.of(subjects=["subject-00000001"]))
    for name in ("subject-00000001", "mistyped"):
        shown, explained = told(context, name)
        assert shown == f"no active identity {name!r}, and no photo or subject of this name in the corpus; {FORGOTTEN}"
        assert explained == f"neither a face nor an identity, photo or subject of the gallery: {name!r}; {FORGOTTEN}"
