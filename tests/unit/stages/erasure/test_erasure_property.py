"""Random lakes, people and copies: a certificate is signed exactly when a second scan finds nothing."""

from __future__ import annotations

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from unittest import mock
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facelake.bench import erase as synthetic
from facelake.config import Config, load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError, Corrupt
from facelake.lake.lake import Lake
from facelake.nightly import writing
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import Erased, erase
from tests.unit.stages.erasure.independent_scan import Person, remains

_PER_PERSON = 3


def subject(person: int) -> str:
    """A reference with characters that JSON, HTML and URLs escape, in Unicode NFC."""
    return f"Zoë & Ann {person:04d}"


def photo(number: int) -> bytes:
    """The bytes of a photo; nothing here decodes it."""
    return b"\xff\xd8\xff\xe0" + np.random.default_rng(number).bytes(2_000)


def config_of(folder: Path) -> Config:
    return load_config(lake=str(folder))


@lru_cache
def template(faces: int) -> Path:
    """A lake of synthetic people with photos of its own; several faces of each, spread over files."""
    folder = Path(tempfile.mkdtemp(prefix="facelake-erasure-"))
    patched = {"_subject": subject, "_PER_PERSON": _PER_PERSON, "_PER_FILE": 25}
    with writing(config_of(folder / "lake"), "test") as context, mock.patch.multiple(synthetic, **patched):
        synthetic.build_lake(context, faces)
        rows = context.lake["admissions"].read(["image_id", "source_id", "subject_ref", "corpus_file", "corpus_row"])
        for file in sorted(set(rows["corpus_file"].to_pylist())):
            own = sorted((row for row in rows.to_pylist() if row["corpus_file"] == file), key=lambda r: r["corpus_row"])
            write_photos(folder / "lake/corpus" / file, own)
    return folder / "lake"


def write_photos(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in ("image_id", "source_id", "subject_ref")}
    images = [row.get("image") or photo(hash_of(str(row["image_id"]))) for row in rows]
    pq.write_table(pa.table(columns | {"image": pa.array(images, pa.binary())}), path)


def hash_of(image: str) -> int:
    return zlib.crc32(image.encode())


@pytest.fixture(scope="module", autouse=True)
def _templates_end() -> object:
    yield
    for faces in (31, 60):
        shutil.rmtree(template(faces).parent)
    template.cache_clear()


def person_of(lake: Path, people: set[int]) -> Person:
    rows = Lake.open(str(lake))["faces"].read(["image_id", "embedding"]).to_pylist()
    own = [row for row in rows if row["image_id"].rpartition("/")[0] in set(map(subject, people))]
    images = [row["image_id"] for row in own]
    names = frozenset([*map(subject, people), *images])
    return Person(names, frozenset(row["embedding"] for row in own), frozenset(photo(hash_of(i)) for i in images))


def nfd(name: str) -> bytes:
    return unicodedata.normalize("NFD", name).encode()


def zipped(data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return sink.getvalue()


def by_arrow(codec: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(data)
        return bytes(sink.getvalue())

    return pack


def parquet(data: bytes) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"v": [b"x", data]}), sink)
    return sink.getvalue()


def numbers(blob: bytes, kind: str) -> list[float]:
    return [float(value) for value in np.frombuffer(blob, "<f2").astype(kind)]


