"""OpenLineage events of a run: its stages with the tables that they read and write, their versions and row counts.

The events name tables, versions, counts and the class of an error. No photo, person, reason or error text is in them.
Specification: https://openlineage.io/spec/2-0-2/OpenLineage.json
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import attr
from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.facet_v2 import (
    DatasetFacet,
    JobFacet,
    RunFacet,
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
from openlineage.client.transport.file import FileConfig, FileTransport
from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider
from openlineage.client.transport.transport import Transport

from facelake.config import LineageSection
from facelake.contracts import TABLES
from facelake.lake.tables import Snapshot
from facelake.observe.observer import VERSION, Ending, Outcome
from facelake.stages.core.context import Context

API_KEY = "OPENLINEAGE_API_KEY"
"""Environment variable with the key that is sent to the endpoint; the one that OpenLineage's own clients read."""
_PRODUCER = f"urn:facelake:{VERSION}"
_RUN = "nightly"
_CORPUS = "corpus"
STAGE_TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "admit": ((_CORPUS, "ledger", "images"), ("images", "admissions")),
    "embed": ((_CORPUS, "images", "admissions", "corrections"), ("faces", "rejects", "chunks")),
    "cluster": (("faces", "corrections"), ("groups",)),
    "publish": (
        ("faces", "groups", "admissions", "ledger", "corrections"),
        ("identities", "memberships", "changes", "galleries", "identity_stats", "reviews", "drift"),
    ),
    "report": (
        ("admissions", "faces", "rejects", "identities", "memberships", "changes", "galleries", "drift", "runs"),
        (),
    ),
}
"""tables that each stage reads and writes"""
_STATE = {Outcome.COMPLETE: RunState.COMPLETE, Outcome.FAILED: RunState.FAIL, Outcome.STARTED_OVER: RunState.ABORT}


@attr.define
class StageFacet(RunFacet):
    """Run facet `facelake_stage`: the counters of a stage, as in table `runs`."""

    skipped: bool = attr.field(default=False)
    """the input was unchanged, and nothing was written"""
    counts: dict[str, int] = attr.field(factory=dict)


