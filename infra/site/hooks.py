"""Hooks of the documentation site: pages that are made from code, pages from outside docs/, and links between them.

The Markdown files link as they are read in a checkout (`../conf/s3.yaml`); the site has those files beside the pages.
"""

from __future__ import annotations

import posixpath
import re
from enum import StrEnum
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_FILES = ("LICENSE", "Makefile", "conf/cluster.yaml", "conf/demo.yaml", "conf/s3.yaml", "conf/retracted.yaml")
_SHIM, _WORKER = "https://unpkg.com/iframe-worker/shim", "assets/worker.js"
_API_HEAD = """# API reference

Made from the docstrings. [Python API](python-api.md) has examples and says what is stable.
"""
_CLI_HEAD = """# Command line reference

Made from the commands. Every command also takes `--json`, `--quiet` and `--debug`; where it reads a lake, `-c` and
`--lake`. Exit code 0 is success, 1 a failed or refused run, 2 a wrong argument or config.
"""
_COMMON = {"config", "lake", "json", "quiet", "debug", "help"}
_MODULES = ("facelake.embedder.Embedder", "facelake.embedder.ProbeGate", "facelake.errors", "facelake.events")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add generated pages and the files outside docs/ that pages link to."""
    generated = {"api.md": api_page(), "cli.md": cli_page()}
    for name in _PAGES:
        generated[name] = (ROOT / name).read_text("utf-8")
    for name in _FILES:
        generated[name + ("" if "." in name else ".txt")] = (ROOT / name).read_text("utf-8")
    for name, text in generated.items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, _WORKER, abs_src_path=str(Path(__file__).parent / "worker.js")))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Let search in pages that are opened from a folder use a script of the site instead of one from another host."""
    return _without_other_hosts(output, "../" * page.file.dest_uri.count("/"))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Do the same in pages that are no documents, such as 404.html."""
    return _without_other_hosts(output_content, "")


def _without_other_hosts(html: str, to_root: str) -> str:
    return html.replace(_SHIM, f"{to_root}{_WORKER}")


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links of the checkout into links of the site."""
    folder = "" if page.file.src_uri in _PAGES else "docs"

    def place(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if ":" in target or not target or page.file.src_uri in ("api.md", "cli.md"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target)).removeprefix("docs/")
        path = {"README.md": "index.md", "LICENSE": "LICENSE.txt", "Makefile": "Makefile.txt"}.get(path, path)
        return f"]({path}{anchor})"

    return re.sub(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", place, markdown)


def api_page() -> str:
    """Return the page of the public classes, which mkdocstrings fills."""
    import facelake.api

    names = [f"facelake.api.{name}" for name in facelake.api.__all__]
    first = ["facelake.api.open", "facelake.api.Lake"]
    order = [*first, *(name for name in names if name not in first), *_MODULES]
    return _API_HEAD + "".join(f"\n::: {name}\n" for name in order)


def cli_page() -> str:
    """Return the page of all commands, with their arguments and options."""
    from facelake.cli import app

    root: Any = typer.main.get_command(app)
    return _CLI_HEAD + "".join(_command(command, path) for command, path in _commands(root, "facelake"))


def _commands(group: Any, path: str) -> list[tuple[Any, str]]:
    found: list[tuple[Any, str]] = []
    for name, command in group.commands.items():
        found.append((command, f"{path} {name}"))
        if hasattr(command, "commands"):
            found += _commands(command, f"{path} {name}")
    return found


def _command(command: Any, path: str) -> str:
    parts = [f"\n## {path}\n\n{command.help or ''}\n"]
    own = [parameter for parameter in command.params if parameter.name not in _COMMON]
    if own and not hasattr(command, "commands"):
        rows = [f"| {_names(parameter)} | {_meaning(parameter)} |" for parameter in own]
        parts.append("\n".join(["\n| argument or option | meaning |", "|---|---|", *rows]) + "\n")
    return "".join(parts)


def _names(parameter: Any) -> str:
    if parameter.opts[0].startswith("-"):
        return " ".join(f"`{name}`" for name in parameter.opts)
    return f"`{parameter.name.upper()}`" if parameter.required else f"`[{parameter.name.upper()}]`"


def _meaning(parameter: Any) -> str:
    text = (parameter.help or "").replace("|", "\\|").replace("<", "&lt;").rstrip(".")
    annotation = parameter.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        text += f"; one of {', '.join(f'`{member}`' for member in annotation)}"
    default = parameter.default
    if isinstance(default, str | int | float) and not isinstance(default, bool) and default != "":
        text += f"; default `{default}`"
    return text
