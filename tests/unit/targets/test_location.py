"""URLs of targets: one name for a place however it is spelled, mistyped parameters, no password in any error."""

from __future__ import annotations

from pathlib import Path

import pytest

from facelake.errors import ConfigError
from facelake.targets import Location


@pytest.mark.parametrize(
    "one, other",
    [
        ("lancedb:///srv/gate", "lancedb:///srv/./gate/"),
        ("lancedb:///srv/gate", "lancedb:////srv//other/../gate"),
        ("qdrant:///srv/gate?table=facelake_gallery", "qdrant:///srv/x/../gate"),
        ("milvus:///srv/g.db", "milvus:///srv/./g.db"),
        ("lancedb+s3://bucket/gate", "lancedb+s3://bucket//gate/"),
        ("lancedb+s3://bucket", "lancedb+s3://bucket/"),
        ("postgresql://db/faces", "postgresql://me@DB.:5432/faces/"),
        ("postgresql://[::1]/faces", "postgresql://[0:0::1]:5432/faces"),
        ("postgresql:///faces?host=/run/pg", "postgresql:///faces?host=/run/./pg/"),
        ("qdrant://host", "qdrant://HOST:6333/"),
        ("milvus://host/db", "milvus://Host:19530/db/"),
    ],
)
def test_a_place_has_one_name(one: str, other: str) -> None:
    assert Location.parse(one).shown == Location.parse(other).shown
    assert Location.parse(one).path == Location.parse(other).path


@pytest.mark.parametrize("scheme", ["lancedb", "qdrant", "milvus", "postgresql"])
def test_a_symbolic_link_is_no_other_place(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    form = "postgresql:///faces?host={}" if scheme == "postgresql" else f"{scheme}://{{}}/new.db"
    link, folder = (Location.parse(form.format(tmp_path / name)) for name in ("link", "folder"))
    assert link.shown == folder.shown
    assert link.is_named(folder.shown)
    assert link.is_named(link.given)  # as earlier versions recorded it
    assert str(tmp_path / "link") in link.given or scheme == "postgresql"


@pytest.mark.parametrize(
    "one, other",
    [
        ("lancedb:///srv/gate", "lancedb:///srv/Gate"),
        ("postgresql://db/faces", "postgresql://db:5433/faces"),
        ("postgresql://db/faces", "postgresql://db/other"),
        ("qdrant://host?table=a", "qdrant://host?table=b"),
        ("lancedb+s3://bucket/a", "lancedb+s3://bucket/b"),
    ],
)
def test_other_places_have_other_names(one: str, other: str) -> None:
    assert Location.parse(one).shown != Location.parse(other).shown
    assert not Location.parse(one).is_named(Location.parse(other).shown)


def test_postgresql_names_what_its_client_takes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PGHOST", "DB"), ("PGPORT", "5433"), ("PGDATABASE", "faces")):
        monkeypatch.setenv(name, value)
    assert Location.parse("postgresql://").shown == Location.parse("postgresql://db:5433/faces").shown
    assert Location.parse("postgresql://db:5432/faces").port is None  # which the engine takes for 5432
    monkeypatch.setenv("PGHOST", "/run/./pg")
    assert Location.parse("postgresql:///faces").shown == Location.parse("postgresql:///faces?host=/run/pg").shown
    monkeypatch.setenv("PGPORT", "many")
    with pytest.raises(ConfigError, match="PGPORT is not a number"):
        Location.parse("postgresql:///faces")


@pytest.mark.parametrize(
    "url, text",
    [
        ("qdrant://host?tabble=gate", "no parameter 'tabble'.*did you mean table"),
        ("lancedb:///srv/gate?tabble=gate", "no parameter 'tabble'.*did you mean table"),
        ("postgresql://db/faces?tabble=gate", "no parameter 'tabble'.*did you mean table"),
        ("postgresql://db/faces?sslmod=require", "did you mean sslmode"),
        ("milvus:///srv/g.db?tls=true", "no parameter 'tls'.*known are: table"),
        ("qdrant://host?tls=True", "tls is neither true nor false"),
        ("qdrant://host/prefix", "has no path"),
        ("qdrant://host?table=a&table=b", "given twice"),
        ("lancedb:///srv/a#b", "has a #"),
        ("lancedb+s3://bucket/a/../b", r"has \. or \.\."),
    ],
)
def test_what_would_change_nothing_is_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        Location.parse(url)
    assert caught.value.next_step


@pytest.mark.parametrize("mark", [*"/#?[]@:% ", "12/", "12?x=", "12#", "é/", "[/"])
@pytest.mark.parametrize("scheme", ["postgresql", "qdrant", "milvus", "lancedb+s3", "postgres"])
def test_no_part_of_a_password_is_repeated(scheme: str, mark: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Location.parse(f"{scheme}://me:hunter{mark}secret@host/faces?table=gate")
    assert "hunter" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["my_user:hunter@host", "hunter", "", "postgresql:hunter"])
def test_what_is_no_url_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Location.parse(url)
    assert "hunter" not in str(caught.value)
