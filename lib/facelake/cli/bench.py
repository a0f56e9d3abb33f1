"""Benchmarks, as `facelake bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from facelake.cli.command import Invocation, command, numbers, typer_app
from facelake.errors import ConfigError

bench_app = typer_app("Run benchmarks on this machine.")
PackOption = Annotated[str, typer.Option("--pack", help="folder of an InsightFace pack")]
ImagesOption = Annotated[str, typer.Option("--images", help="folder of photos")]
AcceptOption = Annotated[str | None, typer.Option(help="accept the pack's terms: non-commercial")]
PackFolder = Annotated[str | None, typer.Option("--pack", help="folder of an InsightFace pack")]
PackShape = Annotated[str | None, typer.Option("--pack-shape", help="r50: random weights in the shapes of buffalo_l")]
PhotosOption = Annotated[int, typer.Option(min=1, help="photos per round, made from the folder's by shifting")]
RoundsOption = Annotated[int, typer.Option(min=1, help="rounds; the median is reported")]
SideOption = Annotated[int, typer.Option(min=0, help="scale photos to this longer side in pixels; 0: unscaled")]


@command(bench_app, "parity", lake=False)
def bench_parity(
    call: Invocation,
    pack: PackOption,
    images: ImagesOption,
    accept_license: AcceptOption = None,
    decode_px: Annotated[int, typer.Option(help="as embed.decode_px; 0 decodes at full size, as insightface does")] = 0,
) -> None:
    """Compare a pack's faces with those of insightface, photo by photo."""
    from facelake.bench.parity import parity

    settings = call.config(model__accept_license=accept_license, embed__decode_px=decode_px)
    figures = parity(settings, pack, images)
    call.terminal.figures("parity", figures)
    call.terminal.result({"ok": figures["agrees"], **figures})
    if not figures["agrees"]:
        raise typer.Exit(1)


@command(bench_app, "embed", lake=False)
def bench_embed(
    call: Invocation,
    *,
    images: ImagesOption,
    pack: PackFolder = None,
    shape: PackShape = None,
    accept_license: AcceptOption = None,
    photos: PhotosOption = 400,
    rounds: RoundsOption = 3,
    alone: Annotated[bool, typer.Option("--alone", help="measure only facelake: its rate and memory")] = False,
    side: SideOption = 0,
    runtimes: Annotated[
        str | None, typer.Option(help="values of embed.runtime to compare, as auto,onnxruntime; default: the config's")
    ] = None,
) -> None:
    """Measure images per second of facelake, of insightface in a loop, and of the bare models."""
    from facelake.bench.embed import Sizes, chosen_pack, embed_rates

    settings = call.config(model__accept_license=accept_license)
    sizes = Sizes(photos, rounds, side, tuple(runtimes.split(",")) if runtimes else ())
    figures = embed_rates(settings, chosen_pack(pack, shape), images, sizes, alone=alone)
    call.terminal.figures("embed", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "index")
def bench_index(
    call: Invocation,
    corpus: Annotated[str, typer.Option(help="directory or s3:// prefix for the objects, which are kept")],
    photos: Annotated[int, typer.Option(min=1, help="number of small objects")] = 100_000,
) -> None:
    """Measure how fast photos that are objects are listed and indexed, beside the bare listing of the store."""
    from facelake.bench.index import time_index

    figures = time_index(call.config(), corpus, photos, call.terminal.listen)
    call.terminal.figures("index", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "device", lake=False)
