"""Build dist/facelake.zip (for spark-submit --py-files) and dist/job/ (a working directory for ray job submit).

Both hold facelake with its shipped configs and no dependency: hosts have those from the image or from
`pip install -c constraints.txt`. The zip is the same bytes for the same sources.

    .venv/bin/python infra/package.py [FOLDER]     # default: dist
"""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_WHEN = (1980, 1, 1, 0, 0, 0)


def contents() -> dict[str, Path]:
    """Path in the archive: file."""
    found = {}
    for folder, inside in ((ROOT / "lib" / "facelake", "facelake"), (ROOT / "conf", "facelake/conf")):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"{inside}/{path.relative_to(folder).as_posix()}"] = path
    return found


def build(target: Path) -> Path:
    """Write both; returns the zip."""
    target.mkdir(parents=True, exist_ok=True)
    archive, job = target / "facelake.zip", target / "job"
    shutil.rmtree(job, ignore_errors=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as held:
        for name, path in contents().items():
            held.writestr(zipfile.ZipInfo(name, _WHEN), path.read_bytes(), zipfile.ZIP_DEFLATED)
            (job / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, job / name)
    shutil.copytree(ROOT / "jobs", job / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    return archive


if __name__ == "__main__":
    sys.stdout.write(f"{build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / 'dist')}\n")
