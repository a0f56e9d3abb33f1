"""Measured costs per unit of each stage's work: the constants of `facelake plan --at`.

Every figure was measured. CPU seconds are of one thread of this project's test machine (2 shared cores; docs/scale.md
has the runs); for another machine they scale by one factor, the same for all stages.
"""

from __future__ import annotations

from dataclasses import dataclass

_STORE = "lakes of 20,000 and 60,000 faces in files of 500 and 2,000, on SeaweedFS behind a counting proxy"
_FORKED = "lakes of 20,000 faces in 40 and in 10 files on the same, workers forked with imports done"
_LOG = "106 commits of one file to a table on SeaweedFS, requests counted one by one"
_FILES = "49 commits of 1,000 files to a table in a directory, then more commits"
_BENCH = "docs/benchmarks.md"
_DRIVER = "admit and publish of 50,000 and 200,000 faces of 128 dimensions in a directory"
_RANGES = "publish of 12,000 faces of 128 dimensions on Spark, on SeaweedFS behind a counting proxy"
_GALLERY = "facelake bench gallery with 10^6 and 8 x 10^6 faces of 512 dimensions (docs/scale.md)"
_PHOTOS = "embed of 150 photos of London in chunks of 8, on SeaweedFS behind a counting proxy"
_SWEEP = "facelake bench scaling: embed's driver with a stand-in for its workers"
_ADMITTED = "admit of 20 and 100 corpus files on SeaweedFS, Ray and Spark on one host"
_DECISIONS = "admit of 500,000 and 2,000,000 photos in a directory, Spark local[2]"
_SCAN = "scan of a lake of 41 objects on Spark, local[2]"
_LISTED = "3,000 objects on SeaweedFS"
_LOCAL = "clustering of 24,000, 120,000 and 480,000 faces in one process"
_LARGE = "the run of 10^7 faces of 128 dimensions in docs/clustering.md"
_SHUFFLES = "the same, blocks between steps counted"


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure, its unit and the measurement it comes from."""

    value: float
    unit: str
    where: str


COSTS: dict[str, Measured] = {
    # ---- Delta logs, per table. Entries after the last checkpoint are read one by one at every opening.
    "log_open_get": Measured(3, "GET to open a table without a checkpoint", _LOG),
    "log_open_checkpoint_get": Measured(12, "GET to open a table with a checkpoint", _LOG),
    "log_entry_get": Measured(2, "GET per log entry after the checkpoint, per opening", _LOG),
    "log_commit_get": Measured(2, "GET of a commit besides the opening", _LOG),
    "log_commit_list": Measured(4, "LIST of a commit", _LOG),
    "log_create_get": Measured(17, "GET of the commit that makes a table", _LOG),
    "log_create_list": Measured(9, "LIST of the commit that makes a table", _LOG),
    "log_create_put": Measured(2, "PUT of the commit that makes a table: metadata, entry", _LOG),
    "log_checkpoint_put": Measured(2, "PUT of a checkpoint and its pointer", _LOG),
    "log_entry_bytes": Measured(285, "bytes of an entry per data file that it names", _FILES),
    "log_entry_base_bytes": Measured(154, "bytes of an entry besides those", _LOG),
    "log_entry_reads": Measured(3.6, "times that the bytes of an entry are read per opening for a commit", _LOG),
    "log_checkpoint_bytes": Measured(66, "bytes of a checkpoint per data file", _FILES),
    "log_checkpoint_base_bytes": Measured(6_900, "bytes of a checkpoint besides those", _LOG),
    "log_checkpoint_reads": Measured(5.6, "times that a checkpoint's bytes are read per commit", _LOG),
    "log_file_cpu_s": Measured(1.6e-6, "driver seconds per data file of the table, per commit", _FILES),
    "log_commit_cpu_s": Measured(0.012, "driver seconds per commit", _FILES),
    "log_file_bytes": Measured(110, "driver memory per data file of a table that is opened", _FILES),
    # ---- admit: tasks on Ray check and index corpus files, tasks on Spark decide
    "admit_cpu_s": Measured(1.3, "driver seconds, whatever the corpus", _ADMITTED),
    "admit_file_cpu_s": Measured(0.0041, "driver seconds per corpus file", _ADMITTED),
    "admit_start_cpu_s": Measured(10, "worker seconds: a JVM, Python workers", _SCAN),
    "admit_group_cpu_s": Measured(0.0030, "worker seconds per row group of the corpus", _STORE),
    "admit_row_cpu_s": Measured(7.5e-6, "worker seconds per photo", _DECISIONS),
    "admit_get": Measured(13, "GET, whatever the corpus", _STORE),
    "admit_file_get": Measured(2, "GET per corpus file: two footers", _STORE),
    "admit_group_get": Measured(4, "GET per row group: one for each column of ids", _STORE),
    "admit_head": Measured(8, "HEAD, whatever the corpus", _STORE),
    "admit_file_head": Measured(2, "HEAD per corpus file", _STORE),
    "admit_put": Measured(1, "PUT, whatever the corpus", _STORE),
    "admit_list": Measured(5, "LIST, whatever the corpus", _STORE),
    "admit_id_bytes": Measured(71, "bytes of ids and footers read per photo", _STORE),
    "admit_row_bytes": Measured(6.8, "bytes of a row of admissions (short ids)", _DRIVER),
    "admit_bytes": Measured(121e6, "driver memory, whatever the corpus: clients of Ray and Spark", _DECISIONS),
    "admit_row_memory_bytes": Measured(51, "driver memory per photo if every decision changes: hashes", _DECISIONS),
    # ---- embed
    "embed_cpu_s": Measured(1.0, "driver seconds, whatever the corpus", _PHOTOS),
    "embed_chunk_cpu_s": Measured(0.01, "driver seconds per chunk", _PHOTOS),
    "sweep_row_cpu_s": Measured(4e-6, "driver seconds per photo: decisions read four times", _SWEEP),
    "embed_worker_start_cpu_s": Measured(3.1, "seconds per worker: Ray, imports, models", _PHOTOS),
    "embed_photo_cpu_s": Measured(0.040, "worker seconds per photo: detector", _PHOTOS),
    "embed_byte_cpu_s": Measured(8e-8, "worker seconds per encoded byte: decoding", _BENCH),
    "embed_face_cpu_s": Measured(0.030, "worker seconds per face: encoder", _PHOTOS),
    "embed_file_cpu_s": Measured(0.01, "worker seconds per data file staged", _PHOTOS),
    "embed_get": Measured(40, "GET, whatever the corpus", _PHOTOS),
    "embed_corpus_file_get": Measured(8, "GET per corpus file: decisions, four times", _PHOTOS),
    "embed_task_get": Measured(2, "GET per task besides those for the photos' bytes", _PHOTOS),
    "embed_head": Measured(4, "HEAD, whatever the corpus", _PHOTOS),
    "embed_corpus_file_head": Measured(4, "HEAD per corpus file", _PHOTOS),
    "embed_list": Measured(12, "LIST, whatever the corpus", _PHOTOS),
    "embed_file_bytes": Measured(4_600, "bytes of a data file of faces besides its rows", _PHOTOS),
    "face_row_bytes": Measured(100, "bytes of a row of faces besides the embedding", _PHOTOS),
    "reject_row_bytes": Measured(60, "bytes of a row of rejects", _PHOTOS),
    "embed_bytes": Measured(60e6, "driver memory, whatever the corpus", _PHOTOS),
    "embed_file_memory_bytes": Measured(250, "driver memory per corpus file: names of its decisions", _SWEEP),
    "embed_chunk_memory_bytes": Measured(12, "driver memory per chunk", _SWEEP),
    # ---- cluster: full clustering
    "cluster_cpu_s": Measured(3.6, "driver seconds, whatever the faces", _STORE),
    "cluster_driver_face_cpu_s": Measured(27e-6, "driver seconds per face", _STORE),
    "cluster_start_cpu_s": Measured(27, "worker seconds: a JVM, Python workers, compiled loops", _FORKED),
    "cluster_file_cpu_s": Measured(0.8, "worker seconds per file of faces: five tasks", _FORKED),
    "cluster_face_cpu_s": Measured(45e-6, "worker seconds per face at one cell, whatever the dimension", _LOCAL),
    "cluster_face_dim_cpu_s": Measured(12e-8, "worker seconds per face and dimension at one cell", _LOCAL),
    "cluster_growth": Measured(0.28, "exponent by which that grows with cells of 12,000 faces", _LARGE),
    "lonely_share": Measured(
        0.16, "share of faces without neighbours, which are searched again in eight cells", _LARGE
    ),
    "flops_per_s": Measured(30e9, "of one core in float32 products", _LOCAL),
    "cluster_get": Measured(218, "GET, whatever the faces", _STORE),
    "cluster_file_get": Measured(17, "GET per file of faces", _STORE),
    "cluster_cell_get": Measured(10.5, "GET per cell, and per part", _STORE),
    "cluster_head": Measured(16, "HEAD, whatever the faces", _STORE),
    "cluster_file_head": Measured(5, "HEAD per file of faces", _STORE),
    "cluster_put": Measured(35, "PUT, whatever the faces", _STORE),
    "cluster_list": Measured(15, "LIST, whatever the faces", _STORE),
    "cluster_delete": Measured(36, "DELETE, whatever the faces", _STORE),
    "work_objects_per_file": Measured(3, "objects in the work store per file", _STORE),
    "work_objects_per_cell": Measured(3, "objects in the work store per cell", _STORE),
    "work_objects_per_part": Measured(5, "objects in the work store per part", _STORE),
    "cluster_vector_reads": Measured(12, "times that vectors are read from the store", _STORE),
    "cluster_face_read_bytes": Measured(3_700, "bytes read per face besides", _STORE),
    "cluster_file_read_bytes": Measured(5 * 64e3, "bytes of footers read per file", _STORE),
    "work_face_bytes": Measured(722, "bytes written to the work store per face besides vectors", _STORE),
    "work_bytes": Measured(7.4e6, "bytes written to the work store, whatever the faces", _STORE),
    "group_row_bytes": Measured(14, "bytes of a row of groups", _DRIVER),
    "spread_draws": Measured(4, "cells that a face is sent to, of many", _SHUFFLES),
    "train_share": Measured(0.29, "faces sent to train lists", _SHUFFLES),
    "found_bytes": Measured(860, "bytes of neighbours per face, collected", _SHUFFLES),
    "mirror_bytes": Measured(320, "bytes of edges per face, to their other end", _SHUFFLES),
    "sum_share": Measured(0.36, "sums of groups sent per face, three times", _SHUFFLES),
    "cluster_bytes": Measured(60e6, "driver memory, whatever the faces", _STORE),
    "cluster_face_memory_bytes": Measured(160, "driver memory per face while scanning", "docs/clustering.md"),
    # ---- publish: tasks over ranges of identities on Spark
    "publish_cpu_s": Measured(2.0, "driver seconds, whatever the faces", _RANGES),
    "publish_start_cpu_s": Measured(2.0, "worker seconds, whatever the faces", _RANGES),
    "publish_face_cpu_s": Measured(2.7e-5, "driver seconds per face", _GALLERY),
    "publish_face_dim_cpu_s": Measured(1e-7, "worker seconds per face and dimension", _GALLERY),
    "publish_file_cpu_s": Measured(0.0165, "worker seconds per file of faces", _STORE),
    "publish_get": Measured(89, "GET, whatever the faces", _STORE),
    "publish_file_get": Measured(8, "GET per file of faces: read four times", _STORE),
    "publish_head": Measured(6, "HEAD, whatever the faces", _STORE),
    "publish_file_head": Measured(4, "HEAD per file of faces", _STORE),
    "publish_put": Measured(4, "PUT besides files and commits", _RANGES),
    "publish_list": Measured(22, "LIST, whatever the faces", _STORE),
    "publish_delete": Measured(2, "DELETE, whatever the faces", _STORE),
    "publish_face_read_bytes": Measured(63, "bytes read per face besides the embedding", _STORE),
    "publish_file_read_bytes": Measured(4 * 51e3, "bytes of footers read per file", _STORE),
    "membership_row_bytes": Measured(26.5, "bytes of a row of memberships", _DRIVER),
    "identity_row_bytes": Measured(240, "bytes of an identity besides template and exemplars", _DRIVER),
    "exemplars": Measured(8, "exemplars per identity", "gallery.exemplars"),
    "publish_bytes": Measured(1e6, "driver memory, whatever the faces", _RANGES),
    "publish_face_memory_bytes": Measured(118, "driver memory per face", _GALLERY),
    # ---- the scan of an erasure: tasks on Spark
    "scan_cpu_s": Measured(6, "driver seconds: a JVM", _SCAN),
    "scan_start_cpu_s": Measured(4, "worker seconds, whatever the objects", _SCAN),
    "scan_byte_cpu_s": Measured(1.2e-8, "worker seconds per byte of the lake, for one needle", _STORE),
    "scan_object_cpu_s": Measured(0.0043, "worker seconds per object", _STORE),
    "scan_listing_cpu_s": Measured(8.1e-5, "driver seconds per object, to list it", _LISTED),
    "scan_bytes": Measured(13e6, "driver memory, whatever the objects", _RANGES),
    "scan_object_memory_bytes": Measured(200, "driver memory per object, without its name in tasks", _LISTED),
    "scan_objects": Measured(32, "objects of a lake besides data files of photos and faces", _STORE),
    # ---- every stage writes a row of `runs`
    "run_get": Measured(9, "GET of the commit of a run's row", _LOG),
    "run_list": Measured(4, "LIST of the same", _LOG),
    "run_put": Measured(2, "PUT of the same: a file, an entry", _LOG),
}


def cost(name: str) -> float:
    """The value of the figure with this name."""
    return COSTS[name].value
