"""The keys of the configuration, by section, with their defaults and descriptions."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from facelake.contracts import reference
from facelake.corpus_config import CorpusSection, Section, location

_LOCAL_SCRATCH_BYTES = 16 * 2**30  # share of one local disk that leaves room for the corpus and intermediate files


class ModelSection(Section):
    """Which model pack embeds the faces."""

    card: str = Field("opencv", description="name in conf/models, or path of a model card")
    cache: str = Field("~/.cache/facelake", description="where fetched model files are kept")
    accept_license: Literal["non-commercial"] | None = Field(
        None, description="required for models whose card declares non-commercial terms"
    )
    accept_lineage: dict[str, str] | None = Field(
        None,
        description="withdrawn data sets accepted in the model's reported training lineage, each with a reason; "
        "null: those in conf/models/opencv.yaml, for that card only",
    )

    @field_validator("accept_lineage")
    @classmethod
    def _with_reasons(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if empty := [name for name, why in (value or {}).items() if not why.strip()]:
            raise ValueError(f"{empty[0]} is accepted without a reason")
        return value


class EmbedSection(Section):
    """Decoding, face detection, alignment and encoding."""

    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="embed workers (Ray actors); auto: as many as the cluster can start now"
    )
    max_actors: int | None = Field(
        None, ge=1, description="upper limit of workers while photos wait, on an autoscaling cluster; null: as `actors`"
    )
    decoders: int = Field(
        0, ge=0, le=64, description="decoder processes per worker, one core each; 0: the worker decodes"
    )
    chunk_rows: int = Field(128, ge=1, le=65536, description="corpus rows per chunk, which is committed as a unit")
    commit_every_chunks: int = Field(8, ge=1, description="chunks per Delta commit")
    batch_photos: int = Field(16, ge=1, le=256, description="photos per detection batch; 64 for a GPU")
    batch_faces: int = Field(8, ge=1, le=1024, description="aligned faces per encoder call")
    min_det_score: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="detector score below which a detection is dropped; null: the value of the model card",
    )
    decode_px: int = Field(
        1280,
        ge=0,
        description="JPEGs are decoded at 1/2, 1/4 or 1/8 scale if the longer side keeps this many pixels; 0: full "
        "size",
    )
    min_face_px: int = Field(24, ge=1, description="least shorter side of a face box, in pixels of the full photo")
    max_pixels: int = Field(
        64_000_000,
        ge=1,
        description="photos with more pixels are rejected before decoding; limit for JPEG, other formats are "
        "weighted higher",
    )
    max_bytes: int = Field(64 << 20, ge=1, description="encoded photos with more bytes are rejected unread")
    max_decode_s: float = Field(10.0, gt=0, description="photos that take longer to decode are rejected")
    max_attempts: int = Field(
        2, ge=1, description="attempts of a chunk before it is split to isolate the failing image"
    )
    further_looks: bool = Field(
        True,
        description="search photos again where one look is not enough: tiles of crowds and panoramas, photos turned "
        "by a quarter, dark photos brightened; changes the model digest, because more faces are found",
    )
    runtime: Literal["auto", "onnxruntime", "openvino", "tensorrt", "torch"] = Field(
        "auto",
        description="inference runtime; auto: per network the fastest that the worker's host has, by a short "
        "measurement; another value is obeyed, or refused where the host lacks it",
    )
    precision: Literal["float32", "bf16", "int8"] | None = Field(
        None,
        description="of the encoder, as the processor computes it natively; null: that of the card's file; bf16 "
        "changes the model digest, int8 needs a card of `facelake models int8`",
    )
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="device of the networks: cpu, cuda, cuda:1")
    half_precision: bool = Field(False, description="torch only; changes the model digest, because embeddings differ")
    nvjpeg: bool = Field(
        False,
        description="torch on cuda only: baseline JPEGs are decoded on the GPU; changes the model digest, because "
        "pixels differ",
    )
    use_gpu: bool = Field(False, description="request a GPU per actor from Ray")
    workers_per_gpu: int = Field(
        1, ge=1, le=16, description="actors per GPU; several overlap their CPU work with each other's GPU work"
    )

    @model_validator(mode="after")
    def _consistent(self) -> EmbedSection:
        if self.half_precision and self.precision in ("bf16", "int8"):
            raise ValueError("half_precision and precision are mutually exclusive: bf16 and int8 are for CPUs")
        if self.nvjpeg and not (self.runtime == "torch" and self.device.startswith("cuda")):
            raise ValueError("nvjpeg needs runtime torch and device cuda")
        if self.nvjpeg and self.decoders:
            raise ValueError(
                "nvjpeg and decoders are mutually exclusive: photos are decoded on the GPU or by processes"
            )
        if self.use_gpu and ":" in self.device:
            raise ValueError("with use_gpu each worker sees its own GPU only: set device to cuda, without a number")
        if self.device != "cpu" and not self.use_gpu and self.actors == "auto":
            raise ValueError(
                "one worker per core would overload the GPU: set use_gpu to true, or set actors to a number"
            )
        return self


class PlanSection(Section):
    """The cost limit of embed."""

    nodes: int = Field(1, ge=1, description="hosts that embed runs on")
    cores_per_node: int = Field(2, ge=1, description="cores per host; one worker per core")
    price_per_node_hour: float | None = Field(None, gt=0, description="in your currency")
    budget: float | None = Field(
        None, ge=0, description="embed is refused if its projected cost is higher; needs price_per_node_hour"
    )


class RaySection(Section):
    """The Ray cluster that embed runs on."""

    address: str | None = Field(
        None, description="null: start a local Ray; auto: the cluster of this host; or head:6379"
    )
    num_cpus: int | None = Field(None, ge=1, description="cores of the local Ray; null: all")
    object_store_mb: int = Field(256, ge=80, description="object store of the local Ray, MiB")
    one_process_below: int = Field(
        200,
        ge=0,
        description="below this many photos no local Ray is started: one worker process embeds them, with equal "
        "results; not where `embed` names actors, decoders or a GPU",
    )


class SparkSection(Section):
    """The Spark master that cluster runs on."""

    master: str = Field("local[*,3]", description="local[N] or local[N,attempts], spark://host:port, k8s://..., yarn")
    driver_memory: str = Field("2g", description="JVM heap of the driver")
    partitions: int = Field(0, ge=0, description="0: derived from the data size")
    in_process_below: int = Field(
        50_000,
        ge=0,
        description="below this many faces no local master is started: this process clusters, with equal results; "
        "publish starts one when it reads eight times as many, admission (also on a cluster) for 100 times as many "
        "photos, the scan of an erasure when the lake has as many faces and 100 KB times as many bytes",
    )
    scratch_gb: float | None = Field(
        None,
        gt=0,
        description="GiB of vectors in transit between workers at once; more are sent in several waves, with equal "
        "results; "
        "null: 16 under a local master, no limit on a cluster",
    )
    conf: dict[str, str] = Field(default_factory=dict, description="passed to Spark unchanged")

    @property
    def scratch_bytes(self) -> float:
        """Limit of the vectors in transit between workers, in bytes."""
        if self.scratch_gb is None:
            return _LOCAL_SCRATCH_BYTES if self.master.startswith("local") else math.inf
        return self.scratch_gb * 2**30


class ClusterSection(Section):
    """Neighbour search, edges and groups."""

    neighbours: int = Field(32, ge=1, le=1024, description="k of the neighbour search")
    threshold: float | None = Field(
        None, gt=-1, lt=1, description="cosine above which two faces may be linked; null: calibrated"
    )
    exact_below: int = Field(10_000, ge=1, description="faces up to which the neighbour search is exact")
    probes: int = Field(5, ge=1, le=64, description="nprobe: inverted lists that are searched for each face")
    list_size: int = Field(70, ge=8, description="faces per inverted list of the approximate search")
    deep_cells: int = Field(
        8,
        ge=0,
        description="second-pass search: cells of 12,000 faces searched exhaustively for each face without neighbours",
    )
    min_quality: float = Field(0.0, ge=0, le=1, description="faces of lower quality are not clustered")
    seed: int = Field(
        0, ge=0, description="seed of sampling and clustering; equal faces, settings and seed give equal groups"
    )


class GallerySection(Section):
    """Identities across nightly runs."""

    partition_by: Literal["source_id"] | None = Field(
        None,
        description="a lake of its own for each source, below `<lake>/partitions`: people of different sources are "
        "never compared, joined, exported or shown together; commands then need --partition",
    )
    exemplars: int = Field(8, ge=1, le=64, description="exemplar faces per identity, chosen to cover its modes")
    full_below: int = Field(5_000, ge=0, description="up to this many faces every run is a full clustering")
    full_every_nights: int = Field(
        30, ge=1, description="incremental clusterings after which a full clustering follows"
    )
    full_at_growth: float = Field(
        0.25,
        gt=0,
        description="share of faces added or removed since the last full clustering that triggers the next one",
    )
    full_at_drift: float = Field(
        0.5, gt=0, description="shift of the impostor mean, in standard deviations, that triggers a full clustering"
    )


class ReportSection(Section):
    """Content of the HTML report."""

    contact_sheets: bool = Field(True, description="show face crops, which are personal data")
    max_identities: int = Field(24, ge=0, description="identities on the contact sheet")
    faces_per_identity: int = Field(8, ge=1, description="face crops per identity")
    max_events: int = Field(6, ge=0, description="merges and splits that are shown with faces before and after")
    keep: int = Field(30, ge=1, description="report pages of earlier runs that are kept; older ones are deleted")


USUAL_HASH_KEY = "~/.config/facelake/hash-key"
"""path that `facelake init` writes for `governance.hash_key`"""
USUAL_LEDGER_COPY = "~/.config/facelake/ledgers"
"""path that `facelake init` writes for `governance.ledger_copy`"""


_PLACEHOLDERS = {"", "todo", "tbd", "fixme", "xxx", "none", "n/a", "na", "null", "placeholder", "your reference"}


class GovernanceSection(Section):
    """Responsibility for the processing under the GDPR."""

    controller: str | None = Field(
        None, description="controller (Art. 4 GDPR), for the record of processing activities"
    )
    contact: str | None = Field(None, description="contact for data protection")
    dpia: str | None = Field(
        None, min_length=1, description="reference of the data-protection impact assessment; required outside the demo"
    )
    lease_days: int = Field(90, ge=1, description="how long a matcher may use an export")
    signing_key: str = Field(
        "~/.config/facelake/signing-key.pem",
        description="ed25519 key of certificates and records; made by the first run",
    )
    hash_key: str | None = Field(
        None,
        min_length=1,
        description="file with the key of the hashes that stand for erased names, apart from the lake; made with a new "
        "lake; null: a salt in the lake, by which short references can be enumerated",
    )
    ledger_copy: str | None = Field(
        None,
        min_length=1,
        description="folder or s3://bucket/prefix outside of the lake, where every command keeps the newest ledger "
        "(encrypted) and the lists of erased people: a lake that was restored from a backup is recognised by it",
    )
    trusted_keys: list[Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]] = Field(
        default_factory=list,
        description="fingerprints of the keys that may sign audit trail and certificates (`facelake certificate key`); "
        "empty: the signing key of this host",
    )
    retracted: list[str] = Field(
        default_factory=list,
        description="additional lists of withdrawn data sets, in the format of conf/retracted.yaml",
    )

    @field_validator("dpia")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        name = reference(value or "")
        if value is not None and not name:
            raise ValueError("it is blank: give the reference of the assessment")
        if name and name.casefold().strip(".-?_ ") in _PLACEHOLDERS:
            raise ValueError(f"{value!r} is a placeholder: give the reference of the assessment")
        return name or None


class LineageSection(Section):
    """OpenLineage events of each run and stage; nothing is sent unless `url` or `file` is set. Extra `lineage`."""

    url: str | None = Field(
        None,
        pattern="^https?://",
        description="address of the server, without `/api/v1/lineage`; its key comes from OPENLINEAGE_API_KEY",
    )
    file: str | None = Field(None, min_length=1, description="local file that events are appended to, one per line")
    namespace: str = Field("facelake", min_length=1, description="namespace of the jobs")
    timeout_s: float = Field(5, gt=0, le=60, description="seconds that an event may take to be sent")

    @field_validator("url")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        return _without_secrets(value)

    @model_validator(mode="after")
    def _one_target(self) -> LineageSection:
        if self.url and self.file:
            raise ValueError("url and file are both set; choose one")
        return self


class TracingSection(Section):
    """OpenTelemetry traces of each run. Nothing is sent unless `endpoint` or OTEL_EXPORTER_OTLP_ENDPOINT is set. Extra
    `tracing`.
    """

    endpoint: str | None = Field(
        None,
        pattern="^https?://",
        description="address of an OTLP/HTTP collector, without `/v1/traces`; null: OTEL_EXPORTER_OTLP_ENDPOINT. "
        "Headers with keys come from OTEL_EXPORTER_OTLP_HEADERS",
    )

    @field_validator("endpoint")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        return _without_secrets(value)


def _without_secrets(url: str | None) -> str | None:
    if url and any(sign in url for sign in "@?#"):
        raise ValueError("may contain credentials; pass them in the environment instead")
    return url


class S3Section(Section):
    """How to reach an S3-compatible store; credentials come from the environment or the cloud's chain."""

    endpoint_url: str | None = Field(None, description="null: AWS_ENDPOINT_URL, else Amazon")
    region: str | None = Field(None, description="null: AWS_REGION, else us-east-1")
    path_style: bool = Field(True, description="bucket name in the path, which most stores other than Amazon S3 need")

    @field_validator("endpoint_url")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        if value and "@" in value:
            raise ValueError("contains credentials; pass them in the environment instead")
        return value