class LineageObserver:
    """Sends an event when a run or stage starts and when it ends."""

    name = "lineage"

    def __init__(self, config: LineageSection) -> None:
        """Prepare the transport; nothing is sent yet."""
        self._config, self._namespace = config, config.namespace
        self._transport: Transport | None = None
        self._context: Context | None = None
        self._before: dict[str, Snapshot] = {}
        self._attempts: dict[str, int] = {}

    def run_started(self, context: Context) -> None:
        """Send the start of the run."""
        self._context = context
        self._send(RunState.START, None)

    def stage_started(self, stage: str) -> None:
        """Send the start of a stage, with the versions of the tables that it reads."""
        self._attempts[stage] = self._attempts.get(stage, 0) + 1
        reads, writes = STAGE_TABLES[stage]
        lake = self._of_run().lake
        self._before = {name: lake[name].snapshot() for name in {*reads, *writes} - {_CORPUS}}
        self._send(RunState.START, stage, inputs=self._inputs(reads))

    def stage_ended(self, stage: str, ending: Ending) -> None:
        """Send the end of a stage, with the versions of the tables that it wrote and the rows that it added."""
        reads, writes = STAGE_TABLES[stage]
        complete = ending.outcome is Outcome.COMPLETE
        outputs = [item for name in writes if (item := self._output(name))] if complete else []
        facets: dict[str, RunFacet] = {}
        if ending.result:
            counts = {name: int(count) for name, count in ending.result.counts.items()}
            facets["facelake_stage"] = StageFacet(skipped=ending.result.skipped, counts=counts, producer=_PRODUCER)
        self._send(_STATE[ending.outcome], stage, self._inputs(reads), outputs, facets | _error(ending))

    def run_ended(self, ending: Ending) -> None:
        """Send the end of the run."""
        try:
            self._send(_STATE[ending.outcome], None, facets=_error(ending))
        finally:
            if self._transport:
                self._transport.close()

    # ---- events

    def _of_run(self) -> Context:
        if self._context is None:
            raise RuntimeError("the start of the run was not observed")
        return self._context

    def _run_id(self, stage: str | None) -> str:
        context = self._of_run()
        attempt = self._attempts.get(stage, 0) if stage else 0
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{context.lake.name}/{context.run_id}/{stage or _RUN}/{attempt}"))

    def _send(
        self,
        state: RunState,
        stage: str | None,
        inputs: list[InputDataset] | None = None,
        outputs: list[OutputDataset] | None = None,
        facets: dict[str, RunFacet] | None = None,
    ) -> None:
        run_facets: dict[str, RunFacet] = {
            "processing_engine": processing_engine_run.ProcessingEngineRunFacet(
                version=VERSION, name="facelake", producer=_PRODUCER
            )
        }
        if stage:
            run_facets["parent"] = parent_run.ParentRunFacet(
                run=parent_run.Run(runId=self._run_id(None)),
                job=parent_run.Job(namespace=self._namespace, name=_RUN),
                producer=_PRODUCER,
            )
        kind = job_type_job.JobTypeJobFacet(
            processingType="BATCH", integration="FACELAKE", jobType="STAGE" if stage else "RUN", producer=_PRODUCER
        )
        job_facets: dict[str, JobFacet] = {"jobType": kind}
        event = RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            producer=_PRODUCER,
            eventType=state,
            run=Run(runId=self._run_id(stage), facets=run_facets | (facets or {})),
            job=Job(namespace=self._namespace, name=f"{_RUN}.{stage}" if stage else _RUN, facets=job_facets),
            inputs=list(inputs or []),
            outputs=list(outputs or []),
        )
        if self._transport is None:
            self._transport = _transport(self._config)
        self._transport.emit(event)

    # ---- data sets

    def _inputs(self, reads: tuple[str, ...]) -> list[InputDataset]:
        inputs = []
        for name in reads:
            if name == _CORPUS:
                namespace, path = dataset_name(self._of_run().config.corpus_uri)
                inputs.append(InputDataset(namespace=namespace, name=path))
                continue
            snapshot = self._before.get(name)
            if snapshot is None or snapshot.version < 0:
                continue
            rows = input_statistics_input_dataset.InputStatisticsInputDatasetFacet(
                rowCount=snapshot.rows, fileCount=len(snapshot.files), producer=_PRODUCER
            )
            namespace, path = self._table(name)
            facets = _table_facets(name, snapshot)
            inputs.append(
                InputDataset(namespace=namespace, name=path, facets=facets, inputFacets={"inputStatistics": rows})
            )
        return inputs

    def _output(self, name: str) -> OutputDataset | None:
        """Return a table as it is now, with the rows of the files that were added since the stage started."""
        snapshot = self._of_run().lake[name].snapshot()
        if snapshot.version < 0:
            return None
        before = set(self._before[name].files) if name in self._before else set()
        added = [file for file in snapshot.files if file not in before]
        written = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
            rowCount=sum(file.rows for file in added),
            size=sum(file.size_bytes for file in added),
            fileCount=len(added),
            producer=_PRODUCER,
        )
        namespace, path = self._table(name)
        facets = _table_facets(name, snapshot)
        return OutputDataset(namespace=namespace, name=path, facets=facets, outputFacets={"outputStatistics": written})

    def _table(self, name: str) -> tuple[str, str]:
        namespace, path = dataset_name(self._of_run().lake.uri)
        return namespace, f"{path}/{name}"


def dataset_name(uri: str) -> tuple[str, str]:
    """Return the namespace and name of a location, after OpenLineage's naming of data sets."""
    parts = urlsplit(uri)
    if parts.scheme and parts.netloc:
        return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"
    return "file", str(Path(uri).absolute())


def _table_facets(name: str, snapshot: Snapshot) -> dict[str, DatasetFacet]:
    fields = [schema_dataset.SchemaDatasetFacetFields(name=field.name, type=str(field.type)) for field in TABLES[name]]
    return {
        "version": dataset_version_dataset.DatasetVersionDatasetFacet(
            datasetVersion=str(snapshot.version), producer=_PRODUCER
        ),
        "storage": storage_dataset.StorageDatasetFacet(storageLayer="delta", fileFormat="parquet", producer=_PRODUCER),
        "schema": schema_dataset.SchemaDatasetFacet(fields=fields, producer=_PRODUCER),
    }


def _error(ending: Ending) -> dict[str, RunFacet]:
    """Return the facet with the class of an error; its text may contain names of photos or people."""
    if ending.error is None:
        return {}
    facet = error_message_run.ErrorMessageRunFacet(
        message=ending.error, programmingLanguage="python", producer=_PRODUCER
    )
    return {"errorMessage": facet}


def _transport(config: LineageSection) -> Transport:
    """Return the transport. OpenLineage's own client is not used: it would also read config files and environment
    variables that this config does not name.
    """
    if config.url:
        key = os.environ.get(API_KEY)
        auth = ApiKeyTokenProvider({"api_key": key}) if key else TokenProvider({})
        once = {"total": 1, "read": 0, "connect": 1, "backoff_factor": 0.3, "status_forcelist": [502, 503, 504]}
        retry = once | {"allowed_methods": ["POST"]}
        return HttpTransport(HttpConfig(url=config.url, timeout=config.timeout_s, auth=auth, retry=retry))
    path = Path(config.file or "").expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600))
    return FileTransport(FileConfig(log_file_path=str(path), append=True))