def bench_device(
    call: Invocation,
    *,
    images: ImagesOption,
    pack: PackFolder = None,
    shape: PackShape = None,
    accept_license: AcceptOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cuda",
    half: Annotated[bool, typer.Option(help="run the networks in half precision")] = True,
    nvjpeg: Annotated[bool, typer.Option(help="decode JPEGs on the GPU")] = True,
    batch_photos: Annotated[int, typer.Option(min=1, max=256, help="photos per detector batch")] = 64,
    batch_faces: Annotated[int, typer.Option(min=1, max=1024, help="faces per encoder batch")] = 256,
    runtimes: Annotated[
        str | None, typer.Option(help="other runtimes on the device to compare, as torch,onnxruntime,tensorrt")
    ] = None,
    workers: Annotated[str | None, typer.Option(help="numbers of processes that share the GPU, as 2,4,8")] = None,
    photos: PhotosOption = 2000,
    rounds: RoundsOption = 3,
    side: SideOption = 0,
) -> None:
    """Measure images per second of one process on one GPU, against the rate of its convolutions alone."""
    from facelake.bench.embed import Sizes, chosen_pack
    from facelake.stages.models.registry import check_runtime

    on_gpu = device.startswith("cuda")
    options = {"runtime": "torch", "device": device, "half_precision": half, "nvjpeg": nvjpeg and on_gpu, "actors": 1}
    options |= {"batch_photos": batch_photos, "batch_faces": batch_faces}
    settings = call.config(
        model__accept_license=accept_license,
        **{f"embed__{name}": value for name, value in options.items()},
    )
    check_runtime(settings)
    from facelake.bench.device import device_rates

    counts = tuple(numbers(workers, "--workers")) if workers else ()
    sizes = Sizes(photos, rounds, side, tuple(runtimes.split(",")) if runtimes else (), counts)
    chosen = chosen_pack(pack, shape) if pack or shape else ""
    figures = device_rates(settings, chosen, images, sizes)
    call.terminal.figures("device", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "precision", lake=False)
def bench_precision(
    call: Invocation,
    images: ImagesOption,
    labels: Annotated[str, typer.Option(help="CSV with columns image, person; image is a file name")],
    card: Annotated[
        str | None, typer.Option(help="card to compare with the config's, with the same detector; default: the same")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="embed.precision to compare with float32: bf16, int8")] = None,
) -> None:
    """Measure what an encoder in bf16 or int8 gains in CPU time and loses in recognition accuracy."""
    from facelake.bench.precision import compare_precision

    if precision not in (None, "float32", "bf16", "int8") or not (card or precision):
        next_step = "give --precision bf16, or --card of an int8 pack"
        raise ConfigError("nothing to compare", where="bench precision", next_step=next_step)
    figures = compare_precision(call.config(), card, images, labels, precision)
    call.terminal.figures("precision", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "quality")
def bench_quality(
    call: Invocation,
    labels: Annotated[str, typer.Option(help="CSV with columns image, person; image is a file name or image_id")],
    baselines: Annotated[
        bool, typer.Option("--baselines", help="also score simple methods on the same vectors")
    ] = False,
) -> None:
    """Score the gallery against labels: pairwise and BCubed precision, recall, F."""
    from facelake.bench.quality import quality
    from facelake.nightly import reading

    scores = quality(reading(call.config()).lake, labels, baselines=baselines)
    rows = [[key, value] for key, value in scores.items() if not isinstance(value, dict)]
    rows += [[f"{key} {k}", f"{v:.4f}"] for key in ("pairwise", "bcubed") for k, v in scores[key].items()]
    call.terminal.table("quality", ["figure", "value"], rows)
    if baselines:
        methods = scores["compared"]["methods"].items()
        lines = [
            [name, kind, f"{s.get('cut', '')}", f"{s['pairwise']['f']:.4f}", f"{s['bcubed']['f']:.4f}"]
            for name, kinds in methods
            for kind, s in kinds.items()
        ]
        lines.sort(key=lambda line: line[-1], reverse=True)
        call.terminal.table("methods", ["method", "cut by", "cosine", "pairwise F", "BCubed F"], lines)
    call.terminal.result({"ok": True, **scores})


