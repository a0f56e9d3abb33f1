"""The configuration: one YAML file, checked whole before any work starts. No secret has a place in it."""

from __future__ import annotations

import atexit
import difflib
import hashlib
import json
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from facelake.errors import ConfigError

_LOCAL_SCRATCH_BYTES = 16 * 2**30  # of one disk, beside the corpus and what the steps leave
M = TypeVar("M", bound=BaseModel)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """Which model pack embeds the faces."""

    card: str = Field("opencv", description="name in conf/models, or path of a model card")
    cache: str = Field("~/.cache/facelake", description="where fetched model files are kept")
    accept_license: Literal["non-commercial"] | None = Field(
        None, description="needed for models whose card says that their terms are non-commercial"
    )
    accept_lineage: dict[str, str] | None = Field(
        None,
        description="withdrawn data sets that the model may descend from, each with the reason why that is accepted; "
        "null: what conf/models/opencv.yaml names, for that card only",
    )

    @field_validator("accept_lineage")
    @classmethod
    def _with_reasons(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if empty := [name for name, why in (value or {}).items() if not why.strip()]:
            raise ValueError(f"{empty[0]} is accepted without a reason")
        return value


class EmbedSection(_Section):
    """Decode, detect, align, encode."""

    actors: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="embed workers (Ray actors); auto: as many as the cluster has room for now"
    )
    max_actors: int | None = Field(
        None, ge=1, description="workers to grow to while photos wait, on a cluster that adds hosts; null: as `actors`"
    )
    decoders: int = Field(
        0, ge=0, le=64, description="decoding processes per worker, each with a core; 0: the worker decodes itself"
    )
    chunk_rows: int = Field(128, ge=1, le=65536, description="corpus rows that are committed as one")
    commit_every_chunks: int = Field(8, ge=1, description="receipts per Delta commit")
    batch_photos: int = Field(16, ge=1, le=256, description="photos decoded and looked at together; 64 for a GPU")
    batch_faces: int = Field(8, ge=1, le=1024, description="aligned faces per encoder call")
    min_det_score: float | None = Field(
        None, gt=0, lt=1, description="detector score below which nothing is a face; null: as the model card says"
    )
    decode_px: int = Field(
        1280, ge=0, description="JPEGs are decoded at 1/2, 1/4 or 1/8 while their longer side keeps this; 0: whole"
    )
    min_face_px: int = Field(24, ge=1, description="shorter side of a face, pixels of the full photo")
    max_pixels: int = Field(
        64_000_000, ge=1, description="a photo with more is rejected undecoded; of a JPEG: other formats count more"
    )
    max_bytes: int = Field(64 << 20, ge=1, description="an encoded photo with more is rejected unread")
    max_decode_s: float = Field(10.0, gt=0, description="a photo that takes longer to decode is rejected")
    max_attempts: int = Field(2, ge=1, description="tries of a chunk before it is split to find the killer")
    runtime: Literal["onnxruntime", "torch"] = Field("onnxruntime", description="what runs the networks")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="where torch runs them: cpu, cuda, cuda:1")
    half_precision: bool = Field(False, description="torch only; another model digest, since it gives other faces")
    nvjpeg: bool = Field(
        False,
        description="torch on cuda only: plain JPEGs are decoded on the GPU; another model digest, as pixels differ",
    )
    use_gpu: bool = Field(False, description="ask Ray for a GPU per actor")
    workers_per_gpu: int = Field(
        1, ge=1, le=16, description="actors that share a GPU: what each does on its core hides behind the others"
    )

    @model_validator(mode="after")
    def _runs(self) -> EmbedSection:
        if self.nvjpeg and not (self.runtime == "torch" and self.device.startswith("cuda")):
            raise ValueError("nvjpeg needs runtime torch and device cuda")
        if self.nvjpeg and self.decoders:
            raise ValueError("nvjpeg and decoders exclude each other: photos are decoded on the GPU or by processes")
        if self.use_gpu and ":" in self.device:
            raise ValueError("with use_gpu each worker sees its own GPU only: say device cuda, without a number")
        if self.device != "cpu" and not self.use_gpu and self.actors == "auto":
            raise ValueError("a worker per core would crowd one GPU: say use_gpu true, or how many actors")
        return self


class PlanSection(_Section):
    """What embed may cost."""

    nodes: int = Field(1, ge=1, description="machines that embed runs on")
    cores_per_node: int = Field(2, ge=1, description="cores of each, one worker per core")
    price_per_node_hour: float | None = Field(None, gt=0, description="in your currency")
    budget: float | None = Field(None, ge=0, description="embed is refused when it would cost more; needs a price")