def saved(vector: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.savetxt(sink, vector)
    return sink.getvalue()


NAME_FORMS: dict[str, Callable[[str], bytes]] = {
    "as stored": str.encode,
    "NFD": nfd,
    "JSON": lambda name: json.dumps({"who": name}).encode(),
    "HTML": lambda name: f"<b>{html.escape(name)}</b>".encode(),
    "URL": lambda name: f"q={quote(name, safe='')}".encode(),
    "UTF-16": lambda name: name.encode("utf-16-le"),
    "base64": lambda name: base64.b64encode(b"to " + name.encode() + b" from"),
    "base64 for URLs": lambda name: base64.urlsafe_b64encode(name.encode()),
    "hex": lambda name: name.encode().hex().encode(),
}
BLOB_FORMS: dict[str, Callable[[bytes], bytes]] = {
    "as stored": bytes,
    "inside other bytes": lambda blob: b"abc" + blob + b"defg",
    "base64": lambda blob: base64.b64encode(b"12" + blob + b"3"),
    "base64 for URLs": lambda blob: base64.urlsafe_b64encode(b"12" + blob + b"3"),
    "hex": lambda blob: blob.hex().encode(),
    "upper-case hex": lambda blob: blob.hex().upper().encode(),
}
VECTOR_FORMS: dict[str, Callable[[bytes], bytes]] = BLOB_FORMS | {
    "float32": lambda blob: np.frombuffer(blob, "<f2").astype("<f4").tobytes(),
    "float64": lambda blob: np.frombuffer(blob, "<f2").astype("<f8").tobytes(),
    "JSON numbers": lambda blob: json.dumps(numbers(blob, "<f8")).encode(),
    "CSV numbers": lambda blob: ",".join(map(str, np.frombuffer(blob, "<f2").astype("<f4"))).encode(),
    "semicolons": lambda blob: "; ".join(map(repr, numbers(blob, "<f4"))).encode(),
    "half-precision numbers": lambda blob: "\t".join(map(str, np.frombuffer(blob, "<f2"))).encode(),
    "numpy.savetxt": lambda blob: saved(np.frombuffer(blob, "<f2")),
    "numpy.savetxt in a line": lambda blob: saved(np.frombuffer(blob, "<f2").astype("<f4")[None]),
}
PHOTO_FORMS: dict[str, Callable[[bytes], bytes]] = BLOB_FORMS | {
    "another header": lambda data: data[:2] + b"\xff\xfe\x00\x08hello\x00" + data[2:],
}
PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
    "zstd": by_arrow("zstd"),
    "lz4": by_arrow("lz4"),
    "Parquet": parquet,
    "gzip in zip": lambda data: zipped(gzip.compress(data)),
}
PLACES = ("notes.txt", "backup/old.bin", "corpus/readme", "reports/old.html", "faces/stray.json")


@dataclass(frozen=True, slots=True)
class Plant:
    """A copy of something of a person, in some form, in some file of the lake."""

    person: int
    what: str
    form: str
    packing: str
    place: str


@st.composite
def plants(draw: st.DrawFn) -> Plant:
    what = draw(st.sampled_from(["name", "photo id", "embedding", "photo", "longer name"]))
    forms = {"embedding": VECTOR_FORMS, "photo": PHOTO_FORMS, "longer name": {"as stored": str.encode}}
    form = draw(st.sampled_from(sorted(forms.get(what, NAME_FORMS))))
    packing, place = draw(st.sampled_from(sorted(PACKINGS))), draw(st.sampled_from(PLACES))
    return Plant(draw(st.integers(0, 4)), what, form, packing, place)


def plant(lake: Path, copy: Plant, at: int) -> None:
    own = person_of(lake, {copy.person})
    if copy.what == "embedding":
        body = VECTOR_FORMS[copy.form](min(own.embeddings))
    elif copy.what == "photo":
        body = PHOTO_FORMS[copy.form](min(own.photos))
    elif copy.what == "longer name":
        body = f"{subject(copy.person)}7".encode()  # somebody else's
    else:
        name = subject(copy.person) if copy.what == "name" else max(own.names, key=len)
        body = NAME_FORMS[copy.form](name)
    path = lake / f"{copy.place}.{at}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(PACKINGS[copy.packing](body))


def attempt(lake: Path, people: set[int], copies: str = "") -> Erased | None:
    """Erase people; None if no certificate was given."""
    with writing(config_of(lake), "test") as context:
        try:
            return erase(context, Request.of(subjects=[subject(person) for person in people], copies=copies))
        except (Corrupt, ConfigError):
            return None


