"""The command `bench review`: response times of the review page on a lake of synthetic faces."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from facelake.bench.erase import build_lake
from facelake.config import Config, GovernanceSection
from facelake.contracts import Covers, EventKind, Scope, SourceClass, Verdict
from facelake.errors import ConfigError
from facelake.events import Listener
from facelake.nightly import reading, writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.gallery.analytics import analyse
from facelake.stages.gallery.corrections import CorrectionRequest
from facelake.stages.review import answers, browser, person, questions, views
from facelake.stages.review.session import ReviewSession

_VIEWED = 20  # identities that are viewed
_MARK = "bench-review.txt"


def time_review(config: Config, faces: int, emit: Listener) -> dict[str, Any]:
    """Create a lake of `faces` synthetic faces, unless this benchmark has created it before, and review it as the
    page does.

    Raises:
        ConfigError: the lake exists and was not created by this benchmark, which records answers in it.
    """
    config = config.model_copy(update={"governance": GovernanceSection(dpia="a benchmark")})
    with writing(config, "bench", emit) as context:
        empty = context.lake["faces"].version() < 0
        if not empty and context.lake.store.tag(_MARK) is None:
            raise ConfigError("the lake already exists", where=config.lake, next_step="give an empty --lake")
        if empty:
            context.lake.store.write(_MARK, b"made by `facelake bench review`\n")
            grant = Entry(
                EventKind.GRANT, Scope.SOURCE, "bench", (config.purpose,), "synthetic", covers=Covers.EVERYONE,
                source_class=SourceClass.RESEARCH,
            )  # fmt: skip
            record(context.lake, [grant])
            build_lake(context, faces)
            analyse(context)
    figures: dict[str, Any] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        began = time.monotonic()
        result = work()
        figures[name] = round(time.monotonic() - began, 3)
        return result

    began = time.monotonic()
    session = timed("open_s", lambda: ReviewSession.open(reading(config, emit), config.purpose, "bench"))
    queue = timed("first_queue_s", lambda: questions.queue(session))
    stats = session.context.lake["identity_stats"].read(["identity_id", "nearest_id", "size"])
    names = stats.take(np.random.default_rng(0).choice(stats.num_rows, _VIEWED, replace=False)).to_pylist()
    views.view_one(session, names[0]["identity_id"])
    figures["first_identity_after_open_s"] = round(time.monotonic() - began, 3)
    figures["identity_s"] = _median([partial(views.view_one, session, n["identity_id"]) for n in names[1:]])
    pairs = [(n["identity_id"], n["nearest_id"]) for n in names[1:] if n["nearest_id"]]
    figures["pair_s"] = _median([partial(views.view_pair, session, a, b) for a, b in pairs])
    figures["queue_s"] = _median([partial(questions.queue, session)] * 5)
    figures |= _time_browser(session, [n["identity_id"] for n in names[1:]])
    version, (a, b) = session.state().gallery.version, pairs[0]
    request = CorrectionRequest(Verdict.DISTINCT, a, b, reason="a benchmark", reviewer="bench")
    correction = timed("answer_s", lambda: answers.answer(session, request, version))
    timed("undo_s", lambda: answers.undo_correction(session, correction.seq, "a benchmark"))
    session.close()
    lake = session.context.lake
    return figures | {
        "faces": lake["faces"].snapshot().rows,
        "identities": stats.num_rows,
        "questions": queue.total,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _time_browser(session: ReviewSession, names: Sequence[str]) -> dict[str, float]:
    """Return the seconds of the first and later pages of lists, of searches, and of one identity's faces over time."""
    page = partial(browser.browse, session)
    figures = {"first_list_s": _median([partial(page, browser.Listing.LARGEST)])}
    figures["list_s"] = _median([partial(page, browser.Listing.NEWEST, after=24 * n) for n in range(5)])
    figures["person_s"] = _median([partial(person.person, session, name) for name in names])
    image = person.person(session, names[0]).faces[0].image_id
    for listing, text in ((browser.Listing.PHOTO, image), (browser.Listing.SUBJECT, image.partition("/")[0])):
        figures[f"search_{listing}_s"] = _median([partial(page, listing, text)])
    return figures


def _median(works: Sequence[Callable[[], Any]]) -> float:
    took = []
    for work in works:
        began = time.monotonic()
        work()
        took.append(time.monotonic() - began)
    return round(float(np.median(took)), 3)
