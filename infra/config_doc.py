"""Prints docs/configuration.md from the models:  .venv/bin/python infra/config_doc.py > docs/configuration.md"""

from __future__ import annotations

import sys
from typing import Any

from pydantic import BaseModel

from facelake.config import Config

HEAD = """# Configuration

Made by `infra/config_doc.py` out of `lib/facelake/config.py`; a test keeps the two together.

One YAML file, given with `-c`, a path or `s3://bucket/key`. Every key is optional. It is checked whole before any work
starts: an unknown key is an error that names the nearest known one. No secret has a place in it: credentials come from
the environment or the cloud's own chain ([storage](storage.md)). `--lake` on the command line overrules `lake`.

Examples: [demo.yaml](../conf/demo.yaml), [s3.yaml](../conf/s3.yaml), [cluster.yaml](../conf/cluster.yaml).
"""
_LIMITS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


def document() -> str:
    """The page's text."""
    parts = [HEAD, "## Top level\n", _table(Config, top=True)]
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            parts += [f"\n## {name}\n", f"{(section.__doc__ or '').strip()}\n", _table(section)]
    return "\n".join(parts) + "\n"


def _table(model: type[BaseModel], top: bool = False) -> str:
    schema = model.model_json_schema()
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if top and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = field.get_default(call_default_factory=True)
        cells = (f"`{name}`", _kind(schema["properties"][name]), _said(default), field.description or "")
        lines.append(
            "| " + " | ".join(cell.replace("|", "\\|").replace("<lake>", "&lt;lake&gt;") for cell in cells) + " |"
        )
    return "\n".join(lines)


def _said(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value in ({}, []):
        return "empty"
    return f"{value:,}" if isinstance(value, int) else f"`{value}`"


def _kind(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    if schema.get("type") == "object":
        return f"mapping to {_kind(schema['additionalProperties'])}"
    limits = " ".join(f"{sign} {schema[key]:,}" for key, sign in _LIMITS if key in schema)
    pattern = f" like `{schema['pattern']}`" if "pattern" in schema else ""
    return f"{schema.get('type', 'any')} {limits}".strip() + pattern


if __name__ == "__main__":
    sys.stdout.write(document())
