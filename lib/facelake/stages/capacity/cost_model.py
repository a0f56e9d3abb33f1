"""The cost of a first nightly run over a number of photos, stage by stage, computed from measured costs.

A stage's CPU time is split into the driver's, which is sequential, and the workers', which is divided among the cores.
Requests and files are counted as the code issues them; CPU and memory are products of measured costs
(measured_costs.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from facelake.publish.ranges import bits_for
from facelake.stages.capacity.measured_costs import cost

STAGES = ("admit", "embed", "cluster", "publish", "scan")
_CHECKPOINT_EVERY = 50  # the tables' checkpoint interval (lake/tables.py)
_LIST_PAGE = 1000  # objects per S3 list request
_PART_FACES, _LEAST_PARTS, _CELL_FACES = 100_000, 8, 12_000  # clustering/steps/index.py, cluster/lists.py
_READ_AHEAD = 1 << 20  # bytes per read of a corpus file's column (lake/corpora/)
_TASK_CHUNKS, _TASKS_PER_WORKER = 8, 4  # stages/embedding/embed.py
_SAMPLE, _DEEP_CELLS = 100_000, 8  # clustering/steps/sample.py, config.py


@dataclass(frozen=True, slots=True)
class Workload:
    """The amount of data and the settings for which costs are computed."""

    images: int
    faces_per_image: float = 1.0
    dim: int = 512
    mean_bytes: float = 100_000.0
    """mean size of an encoded photo"""
    reject_share: float = 0.05
    """share of photos without a face"""
    faces_per_identity: float = 20.0
    photos_per_file: int = 5_000
    """photos per file of the corpus"""
    rows_per_group: int = 64
    """photos per row group of a corpus file, as `facelake import` writes them"""
    chunk_rows: int = 64
    commit_every_chunks: int = 8
    nodes: int = 1
    cores_per_node: int = 2
    price_per_node_hour: float | None = None

    @property
    def faces(self) -> int:
        """Expected number of faces."""
        return round(self.images * self.faces_per_image)

    @property
    def corpus_files(self) -> int:
        """Number of Parquet files of the corpus."""
        return _ceil(self.images, self.photos_per_file)

    @property
    def row_groups(self) -> int:
        """Number of row groups of the corpus."""
        full_files, rest = divmod(self.images, self.photos_per_file)
        return full_files * _ceil(self.photos_per_file, self.rows_per_group) + _ceil(rest, self.rows_per_group)

    @property
    def chunks(self) -> int:
        """Number of chunks; chunks do not cross corpus files."""
        full_files, rest = divmod(self.images, self.photos_per_file)
        return full_files * _ceil(self.photos_per_file, self.chunk_rows) + _ceil(rest, self.chunk_rows)

    @property
    def commits(self) -> int:
        """Number of commits in which the chunks are written."""
        return _ceil(self.chunks, self.commit_every_chunks)

    @property
    def chunks_with_rejects(self) -> int:
        """Expected number of chunks with a photo without a face, if such photos are spread evenly."""
        return round(self.chunks * self.share_with_rejects)

    @property
    def share_with_rejects(self) -> float:
        """Share of chunks with a photo without a face."""
        return 1 - (1 - self.reject_share) ** min(self.chunk_rows, self.images)

    @property
    def identities(self) -> int:
        """Expected number of identities."""
        return math.ceil(self.faces / self.faces_per_identity)


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of a stage. Addition sums all fields except driver memory, of which it takes the maximum."""

    driver_cpu_s: float = 0.0
    worker_cpu_s: float = 0.0
    get: float = 0.0
    head: float = 0.0
    put: float = 0.0
    list_: float = 0.0
    delete: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    shuffled_bytes: float = 0.0
    """sent from task to task by the engine"""
    driver_bytes: float = 0.0
    """driver memory in addition to that of an empty lake"""
    log_entries: int = 0
    data_files: int = 0

    def __add__(self, other: Cost) -> Cost:
        both = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Cost(**both | {"driver_bytes": max(self.driver_bytes, other.driver_bytes)})

    def seconds(self, work: Workload) -> float:
        """Wall-clock seconds of the stage, with the workers on all cores of all nodes."""
        return self.driver_cpu_s + self.worker_cpu_s / (work.nodes * work.cores_per_node)

    def node_hours(self, work: Workload) -> float:
        """Node-hours of the stage: all nodes are occupied until it ends."""
        return self.seconds(work) * work.nodes / 3600