def certificates(lake: Path) -> list[str]:
    records = [json.loads(path.read_text()) for path in sorted((lake / "audit").glob("*.json"))]
    return [record["body"]["signature"]["signature"] for record in records if record["kind"] == "erasure"]


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([31, 60]), st.sets(st.integers(0, 3), min_size=1, max_size=3), st.lists(plants(), max_size=3))
def test_a_certificate_is_signed_exactly_when_a_second_scan_finds_nothing(
    faces: int, people: set[int], copies: list[Plant]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(shutil.copytree(template(faces), Path(folder) / "lake"))
        person = person_of(lake, people)
        assert len(remains(lake, person)) >= 3  # tables and corpus: the second scan sees
        for at, copy in enumerate(copies):
            plant(lake, copy, at)
        erased = attempt(lake, people)
        found = remains(lake, person)
        assert (erased is not None) == (not found), found
        assert len(certificates(lake)) == (erased is not None)
        if found:  # what the library left is deleted by hand; the same request then completes
            for name in found:
                (lake / name).unlink()
            assert attempt(lake, people)
            assert not remains(lake, person)


@pytest.mark.parametrize("packing", sorted(PACKINGS))
@pytest.mark.parametrize("what", ["name", "embedding", "photo"])
def test_every_listed_form_prevents_a_certificate_whatever_it_is_packed_in(what: str, packing: str) -> None:
    """Every form at once in files of their own: the scan must name each of them."""
    forms = {"embedding": VECTOR_FORMS, "photo": PHOTO_FORMS}.get(what, NAME_FORMS)
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(shutil.copytree(template(31), Path(folder) / "lake"))
        for at, form in enumerate(sorted(forms)):
            plant(lake, Plant(1, what, form, packing, "notes.txt"), at)
        named = mock.patch("facelake.stages.erasure.places.Hits.described", described)
        with named, writing(config_of(lake), "test") as context, pytest.raises(Corrupt) as refusal:
            erase(context, Request.of(subjects=[subject(1)]))
        planted = {f"notes.txt.{at}" for at in range(len(forms))}
        assert set(str(refusal.value).partition("not certified: ")[2].partition(" [")[0].split(" ")) >= planted


def described(hits: object) -> str:
    return " ".join(sorted(hits.remains))  # type: ignore[attr-defined]


@pytest.mark.parametrize("copies", ["", "keep", "erase"])
def test_the_same_photo_under_another_id_is_kept_or_erased_as_requested(copies: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(shutil.copytree(template(31), Path(folder) / "lake"))
        person = person_of(lake, {2})
        row = {"image_id": "party/1.jpg", "source_id": "bench", "subject_ref": None, "image": min(person.photos)}
        write_photos(lake / "corpus/party.parquet", [row])
        erased = attempt(lake, {2}, copies)
        found = remains(lake, person)
        if copies == "erase":
            assert erased
            assert not found
        elif copies == "keep":
            assert erased
            assert erased.copies_kept == ["party/1.jpg"]
            body = json.loads((lake / erased.certificate).read_text())["body"]
            assert not any("no part was searched for" in text for text in body["residual_scan"]["not_searched"])
            assert found == {"corpus/party.parquet"}
        else:
            assert erased is None
            assert found


def test_names_in_the_ledger_do_not_prevent_a_certificate() -> None:
    with tempfile.TemporaryDirectory() as folder:
        lake = Path(shutil.copytree(template(31), Path(folder) / "lake"))
        with writing(config_of(lake), "test") as context:
            purposes, text = (context.config.purpose,), f"release of {subject(3)}, signed"
            record(context.lake, [Entry(EventKind.GRANT, Scope.SOURCE, "bench", purposes, text)])
            record(context.lake, [Entry(EventKind.GRANT, Scope.SUBJECT, subject(3), purposes, "b")])
        person = person_of(lake, {3})
        assert attempt(lake, {3})
        assert not remains(lake, person)
