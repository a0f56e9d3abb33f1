"""Measurements: what each costs here, as `facelake bench ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from facelake.cli.options import (
    SETTINGS,
    ConfigOption,
    DebugOption,
    JsonOption,
    LakeOption,
    QuietOption,
    numbers,
    open_terminal,
    read_config,
)
from facelake.terminal import boundary

bench_app = typer.Typer(help="Measurements.", **SETTINGS)
PackOption = Annotated[str, typer.Option("--pack", help="folder of an InsightFace pack")]
ImagesOption = Annotated[str, typer.Option("--images", help="folder of photos")]
AcceptOption = Annotated[str | None, typer.Option(help="accept the pack's terms: non-commercial")]
PackFolder = Annotated[str | None, typer.Option("--pack", help="folder of an InsightFace pack")]
PackShape = Annotated[str | None, typer.Option("--pack-shape", help="r50: random weights in buffalo_l's shapes")]
PhotosOption = Annotated[int, typer.Option(min=1, help="photos per round, made of the folder's by shifting")]
RoundsOption = Annotated[int, typer.Option(min=1, help="rounds, of which medians are taken")]
SideOption = Annotated[int, typer.Option(min=0, help="scale photos to this longer side; 0: as they are")]


@bench_app.command("parity")
def bench_parity(
    pack: PackOption,
    images: ImagesOption,
    accept_license: AcceptOption = None,
    decode_px: Annotated[int, typer.Option(help="as embed.decode_px; 0 decodes whole, as insightface does")] = 0,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Compare a pack's faces with insightface's own, photo by photo."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.parity import parity

        settings = read_config(config, None, model__accept_license=accept_license, embed__decode_px=decode_px)
        figures = parity(settings, pack, images)
        terminal.figures("parity", figures)
        terminal.result({"ok": figures["agrees"], **figures})
        if not figures["agrees"]:
            raise typer.Exit(1)


@bench_app.command("embed")
def bench_embed(
    images: ImagesOption,
    pack: PackFolder = None, shape: PackShape = None,
    accept_license: AcceptOption = None,
    photos: PhotosOption = 400,
    rounds: RoundsOption = 3,
    alone: Annotated[bool, typer.Option("--alone", help="only facelake: its rate and the memory it needs")] = False,
    side: SideOption = 0,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Images per second of facelake, of insightface in a loop, and of the bare models."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.embed import Sizes, chosen_pack, embed_rates

        settings = read_config(config, None, model__accept_license=accept_license)
        figures = embed_rates(settings, chosen_pack(pack, shape), images, Sizes(photos, rounds, side), alone=alone)
        terminal.figures("embed", figures)
        terminal.result({"ok": True, **figures})


@bench_app.command("device")
def bench_device(
    images: ImagesOption,
    pack: PackFolder = None, shape: PackShape = None,
    accept_license: AcceptOption = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1")] = "cuda",
    half: Annotated[bool, typer.Option(help="networks in half precision")] = True,
    nvjpeg: Annotated[bool, typer.Option(help="JPEGs decoded by the GPU")] = True,
    batch_photos: Annotated[int, typer.Option(min=1, max=256, help="photos looked at together")] = 64,
    batch_faces: Annotated[int, typer.Option(min=1, max=1024, help="faces encoded together")] = 256,
    photos: PhotosOption = 2000,
    rounds: RoundsOption = 3,
    side: SideOption = 0,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Images per second of one process on one GPU, and how far that is from its convolutions alone."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.embed import Sizes, chosen_pack
        from facelake.stages.models.registry import check_runtime

        there = device.startswith("cuda")
        wanted = {"runtime": "torch", "device": device, "half_precision": half, "nvjpeg": nvjpeg and there, "actors": 1}
        wanted |= {"batch_photos": batch_photos, "batch_faces": batch_faces}
        settings = read_config(
            config,
            None,
            model__accept_license=accept_license,
            **{f"embed__{name}": value for name, value in wanted.items()},
        )
        check_runtime(settings)
        from facelake.bench.device import device_rates

        figures = device_rates(settings, chosen_pack(pack, shape), images, Sizes(photos, rounds, side))
        terminal.figures("device", figures)
        terminal.result({"ok": True, **figures})


@bench_app.command("precision")
def bench_precision(
    card: Annotated[str, typer.Option(help="card to hold against the config's: of the same detector")],
    images: ImagesOption,
    labels: Annotated[str, typer.Option(help="CSV with columns image, person; image is a file name")],
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """What an int8 encoder gains in CPU time, and what it costs in recognition."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.precision import compare_precision

        figures = compare_precision(read_config(config, None), card, images, labels)
        terminal.figures("precision", figures)
        terminal.result({"ok": True, **figures})


