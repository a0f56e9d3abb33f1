"""The table of docs/clustering.md: facelake beside simple methods, on the arena's worlds, one set of defaults.

.venv/bin/python infra/arena_table.py --arena ../shared/arena --work DIR [preset:faces:dim:seed ...]

Makes each world in DIR unless it is there, clusters it by `facelake bench cluster` and scores both it and the arena's
baselines. Chinese Whispers at .54 is what somebody can use without labels. "Best fixed cut of that world" is the best
of the arena's list of cuts, and "in hindsight" that of all cuts: both are chosen with the world's labels. Baselines
compare all pairs: worlds of more than 20,000 faces get none. For embeddings of 512 dimensions the baselines' cuts are
.1 lower. The first line names the processor.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

WORLDS = [
    *(
        f"{preset}:12000:{dim}:{seed}"
        for dim in (128, 512)
        for preset in ("album", "archive", "profiles", "mixed")
        for seed in (907, 331)
    ),
    *(f"{preset}:50000:{dim}:907" for dim in (128, 512) for preset in ("album", "archive", "profiles", "mixed")),
    *(f"{preset}:12000:512:331" for preset in ("ms1m", "wild")),
    *(f"{preset}:20000:128:907" for preset in ("ms1m", "wild")),
]
_SHIFT = {512: "-.1"}  # of the baselines' cuts, which are an encoder's of 128 dimensions
_MOST_FOR_BASELINES = 20_000
_USUAL = "cw 0.54"


def arena(folder: Path, script: str, *arguments: str) -> str:
    """Run a script of the arena; return what it printed."""
    command = [sys.executable, str(folder / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def row(folder: Path, work: Path, name: str) -> str:
    """Return the table's row of a world."""
    preset, faces, dim, seed = name.split(":")
    world, out = work / name.replace(":", "-"), work / (name.replace(":", "-") + ".parquet")
    if not world.exists():
        size = ("--preset", preset, "--faces", faces, "--dim", dim, "--seed", seed, "--procs", "2")
        arena(folder, "identity_world.py", *size, "--out", str(world))
    cluster = [sys.executable, "-m", "facelake", "bench", "cluster", "--faces", f"{world}/faces", "--out", str(out)]
    subprocess.run([*cluster, "--json", "--quiet"], check=True, capture_output=True)
    if int(faces) > _MOST_FOR_BASELINES:
        scored = json.loads(arena(folder, "score.py", "--truth", f"{world}/truth", "--pred", str(out)))
        scores = {"facelake": scored}
    else:
        cuts = ("--shift", _SHIFT.get(int(dim), "0"), "--json")
        scores = json.loads(arena(folder, "baselines.py", "--world", str(world), "--pred", f"facelake={out}", *cuts))
    own = scores.pop("facelake")
    cells = [f"{preset}, {int(faces):,} faces, {dim}-d, seed {seed}", figures(own)]
    cells.append(figures(scores[_USUAL]) if scores else "")
    fixed = {method: score for method, score in scores.items() if "cut" not in score}
    for some in (fixed, scores):
        best = max(some, key=lambda method: some[method]["pair_f"], default=None)
        cells.append(f"{figures(some[best])} ({best})" if best else "")
    return f"| {' | '.join(cells)} |"


def figures(score: dict[str, float]) -> str:
    """Return pairwise F / BCubed F in percent."""
    return f"{100 * score['pair_f']:.1f} / {100 * score['bcubed_f']:.1f}"


def processor() -> str:
    """Return the name of the processor, as Linux tells it."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", default=WORLDS)
    parser.add_argument("--arena", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    sys.stdout.write(f"{processor()}, {os.cpu_count()} cores\n\n")
    columns = ("world", "facelake", "Chinese Whispers .54", "best fixed cut of that world", "best in hindsight")
    sys.stdout.write(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n")
    for name in options.worlds:
        sys.stdout.write(row(options.arena, options.work, name) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
