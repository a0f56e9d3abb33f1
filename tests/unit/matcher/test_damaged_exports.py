"""Exports that are signed and nevertheless damaged or hostile: an error that says what, where and what next."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facelake.erase import Signer
from facelake.errors import ConfigError, Corrupt, FacelakeError
from facelake.matcher import Gallery
from facelake.publish.template_index import flat_index
from facelake.vectors import unit_rows

DIM, COUNT = 8, 5
MANIFEST: dict[str, Any] = {
    "format": 4,
    "lease_id": "lease-1",
    "expires_at": "2199-01-01T00:00:00+00:00",
    "exported_at": "2026-01-01T00:00:00+00:00",
    "gallery_version": 3,
    "purpose": "p",
    "lake": "lake-1",
    "model_digest": "m",
    "template_key": None,
    "thresholds": [{"fmr": 1e-4, "similarity": None, "extrapolated": 0.6}],
    "impostor_curve": {"comparisons": 10, "points": [[0.4, 1]]},
    "index": {"kind": "flat"},
}
Change = Callable[[Path, dict[str, Any]], Any]


def rows(count: int = COUNT, dim: int = DIM) -> pa.Table:
    templates = unit_rows(np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32))
    columns = {
        "identity_id": [f"id-{number}" for number in range(count)],
        "prototype": pa.array(templates.tolist(), pa.list_(pa.float32())),
        "exemplars": pa.array([[row.astype("<f2").tobytes()] for row in templates], pa.list_(pa.binary())),
    }
    return pa.table(columns)


def templates_of(table: pa.Table) -> np.ndarray:
    return np.array(table["prototype"].to_pylist(), np.float32)


def write(folder: Path, name: str, table: pa.Table, manifest: dict[str, Any], change: Change | None = None) -> str:
    """A signed delivery, whose files are changed before they are signed."""
    folder.mkdir()
    pq.write_table(table, folder / name)
    if "kind" not in manifest:
        faiss.write_index(flat_index(templates_of(table)), str(folder / "index.faiss"))
    signed = json.loads(json.dumps(manifest))
    if change:
        change(folder, signed)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}
    signed["files"] = {**files, **signed.get("files", {})}
    for name in [name for name, digest in signed["files"].items() if digest == "unlisted"]:
        del signed["files"][name]
    signed["signature"] = Signer.load_or_create(folder.parent / "key.pem").sign(signed)
    (folder / "manifest.json").write_text(json.dumps(signed))
    return str(folder)


def export(tmp_path: Path, change: Change | None = None) -> str:
    return write(tmp_path / "gate", "identities-00000.parquet", rows(), MANIFEST, change)


def refused(tmp_path: Path, change: Change) -> FacelakeError:
    uri = export(tmp_path, change)
    with pytest.raises((Corrupt, ConfigError)) as caught:
        Gallery.open(uri)
    assert caught.value.what
    assert str(tmp_path / "gate") in caught.value.where
    assert caught.value.next_step
    return caught.value


def test_what_is_not_damaged_opens(tmp_path: Path) -> None:
    gallery = Gallery.open(export(tmp_path))
    assert len(gallery) == COUNT
    found = gallery.search(templates_of(rows()), "m", k=2)
    assert [names[0] for names in found.identity_ids] == gallery.identity_ids
    for k in (0, -1):
        with pytest.raises(ConfigError, match="candidates per probe"):
            gallery.search(templates_of(rows()), "m", k=k)


@pytest.mark.parametrize("name", [name for name in MANIFEST if name != "format"])
def test_every_field_is_needed(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, lambda _, manifest: manifest.pop(name))
    assert name in error.what


@pytest.mark.parametrize(
    "fields",
    [
        {"gallery_version": "3"},
        {"gallery_version": -1},
        {"expires_at": "2199-01-01T00:00:00"},
        {"expires_at": "soon"},
        {"exported_at": 5},
        {"purpose": None},
        {"thresholds": [{}]},
        {"thresholds": [{"fmr": 1e-4, "similarity": "high"}]},
        {"thresholds": {}},
        {"impostor_curve": []},
        {"impostor_curve": {"comparisons": 1, "points": [[0.5]]}},
        {"template_key": 7},
        {"index": []},
        {"index": {"kind": "tree"}},
        {"index": {"kind": "flat", "more": 1}},
        {"index": {"kind": "codes"}},
        {"renewal": {"needs_changes_of": "then"}},
        {"kind": "changes"},
    ],
    ids=str,
)
def test_fields_of_another_kind_are_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    refused(tmp_path, lambda _, manifest: manifest.update(fields))


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/b", "../identities-00000.parquet", "/etc/passwd", "a\\b", ".x", "a\0"]
)
def test_a_file_is_in_no_other_folder(tmp_path: Path, name: str) -> None:
    refused(tmp_path, lambda _, manifest: manifest.update(files={name: "0" * 64}))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    def change(folder: Path, manifest: dict[str, Any]) -> None:
        (folder / "sub").mkdir()
        manifest["files"] = {"sub": "0" * 64}

    assert "cannot be read" in refused(tmp_path, change).what


def test_an_index_that_the_manifest_does_not_list_is_not_read(tmp_path: Path) -> None:
    error = refused(tmp_path, lambda _, manifest: manifest.update(files={"index.faiss": "unlisted"}))
    assert "does not list index.faiss" in error.what


def table(name: str, values: Any) -> Change:
    def change(folder: Path, _: dict[str, Any]) -> None:
        changed = rows()
        at = changed.column_names.index(name)
        changed = changed.remove_column(at) if values is None else changed.set_column(at, name, pa.array(values))
        pq.write_table(changed, folder / "identities-00000.parquet")

    return change


def index(made: faiss.Index) -> Change:
    return lambda folder, _: faiss.write_index(made, str(folder / "index.faiss"))


@pytest.mark.parametrize(
    "change",
    [
        table("identity_id", None),
        table("prototype", None),
        table("exemplars", None),
        table("identity_id", ["same"] * COUNT),
        table("identity_id", [None] * COUNT),
        table("prototype", [[1.0] * 3] * COUNT),
        table("prototype", [[1.0] * 8, *[[1.0] * 7] * 4]),
        table("prototype", [[float("nan")] * DIM] * COUNT),
        table("prototype", ["text"] * COUNT),
        table("exemplars", [[b"odd"]] * COUNT),
        table("exemplars", [1] * COUNT),
        index(flat_index(templates_of(rows(COUNT + 1)))),
        index(flat_index(templates_of(rows(COUNT, DIM + 1)))),
        index(faiss.IndexFlatL2(DIM)),
        index(faiss.IndexLSH(DIM, 16)),
        lambda folder, _: (folder / "index.faiss").write_bytes(b""),
        lambda folder, _: (folder / "index.faiss").write_bytes(b"IxFI" + b"\xff" * 40),
        lambda folder, _: (folder / "identities-00000.parquet").write_bytes(b"PAR1"),
        lambda folder, _: (folder / "identities-00000.parquet").unlink(),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path: Path, change: Change) -> None:
    refused(tmp_path, change)


def changed(tmp_path: Path, change: Change | None = None, **fields: Any) -> str:
    body = {name: MANIFEST[name] for name in MANIFEST if name not in ("thresholds", "impostor_curve", "index")}
    body |= {"kind": "changes", "computed_at": "2026-02-01T00:00:00+00:00", "since": 3, "identities": COUNT}
    body |= {"gallery_version": 4} | fields
    own = rows().append_column("status", pa.array(["active"] * COUNT))
    return write(tmp_path / "changes", "changes-00000.parquet", own.append_column("model_digest", pa.array(["m"] * COUNT)), body, change)  # fmt: skip


def test_changes_that_are_not_damaged_are_applied(tmp_path: Path) -> None:
    assert Gallery.open(export(tmp_path)).apply(changed(tmp_path)) == COUNT


@pytest.mark.parametrize(
    "change",
    [
        *[lambda _, manifest, name=name: manifest.update({name: None}) for name in ("since", "identities", "computed_at")],
        lambda _, manifest: manifest.update(gallery_version="4"),
        lambda folder, _: pq.write_table(rows(), folder / "changes-00000.parquet"),
        lambda folder, _: (folder / "changes-00000.parquet").write_bytes(b"PAR1"),
    ],
)  # fmt: skip
def test_damaged_changes_leave_the_copy_as_it_was(tmp_path: Path, change: Change) -> None:
    gallery = Gallery.open(export(tmp_path))
    uri = changed(tmp_path, change)
    with pytest.raises(Corrupt) as caught:
        gallery.apply(uri)
    assert caught.value.next_step
    assert (len(gallery), gallery.version) == (COUNT, 3)
