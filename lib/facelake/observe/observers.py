"""The observers of a run. They cannot fail it: what they cannot send is reported as a notice."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from facelake.config import Config
from facelake.errors import ConfigError, LedgerMoved
from facelake.events import Notice
from facelake.extras import install_command
from facelake.observe.observer import Ending, Observer, Outcome
from facelake.stages.core.context import Context, StageResult

_MOST_FAILURES = 2  # after as many, an observer is no longer called in this run: each failure may take a timeout
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"  # the only protocol of this exporter, and the default of the standard
_TRACES_FROM_ENVIRONMENT = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class ObservedRun:
    """A run with its observers."""

    def __init__(self, context: Context, observers: list[Observer]) -> None:
        self._context, self._observers = context, observers
        self._failures: dict[str, int] = {}

    @contextmanager
    def stage(self, stage: str) -> Iterator[Callable[[StageResult], None]]:
        """Observe a stage; call what is yielded with its result."""
        results: list[StageResult] = []
        self.notify(lambda observer: observer.stage_started(stage))
        try:
            yield results.append
        except BaseException as err:
            ending = _ending_of(err)
            self.notify(lambda observer: observer.stage_ended(stage, ending))
            raise
        complete = Ending(Outcome.COMPLETE, results[-1] if results else None)
        self.notify(lambda observer: observer.stage_ended(stage, complete))

    def notify(self, call: Callable[[Observer], None]) -> None:
        """Call each observer that has not failed repeatedly."""
        for observer in self._observers:
            failures = self._failures.get(observer.name, 0)
            if failures >= _MOST_FAILURES:
                continue
            try:
                call(observer)
            except Exception as err:  # noqa: BLE001  clients of other systems raise errors of their own types
                self._failures[observer.name] = failures + 1
                reason = f"{type(err).__name__}: {err}".partition("\n")[0][:300]
                last = "; nothing more is sent in this run" if failures + 1 >= _MOST_FAILURES else ""
                self._context.emit(Notice(observer.name, f"the run could not be reported ({reason}){last}"))


@contextmanager
def observed(context: Context, observers: list[Observer]) -> Iterator[ObservedRun]:
    """Tell the observers that a run starts, and how it ends."""
    run = ObservedRun(context, observers)
    run.notify(lambda observer: observer.run_started(context))
    try:
        yield run
    except BaseException as err:
        ending = _ending_of(err)
        run.notify(lambda observer: observer.run_ended(ending))
        raise
    run.notify(lambda observer: observer.run_ended(Ending(Outcome.COMPLETE)))


def configured_observers(config: Config) -> list[Observer]:
    """Return the observers that the config or, for traces, the standard environment variables ask for.

    Raises:
        ConfigError: the config asks for one whose extra is not installed.
    """
    observers: list[Observer] = []
    if config.lineage.url or config.lineage.file:
        try:
            from facelake.observe.lineage import LineageObserver
        except ModuleNotFoundError as err:
            raise _missing("lineage", err) from err
        observers.append(LineageObserver(config.lineage))
    if config.tracing.endpoint or _traces_from_environment():
        try:
            from facelake.observe.tracing import TracingObserver, otlp_exporter
        except ModuleNotFoundError as err:
            if config.tracing.endpoint:
                raise _missing("tracing", err) from err
            return observers  # the variables may be meant for other programs of this host
        observers.append(TracingObserver(otlp_exporter(config.tracing)))
    return observers


def _traces_from_environment() -> bool:
    """Return whether the environment names an OTLP/HTTP endpoint, and does not switch traces off."""
    switched_off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    other = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    protocols = (os.environ.get(name) for name in _PROTOCOLS)
    protocol = next((name for name in protocols if name), _HTTP)
    named = any(os.environ.get(name) for name in _TRACES_FROM_ENVIRONMENT)
    return named and protocol == _HTTP and not (switched_off or other)


def _ending_of(err: BaseException) -> Ending:
    outcome = Outcome.STARTED_OVER if isinstance(err, LedgerMoved) else Outcome.FAILED
    return Ending(outcome, error=type(err).__name__)


def _missing(extra: str, err: ModuleNotFoundError) -> ConfigError:
    what = f"section {extra} of the config needs {err.name}, which is not installed"
    return ConfigError(what, where=extra, next_step=f"run {install_command(extra)}")
