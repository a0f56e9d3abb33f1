"""OpenTelemetry traces of a run: one span for the run, and one under it for each stage.

A span has the run id, the counters of its stage and the class of an error. No photo, person, reason or error text is in
it. The global tracer provider is not touched, as Ray and other libraries may use it.
"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from facelake.config import TracingSection
from facelake.observe.observer import VERSION, Ending, Outcome
from facelake.stages.core.context import Context

_TIMEOUT_S = 5
_TRACES_PATH = "/v1/traces"


class _Kept(SpanExporter):
    """Keeps the few spans of a run until it ends, so that no stage waits for the endpoint."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep spans that ended."""
        self.spans += spans
        return SpanExportResult.SUCCESS


class TracingObserver:
    """Makes the spans of a run, and exports them when it ends."""

    name = "tracing"

    def __init__(self, exporter: SpanExporter) -> None:
        """Prepare a tracer of its own; nothing is sent yet."""
        self._exporter, self._kept = exporter, _Kept()
        resource = Resource.create({SERVICE_NAME: "facelake", SERVICE_VERSION: VERSION})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self._tracer = self._provider.get_tracer("facelake", VERSION)
        self._run: Span | None = None
        self._stage: Span | None = None

    def run_started(self, context: Context) -> None:
        """Start the span of the run."""
        attributes = {"facelake.run_id": context.run_id, "facelake.lake": context.lake.name}
        self._run = self._tracer.start_span("facelake nightly", attributes=attributes)

    def stage_started(self, stage: str) -> None:
        """Start the span of a stage, under that of the run."""
        parent = set_span_in_context(self._run) if self._run else None
        self._stage = self._tracer.start_span(f"facelake {stage}", parent, attributes={"facelake.stage": stage})

    def stage_ended(self, stage: str, ending: Ending) -> None:
        """End the span of the stage, with its counters."""
        if self._stage is None:
            return
        if ending.result:
            self._stage.set_attribute("facelake.skipped", ending.result.skipped)
            for name, count in ending.result.counts.items():
                self._stage.set_attribute(f"facelake.count.{name}", int(count))
        _end(self._stage, ending)
        self._stage = None

    def run_ended(self, ending: Ending) -> None:
        """End the span of the run, and export all spans.

        Raises:
            RuntimeError: the exporter did not deliver them.
        """
        if self._run is not None:
            _end(self._run, ending)
        try:
            if self._exporter.export(self._kept.spans) is not SpanExportResult.SUCCESS:
                raise RuntimeError("the OTLP endpoint did not accept the spans")
        finally:
            self._exporter.shutdown()
            self._provider.shutdown()


def otlp_exporter(config: TracingSection) -> SpanExporter:
    """Return the exporter to the endpoint of the config, else to that of the standard environment variables."""
    if config.endpoint is None:
        return OTLPSpanExporter(timeout=_TIMEOUT_S)
    return OTLPSpanExporter(endpoint=config.endpoint.rstrip("/") + _TRACES_PATH, timeout=_TIMEOUT_S)


def _end(span: Span, ending: Ending) -> None:
    span.set_attribute("facelake.outcome", str(ending.outcome))
    if ending.outcome is Outcome.COMPLETE:
        span.set_status(Status(StatusCode.OK))
    else:
        span.set_attribute("error.type", ending.error or "")
        span.set_status(Status(StatusCode.ERROR))
    span.end()
