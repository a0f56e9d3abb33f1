"""OpenLineage events and OpenTelemetry traces of real runs: received, parsed, and free of personal data."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    dataset_version_dataset,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    output_statistics_output_dataset,
    parent_run,
    processing_engine_run,
    schema_dataset,
    storage_dataset,
)
from openlineage.client.serde import Serde
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from facelake import nightly
from facelake.config import Config, LineageSection, TracingSection, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, LedgerMoved, Refused
from facelake.events import Event, Notice
from facelake.lake.lake import Lake
from facelake.nightly import run_night
from facelake.observe import observers
from facelake.observe.lineage import API_KEY, STAGE_TABLES, StageFacet, dataset_name
from facelake.observe.observer import Ending, Outcome
from facelake.observe.tracing import TracingObserver
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.context import Context, StageResult

SECRET = "the-key-of-the-lineage-server"


FACETS: dict[str, Any] = {
    "errorMessage": error_message_run.ErrorMessageRunFacet,
    "facelake_stage": StageFacet,
    "inputStatistics": input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "jobType": job_type_job.JobTypeJobFacet,
    "outputStatistics": output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "parent": parent_run.ParentRunFacet,
    "processing_engine": processing_engine_run.ProcessingEngineRunFacet,
    "schema": schema_dataset.SchemaDatasetFacet,
    "storage": storage_dataset.StorageDatasetFacet,
    "version": dataset_version_dataset.DatasetVersionDatasetFacet,
}


@dataclass(slots=True)
class Received:
    """A local server that keeps what it is sent."""

    url: str = ""
    status: int = 201
    bodies: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(body) for path, _, body in self.bodies if path == "/api/v1/lineage"]


@pytest.fixture
def endpoint() -> Iterator[Received]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.bodies.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(received.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    received.url = f"http://127.0.0.1:{server.server_port}"
    yield received
    server.shutdown()
    server.server_close()


def configured(config: Config, **sections: Any) -> Config:
    return config.model_copy(update=sections)


def withdraw(config: Config, source: str) -> None:
    record(Lake.open(config.lake), [Entry(EventKind.WITHDRAW, Scope.SOURCE, source)])


def check_facets(facets: dict[str, Any]) -> None:
    """Parse facets with the classes of the OpenLineage client; they refuse unknown fields."""
    for name, facet in facets.items():
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/"), name
        assert facet["_producer"].startswith("urn:facelake:"), name
        fields = {key: value for key, value in facet.items() if not key.startswith("_")}
        if name == "parent":
            fields = {"run": parent_run.Run(**fields["run"]), "job": parent_run.Job(**fields["job"])}
        FACETS[name](**fields)


def parsed(event: dict[str, Any]) -> RunEvent:
    """Parse an event with the classes of the OpenLineage client, which check times, ids and addresses."""
    for part in (event["run"], event["job"], *event["inputs"], *event["outputs"]):
        check_facets({**part.get("facets", {}), **part.get("inputFacets", {}), **part.get("outputFacets", {})})
    fields = {name: event[name] for name in ("eventTime", "producer")}
    made = RunEvent(
        **fields,
        eventType=RunState(event["eventType"]),
        run=Run(runId=event["run"]["runId"]),
        job=Job(namespace=event["job"]["namespace"], name=event["job"]["name"]),
        inputs=[InputDataset(namespace=item["namespace"], name=item["name"]) for item in event["inputs"]],
        outputs=[OutputDataset(namespace=item["namespace"], name=item["name"]) for item in event["outputs"]],
    )
    assert json.loads(Serde.to_json(made))["schemaURL"] == event["schemaURL"]
    return made


def by_job(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    jobs: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        jobs.setdefault(event["job"]["name"], []).append(event)
    return jobs


# ---- OpenLineage


def test_a_run_sends_its_stages_tables_versions_and_rows(
    demo_config: Config, endpoint: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY, SECRET)
    lake = Lake.open(demo_config.lake)
    before = {name: lake[name].snapshot() for name in ("faces", "admissions", "identities")}
    results = run_night(configured(demo_config, lineage=LineageSection(url=endpoint.url)))
    assert {path for path, _, _ in endpoint.bodies} == {"/api/v1/lineage"}
    assert {headers["authorization"] for _, headers, _ in endpoint.bodies} == {f"Bearer {SECRET}"}
    jobs = by_job(endpoint.events())
    assert {name: [event["eventType"] for event in events] for name, events in jobs.items()} == {
        name: ["START", "COMPLETE"] for name in ("nightly", *(f"nightly.{stage}" for stage in STAGE_TABLES))
    }
    for event in endpoint.events():
        parsed(event)
    run_id = jobs["nightly"][0]["run"]["runId"]
    assert {len({event["run"]["runId"] for event in events}) for events in jobs.values()} == {1}
    stages = [event for name, events in jobs.items() if name != "nightly" for event in events]
    assert {event["run"]["facets"]["parent"]["run"]["runId"] for event in stages} == {run_id}
    [_, end] = jobs["nightly.embed"]
    inputs = {Path(item["name"]).name: item for item in end["inputs"]}
    assert inputs["admissions"]["inputFacets"]["inputStatistics"]["rowCount"] == before["admissions"].rows
    assert inputs["admissions"]["facets"]["version"]["datasetVersion"] == str(before["admissions"].version)
    assert inputs["admissions"]["namespace"] == "file"
    assert inputs["admissions"]["name"] == f"{demo_config.lake}/admissions"
    outputs = {Path(item["name"]).name: item for item in end["outputs"]}
    assert outputs["faces"]["outputFacets"]["outputStatistics"]["rowCount"] == 0  # nothing was new
    counts = next(result.counts for result in results if result.stage == "embed")
    facet = end["run"]["facets"]["facelake_stage"]
    assert (facet["skipped"], facet["counts"]) == (True, dict(counts))


def test_events_name_the_rows_that_a_stage_wrote(demo_config: Config, tmp_path: Path) -> None:
    """After a withdrawal, admit writes its decisions again, publish a new gallery version."""
    withdraw(demo_config, source_of(demo_config))
    target = tmp_path / "events" / "lineage.ndjson"
    config = configured(demo_config, lineage=LineageSection(file=str(target)))
    run_night(config, only=["admit"], accept_loss=True)
    events = [json.loads(line) for line in target.read_text().splitlines()]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    end = by_job(events)["nightly.admit"][-1]
    lake = Lake.open(demo_config.lake)
    written = {Path(item["name"]).name: item for item in end["outputs"]}["admissions"]
    assert written["facets"]["version"]["datasetVersion"] == str(lake["admissions"].version())
    assert 0 < written["outputFacets"]["outputStatistics"]["rowCount"] <= lake["admissions"].snapshot().rows
    run_night(config, only=["admit"], accept_loss=True)
    assert len(target.read_text().splitlines()) == 2 * len(events)  # later runs append


def source_of(config: Config) -> str:
    sources = Lake.open(config.lake)["admissions"].read(["source_id", "admitted"]).to_pylist()
    return next(str(row["source_id"]) for row in sources if row["admitted"])


def test_events_have_no_personal_data_and_no_secrets(
    demo_config: Config, endpoint: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(API_KEY, SECRET)

    def refused(context: Context) -> StageResult:
        raise Refused("the photo of Jane Doe is damaged", where="album/jane-doe.jpg", next_step="look at it")

    monkeypatch.setitem(nightly.STAGES, "report", refused)
    with pytest.raises(Refused):
        run_night(configured(demo_config, lineage=LineageSection(url=endpoint.url)))
    text = "".join(body.decode() for _, _, body in endpoint.bodies)
    assert SECRET not in text
    assert "jane" not in text.lower()
    admissions = Lake.open(demo_config.lake)["admissions"].read(["image_id", "subject_ref", "source_id"]).to_pylist()
    names = {value for row in admissions for value in row.values() if value and len(value) > 4}
    assert [name for name in names if f'"{name}"' in text] == []
    assert "album/person" not in text
    jobs = by_job(endpoint.events())
    assert [event["eventType"] for event in jobs["nightly.report"]] == ["START", "FAIL"]
    assert [event["eventType"] for event in jobs["nightly"]] == ["START", "FAIL"]
    assert jobs["nightly.report"][-1]["run"]["facets"]["errorMessage"]["message"] == "Refused"
    assert jobs["nightly.report"][-1]["outputs"] == []


def test_a_stage_that_starts_over_is_another_run_of_its_job(
    demo_config: Config, endpoint: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    admit, calls = nightly.STAGES["admit"], []

    def moved_once(context: Context) -> StageResult:
        calls.append(1)
        if len(calls) == 1:
            raise LedgerMoved("the ledger changed", where="ledger", next_step="run again")
        return admit(context)

    monkeypatch.setitem(nightly.STAGES, "admit", moved_once)
    run_night(configured(demo_config, lineage=LineageSection(url=endpoint.url)), only=["admit"])
    events = by_job(endpoint.events())["nightly.admit"]
    assert [event["eventType"] for event in events] == ["START", "ABORT", "START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in events}) == 2


@pytest.mark.parametrize("status", [500, 401])
def test_a_failing_endpoint_fails_no_run_and_is_reported(demo_config: Config, endpoint: Received, status: int) -> None:
    endpoint.status = status
    events: list[Event] = []
    sections = {"lineage": LineageSection(url=endpoint.url), "tracing": TracingSection(endpoint=endpoint.url)}
    results = run_night(configured(demo_config, **sections), events.append, only=["admit"])
    assert [result.stage for result in results] == ["admit"]
    notices = [event for event in events if isinstance(event, Notice) and event.stage in ("lineage", "tracing")]
    assert [notice.stage for notice in notices] == ["lineage", "lineage", "tracing"]
    assert "nothing more is sent in this run" in notices[1].text
    assert len(endpoint.events()) == 2


def test_an_unreachable_endpoint_and_file_fail_no_run(demo_config: Config) -> None:
    events: list[Event] = []
    sections = {
        "lineage": LineageSection(url="http://127.0.0.1:9"),
        "tracing": TracingSection(endpoint="http://127.0.0.1:9"),
    }
    run_night(configured(demo_config, **sections), events.append, only=["admit"])
    blocked = LineageSection(file=f"{demo_config.lake}/lake.json/events")
    run_night(configured(demo_config, lineage=blocked), events.append, only=["admit"])
    assert {event.stage for event in events if isinstance(event, Notice)} >= {"lineage", "tracing"}


def test_data_sets_are_named_as_openlineage_names_them() -> None:
    assert dataset_name("s3://bucket/a/b") == ("s3://bucket", "a/b")
    assert dataset_name("/data/lake") == ("file", "/data/lake")


def test_the_stages_are_those_of_a_run() -> None:
    assert list(STAGE_TABLES) == list(nightly.STAGES)


# ---- OpenTelemetry


def test_a_run_is_one_trace_with_a_span_per_stage(demo_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = InMemorySpanExporter()
    monkeypatch.setattr(memory, "shutdown", lambda: None)  # which would forget the spans
    monkeypatch.setattr(observers, "configured_observers", lambda config: [TracingObserver(memory)])
    monkeypatch.setattr(nightly, "configured_observers", observers.configured_observers)
    results = run_night(demo_config, only=["admit", "report"])
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert list(spans) == ["facelake admit", "facelake report", "facelake nightly"]
    root = spans.pop("facelake nightly")
    assert root.parent is None
    assert {span.parent.span_id for span in spans.values() if span.parent} == {root.context.span_id}
    assert {span.context.trace_id for span in spans.values()} == {root.context.trace_id}
    counts = {name.removeprefix("facelake.count."): value for name, value in spans["facelake admit"].attributes.items()
              if name.startswith("facelake.count.")}  # fmt: skip
    assert counts == dict(results[0].counts)
    assert root.resource.attributes["service.name"] == "facelake"
    assert all(span.end_time >= span.start_time for span in spans.values())


def test_a_failed_stage_is_an_error_without_its_text() -> None:
    memory = InMemorySpanExporter()
    observer = TracingObserver(memory)
    observer.stage_started("embed")
    observer.stage_ended("embed", Ending(Outcome.FAILED, error="Refused"))
    [span] = observer._kept.spans
    assert span.status.status_code.name == "ERROR"
    assert span.status.description is None
    assert span.attributes == {"facelake.stage": "embed", "facelake.outcome": "failed", "error.type": "Refused"}
    assert span.events == ()


@pytest.mark.parametrize("by", ["config", "environment"])
def test_spans_reach_an_otlp_endpoint(
    demo_config: Config, endpoint: Received, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    endpoint.status = 200
    if by == "environment":
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.url)
        config = demo_config
    else:
        config = configured(demo_config, tracing=TracingSection(endpoint=endpoint.url))
    run_night(config, only=["admit"])
    [(path, _, body)] = endpoint.bodies
    assert path == "/v1/traces"
    request = ExportTraceServiceRequest.FromString(body)
    names = [span.name for part in request.resource_spans for scope in part.scope_spans for span in scope.spans]
    assert names == ["facelake admit", "facelake nightly"]


# ---- nothing unless it is configured


def test_nothing_is_sent_unless_it_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in observers._TRACES_FROM_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    assert observers.configured_observers(load_config()) == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    assert [observer.name for observer in observers.configured_observers(load_config())] == ["tracing"]
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")  # the endpoint does not understand HTTP
    assert observers.configured_observers(load_config()) == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    assert len(observers.configured_observers(load_config())) == 1
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert observers.configured_observers(load_config()) == []


@pytest.mark.parametrize(("section", "key"), [("lineage", "url"), ("tracing", "endpoint")])
def test_a_missing_extra_is_reported_before_the_run(monkeypatch: pytest.MonkeyPatch, section: str, key: str) -> None:
    package = {"lineage": "openlineage", "tracing": "opentelemetry"}[section]
    for name in [name for name in sys.modules if name.startswith((f"{package}.", f"facelake.observe.{section}"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    kind = {"lineage": LineageSection, "tracing": TracingSection}[section]
    config = configured(load_config(), **{section: kind.model_validate({key: "http://localhost:1"})})
    with pytest.raises(ConfigError, match=rf"needs {package}") as err:
        observers.configured_observers(config)
    assert f"-e '.[{section}]'" in err.value.next_step


@pytest.mark.parametrize("url", ["http://user:key@host", "https://host/?key=1", "ftp://host", "host"])
def test_addresses_with_secrets_or_of_other_kinds_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"credentials|pattern"):
        LineageSection(url=url)
    with pytest.raises(ValueError, match=r"credentials|pattern"):
        TracingSection(endpoint=url)


def test_a_run_without_observers_imports_neither_library() -> None:
    code = "import sys, facelake.nightly, facelake.observe.observers as o; from facelake.config import load_config; "
    code += "o.configured_observers(load_config()); "
    code += "print([n for n in sys.modules if n.split('.')[0] in ('openlineage', 'opentelemetry')])"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
