"""The public names of the Python API, and what importing it loads. A change of these lists is a breaking change."""

from __future__ import annotations

import subprocess
import sys

import pytest

import facelake
import facelake.api
from facelake.errors import FacelakeError

LAKE = {
    "admit",
    "cancel_erasure",
    "changes",
    "check_erasure",
    "check_exists",
    "cluster",
    "config",
    "contradictions",
    "corrections",
    "embed",
    "erase",
    "explain",
    "feed",
    "follow",
    "galleries",
    "gallery",
    "identity",
    "images",
    "import_images",
    "latest_report",
    "ledger",
    "nightly",
    "on_event",
    "publish",
    "report",
    "status",
    "table",
    "uri",
    "verify",
    "wait_s",
}
API = {
    "CommonPhotos",
    "Contradiction",
    "Contradictions",
    "CorrectionRecord",
    "CorrectionRequest",
    "Corrections",
    "Covers",
    "Entry",
    "Erased",
    "EventKind",
    "Explanation",
    "Fate",
    "Feed",
    "FeedLease",
    "Finding",
    "Following",
    "Gallery",
    "GalleryInfo",
    "Grant",
    "Identity",
    "IdentityFace",
    "Lake",
    "LeaseState",
    "LedgerEvents",
    "LedgerImport",
    "LedgerRecord",
    "ListedImage",
    "Request",
    "Rows",
    "RunSummary",
    "Scope",
    "SourceClass",
    "StageResult",
    "Status",
    "SubjectCounts",
    "Verdict",
    "Verification",
    "open",
}
ERRORS = {
    "Busy",
    "CommitConflict",
    "CommitUnknown",
    "ConfigError",
    "Contradiction",
    "Corrupt",
    "LedgerMoved",
    "Refused",
    "Retryable",
    "Unreachable",
    "Undelivered",
    "VersionGone",
}
HEAVY = "numpy pyarrow pandas pydantic yaml ray pyspark torch onnxruntime openvino faiss numba boto3 deltalake typer"


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_names_of_the_package() -> None:
    assert set(facelake.__all__) == {"Embedder", "Lake", "__version__", "open"}
    assert set(facelake.__all__) <= set(dir(facelake))
    assert facelake.open is facelake.api.open
    assert facelake.Lake is facelake.api.Lake
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        facelake.nothing  # noqa: B018


def test_names_of_the_api() -> None:
    assert set(facelake.api.__all__) == API
    assert public(facelake.Lake) == LAKE
    assert public(facelake.api.Corrections) == {
        "access", "by", "confirm", "distinct", "list", "merge", "not_a_face", "record", "reject", "reviewer", "split",
        "undo",
    }  # fmt: skip
    assert public(facelake.api.LedgerEvents) == {"access", "import_file", "list", "record", "withdraw"}
    assert public(facelake.api.Feed) == {
        "access", "acknowledge", "changes", "export", "leases", "mark_returned", "push", "recall", "renew",
    }  # fmt: skip


def test_names_of_the_errors() -> None:
    def below(kind: type) -> set[str]:
        return {kind.__name__}.union(*(below(child) for child in kind.__subclasses__()))

    assert {name for name in below(FacelakeError) if getattr(facelake.errors, name, None)} == {"FacelakeError", *ERRORS}


def test_every_public_method_says_what_it_does() -> None:
    for kind in (getattr(facelake.api, name) for name in facelake.api.__all__):
        assert kind.__doc__, kind
        if kind.__module__.startswith("facelake.api"):
            for name in public(kind):
                member = getattr(kind, name)
                assert not callable(member) or member.__doc__, f"{kind.__name__}.{name}"


def test_import_loads_no_library() -> None:
    code = f"import facelake, sys; print(*sorted(set({HEAVY.split()!r}) & set(sys.modules)), facelake.__version__)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == facelake.__version__


def test_opening_a_lake_loads_no_engine() -> None:
    code = "import facelake, sys; facelake.open('x'); "
    code += "print(*{'ray', 'pyspark', 'torch', 'openvino'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.strip() == ""