@dataclass(frozen=True, slots=True)
class Estimate:
    """The costs of all stages of a nightly run, and of the residual scan of one erasure."""

    work: Workload
    stages: Mapping[str, Cost] = field(default_factory=dict)

    def nightly_run(self) -> Cost:
        """The sum of all stages except the scan, which is not part of a nightly run."""
        total = Cost()
        for name, stage in self.stages.items():
            total = total if name == "scan" else total + stage
        return total


def estimate(work: Workload) -> Estimate:
    """The costs of every stage of a first run on an empty lake, if all photos are admitted."""
    return Estimate(work, {"admit": admit(work), "embed": embed(work), "cluster": cluster(work),
                           "publish": publish(work), "scan": scan(work)})  # fmt: skip


def appends(commits: int, files_each: float, files: float | None = None) -> Cost:
    """The cost of the log for successive commits that create a table and add `files_each` data files each.

    Args:
        files: in all commits together, if the last one adds fewer.

    Each commit reads the entries after the last checkpoint one by one, and the whole checkpoint, so that the cost of a
    commit grows with the number of files of the table.
    """
    if not commits:
        return Cost()
    files = commits * files_each if files is None else files
    early = min(commits, _CHECKPOINT_EVERY - 1)  # before the first checkpoint
    late = commits - early
    cycles, rest = divmod(late, _CHECKPOINT_EVERY)
    replayed = _triangle(early) + cycles * _triangle(_CHECKPOINT_EVERY) + _triangle(rest)
    files_replayed = _triangle(commits) * files_each
    in_checkpoints = files_replayed - replayed * files_each
    checkpoints = (commits + 1) // _CHECKPOINT_EVERY
    opened = cost("log_open_get") * early + cost("log_open_checkpoint_get") * late
    get = opened + cost("log_entry_get") * replayed + cost("log_commit_get") * commits
    get += cost("log_create_get") - cost("log_open_get") - cost("log_commit_get")
    if checkpoints:  # to write a checkpoint, the table is opened once more, with all entries of the cycle
        reopened = cost("log_entry_get") * (_CHECKPOINT_EVERY - 1) + cost("log_commit_get")
        get += checkpoints * (reopened + cost("log_open_checkpoint_get"))
        get += cost("log_open_get") - cost("log_open_checkpoint_get") - cost("log_entry_get")
    entry_bytes = cost("log_entry_base_bytes") + cost("log_entry_bytes") * files_each
    read = replayed * entry_bytes * cost("log_entry_reads")
    read += (cost("log_checkpoint_bytes") * in_checkpoints + cost("log_checkpoint_base_bytes") * late) * cost(
        "log_checkpoint_reads"
    )
    checkpointed = (_CHECKPOINT_EVERY * _triangle(checkpoints + 1) - checkpoints) * files_each
    written = commits * cost("log_entry_base_bytes") + files * cost("log_entry_bytes")
    written += cost("log_checkpoint_bytes") * checkpointed
    return Cost(
        driver_cpu_s=cost("log_commit_cpu_s") * commits + cost("log_file_cpu_s") * files_replayed,
        get=get,
        head=checkpoints,
        put=commits - 1 + cost("log_create_put") + cost("log_checkpoint_put") * checkpoints,
        list_=cost("log_create_list") + cost("log_commit_list") * (commits - 1) + checkpoints,
        read_bytes=read,
        written_bytes=written,
        driver_bytes=cost("log_file_bytes") * files,
        log_entries=commits + 1,
        data_files=round(files),
    )


def _triangle(count: int) -> float:
    """0 + 1 + ... + (count - 1)."""
    return count * (count - 1) / 2


def admit(work: Workload) -> Cost:
    """Tasks read footers and ids of every corpus file and write one file of decisions for each, in one commit."""
    files, groups, images = work.corpus_files, work.row_groups, work.images
    stage = Cost(
        driver_cpu_s=cost("admit_cpu_s") + files * cost("admit_file_cpu_s"),
        worker_cpu_s=cost("admit_start_cpu_s") + groups * cost("admit_group_cpu_s") + images * cost("admit_row_cpu_s"),
        get=cost("admit_get") + files * cost("admit_file_get") + groups * cost("admit_group_get"),
        head=cost("admit_head") + files * cost("admit_file_head"),
        put=cost("admit_put") + files,
        list_=cost("admit_list") + _ceil(files, _LIST_PAGE),
        read_bytes=images * cost("admit_id_bytes"),
        written_bytes=images * cost("admit_row_bytes") + files * cost("embed_file_bytes"),
        driver_bytes=cost("admit_bytes") + images * cost("admit_row_memory_bytes"),
    )
    return stage + appends(1, files) + appends(1, 1)  # (the second one is the first row of `runs`)