@bench_app.command("quality")
def bench_quality(
    labels: Annotated[str, typer.Option(help="CSV with columns image, person; image is a file name or image_id")],
    config: ConfigOption = None, lake: LakeOption = None, json: JsonOption = False, quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:  # fmt: skip
    """Score the gallery against labels: pairwise and BCubed precision, recall, F."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.quality import quality
        from facelake.nightly import reading

        scores = quality(reading(read_config(config, lake)).lake, labels)
        rows = [[key, value] for key, value in scores.items() if not isinstance(value, dict)]
        rows += [[f"{key} {k}", f"{v:.4f}"] for key in ("pairwise", "bcubed") for k, v in scores[key].items()]
        terminal.table("quality", ["figure", "value"], rows)
        terminal.result({"ok": True, **scores})


@bench_app.command("cluster")
def bench_cluster(
    faces: Annotated[str, typer.Option(help="folder of Parquet files: face_id, image_id, quality, embedding")],
    out: Annotated[str, typer.Option(help="Parquet file to write: face_id, identity_id")],
    seed: Annotated[int | None, typer.Option(help="seed of sampling, over the config's")] = None,
    master: Annotated[str | None, typer.Option(help="Spark master, over the config's")] = None,
    work: Annotated[str | None, typer.Option(help="folder for what steps leave; a killed run goes on from it")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="leave the work folder when done")] = False,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Cluster embeddings outside any lake; prints seconds and peak memory per step."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.cluster import cluster_files

        spark = {"spark__master": master, "spark__in_process_below": 0} if master else {}
        settings = read_config(config, None, cluster__seed=seed, **spark)
        figures = cluster_files(settings, faces, out, terminal.listen, work=work, keep=keep)
        terminal.figures("cluster", figures)
        terminal.result({"ok": True, **figures})


@bench_app.command("nights")
def bench_nights(
    world: Annotated[str, typer.Option(help="folder with faces/night=K and removed/night=K")],
    out: Annotated[str, typer.Option(help="folder to write night-K.parquet to: face_id, identity_id")],
    lake: Annotated[str, typer.Option(help="empty root for the lake")],
    full: Annotated[bool, typer.Option("--full", help="at the end group all faces anew, into full.parquet")] = False,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Nights in which faces come and go, through cluster and publish; seconds and what changed of each."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.nights import run_nights

        figures = run_nights(read_config(config, lake), world, out, full, terminal.listen)
        shown = ("faces", "mode", "identities", "seconds")
        rows = [[number, *(night[key] for key in shown)] for number, night in enumerate(figures["nights"])]
        terminal.table("nights", ["night", *shown], rows)
        terminal.result({"ok": True, **figures})


@bench_app.command("report")
def bench_report(
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces")],
    faces: Annotated[int, typer.Option(min=20, help="faces in it")] = 100_000,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Make the report of a synthetic lake: seconds, memory, bytes of the page."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.report import report_of

        figures = report_of(read_config(config, lake), faces, terminal.listen)
        terminal.figures("report", figures)
        terminal.result({"ok": True, **figures})


@bench_app.command("erase")
def bench_erase(
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces")],
    faces: Annotated[int, typer.Option(min=20, help="faces in it")] = 10_000,
    subjects: Annotated[int, typer.Option(min=1, help="people to erase, of faces / 20")] = 100,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Erase people from a synthetic lake: seconds per step, and what is left of them."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.erase import erase_subjects

        figures = erase_subjects(read_config(config, lake), faces, subjects, terminal.listen)
        terminal.figures("erase", figures)
        terminal.result({"ok": not figures["residual_hits"] and figures["others_identical"], **figures})


@bench_app.command("match")
def bench_match(
    identities: Annotated[int, typer.Option(min=1, help="identities of the gallery")] = 100_000,
    dim: Annotated[int, typer.Option(min=2)] = 512,
    probes: Annotated[int, typer.Option(min=1)] = 2_000,
    k: Annotated[int, typer.Option("-k", min=1, help="identities wanted of each probe")] = 5,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """1:N by the matcher's client against FAISS's flat index, in turns."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.match import compare_search

        figures = compare_search(identities, dim, probes, k, rounds)
        terminal.figures("match", figures)
        terminal.result({"ok": figures["same_answers"], **figures})


@bench_app.command("review")
def bench_review(
    lake: Annotated[str, typer.Option(help="empty root for a lake of synthetic faces, or one that this command made")],
    faces: Annotated[int, typer.Option(min=100, help="faces in it")] = 10_000,
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """How long a reviewer waits: seconds to the queue, an identity, a pair, and until an answer is recorded."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.review import time_review

        figures = time_review(read_config(config, lake), faces, terminal.listen)
        terminal.figures("review", figures)
        terminal.result({"ok": True, **figures})


@bench_app.command("plan")
def bench_plan(
    faces: Annotated[str, typer.Option(help="sizes of lakes of synthetic faces")] = "10000,30000,90000",
    dim: Annotated[int, typer.Option(min=2, help="of their embeddings")] = 128,
    images: Annotated[str | None, typer.Option("--images", help="folder of photos, to check embed too")] = None,
    photos: Annotated[str, typer.Option(help="with --images: numbers of photos made of the folder's")] = "80,160,320",
    config: ConfigOption = None, json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """What `facelake plan --at` predicts of small lakes on a store of their own, beside what they take."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.plan import check_plan

        many, few = numbers(faces, "--faces"), numbers(photos, "--photos")
        figures = check_plan(read_config(config, None), many, dim, images, few, terminal.listen)
        columns = ["size", "stage", "figure", "predicted", "measured", "error"]
        terminal.table("plan", columns, [[row[name] for name in columns] for row in figures["rows"]])
        terminal.result({"ok": True, **figures})


@bench_app.command("scaling")
def bench_scaling(
    faces: Annotated[str, typer.Option(help="two sizes; the difference is what more faces take")] = "30000,120000",
    workers: Annotated[str, typer.Option(help="single-threaded workers")] = "1,2,4",
    chunks: Annotated[str, typer.Option(help="two numbers of chunks for the memory of embed's driver")] = "1600,3200",
    chunk_rows: Annotated[int, typer.Option(min=1)] = 64,
    images: Annotated[str | None, typer.Option(help="folder of photos: embed in one process and on Ray, too")] = None,
    photos: Annotated[str, typer.Option(help="two numbers of photos, made of the folder's by shifting")] = "200,600",
    json: JsonOption = False, quiet: QuietOption = False, debug: DebugOption = False,
) -> None:  # fmt: skip
    """Clustering in one process and on Spark by CPU seconds, and what embed's driver keeps per thousand faces."""
    terminal = open_terminal(json, quiet, debug)
    with boundary(terminal):
        from facelake.bench.scaling import driver_growth, ray_scaling, scaling

        sizes, ways, few = numbers(faces, "--faces"), numbers(workers, "--workers"), numbers(chunks, "--chunks")
        figures = scaling(sizes, ways, terminal.listen)
        columns = ["workers", "faces", "cpu_s", "seconds", "groups"]
        terminal.table("clustering", columns, [[row[name] for name in columns] for row in figures["rows"]])
        if images:
            figures |= {"embed": ray_scaling(images, numbers(photos, "--photos"), ways, terminal.listen)}
            columns = ["workers", "photos", "cpu_s", "seconds", "faces"]
            terminal.table("embed", columns, [[row[name] for name in columns] for row in figures["embed"]["rows"]])
        figures |= {"driver": driver_growth(few, chunk_rows)}
        terminal.figures("embed's driver", figures["driver"])
        terminal.result({"ok": True, **figures})
