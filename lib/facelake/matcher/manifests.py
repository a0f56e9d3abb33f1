"""What the manifests of exports and changes must say: they are signed, but by whomever, and files are damaged."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr, ValidationError

from facelake.errors import Corrupt
from facelake.plural import first_of
from facelake.publish.template_files import EXEMPLARS, STARTS, TEMPLATES

INDEX = "index.faiss"
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of a delivery: in no other folder
_NAMED = 4  # faults


def _moment(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("it has no time zone")
    return text


_Moment = Annotated[StrictStr, AfterValidator(_moment)]
_Count = Annotated[StrictInt, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Threshold(_Part):
    fmr: FiniteFloat
    similarity: FiniteFloat | None
    extrapolated: FiniteFloat | None = None


class _Curve(_Part):
    comparisons: _Count
    points: list[tuple[FiniteFloat, _Count]]


class _Renewal(_Part):
    needs_changes_of: _Moment


class _Manifest(_Part):
    lease_id: StrictStr
    expires_at: _Moment
    purpose: StrictStr
    lake: StrictStr
    model_digest: StrictStr
    gallery_version: _Count
    template_key: StrictStr | None
    files: dict[StrictStr, StrictStr]


class _Export(_Manifest):
    exported_at: _Moment
    thresholds: list[_Threshold]
    impostor_curve: _Curve
    index: dict[StrictStr, Any]
    renewal: _Renewal | None = None


class _Changes(_Manifest):
    computed_at: _Moment
    since: _Count
    identities: _Count


def is_file_name(name: object) -> bool:
    """Whether a manifest may list a file of this name."""
    return isinstance(name, str) and _FILE.fullmatch(name) is not None


def check_export(manifest: dict[str, Any], where: str) -> None:
    """Check that a signed manifest says what a copy needs, and lists its index, whose digest is checked then.

    Raises:
        Corrupt: it does not, or is of changes.
    """
    if manifest.get("kind", "export") != "export":
        what = f"these are not the files of an export, but of {manifest['kind']}"
        raise Corrupt(what, where=where, next_step="give the folder that `facelake gallery export` wrote")
    _check(_Export, manifest, where)
    needed = {INDEX} | ({TEMPLATES, EXEMPLARS, STARTS} if manifest["index"].get("kind") == "codes" else set())
    if missing := sorted(needed - manifest["files"].keys()):
        what = f"the manifest does not list {', '.join(missing)}, so that nobody knows whether it was changed"
        raise _corrupt(what, where)


def check_changes(manifest: dict[str, Any], where: str) -> None:
    """Check that a signed manifest says what is needed to apply changes.

    Raises:
        Corrupt: it does not.
    """
    _check(_Changes, manifest, where)


def _check(kind: type[_Manifest], manifest: dict[str, Any], where: str) -> None:
    try:
        kind.model_validate(manifest)
    except ValidationError as err:
        faults = [f"{'.'.join(map(str, fault['loc']))} ({fault['msg'].lower()})" for fault in err.errors()]
        raise _corrupt(f"the manifest is signed, but not complete: {first_of(faults, _NAMED)}", where) from err


def _corrupt(what: str, where: str) -> Corrupt:
    return Corrupt(what, where=where, next_step="do not use the copy; have it exported again")