def embed(work: Workload) -> Cost:
    """Workers embed chunks of rows; their files are committed once per batch of chunks."""
    chunks, faces, workers = work.chunks, work.faces, work.nodes * work.cores_per_node
    commits, files = work.commits, chunks + work.chunks_with_rejects
    per_task = max(1, min(_TASK_CHUNKS, chunks // (_TASKS_PER_WORKER * workers)))
    tasks, task_rows = _ceil(chunks, per_task), per_task * work.chunk_rows
    rereads = max((work.rows_per_group / task_rows + 1) / 2, 1.0)  # a task reads its row groups from their start
    read = work.images * work.mean_bytes * rereads + tasks * min(_READ_AHEAD, task_rows * work.mean_bytes)
    photos_s = work.images * (cost("embed_photo_cpu_s") + work.mean_bytes * cost("embed_byte_cpu_s"))
    stage = Cost(
        driver_cpu_s=cost("embed_cpu_s") + chunks * cost("embed_chunk_cpu_s") + work.images * cost("sweep_row_cpu_s"),
        worker_cpu_s=cost("embed_worker_start_cpu_s") * workers
        + photos_s
        + faces * cost("embed_face_cpu_s")
        + files * cost("embed_file_cpu_s"),
        get=cost("embed_get")
        + work.corpus_files * cost("embed_corpus_file_get")
        + tasks * cost("embed_task_get")
        + read / _READ_AHEAD,
        head=cost("embed_head") + work.corpus_files * cost("embed_corpus_file_head") + tasks,
        put=files + commits,
        list_=cost("embed_list"),
        read_bytes=read,
        written_bytes=faces * (cost("face_row_bytes") + 2 * work.dim)
        + work.images * work.reject_share * cost("reject_row_bytes")
        + (files + commits) * cost("embed_file_bytes"),
        driver_bytes=cost("embed_bytes")
        + work.corpus_files * cost("embed_file_memory_bytes")
        + chunks * cost("embed_chunk_memory_bytes"),
    )
    every, rejecting = work.commit_every_chunks, min(commits, work.chunks_with_rejects)
    rejects_each = max(1.0, every * work.share_with_rejects)
    rejects = appends(rejecting, rejects_each, work.chunks_with_rejects)
    return stage + _run() + appends(commits, every, chunks) + rejects + appends(commits, 1)


def cluster(work: Workload) -> Cost:
    """A full clustering on Spark of the files that embed wrote; `groups` is committed once."""
    faces, files, vector = work.faces, work.chunks, 2 * work.dim
    cells = _ceil(faces, _CELL_FACES)
    parts = max(_ceil(faces, _PART_FACES), min(_LEAST_PARTS, cells))
    objects = files * cost("work_objects_per_file") + parts * cost("work_objects_per_part")
    objects += cells * cost("work_objects_per_cell")
    sampled = min(faces, _SAMPLE)
    stage = Cost(
        driver_cpu_s=cost("cluster_cpu_s") + faces * cost("cluster_driver_face_cpu_s"),
        worker_cpu_s=cost("cluster_start_cpu_s") + files * cost("cluster_file_cpu_s") + _grouping_s(work, cells),
        get=cost("cluster_get") + files * cost("cluster_file_get") + (cells + parts) * cost("cluster_cell_get"),
        head=cost("cluster_head") + files * cost("cluster_file_head"),
        put=cost("cluster_put") + objects + files,
        list_=cost("cluster_list") + objects / _LIST_PAGE,
        delete=objects + cost("cluster_delete"),
        read_bytes=faces * (cost("cluster_vector_reads") * vector + cost("cluster_face_read_bytes"))
        + files * cost("cluster_file_read_bytes"),
        written_bytes=faces * (vector + cost("work_face_bytes") + cost("group_row_bytes"))
        + sampled * vector
        + cost("work_bytes"),
        shuffled_bytes=_shuffled(work, cells),
        driver_bytes=cost("cluster_bytes")
        + faces * cost("cluster_face_memory_bytes")
        + work.identities * 4 * work.dim
        + sampled * 4 * work.dim,
    )
    return stage + _run() + appends(1, files)


def _grouping_s(work: Workload, cells: int) -> float:
    """Worker seconds that grow with the faces: clustering, and the second-pass search of faces without neighbours."""
    each = cost("cluster_face_cpu_s") + work.dim * cost("cluster_face_dim_cpu_s")
    compared = min(work.faces, _DEEP_CELLS * _CELL_FACES) if cells > 1 else 0
    deep = cost("lonely_share") * compared * 2 * work.dim / cost("flops_per_s")
    return work.faces * (each * math.pow(cells, cost("cluster_growth")) + deep * min(1.0, (cells / _DEEP_CELLS) ** 2))


def _shuffled(work: Workload, cells: int) -> float:
    """Bytes sent between tasks: vectors to their coarse cells, neighbours back, edges to their other end, sums."""
    sent = 2 * work.dim + 8
    copies = cells * (1 - math.pow(1 - 1 / max(cells, 1), cost("spread_draws")))
    each = (copies + cost("train_share")) * sent + cost("found_bytes") + cost("mirror_bytes")
    each += cost("lonely_share") * min(cells, _DEEP_CELLS) * sent + cost("sum_share") * 4 * work.dim
    return work.faces * each


def publish(work: Workload) -> Cost:
    """Tasks write identities and memberships, a file per range; the driver commits these and changes."""
    faces, people, files = work.faces, work.identities, work.chunks
    ranges = _ranges(work)
    stage = Cost(
        driver_cpu_s=cost("publish_cpu_s") + faces * cost("publish_face_cpu_s"),
        worker_cpu_s=cost("publish_start_cpu_s")
        + faces * work.dim * cost("publish_face_dim_cpu_s")
        + files * cost("publish_file_cpu_s"),
        get=cost("publish_get") + files * cost("publish_file_get"),
        head=cost("publish_head") + files * cost("publish_file_head"),
        put=cost("publish_put") + 2 * ranges + 2,
        list_=cost("publish_list"),
        delete=cost("publish_delete"),
        read_bytes=faces * (2 * work.dim + cost("publish_face_read_bytes")) + files * cost("publish_file_read_bytes"),
        written_bytes=faces * cost("membership_row_bytes") + people * _identity_bytes(work),
        shuffled_bytes=2.0 * work.dim * faces,
        driver_bytes=cost("publish_bytes") + faces * cost("publish_face_memory_bytes"),
    )
    return stage + _run() + appends(1, ranges) + appends(1, ranges) + appends(1, 1) + appends(1, 1)


def scan(work: Workload) -> Cost:
    """The residual scan of an erasure: tasks read every object of the lake, which the driver lists."""
    faces, files = work.faces, work.chunks
    commits = work.commits
    size = work.images * cost("admit_row_bytes") + faces * (cost("face_row_bytes") + 2 * work.dim)
    size += faces * (cost("group_row_bytes") + cost("membership_row_bytes")) + work.identities * _identity_bytes(work)
    size += (2 * files + work.corpus_files + commits) * cost("embed_file_bytes")
    objects = 2 * work.corpus_files + 2 * files + work.chunks_with_rejects + 4 * commits + cost("scan_objects") - 4
    objects += 2 * (_ranges(work) - 1)
    return Cost(
        driver_cpu_s=cost("scan_cpu_s") + objects * cost("scan_listing_cpu_s"),
        worker_cpu_s=cost("scan_start_cpu_s") + size * cost("scan_byte_cpu_s") + objects * cost("scan_object_cpu_s"),
        get=objects,
        list_=_ceil(objects, _LIST_PAGE),
        read_bytes=size,
        driver_bytes=cost("scan_bytes") + objects * cost("scan_object_memory_bytes"),
    )


def _run() -> Cost:
    """The commit of a row of `runs`, when the table exists."""
    return Cost(get=cost("run_get"), list_=cost("run_list"), put=cost("run_put"), log_entries=1, data_files=1)


def _ranges(work: Workload) -> int:
    """Number of ranges of identities, each with a file of identities and one of memberships."""
    return 1 << bits_for(work.identities, work.dim, round(cost("exemplars")), None)


def _identity_bytes(work: Workload) -> float:
    return cost("identity_row_bytes") + 4 * work.dim + cost("exemplars") * 2 * work.dim


def _ceil(count: float, size: float) -> int:
    return math.ceil(count / size)
