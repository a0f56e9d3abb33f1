"""Print docs/configuration.md from the models:  .venv/bin/python infra/config_doc.py > docs/configuration.md"""

from __future__ import annotations

import sys
from typing import Any

from pydantic import BaseModel

from facelake.config import Config

HEAD = """# Configuration

Generated from `lib/facelake/config/sections.py` by `infra/config_doc.py`; a test keeps the two consistent.

The configuration is one YAML file, given with `-c` as a path or `s3://bucket/key`. Every key is optional. The file is
checked completely before any work starts; the error for an unknown key names the most similar known key. It must not
contain secrets: credentials come from the environment or the cloud provider's chain ([storage](storage.md)). `--lake`
on the command line overrides `lake`.

Examples: [demo.yaml](../conf/demo.yaml), [s3.yaml](../conf/s3.yaml), [cluster.yaml](../conf/cluster.yaml).
"""
_LIMITS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))


def document() -> str:
    """Return the text of the page."""
    parts = [HEAD, "## Top level\n", _table(Config, top=True)]
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            parts += [f"\n## {name}\n", f"{(section.__doc__ or '').strip()}\n", _table(section)]
    return "\n".join(parts) + "\n"


def _table(model: type[BaseModel], *, top: bool = False) -> str:
    schema = model.model_json_schema()
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if top and isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            continue
        default = field.get_default(call_default_factory=True)
        cells = (f"`{name}`", _type_name(schema["properties"][name]), _as_text(default), field.description or "")
        lines.append(
            "| " + " | ".join(cell.replace("|", "\\|").replace("<lake>", "&lt;lake&gt;") for cell in cells) + " |"
        )
    return "\n".join(lines)


def _as_text(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if value in ({}, []):
        return "empty"
    return f"{value:,}" if isinstance(value, int) else f"`{value}`"


def _type_name(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_name(option) for option in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema['items'])}"
    if schema.get("type") == "object":
        return f"mapping to {_type_name(schema['additionalProperties'])}"
    limits = " ".join(f"{sign} {schema[key]:,}" for key, sign in _LIMITS if key in schema)
    pattern = f" like `{schema['pattern']}`" if "pattern" in schema else ""
    return f"{schema.get('type', 'any')} {limits}".strip() + pattern


if __name__ == "__main__":
    sys.stdout.write(document())
