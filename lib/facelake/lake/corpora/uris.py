"""The places that manifests name: one form for the several spellings of a location."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from urllib.parse import unquote

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_S3 = ("s3", "s3a", "s3n")


def places_of(uri: str, folder: str, root: str) -> list[str]:
    """Where a photo may be, the likeliest place first: relative to the corpus, an absolute path, or s3://.

    URIs of files are percent-encoded by their rule, other names by some writers; file systems of other makers compose
    letters differently.

    Args:
        uri: as the manifest has it.
        folder: of the manifest, relative to the corpus.
        root: directory or bucket prefix of the corpus.
    """
    place = _placed(uri, folder, root)
    spelled = [place]
    if "%" in place:
        decoded = unquote(place)
        spelled = [decoded, place] if _scheme_of(uri) == "file" else [place, decoded]
    if place.isascii() and "%" not in place:
        return spelled
    return list(dict.fromkeys(form for text in spelled for form in (text, *_forms(text))))


def identity_of(place: str, root: str) -> str:
    """One text for all spellings of a place: complete, decoded and composed."""
    if "://" not in place and not os.path.isabs(place):
        place = f"{root.rstrip('/')}/{place}"
    return unicodedata.normalize("NFC", unquote(place))


def path_below(place: str, root: str) -> str:
    """The path below the corpus by which patterns select a photo; of a photo elsewhere, its path or key."""
    inside = root.rstrip("/") + "/"
    if place.startswith(inside):
        return place[len(inside) :]
    return place.removeprefix("s3://").partition("/")[2] if place.startswith("s3://") else place.lstrip("/")


def _forms(text: str) -> tuple[str, str]:
    return unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text)


def _scheme_of(uri: str) -> str:
    match = _SCHEME.match(uri)
    return match.group(1).lower() if match else ""


def _placed(uri: str, folder: str, root: str) -> str:
    scheme = _scheme_of(uri)
    if scheme == "file":
        path = uri[len("file:") :]
        host = path[2:].partition("/")[0].lower() if path.startswith("//") else ""
        path = path[2 + len(host) :] if path.startswith("//") and host in ("", "localhost") else path
        return uri if host not in ("", "localhost") else _absolute(path)
    if scheme in _S3:
        return f"s3://{uri.partition(':')[2].lstrip('/')}"
    if scheme:
        return uri
    return _absolute(uri) if os.path.isabs(uri) else _relative(f"{folder}/{uri}" if folder else uri, root)


def _absolute(path: str) -> str:
    return "/" + posixpath.normpath(path).lstrip("/")


def _relative(path: str, root: str) -> str:
    """A path below the corpus; one that leads out of it becomes complete."""
    if not {".", ".."} & set(path.split("/")):
        return path
    inside = posixpath.normpath(path)
    if inside != ".." and not inside.startswith("../"):
        return inside
    if not root.startswith("s3://"):
        return _absolute(f"{root}/{path}")
    bucket, _, prefix = root.removeprefix("s3://").partition("/")
    key = posixpath.normpath(f"{prefix}/{path}")
    return path if key.startswith("..") else f"s3://{bucket}/{key}"
