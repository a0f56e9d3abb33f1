"""People of two partitions never meet: the same photos in two of them, through every command that could mix them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import facelake
from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.nightly import reading, run_night, writing
from facelake.partitions import folder_of, in_partition, must_be_one_lake
from facelake.stages.admission.import_images import write_corpus_file
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.gallery.versions import current_gallery
from tests.conftest import run_cli, run_json
from tests.e2e.test_erasure import photo_of

TENANTS = ("tenant-a", "Zoë/../b")
PHOTOS = [f"album/person-{person}-0{number}.jpg" for person in (2, 3) for number in (0, 1)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, demo_template: tuple[Path, dict[str, Any]]) -> Path:
    """A config of a partitioned gallery, after a run; both tenants delivered the same photos."""
    folder = tmp_path_factory.mktemp("partitions")
    path = folder / "my.yaml"
    path.write_text(
        f"lake: {folder}/lake\ngallery: {{partition_by: source_id}}\ngovernance: {{dpia: test}}\n"
        "embed: {actors: 1}\nray: {num_cpus: 1}\n"
    )
    photos = folder / "photos"
    photos.mkdir()
    for photo in PHOTOS:
        (photos / photo.replace("/", "-")).write_bytes(photo_of(demo_template[0], photo))
    for tenant in TENANTS:
        done = run_cli("import", str(photos), "--basis", "signed", "-c", str(path), "--partition", tenant)
        assert done.returncode == 0, done.stderr
    outcome = run_json("nightly", "-c", str(path))
    assert set(outcome["partitions"]) == set(TENANTS)
    assert {part["faces"] for part in outcome["partitions"].values()} == {len(PHOTOS)}
    assert {part["identities"] for part in outcome["partitions"].values()} == {2}
    return path


def lake_of(settings: Path, tenant: str) -> Path:
    return settings.parent / "lake/partitions" / folder_of(tenant)


def opened(settings: Path, tenant: str) -> facelake.Lake:
    return facelake.open(config=load_config(str(settings), overrides={"partition": tenant}))


def identities(settings: Path, tenant: str) -> list[str]:
    gallery = current_gallery(reading(opened(settings, tenant).config).lake)
    assert gallery
    return list(gallery.read("identities", ["identity_id"])["identity_id"].to_pylist())


def test_the_same_faces_in_two_partitions_have_ids_of_their_own(settings: Path) -> None:
    first, second = (identities(settings, tenant) for tenant in TENANTS)
    assert len(first) == len(second) == 2
    assert not set(first) & set(second)


def test_nothing_of_one_partition_lies_in_the_lake_of_another(settings: Path) -> None:
    for own, other in (TENANTS, TENANTS[::-1]):
        names = [f"{other}/".encode(), *(ident.encode() for ident in identities(settings, other))]
        names += [json.dumps(name.decode())[1:-1].encode() for name in names]
        for path in lake_of(settings, own).rglob("*"):
            body = path.read_bytes() if path.is_file() else b""
            assert not any(name in body for name in names), path


def test_commands_refuse_to_work_on_all_partitions_at_once(settings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export = ["gallery", "export", "--out", str(out), "--purpose", "identity-grouping", "--recipient", "gate"]
    grant = ["ledger", "grant", "--source", "s", "--basis", "b", "--purpose", "p", "--even-if-unknown", "--create-lake"]
    for command in (export, grant, ["erase", "--source", "tenant-a", "--yes"]):
        done = run_cli(*command, "-c", str(settings))
        assert done.returncode == 2, command
        assert "add --partition" in done.stderr
    assert not (settings.parent / "lake/lake.json").exists()
    assert not out.exists()
    both = facelake.open(config=str(settings))
    for operation in (
        both.status,
        both.gallery,
        both.verify,
        both.ledger.list,
        both.feed.leases,
        both.corrections.list,
        both.nightly,
        lambda: both.explain("a", "b"),
        lambda: both.erase(facelake.api.Request.of(sources=["tenant-a"])),
        lambda: both.ledger.record([], create_lake=True),
    ):
        with pytest.raises(ConfigError, match="partitioned"):
            operation()


def test_an_export_has_the_people_of_its_partition_only(settings: Path, tmp_path: Path) -> None:
    tenant, other = TENANTS
    out = tmp_path / "out"
    export = ["gallery", "export", "--out", str(out), "--purpose", "identity-grouping", "--recipient", "gate"]
    assert run_json(*export, "-c", str(settings), "--partition", tenant)["ok"]
    bodies = [path.read_bytes() for path in out.rglob("*") if path.is_file()]
    assert all(any(ident.encode() in body for body in bodies) for ident in identities(settings, tenant))
    assert not any(ident.encode() in body for ident in identities(settings, other) for body in bodies)


@pytest.mark.parametrize("named", [(), ("--partition", TENANTS[0])])
def test_a_copy_is_checked_with_the_lake_of_its_partition(
    settings: Path, tmp_path: Path, named: tuple[str, ...]
) -> None:
    """Whichever partition the config names: the copy says where it is from."""
    photo, out, tenant = settings.parent / "photos" / PHOTOS[0].replace("/", "-"), tmp_path / "out", TENANTS[1]
    export = ["gallery", "export", "--out", str(out), "--purpose", "identity-grouping", "--recipient", f"gate{named}"]
    lease = run_json(*export, "-c", str(settings), "--partition", tenant)["lease_id"]
    probe = ["match", str(photo), "--gallery", str(out), "--threshold", "0.5", "-c", str(settings), *named]
    run_json(*probe)
    run_json("feed", "recall", lease, "-c", str(settings), "--partition", tenant)
    assert "its lease was recalled" in run_json(*probe, code=1)["error"]["what"]
    run_json("feed", "return", lease, "-c", str(settings), "--partition", tenant)
    assert "its lease was returned" in run_json(*probe, code=1)["error"]["what"]


def test_people_of_two_partitions_are_neither_joined_nor_compared(settings: Path) -> None:
    own, other = (identities(settings, tenant)[0] for tenant in TENANTS)
    lake = opened(settings, TENANTS[0])
    with pytest.raises(ConfigError):
        lake.explain(own, other)
    with pytest.raises(ConfigError):
        lake.corrections.record(facelake.api.CorrectionRequest(facelake.api.Verdict.MERGE, own, other))


def test_photos_of_another_source_are_refused(settings: Path, tmp_path: Path) -> None:
    done = run_cli(
        "import",
        str(settings.parent / "photos"),
        "--basis",
        "b",
        "--source",
        "x",
        "-c",
        str(settings),
        "--partition",
        "y",
    )
    assert done.returncode == 2
    assert "is not that of partition" in done.stderr
    keys = {"lake": str(tmp_path / "lake"), "gallery.partition_by": "source_id", "partition": "tenant-a"}
    config = in_partition(load_config(overrides=keys | {"governance.dpia": "test"}))
    with writing(config, "a custodian") as context:
        purposes = (config.purpose,)
        for source in ("tenant-a", "tenant-c"):
            record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, source, purposes, "b")])
            write_corpus_file(context, [{"image_id": f"{source}/1", "image": b"x", "source_id": source}])
    (result,) = run_night(config, only=["admit"])
    assert (result.counts["admitted"], result.counts["refused_other_partition"]) == (1, 1)


def test_a_shared_corpus_and_a_lake_without_partitions_are_refused(tmp_path: Path) -> None:
    keys = {"lake": str(tmp_path / "lake"), "gallery.partition_by": "source_id", "partition": "a"}
    with pytest.raises(ConfigError, match="share the corpus"):
        in_partition(load_config(overrides=keys | {"corpus": {"uri": str(tmp_path)}}))
    split = in_partition(load_config(overrides=keys | {"corpus": {"uri": str(tmp_path / "{partition}")}}))
    assert split.corpus_uri == str(tmp_path / "a")
    with pytest.raises(ConfigError, match="gallery has none"):
        in_partition(load_config(overrides={"partition": "a"}))
    Lake.create(str(tmp_path / "lake"))
    with (
        pytest.raises(ConfigError, match="made without partitions"),
        writing(in_partition(load_config(overrides=keys)), "t"),
    ):
        pass


@pytest.mark.parametrize("name", ["..", "a/b", "A", "x-1", "é", "a" * 99, "con%2f", " "])
def test_names_of_partitions_cannot_leave_their_folder(name: str) -> None:
    if not name.strip():
        with pytest.raises(ConfigError, match="empty"):
            folder_of(name)
        return
    folder = folder_of(name)
    assert folder.startswith("x-")
    assert "/" not in folder
    assert "." not in folder


def test_the_lake_of_a_partition_is_not_opened_by_its_own_path(settings: Path, tmp_path: Path) -> None:
    own = str(lake_of(settings, TENANTS[0]))
    config = tmp_path / "own.yaml"
    config.write_text(f"lake: {own}\ngovernance: {{dpia: test}}\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"x")
    add = ["import", str(tmp_path / "photos"), "--source", "other", "--basis", "signed"]
    for command in (add, ["nightly"], ["ledger", "list"], ["gallery", "list"]):
        done = run_cli(*command, "-c", str(config))
        assert (done.returncode, f"partition {TENANTS[0]!r}" in done.stderr) == (2, True), done.stderr
    other = load_config(lake=own, overrides={"partition": TENANTS[1], "gallery.partition_by": "source_id"})
    with pytest.raises(ConfigError):
        reading(other)


def test_a_config_of_all_partitions_opens_no_lake(tmp_path: Path) -> None:
    config = load_config(lake=str(tmp_path), overrides={"gallery.partition_by": "source_id"})
    with pytest.raises(ConfigError, match="partitioned"):
        must_be_one_lake(config)
    with pytest.raises(ConfigError, match="partitioned"):
        reading(config)
    with pytest.raises(ConfigError, match="partitioned"), writing(config, "test"):
        pass
    assert not list(tmp_path.iterdir())
