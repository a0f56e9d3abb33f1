"""The Python API: what the command line does, as typed methods. docs/python-api.md says what is stable.

lake = facelake.open("my-lake", config="my.yaml")
run = lake.nightly()
frame = lake.gallery().identities.pandas()
"""

from __future__ import annotations

from facelake.api.corrections import Corrections
from facelake.api.feed import Feed
from facelake.api.follow import Following
from facelake.api.lake import Lake, open
from facelake.api.ledger import LedgerEvents
from facelake.api.tables import Rows
from facelake.api.values import (
    CorrectionRecord,
    Explanation,
    Gallery,
    GalleryInfo,
    Identity,
    IdentityFace,
    LeaseState,
    LedgerImport,
    LedgerRecord,
    RunSummary,
    Status,
    Verification,
)
from facelake.contracts import Covers, EventKind, Scope, SourceClass, Verdict
from facelake.publish.leases import FeedLease
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.ledger import Entry
from facelake.stages.core.context import StageResult
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import Erased
from facelake.stages.gallery.corrections import CorrectionRequest
from facelake.stages.gallery.subjects import CommonPhotos, Contradiction, Contradictions, SubjectCounts
from facelake.stages.operations.images import Fate, ListedImage
from facelake.stages.operations.verify import Finding

__all__ = [
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
]