class Config(Section):
    """The complete configuration."""

    lake: str = Field("facelake-demo/lake", description="a directory or s3://bucket/prefix")
    partition: str | None = Field(
        None, min_length=1, description="the source that commands work on; `--partition` overrides it"
    )
    purpose: str = Field("identity-grouping", min_length=1, description="purpose of the gallery")
    corpus_may_shrink: bool = Field(
        False, description="continue although a fifth of the admitted or refused photos are missing from the corpus"
    )
    corpus: CorpusSection = CorpusSection()
    most_lost: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of the admitted photos that may lose their basis in one run, withdrawals and erasures not "
        "counted; a run that would lose more stops before anything is removed, unless --accept-loss is given",
    )
    model: ModelSection = ModelSection()
    embed: EmbedSection = EmbedSection()
    plan: PlanSection = PlanSection()
    ray: RaySection = RaySection()
    spark: SparkSection = SparkSection()
    cluster: ClusterSection = ClusterSection()
    gallery: GallerySection = GallerySection()
    report: ReportSection = ReportSection()
    governance: GovernanceSection = GovernanceSection()
    lineage: LineageSection = LineageSection()
    tracing: TracingSection = TracingSection()
    s3: S3Section = S3Section()

    @field_validator("purpose")
    @classmethod
    def _as_in_the_ledger(cls, value: str) -> str:
        """The spelling in which the ledger has purposes."""
        if not any(c.isalnum() for c in value):
            raise ValueError("must be a name; there is no purpose that stands for all")
        return reference(value)

    @field_validator("lake")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        return location(value) or value

    @property
    def corpus_uri(self) -> str:
        """The corpus root: the configured one, or the lake's own."""
        return self.corpus.uri or self.lake.rstrip("/") + "/corpus"

    def digest(self, *sections: str) -> str:
        """16 hex digits: the digest of the named sections, on which a stage's result depends."""
        chosen = {name: self.model_dump(mode="json")[name] for name in sections}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]
