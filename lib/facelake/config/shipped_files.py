"""Where the data files of the package and the shipped configs are, in a checkout, a wheel or an archive."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import zipfile
from functools import lru_cache
from pathlib import Path


def conf_dir() -> Path:
    """The folder of shipped configs: inside an installed wheel, or at the root of a checkout."""
    installed = package_dir() / "conf"
    return installed if installed.is_dir() else Path(__file__).parents[3] / "conf"


@lru_cache(maxsize=1)
def package_dir() -> Path:
    """The package folder; run from an archive (spark-submit --py-files), its data files are unpacked once per
    process.
    """
    archive = getattr(globals().get("__loader__"), "archive", None)
    if archive is None:
        return Path(__file__).parents[1]
    folder = Path(tempfile.mkdtemp(prefix="facelake-package-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(archive) as package:
        package.extractall(folder, [name for name in package.namelist() if not name.endswith(".py")])
    return folder / "facelake"
