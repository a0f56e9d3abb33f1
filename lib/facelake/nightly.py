"""A nightly run: the stages in order. Each is skipped when its input is unchanged; a killed run resumes."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from facelake.config import Config
from facelake.errors import ConfigError, LedgerMoved
from facelake.events import Listener, Notice, Tracker, fan_out, ignore_events, log_listener
from facelake.lake.corpora.detect import resolve_corpus
from facelake.lake.corpora.opening import OpenedCorpus
from facelake.lake.lease import Lease
from facelake.observe.observers import ObservedRun, configured_observers, observed
from facelake.partitions import must_be_one_lake
from facelake.stages.core.context import Context, StageResult
from facelake.stages.core.hash_keys import note_of_new_lake
from facelake.stages.core.outside import keys_must_be_outside
from facelake.stages.core.partition_names import create_lake, open_lake
from facelake.stages.models.registry import config_model_digest, find_card, load_pack, share_pack

# Stages are imported when they run: every command imports this module, and most need neither an engine nor numba.


def _admit(context: Context) -> StageResult:
    from facelake.stages.admission.admit import admit

    return admit(context)


def _embed(context: Context) -> StageResult:
    from facelake.stages.embedding.embed import embed

    return embed(context)


def _cluster(context: Context) -> StageResult:
    from facelake.stages.clustering.stage import cluster

    return cluster(context)


def _publish(context: Context) -> StageResult:
    from facelake.stages.gallery.analytics import analyse
    from facelake.stages.gallery.publish import publish

    result = publish(context)
    analyse(context)
    return result


def _report(context: Context) -> StageResult:
    from facelake.stages.reporting.report import report

    return report(context)


STAGES: dict[str, Callable[[Context], StageResult]] = {
    "admit": _admit,
    "embed": _embed,
    "cluster": _cluster,
    "publish": _publish,
    "report": _report,
}

_MAX_LEDGER_CHANGES = 5  # during one run; each makes admit decide again


@contextmanager
def writing(
    config: Config,
    purpose: str,
    emit: Listener = ignore_events,
    *,
    wait_s: float = 0.0,
    must_exist: bool = False,
    may_be_older: bool = False,
) -> Iterator[Context]:
    """Open a context for writing: probe the store, open or create the lake, hold its lease.

    Args:
        config: the checked config.
        purpose: what the lease is for, as `facelake status` shows it.
        emit: listener for progress events.
        wait_s: seconds to wait for another writer.
        must_exist: whether a missing lake is an error; otherwise it is created.
        may_be_older: whether a lake is opened that has lost something of what the copy of its ledger has.

    Raises:
        ConfigError: there is no lake, and it must exist; the config names no partition of several; or a key file is
            inside the lake.
        Refused: another process still writes the lake; or the store ignores conditional writes.
        Corrupt: the lake is older than the copy of its ledger.
    """
    from facelake.stages.admission.copied_ledger import compare_with_copy

    card = find_card(config.model.card)
    keys_must_be_outside(config)
    if must_exist:
        open_lake(config)
    note = None if must_exist else note_of_new_lake(config)
    lake = create_lake(config)
    if note:
        emit(Notice("lake", note))
    # to the millisecond: reports are named and ordered by it, and a small run takes less than a second
    run_id = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")[:-3] + "-" + uuid.uuid4().hex[:6]
    tracker = Tracker(run_id)
    emit = fan_out(emit, log_listener(run_id), tracker.listen)
    with Lease(lake.store, purpose, wait_s=wait_s, progress=tracker.state) as lease:
        if lease.taken_from:
            emit(Notice("lake", lease.taken_from.in_words()))
        if not may_be_older:
            compare_with_copy(lake, emit)
        yield Context(config, lake, run_id, emit, lease, model_digest=config_model_digest(config, card))


def reading(config: Config, emit: Listener = ignore_events) -> Context:
    """Open a context that only reads an existing lake.

    Raises:
        ConfigError: there is no lake.
    """
    card = find_card(config.model.card)
    lake = open_lake(config)
    return Context(config, lake, "read", emit, model_digest=config_model_digest(config, card))


def run_night(
    config: Config,
    emit: Listener = ignore_events,
    only: Sequence[str] = (),
    *,
    wait_s: float = 0.0,
    rebase: bool = False,
    accept_loss: bool = False,
) -> list[StageResult]:
    """Run all stages, or only some, in order. Committed work of a stage is kept if a later one fails.

    Args:
        config: the checked config.
        emit: listener for progress events.
        only: names of stages to run; empty: all. A report that is named is written even if nothing changed.
        wait_s: seconds to wait for another writer.
        rebase: run a full clustering; identities keep their ids as far as their faces stay together.
        accept_loss: go on although a large share of the admitted photos lost their basis.

    Raises:
        ConfigError: an unknown stage; the config names no impact assessment, no partition of several, or an observer
            whose extra is not installed.
        Refused: the model's reported training lineage includes a withdrawn dataset that the config does not accept.
    """
    from facelake.stages.admission.withdrawn_datasets import accepted_lineage
    from facelake.stages.erasure.stage import finish_erasures
    from facelake.stages.governance.processing_register import record_processing, require_assessment

    must_be_one_lake(config)
    unknown = [name for name in only if name not in STAGES]
    if unknown:
        raise ConfigError(f"no stage {unknown[0]!r}", where="--only", next_step=f"choose from {', '.join(STAGES)}")
    chosen = [name for name in STAGES if not only or name in only]
    if {"embed", "cluster", "publish"} & set(chosen) and "admit" not in chosen:
        chosen.insert(0, "admit")  # later stages must not use decisions of another purpose, ledger or day
    lineage = tuple(accepted_lineage(config, find_card(config.model.card)))
    open_lake(config)  # a mistyped lake fails here and is not created
    if "admit" in chosen:
        OpenedCorpus(resolve_corpus(config)).check_present()  # fails before anything is written if there is no corpus
    require_assessment(config)
    observers = configured_observers(config)
    with (
        writing(config, "nightly", emit, wait_s=wait_s, must_exist=True) as context,
        observed(context, observers) as run,
    ):
        context.lineage, context.rebase, context.accept_loss = lineage, rebase, accept_loss
        context.report_anyway = "report" in only
        context.signer()  # fails before any work
        finished = finish_erasures(context)
        if {"embed", "cluster"} & set(chosen):
            context.pack = load_pack(config)
            share_pack(context.pack, context.lake.store)
        results = [*finished, *_stages(context, chosen, run)]
        record_processing(context, results)
        return results


def _stages(context: Context, chosen: Sequence[str], run: ObservedRun) -> Iterator[StageResult]:
    """Run the stages in order; start over when the ledger changes before its decisions were used.

    Raises:
        LedgerMoved: the ledger kept changing.
    """
    from facelake.stages.embedding.embed import sweep
    from facelake.stages.gallery.purge import purge_after_sweep

    ledger_changes = 0
    remaining = list(chosen)
    while remaining:
        name = remaining.pop(0)
        try:
            with run.stage(name) as ended:
                if name in ("cluster", "publish"):
                    context.check_ledger()
                    if "embed" not in chosen:
                        sweep(context)
                result = STAGES[name](context)
                ended(result)
            yield result
        except LedgerMoved:
            ledger_changes += 1
            if ledger_changes > _MAX_LEDGER_CHANGES:
                raise
            context.now, remaining = datetime.now(UTC), list(chosen)
            continue
        if name == "publish":
            purge_after_sweep(context)
