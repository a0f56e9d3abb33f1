"""Peers of `cluster` on one of the arena's worlds, in one run: seconds, memory, scores, and how they relate to ours.

.venv/bin/python infra/peers.py W --arena ../shared/arena [--infomap FOLDER] [--only NAME ...]

W is a folder that `identity_world.py` made. Each method is a process of its own (so its memory is its own), reads the
Parquet files, and searches its own neighbours: the graph methods by the prototype's inverted lists (4 of n / 140 lists
per face, k = 80), the last by faiss's IndexIVFFlat. Infomap is GPL and not among our dependencies: give the folder
that `pip install --target FOLDER infomap` made. HDBSCAN (scikit-learn) is quadratic and gets the first 12,000 faces,
and is compared with ours on those. Cuts are those at which the arena's README found each to be best.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FEW = 12_000
HEAD = ("method", "seconds", "of facelake's", "memory", "F", "BCubed F", "identity F", "ratio")
METHODS = ("facelake", "prototype", "infomap", "chinese-whispers", "faiss-ivf", "facelake-few", "hdbscan")


def say(*cells: str) -> None:
    """A row of the table."""
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    sys.stdout.flush()


def read(world: Path, few: bool) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, unit vectors, quality and photos of faces whose vector can be compared."""
    rows = pq.read_table(world / "faces", columns=["face_id", "image_id", "quality", "embedding"])
    rows = rows.slice(0, FEW if few else None)
    column = rows["embedding"].combine_chunks()
    x = column.flatten().to_numpy().reshape(len(column), -1).astype(np.float32)
    norm = np.linalg.norm(x, axis=1)
    sound = np.isfinite(norm) & (norm > 0)
    ids = rows["face_id"].filter(pa.array(sound))
    photo = np.unique(np.array(rows["image_id"].to_pylist()), return_inverse=True)[1]
    return ids, x[sound] / norm[sound, None], rows["quality"].to_numpy()[sound], photo[sound]


def components(x: np.ndarray, cut: float) -> np.ndarray:
    """faiss IndexIVFFlat, k = 80, then connected components above the cut."""
    import faiss
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count, dim = x.shape
    lists = max(int(4 * count**0.5), 1)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(x[np.random.default_rng(0).permutation(count)[: 40 * lists]])
    index.add(x)
    index.nprobe = 8
    similarity, near = index.search(x, 80)
    row, column = np.nonzero((similarity >= cut) & (near >= 0))
    edges = coo_matrix((np.ones(len(row), np.int8), (row, near[row, column])), shape=(count, count))
    return np.asarray(connected_components(edges, directed=False)[1])


def graph_method(name: str, x: np.ndarray, quality: np.ndarray, photo: np.ndarray, arena: Path) -> np.ndarray:
    """Methods on a neighbour graph, with the prototype's code."""
    os.environ["NUMBA_CACHE_DIR"] = tempfile.mkdtemp()
    sys.path.insert(0, str(arena / "prototype"))
    import ivf  # type: ignore[import-not-found]
    import pipe  # type: ignore[import-not-found]

    lists = max(len(x) // 140, 1)
    _, probes, home, _ = ivf.ivf(x, lists, min(4, lists))
    near, cosine, _ = ivf.selfjoin(x, probes, home, lists)
    if name == "prototype":
        labels, _ = pipe.pipeline(x, near, cosine, photo=photo, q=quality, c_imp=2.0, tau=0.5, T=0.12, margin=0.15)
        return np.asarray(labels)
    edges = ivf.edges(near, cosine, 0.5 if name == "infomap" else 0.6)
    run = ivf.infomap_run if name == "infomap" else ivf.chinese_whispers
    return np.asarray(run(len(x), *edges))


def child(name: str, world: Path, arena: Path, out: Path) -> None:
    """One method, from Parquet to Parquet."""
    ids, x, quality, photo = read(world, name == "hdbscan")
    if name == "hdbscan":
        from sklearn.cluster import HDBSCAN

        labels = HDBSCAN(min_cluster_size=2, n_jobs=2).fit_predict(x)
        alone = labels < 0
        labels[alone] = labels.max() + 1 + np.arange(alone.sum())
    else:
        labels = components(x, 0.7) if name == "faiss-ivf" else graph_method(name, x, quality, photo, arena)
    pq.write_table(pa.table({"face_id": ids, "identity_id": pa.array(labels.astype(np.int64))}), out)


def few_of(world: Path, folder: Path) -> Path:
    """The first faces of a world as a world of its own, with their truth."""
    made = folder / "few"
    (made / "faces").mkdir(parents=True)
    rows = pq.read_table(world / "faces").slice(0, FEW)
    truth = pq.read_table(world / "truth")
    pq.write_table(rows, made / "faces/part-0.parquet")
    (made / "truth").mkdir()
    wanted = pa.compute.is_in(truth["face_id"], rows["face_id"])
    pq.write_table(truth.filter(wanted), made / "truth/part-0.parquet")
    return made


def measure(name: str, world: Path, arena: Path, folder: Path, extra: dict[str, str]) -> dict[str, float]:
    """Seconds and peak memory of a method's process; its scores."""
    out = folder / f"{name}.parquet"
    command = [sys.executable, __file__, str(world), "--arena", str(arena), "--child", name, "--out", str(out)]
    if name.startswith("facelake"):
        command = [sys.executable, "-m", "facelake", "bench", "cluster", "--faces", f"{world}/faces"]
        command += ["--out", str(out), "--work", str(folder / f"work-{name}"), "--json"]
    report, began = folder / f"{name}.json", time.monotonic()
    with report.open("w") as stdout:
        process = subprocess.Popen(command, env=os.environ | extra, stdout=stdout)
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    if status:
        sys.exit(f"{name} failed")
    memory = float(used.ru_maxrss) * 1024
    if name.startswith("facelake"):
        memory = float(json.loads(report.read_text().strip().splitlines()[-1])["peak_bytes_all_processes"])
    score = [sys.executable, str(arena / "score.py"), "--truth", f"{world}/truth", "--pred", str(out)]
    found = json.loads(subprocess.run(score, capture_output=True, text=True, check=True).stdout)
    keys = ("pair_f", "bcubed_f", "identity_f50", "cluster_ratio")
    return {"seconds": seconds, "peak_bytes": memory} | {key: float(found[key]) for key in keys}


def main() -> None:
    """Run the methods one after the other and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", type=Path)
    parser.add_argument("--arena", type=Path, required=True)
    parser.add_argument("--infomap", default="")
    parser.add_argument("--only", nargs="*", default=METHODS, choices=METHODS)
    parser.add_argument("--child", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.world, given.arena, given.out)
        return
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), given.infomap]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        few = few_of(given.world, folder)
        say(*HEAD)
        say(*["---"] * len(HEAD))
        first: dict[bool, float] = {}
        for method in given.only:
            if method == "infomap" and not given.infomap:
                continue
            small = method in ("facelake-few", "hdbscan")
            found = measure(method, few if small else given.world, given.arena, folder, {"PYTHONPATH": path})
            first.setdefault(small, found["seconds"])
            scores = [f"{100 * found[key]:.1f}" for key in ("pair_f", "bcubed_f", "identity_f50")]
            cost = (
                f"{found['seconds']:.0f}",
                f"{found['seconds'] / first[small]:.2f}",
                f"{found['peak_bytes'] / 1e9:.1f} GB",
            )
            say(method, *cost, *scores, f"{found['cluster_ratio']:.2f}")


if __name__ == "__main__":
    main()
