"""The token of a local Ray, set before Ray is imported: Ray reads it at its import."""

from __future__ import annotations

import os
import secrets
import sys

from facelake.config import RaySection


def use_own_token(section: RaySection) -> None:
    """Give a local Ray a token of its own, in the environment of its processes and in no file.

    Ray opens ports on every interface whatever its address is, and by default shares one token file among all runs. A
    configured cluster keeps its token.
    """
    if section.address is None and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"] = "token", secrets.token_hex(32)
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