class RaySection(_Section):
    """Where embed runs."""

    address: str | None = Field(None, description="null: a local Ray; auto: the cluster of this host; or its head:6379")
    num_cpus: int | None = Field(None, ge=1, description="cores of the local Ray; null: all")
    object_store_mb: int = Field(256, ge=80, description="object store of the local Ray, MiB")


class SparkSection(_Section):
    """Where cluster runs."""

    master: str = Field("local[*,3]", description="local[N] or local[N,attempts], spark://host:port, k8s://..., yarn")
    driver_memory: str = Field("2g", description="JVM heap of the driver")
    partitions: int = Field(0, ge=0, description="0: from the data's size")
    in_process_below: int = Field(
        50_000, ge=0, description="faces below which a local master is not started: clustered in this process, equally"
    )
    scratch_gb: float | None = Field(
        None,
        gt=0,
        description="GiB of vectors on the way between workers at once, more go in several waves, equally; "
        "null: 16 under a local master, no limit on a cluster",
    )
    conf: dict[str, str] = Field(default_factory=dict, description="passed to Spark as it is")

    @property
    def scratch_bytes(self) -> float:
        """What vectors on their way between workers may take, bytes."""
        if self.scratch_gb is None:
            return _LOCAL_SCRATCH_BYTES if self.master.startswith("local") else math.inf
        return self.scratch_gb * 2**30


class ClusterSection(_Section):
    """Neighbours, edges, groups."""

    neighbours: int = Field(32, ge=1, le=1024, description="k of the neighbour search")
    threshold: float | None = Field(
        None, gt=-1, lt=1, description="cosine above which two faces may be joined; null: calibrated"
    )
    exact_below: int = Field(10_000, ge=1, description="faces up to which the neighbour search is exact")
    probes: int = Field(5, ge=1, le=64, description="lists in which each face looks for neighbours")
    list_size: int = Field(70, ge=8, description="faces per list of the approximate search")
    deep_cells: int = Field(8, ge=0, description="cells of 12,000 faces that a face without neighbours searches whole")
    min_quality: float = Field(0.0, ge=0, le=1, description="faces below are left ungrouped")
    seed: int = Field(0, ge=0, description="of sampling and grouping; equal faces, settings and seed give equal groups")


class GallerySection(_Section):
    """Identities over the nights."""

    exemplars: int = Field(8, ge=1, le=64, description="faces kept per identity to cover its modes")
    full_below: int = Field(5_000, ge=0, description="faces up to which every night groups all of them anew")
    full_every_nights: int = Field(30, ge=1, description="increments after which all faces are grouped anew")
    full_at_growth: float = Field(0.25, gt=0, description="share of faces come or gone since, at which they are too")
    full_at_drift: float = Field(
        0.5, gt=0, description="shift of different people's mean similarity, in its sds, at which they are too"
    )


class ReportSection(_Section):
    """The HTML report."""

    contact_sheets: bool = Field(True, description="show face crops; they are personal data")
    max_identities: int = Field(24, ge=0, description="identities on the contact sheet")
    faces_per_identity: int = Field(8, ge=1, description="face crops of each identity")
    max_events: int = Field(6, ge=0, description="merges and splits shown with faces before and after")
    keep: int = Field(30, ge=1, description="pages of earlier nights that are kept; older ones are deleted")


class GovernanceSection(_Section):
    """Who answers for the processing."""

    controller: str | None = Field(None, description="who decides what is processed, for the register of processing")
    contact: str | None = Field(None, description="data-protection contact")
    dpia: str | None = Field(
        None, min_length=1, description="reference of the data-protection impact assessment; needed outside the demo"
    )
    lease_days: int = Field(90, ge=1, description="how long a matcher may use what it was handed")
    signing_key: str = Field(
        "~/.config/facelake/signing-key.pem", description="ed25519 key for certificates; made at the first erasure"
    )
    retracted: list[str] = Field(
        default_factory=list, description="more lists of withdrawn data sets, in the form of conf/retracted.yaml"
    )


class S3Section(_Section):
    """How to reach an S3-compatible store; credentials come from the environment or the cloud's chain."""

    endpoint_url: str | None = Field(None, description="null: AWS_ENDPOINT_URL, else Amazon")
    region: str | None = Field(None, description="null: AWS_REGION, else us-east-1")
    path_style: bool = Field(True, description="bucket in the path, as most other stores want it")

    @field_validator("endpoint_url")
    @classmethod
    def _no_secret(cls, value: str | None) -> str | None:
        if value and "@" in value:
            raise ValueError("carries credentials; put them in the environment")
        return value