@command(bench_app, "cluster", lake=False)
def bench_cluster(
    call: Invocation,
    *,
    faces: Annotated[str, typer.Option(help="folder of Parquet files: face_id, image_id, quality, embedding")],
    out: Annotated[str, typer.Option(help="Parquet file to write: face_id, identity_id")],
    seed: Annotated[int | None, typer.Option(help="seed of sampling, over the config's")] = None,
    master: Annotated[str | None, typer.Option(help="Spark master, over the config's")] = None,
    work: Annotated[str | None, typer.Option(help="folder for intermediate results, to resume from")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep the work folder")] = False,
) -> None:
    """Cluster embeddings outside a lake; prints seconds and peak memory per step."""
    from facelake.bench.cluster import cluster_files

    spark = {"spark__master": master, "spark__in_process_below": 0} if master else {}
    settings = call.config(cluster__seed=seed, **spark)
    figures = cluster_files(settings, faces, out, call.terminal.listen, work=work, keep=keep)
    call.terminal.figures("cluster", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "nights", lake=False)
def bench_nights(
    call: Invocation,
    world: Annotated[str, typer.Option(help="folder with faces/night=K and removed/night=K")],
    out: Annotated[str, typer.Option(help="folder to write night-K.parquet to: face_id, identity_id")],
    lake: Annotated[str, typer.Option(help="empty root for the lake")],
    full: Annotated[bool, typer.Option("--full", help="at the end run a full clustering, into full.parquet")] = False,
) -> None:
    """Run cluster and publish on nights in which faces are added and removed; prints seconds and changes of each."""
    from facelake.bench.nights import run_nights

    figures = run_nights(call.config(), world, out, call.terminal.listen, full=full)
    shown = ("faces", "mode", "identities", "seconds")
    rows = [[number, *(night[key] for key in shown)] for number, night in enumerate(figures["nights"])]
    call.terminal.table("nights", ["night", *shown], rows)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "report", lake=False)
def bench_report(
    call: Invocation,
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces")],
    faces: Annotated[int, typer.Option(min=20, help="faces in the lake")] = 100_000,
) -> None:
    """Write the report of a synthetic lake; prints seconds, memory, bytes of the page."""
    from facelake.bench.report import report_of

    figures = report_of(call.config(), faces, call.terminal.listen)
    call.terminal.figures("report", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "erase", lake=False)
def bench_erase(
    call: Invocation,
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces")],
    faces: Annotated[int, typer.Option(min=20, help="faces in the lake")] = 10_000,
    subjects: Annotated[int, typer.Option(min=1, help="subjects to erase; the lake has faces / 20 of them")] = 100,
) -> None:
    """Erase subjects from a synthetic lake; prints seconds per step and residual hits."""
    from facelake.bench.erase import erase_subjects

    figures = erase_subjects(call.config(), faces, subjects, call.terminal.listen)
    call.terminal.figures("erase", figures)
    call.terminal.result({"ok": not figures["residual_hits"] and figures["others_identical"], **figures})


@command(bench_app, "match", config=False, lake=False)
def bench_match(
    call: Invocation,
    identities: Annotated[int, typer.Option(min=1, help="identities in the gallery")] = 100_000,
    dim: Annotated[int, typer.Option(min=2, help="dimensions of a template")] = 512,
    probes: Annotated[int, typer.Option(min=1, help="probes per round")] = 2_000,
    k: Annotated[int, typer.Option("-k", min=1, help="identities to return per probe")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="rounds; the median is reported")] = 5,
) -> None:
    """Compare 1:N search of the matcher client with FAISS's flat index, in alternation."""
    from facelake.bench.match import compare_search

    figures = compare_search(identities, dim, probes, k, rounds)
    call.terminal.figures("match", figures)
    call.terminal.result({"ok": figures["best_agree"] >= 0.995, **figures})


@command(bench_app, "review", lake=False)
def bench_review(
    call: Invocation,
    lake: Annotated[str, typer.Option(help="empty root for a synthetic lake, or a lake that this command made")],
    faces: Annotated[int, typer.Option(min=100, help="faces in the lake")] = 10_000,
) -> None:
    """Measure a reviewer's waiting times: the queue, an identity, a pair, recording an answer."""
    from facelake.bench.review import time_review

    figures = time_review(call.config(), faces, call.terminal.listen)
    call.terminal.figures("review", figures)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "plan", lake=False)