class Config(_Section):
    """The whole configuration."""

    lake: str = Field("facelake-demo/lake", description="a directory or s3://bucket/prefix")
    corpus: str | None = Field(None, description="directory or s3:// of the corpus; null: <lake>/corpus")
    purpose: str = Field("identity-grouping", min_length=1, description="what the gallery is made for")
    corpus_may_shrink: bool = Field(False, description="go on when a fifth of the decided photos vanished")
    model: ModelSection = ModelSection()
    embed: EmbedSection = EmbedSection()
    plan: PlanSection = PlanSection()
    ray: RaySection = RaySection()
    spark: SparkSection = SparkSection()
    cluster: ClusterSection = ClusterSection()
    gallery: GallerySection = GallerySection()
    report: ReportSection = ReportSection()
    governance: GovernanceSection = GovernanceSection()
    s3: S3Section = S3Section()

    @field_validator("lake", "corpus")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and "://" in value and not value.startswith(("s3://", "file://")):
            raise ValueError("must be a directory or s3://bucket/prefix")
        return value

    @property
    def corpus_uri(self) -> str:
        """The corpus root: the configured one, or the lake's own."""
        return self.corpus or self.lake.rstrip("/") + "/corpus"

    def digest(self, *sections: str) -> str:
        """Digest of the named sections: what of the config a stage's result depends on."""
        chosen = {name: self.model_dump(mode="json")[name] for name in sections}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def read_local(path: str) -> str:
    """The text of a local file."""
    return Path(os.path.expanduser(path)).read_text("utf-8")


def load_config(
    path: str | None = None,
    *,
    lake: str | None = None,
    overrides: dict[str, Any] | None = None,
    read: Callable[[str], str] = read_local,
) -> Config:
    """Read a YAML config, put `lake` and `overrides` over it, and check it.

    Args:
        read: how the text at `path` is read; `facelake.lake.store.read_text` takes s3:// as well.

    Raises:
        ConfigError: no such file, not YAML, an unknown key (naming the nearest right one), a bad value.
    """
    data = _read_yaml(path, read) if path else {}
    if lake:
        data["lake"] = lake
    for key, value in (overrides or {}).items():
        section, _, name = key.rpartition(".")
        (data.setdefault(section, {}) if section else data)[name] = value
    return _validate(Config, data, path or "arguments")


def read_yaml_as(kind: type[M], path: Path) -> M:
    """Read a YAML file as a pydantic model, with the config's error messages."""
    return _validate(kind, _read_yaml(str(path)), str(path))


def conf_dir() -> Path:
    """The folder of shipped configs: inside an installed wheel, or at the root of a checkout."""
    installed = package_dir() / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "conf"


@lru_cache(maxsize=1)
def package_dir() -> Path:
    """Our own files on disk; out of an archive (spark-submit --py-files) what is no code is unpacked once a process."""
    archive = getattr(globals().get("__loader__"), "archive", None)
    if archive is None:
        return Path(__file__).parent
    folder = Path(tempfile.mkdtemp(prefix="facelake-package-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(archive) as held:
        held.extractall(folder, [name for name in held.namelist() if not name.endswith(".py")])
    return folder / "facelake"


def _read_yaml(path: str, read: Callable[[str], str] = read_local) -> dict[str, Any]:
    try:
        text = read(path)
        data = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(
            f"config cannot be read: {err}", where=path, next_step="check the path given with -c"
        ) from err
    except yaml.YAMLError as err:
        raise ConfigError(
            f"config is not YAML: {' '.join(str(err).split())}", where=path, next_step="correct it"
        ) from err
    if not isinstance(data, dict):
        raise ConfigError("config must be a mapping of keys", where=path, next_step="see conf/demo.yaml")
    return data


def _validate(kind: type[M], data: dict[str, Any], where: str) -> M:
    try:
        return kind.model_validate(data)
    except ValidationError as err:
        problem = err.errors()[0]
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            near = _nearest(kind, problem["loc"])
            hint = f"did you mean {near!r}" if near else "remove it"
            raise ConfigError(f"unknown key {path!r}", where=where, next_step=hint) from None
        raise ConfigError(f"key {path!r}: {problem['msg']}", where=where, next_step="correct the value") from None


def _nearest(kind: type[BaseModel], loc: tuple[int | str, ...]) -> str | None:
    """The known key that is most like the unknown one, in its own section or anywhere."""
    section: type[BaseModel] | None = kind
    for part in loc[:-1]:
        annotation = section.model_fields[str(part)].annotation if section else None
        section = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    name = str(loc[-1])
    here = difflib.get_close_matches(name, section.model_fields if section else [], n=1, cutoff=0.5)
    if here:
        return ".".join([*map(str, loc[:-1]), here[0]])
    everywhere = dict(_leaves(kind))
    found = difflib.get_close_matches(name, everywhere, n=1, cutoff=0.6)
    return everywhere[found[0]] if found else None


def _leaves(kind: type[BaseModel], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, info in kind.model_fields.items():
        found.append((name, prefix + name))
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found += _leaves(info.annotation, f"{prefix}{name}.")
    return found