def bench_plan(
    call: Invocation,
    store: Annotated[str, typer.Option(help="s3://bucket/prefix for the lakes, on a server over plain HTTP")],
    faces: Annotated[str, typer.Option(help="sizes of the synthetic lakes, in faces")] = "10000,30000,90000",
    dim: Annotated[int, typer.Option(min=2, help="dimensions of the embeddings")] = 128,
    images: Annotated[str | None, typer.Option("--images", help="folder of photos; checks embed too")] = None,
    photos: Annotated[str, typer.Option(help="with --images: numbers of photos to make of it")] = "80,160,320",
) -> None:
    """Compare the predictions of `facelake plan --at` with measurements of small lakes on an S3 server."""
    from facelake.bench.plan import PlanCheck, check_plan

    check = PlanCheck(store, numbers(faces, "--faces"), dim, images, numbers(photos, "--photos"))
    figures = check_plan(call.config(), check, call.terminal.listen)
    columns = ["size", "stage", "figure", "predicted", "measured", "error"]
    call.terminal.table("plan", columns, [[row[name] for name in columns] for row in figures["rows"]])
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "scaling", config=False, lake=False)
def bench_scaling(
    call: Invocation,
    *,
    faces: Annotated[str, typer.Option(help="two sizes in faces")] = "30000,120000",
    workers: Annotated[str, typer.Option(help="numbers of single-threaded workers")] = "1,2,4",
    chunks: Annotated[str, typer.Option(help="two numbers of chunks, for driver memory")] = "1600,3200",
    chunk_rows: Annotated[int, typer.Option(min=1, help="rows per chunk")] = 64,
    images: Annotated[str | None, typer.Option(help="folder of photos; measures embed too")] = None,
    photos: Annotated[str, typer.Option(help="two numbers of photos to make of the folder's")] = "200,600",
) -> None:
    """Measure the CPU seconds of further faces, in one process and on Spark, and the memory of embed's driver."""
    from facelake.bench.scaling import driver_growth, ray_scaling, scaling

    sizes, worker_counts = numbers(faces, "--faces"), numbers(workers, "--workers")
    figures = scaling(sizes, worker_counts, call.terminal.listen)
    columns = ["workers", "faces", "cpu_s", "seconds", "groups"]
    call.terminal.table("clustering", columns, [[row[name] for name in columns] for row in figures["rows"]])
    if images:
        figures |= {"embed": ray_scaling(images, numbers(photos, "--photos"), worker_counts, call.terminal.listen)}
        columns = ["workers", "photos", "cpu_s", "seconds", "faces"]
        call.terminal.table("embed", columns, [[row[name] for name in columns] for row in figures["embed"]["rows"]])
    figures |= {"driver": driver_growth(numbers(chunks, "--chunks"), chunk_rows)}
    call.terminal.figures("embed's driver", figures["driver"])
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "gallery", lake=False)
def bench_gallery_command(
    call: Invocation,
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces")],
    faces: Annotated[int, typer.Option(min=20, help="faces in the lake")] = 100_000,
    dim: Annotated[int, typer.Option(min=2, help="dimensions of the embeddings")] = 512,
    per_identity: Annotated[int, typer.Option(min=1, help="mean faces per identity")] = 8,
    seed: Annotated[int, typer.Option(help="seed of the synthetic faces")] = 0,
    world: Annotated[
        str | None,
        typer.Option(help="folder of a world of embeddings with two nights, which is clustered; the sizes are its own"),
    ] = None,
) -> None:
    """Measure seconds, memory and bytes of every command on a gallery of synthetic faces."""
    from facelake.bench.gallery import GallerySize, bench_gallery

    size = GallerySize.of_world(world) if world else GallerySize(faces, dim, per_identity, seed)
    figures = bench_gallery(call.config(), size, call.terminal.listen)
    columns = [
        "seconds",
        "driver_cpu_seconds",
        "driver_peak_bytes",
        "peak_bytes",
        "peak_unmapped_bytes",
        "read_bytes",
        "written_bytes",
    ]
    rows = [[name, *(values[column] for column in columns)] for name, values in figures["commands"].items()]
    call.terminal.table("gallery", ["command", *columns], rows)
    call.terminal.result({"ok": True, **figures})


@command(bench_app, "push", lake=False)
def bench_push_command(
    call: Invocation,
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces, or one that this command made")],
    to: Annotated[str, typer.Option(help="URL of an empty target, as for `facelake feed push`")],
    identities: Annotated[int, typer.Option(min=20, help="identities of one face each")] = 100_000,
    dim: Annotated[int, typer.Option(min=2, help="dimensions of a template")] = 512,
) -> None:
    """Compare a first push with the bulk loader of the database's own client."""
    from facelake.bench.push import bench_push

    figures = bench_push(call.config(), to, identities, dim, call.terminal.listen)
    call.terminal.figures("push", figures)
    call.terminal.result({"ok": figures["top_1_equal"] == figures["probes"], **figures})
