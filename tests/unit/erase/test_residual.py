"""The residual scan agrees with a reference implementation by regular expressions over every value."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import re
import subprocess
import sys
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from facelake.erase import Bounds, Needles, residual, scan
from facelake.erase import needles as needles_module
from facelake.erase.spellings import photo_forms

RNG = np.random.default_rng(7)
BLOB = RNG.standard_normal(256).astype("<f2").tobytes()
OTHER = RNG.standard_normal(256).astype("<f2").tobytes()
NEEDLES = Needles.of(["album/ann.jpg", "person-0042"], [BLOB])


def slow_pattern(texts: frozenset[bytes]) -> re.Pattern[bytes]:
    longest_first = sorted(texts, key=len, reverse=True)
    either = b"|".join(re.escape(text) for text in longest_first) if texts else rb"(?!)"
    begins = rb"(?:(?<![0-9A-Za-z_./-])|(?<=[\x00-\x08\x0b\x0c\x0e-\x1f].))"
    return re.compile(begins + rb"(?:" + either + rb")(?![0-9A-Za-z_-])", re.DOTALL)


def slow_raw(data: bytes, texts: frozenset[bytes], blobs: frozenset[bytes]) -> int:
    begins = sum(any(data.startswith(blob, at) for blob in blobs) for at in range(len(data)))
    return begins + sum(1 for _ in slow_pattern(texts).finditer(data))


def slow_values(values: list[bytes | None], texts: frozenset[bytes], blobs: frozenset[bytes]) -> int:
    pattern = slow_pattern(texts)
    there = [value for value in values if value is not None]
    return sum(any(blob in value for blob in blobs) or pattern.search(value) is not None for value in there)


def parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **{"write_statistics": False} | options)
    return sink.getvalue()


# few letters, so that needles begin, end, overlap and sit inside one another everywhere
_LETTERS = st.sampled_from([b"a", b"b", b"-", b".", b"/", b" ", b'"', b"\0", b"\xc3"])
_BYTES = st.lists(_LETTERS, min_size=1, max_size=20).map(b"".join)
_TEXTS = st.frozensets(_BYTES, max_size=6)
_BLOBS = st.frozensets(st.lists(_LETTERS, min_size=8, max_size=24).map(b"".join), max_size=4)


@st.composite
def haystacks(draw: st.DrawFn) -> tuple[frozenset[bytes], frozenset[bytes], bytes]:
    texts, blobs = draw(_TEXTS), draw(_BLOBS)
    pieces = st.sampled_from(sorted(texts | blobs)) if texts | blobs else _BYTES
    return texts, blobs, b"".join(draw(st.lists(_LETTERS | pieces | _BYTES, max_size=30)))


@given(haystacks(), st.sampled_from([16, 64, 1 << 20]))
def test_raw_bytes_agree_with_the_reference_scan(
    haystack: tuple[frozenset[bytes], frozenset[bytes], bytes], chunk: int
) -> None:
    texts, blobs, data = haystack
    with mock.patch.object(needles_module, "_CHUNK", chunk):
        assert scan("", data, Needles(texts, blobs)) == slow_raw(data, texts, blobs)


@given(haystacks(), st.lists(st.none() | _BYTES, max_size=12), st.sampled_from([16, 1 << 20]), st.booleans())
def test_parquet_values_agree_with_the_reference_scan(
    haystack: tuple[frozenset[bytes], frozenset[bytes], bytes], more: list[bytes | None], chunk: int, nested: bool
) -> None:
    texts, blobs, data = haystack
    values: list[bytes | None] = [*more, data, *sorted(texts), None, b"", *sorted(blobs), data[1:]]
    column = pa.array([[{"v": value}] for value in values] if nested else values)
    body = parquet(pa.table({"Z": column}))
    with (
        mock.patch.object(needles_module, "_CHUNK", chunk),
        mock.patch.object(residual.parquet_scan, "texts_outside", return_value=([], [b""])),
    ):
        assert scan("", body, Needles(texts, blobs)) == slow_values(values, texts, blobs)


@pytest.mark.parametrize(
    "data, hits",
    [
        (b"album/ann.jpg", 1),
        (b'{"id": "album/ann.jpg"}', 1),
        (b"album/ann.jpg,album/ann.jpg.", 2),
        (b"album/ann.jpg2 my-album/ann.jpg x/album/ann.jpg album/ann.jpg_", 0),
        ("Überalbum/ann.jpg".encode(), 0),
        ("éalbum/ann.jpg".encode(), 1),
        (b"\x1c\x02\x50\0Aalbum/ann.jpg, and others \x1c", 1),  # the length of a text in IPTC is a letter
        (b"\0\0\0-person-0042\0", 1),
        (b"text\nAalbum/ann.jpg\tAalbum/ann.jpg \0 Aalbum/ann.jpg", 0),
        (b"", 0),
    ],
)
def test_an_identifier_counts_where_it_is_not_part_of_another(data: bytes, hits: int) -> None:
    assert scan("x.json", data, NEEDLES) == hits


@pytest.mark.parametrize(
    "texts, data, hits",
    [
        (["a", "a b", "b"], b"a b", 1),
        (["a b", "b c"], b"a b c", 1),
        (["a b", "b c"], b"a b b c", 2),
        (["a", "a b c"], b"a b ca", 1),
        (["abcdefgh ijklmnop", "abcdefgh"], b"abcdefgh ijklmnopq", 1),
        ([" a", "a "], b" a ", 1),
    ],
)
def test_the_longest_identifier_counts_and_none_that_overlaps_it(texts: list[str], data: bytes, hits: int) -> None:
    needles = Needles(frozenset(text.encode() for text in texts))
    assert scan("", data, needles) == slow_raw(data, frozenset(needles.texts), frozenset()) == hits


def test_a_reference_in_the_file_name_of_another_photo_is_found_on_request() -> None:
    table = parquet(pa.table({"image_id": ["class/Ann Berg with Tom.jpg", "class/Ann Bergson.jpg"]}))
    assert scan("x.parquet", table, Needles.of(["Ann Berg"])) == 0
    assert scan("x.parquet", table, Needles.of(["Ann Berg"], bounds=Bounds.WORD)) == 1


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("trip_anna-schmidt_3.jpg", (0, 0, 1, 1)),
        ("/data/anna-schmidt", (0, 1, 1, 1)),
        ("/data/other-anna-schmidt", (0, 0, 1, 1)),
        ("anna-schmidt and 2", (1, 1, 1, 1)),
        ("éanna-schmidté", (1, 1, 1, 1)),
        ("xanna-schmidt", (0, 0, 0, 1)),
        ("anna-schmidts/1.jpg", (0, 0, 0, 1)),
        ("anna_schmidt", (0, 0, 0, 0)),
    ],
)
def test_where_an_identifier_counts_as_found(name: str, found: tuple[int, int, int, int]) -> None:
    data = json.dumps({"photo": name}, ensure_ascii=False).encode()
    needles = [Needles.of(["anna-schmidt"], bounds=bounds) for bounds in Bounds]
    assert tuple(scan("note.json", data, own) for own in needles) == found
    assert tuple(scan("x.parquet", parquet(pa.table({"id": [name]})), own) for own in needles) == found
    assert tuple(int(own.in_name(name.encode())) for own in needles[1:]) == found[1:]


def in_values(leaf: pa.Array) -> int:
    return residual._in_values(leaf, NEEDLES, 1)


def test_slices_of_columns() -> None:
    texts = pa.array(["album/ann.jpg", "person-0042", "x", None, "album/ann.jpg"])
    numbers = pa.array(np.frombuffer(OTHER + BLOB + OTHER, "<f2"))
    for kind in (pa.string(), pa.large_binary()):
        assert in_values(texts.cast(kind).slice(1, 3)) == 1
    assert in_values(texts.slice(2, 2)) == in_values(texts.slice(5)) == 0
    assert in_values(numbers.slice(255, 258)) == 1
    assert in_values(numbers.slice(257)) == in_values(numbers.slice(0, 500)) == 0


def test_matches_do_not_cross_values() -> None:
    halves = [b"album/", b"ann.jpg", BLOB[:100], BLOB[100:], b"person-0042", b"1"]
    assert scan("x.parquet", parquet(pa.table({"v": halves})), NEEDLES) == 1
    assert scan("x", b"".join(halves), NEEDLES) == 2  # photo and embedding; person-00421 is somebody else


def test_bytes_before_the_footer_are_searched() -> None:
    body = parquet(pa.table({"a": ["x"]}))
    at = len(body) - 8 - int.from_bytes(body[-8:-4], "little")
    assert scan("x.parquet", body[:at] + b" album/ann.jpg " + body[at:], NEEDLES) == 1


def test_bytes_between_the_columns_are_searched() -> None:
    """No reader of Parquet shows them."""
    sink, rows = pa.BufferOutputStream(), pa.table({"a": ["x"]})
    with pq.ParquetWriter(sink, rows.schema, write_statistics=False) as writer:
        writer.write_table(rows)
        sink.write(b" album/ann.jpg ")
        writer.write_table(rows)
    body = sink.getvalue().to_pybytes()
    assert pq.read_table(io.BytesIO(body)).num_rows == 2
    assert scan("x.parquet", body, NEEDLES) == 1


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress, zlib.compress])
@pytest.mark.parametrize("other", [b"other " * 20, RNG.bytes(200_000)])
def test_compressed_streams_that_were_appended_are_searched(compress: Callable[[bytes], bytes], other: bytes) -> None:
    body = compress(other) + compress(b"about " * 50 + b"person-0042 and others")
    assert scan("log", body, NEEDLES) == 1
    assert scan("log", body[:-9], NEEDLES) <= 1  # truncated


def test_names_in_the_metadata_of_large_photos_are_found() -> None:
    photo = RNG.bytes(20_000) + b"<rdf>person-0042</rdf>" + RNG.bytes(20_000)
    assert scan("x.parquet", parquet(pa.table({"image": [photo, RNG.bytes(20_000)]})), NEEDLES) == 1


def test_identifiers_are_found_in_json_url_and_html_spelling() -> None:
    name = 'Jörg & "Käthe"/1 2.jpg'
    needles = Needles.of([name])
    for written in (
        json.dumps({"id": name}),
        json.dumps({"id": name}, ensure_ascii=False),
        "J%C3%B6rg%20%26%20%22K%C3%A4the%22/1%202.jpg",
        "<b>Jörg &amp; &quot;Käthe&quot;/1 2.jpg</b>",
    ):
        assert scan("x", written.encode(), needles) == 1, written
    assert Needles.of(["no\udcffutf8"]).texts >= {b"no\xffutf8"}


@pytest.mark.parametrize("before", range(17))
def test_an_embedding_is_found_at_every_offset(before: int) -> None:
    for blob in (BLOB, np.frombuffer(BLOB, "<f2").astype("<f4").tobytes()):
        assert scan("x.bin", b"a" * before + blob + b"a", NEEDLES) == 1
        assert scan("x.bin", b"a" * before + blob[:-1] + b"a", NEEDLES) == 0
    assert scan("x.bin", b"a" * before + OTHER, NEEDLES) == 0


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(13)],
    ids=str,
)
def test_every_kind_of_text_column(kind: pa.DataType) -> None:
    column = pa.array([b"album/ann.jpg", None, b"album/bob.jpg"] * 3, pa.binary()).cast(kind)
    table = pa.table({"plain": column, "coded": column.cast(pa.string()).dictionary_encode()})
    assert scan("x.parquet", parquet(table.select(["plain"])), NEEDLES) == 3
    assert scan("x.parquet", parquet(table.select(["coded"])), NEEDLES) >= 1


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("fixed", [True, False])
def test_an_embedding_as_a_list_of_numbers(kind: pa.DataType, fixed: bool) -> None:
    rows = [np.frombuffer(blob, "<f2") for blob in (OTHER, BLOB, OTHER, BLOB)]
    flat = pa.array(np.concatenate(rows)).cast(kind)
    lists = (
        pa.FixedSizeListArray.from_arrays(flat, 256)
        if fixed
        else pa.ListArray.from_arrays(pa.array(range(0, 1025, 256), pa.int32()), flat)
    )
    assert scan("x.parquet", parquet(pa.table({"prototype": lists})), NEEDLES) == 2


def test_nested_values_of_a_delta_checkpoint() -> None:
    add = pa.array(
        [{"path": "p", "stats": '{"minValues":{"image_id":"album/ann.jpg"}}', "tags": [("who", "person-0042")]}, None],
        pa.struct({"path": pa.string(), "stats": pa.string(), "tags": pa.map_(pa.string(), pa.string())}),
    )
    names = pa.array([["person-0042", "x"], []], pa.list_(pa.string()))
    body = parquet(pa.table({"add": add, "names": names, "empty": pa.nulls(2)}))
    assert scan("t/_delta_log/1.checkpoint.parquet", body, NEEDLES) == 3


def test_photos_are_searched_for_embeddings_and_for_names() -> None:
    """A photo of somebody else may name the person in its metadata."""
    long = b" album/ann.jpg " + bytes(9000)
    table = pa.table({"image": [long, long + BLOB, b"", BLOB, b" album/ann.jpg " + BLOB]})
    assert scan("x.parquet", parquet(table), NEEDLES) == 4
    assert scan("x.parquet", parquet(pa.table({"text": [long.decode()]})), NEEDLES) == 1


@pytest.mark.parametrize("letter", "AZaz09_- ")
def test_footers_are_decoded(letter: str) -> None:
    """A string follows its length in the footer: one of 65 bytes looks as if it began with an A."""
    clean = pa.table({"v": ["x"]})
    carrying = "album/ann.jpg".ljust(ord(letter))
    # Arrow stores the schema once more, in base64
    assert scan("x.parquet", parquet(clean.replace_schema_metadata({"by": carrying})), NEEDLES) == 2
    field = pa.field("v", pa.string(), metadata={"by": carrying})
    assert scan("x.parquet", parquet(clean.cast(pa.schema([field]))), NEEDLES) == 2
    assert scan("x.parquet", parquet(clean.rename_columns([carrying])), NEEDLES) == 2
    ages = parquet(pa.table({"v": [carrying]}), write_statistics=True, write_page_index=True)
    assert scan("x.parquet", ages, NEEDLES) == 2
    assert scan("x.parquet", parquet(clean, write_statistics=True), NEEDLES) == 0


def test_compressed_objects_are_unpacked() -> None:
    inner = b'{"id": "album/ann.jpg"} ' + bytes(100)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("log.json", inner)
        archive.writestr("person-0042.txt", b"nothing")
        archive.writestr("log.json.gz", gzip.compress(inner))
    arrays = io.BytesIO()
    np.savez(arrays, kept=np.frombuffer(OTHER + BLOB, "<f2").reshape(2, -1))
    assert scan("x.json.gz", gzip.compress(inner) + gzip.compress(inner), NEEDLES) == 2
    assert scan("misnamed", gzip.compress(parquet(pa.table({"a": ["album/ann.jpg"]}))), NEEDLES) == 1
    assert scan("x.zst", pa.compress(inner, "zstd", asbytes=True), NEEDLES) == 1
    assert scan("x.zip", zipped.getvalue(), NEEDLES) == 3
    assert scan("x.npz", arrays.getvalue(), NEEDLES) == 1


def deflated(window: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, window)
    return packer.compress(b"by person-0042 " * 20) + packer.flush()


@pytest.mark.parametrize(
    "body",
    [
        gzip.compress(b"other") + bytes(512) + gzip.compress(b"by person-0042 " * 20),
        lzma.compress(b"other") + bytes(4) + lzma.compress(b"by person-0042 " * 20),
        bz2.compress(b"other") + zlib.compress(b"by person-0042 " * 20),
        gzip.compress(b"other") + lzma.compress(b"by person-0042 " * 20),
        *(deflated(window) for window in range(9, 16)),
        parquet(pa.table({"notes": [b"x" * 20, gzip.compress(b"by person-0042 " * 20)]})),
        parquet(pa.table({"notes": [gzip.compress(b"by person-0042 " * 20)] * 2}), use_dictionary=True),
        "person-0042".encode("utf-32"),
    ],
)
def test_every_way_of_packing_is_looked_into(body: bytes) -> None:
    assert scan("x", body, NEEDLES) >= 1


def zipped(prefix: bytes = b"", damage: Callable[[bytearray, int], None] = lambda data, at: None) -> bytes:
    """An archive of two members, of which only the second names the person; `damage` gets the central entry's place."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"hello " * 100)
        archive.writestr("b.txt", b"by person-0042 " * 20)
    data = bytearray(sink.getvalue())
    damage(data, data.find(b"PK\x01\x02"))
    return prefix + bytes(data)


def of_method(data: bytearray, at: int) -> None:
    data[8:10] = data[at + 10 : at + 12] = (9).to_bytes(2, "little")  # deflate64, which Python lacks


def encrypted(data: bytearray, at: int) -> None:
    data[6:8] = data[at + 8 : at + 10] = (1).to_bytes(2, "little")


def of_other_digest(data: bytearray, at: int) -> None:
    data[14] ^= 1
    data[at + 16] ^= 1


@pytest.mark.parametrize("damage", [of_method, encrypted, of_other_digest])
def test_a_zip_archive_with_a_member_that_cannot_be_read_is_unsearchable(
    damage: Callable[[bytearray, int], None],
) -> None:
    assert scan("x.zip", zipped(damage=damage), NEEDLES) >= 1
    assert scan("x.zip", zipped(damage=damage), Needles.of(["nobody-here"])) == 1
    assert scan("x.zip", zipped(), Needles.of(["nobody-here"])) == 0
    assert scan("x", zipped(b"#!/bin/sh\n"), NEEDLES) >= 1


def test_a_photo_that_unpacks_to_too_much_prevents_no_erasure() -> None:
    bombs = [gzip.compress(bytes(40 << 20)), zipped(damage=of_other_digest), b"a photo of nobody"]
    body = parquet(pa.table({"image": pa.array(bombs, pa.binary())}), use_dictionary=False)
    assert scan("c.parquet", body, Needles.of(["nobody-here"])) == 0


def test_the_texts_of_a_png_are_inflated() -> None:
    def png(name: str, how: str) -> bytes:
        texts, sink = PngImagePlugin.PngInfo(), io.BytesIO()
        if how == "iTXt":
            texts.add_itxt("XML:com.adobe.xmp", f"with {name}", zip=True)
        else:
            texts.add_text("Description", f"with {name}", zip=True)
        Image.new("RGB", (8, 8)).save(sink, "PNG", pnginfo=texts)
        return sink.getvalue()

    for how in ("iTXt", "zTXt"):
        assert scan("a.png", png("person-0042", how), NEEDLES) == 1
        assert scan("a.png", png("person-0043", how), NEEDLES) == 0
        assert scan("c.parquet", parquet(pa.table({"image": [png("person-0042", how)]})), NEEDLES) == 1


@pytest.mark.parametrize("last", [False, True])
def test_the_packed_metadata_of_a_jpeg_xl_are_unpacked(last: bool) -> None:
    """`cjxl` compresses EXIF and XMP by default."""

    def box(kind: bytes, body: bytes, size: int | None = None) -> bytes:
        return (len(body) + 8 if size is None else size).to_bytes(4, "big") + kind + body

    def photo(name: str) -> bytes:
        xmp = b"xml " + pa.compress(f"<dc:creator>{name}</dc:creator>".encode(), "brotli", asbytes=True)
        head = box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ")
        pixels = (1).to_bytes(4, "big") + b"jxlc" + (16 + 99).to_bytes(8, "big") + bytes(range(99))
        return head + pixels + (box(b"brob", xmp, 0) if last else box(b"brob", xmp) + box(b"free", b"x"))

    assert scan("a.jxl", photo("person-0042"), NEEDLES) == 1
    assert scan("a.jxl", photo("person-0043"), NEEDLES) == 0
    assert scan("c.parquet", parquet(pa.table({"image": [photo("person-0042")]})), NEEDLES) == 1
    assert scan("c.parquet", parquet(pa.table({"image": [photo("person-0042")[:-9]]})), NEEDLES) <= 1


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("José Núñez", "latin-1"),
        ("Zoë “Z” Müller", "cp1252"),
        ("Łukasz Żak", "cp1250"),
        ("Анна Петрова", "cp1251"),
        ("José Núñez", "mac_roman"),
        ("山田太郎さん", "shift_jis"),
        ("王小明同学", "gb18030"),
        ("王小明同學", "big5"),
        ("홍길동선생", "euc_kr"),
    ],
)
def test_names_in_encodings_before_unicode_are_found(name: str, encoding: str) -> None:
    for spelled in (name, unicodedata.normalize("NFD", name)):
        assert scan("a.jpg", b"IPTC \x1c\x02\x50\0\x0a" + name.encode(encoding) + b"\x1c", Needles.of([spelled])) == 1
    assert scan("a.jpg", b"IPTC " + name.encode(encoding), Needles.of(["Zoë Müller-2"])) == 0


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Zoë Müller", '"Zo\\u00EB M\\u00FCller"'),
        ("Zoë Müller", '"Zo\\u00eb M\\u00fcller"'),
        ("Zoë Müller", "<p>Zo&#235; M&#252;ller</p>"),
        ("Zoë Müller", "<p>Zo&#xEB; M&#xfc;ller</p>".replace("fc", "FC")),
        ("Ann Smith", "?who=Ann+Smith&x=1"),
        ("Sinead O'Brien", "<p>Sinead O&#39;Brien</p>"),
        ("Sinead O'Brien", "<p>Sinead O&apos;Brien</p>"),
        ('Ann "Nan" Berg', '"Ann ""Nan"" Berg",3'),
    ],
)
def test_every_escape_is_a_form(name: str, written: str) -> None:
    assert scan("note.txt", written.encode(), Needles.of([name])) == 1


def test_plain_pixels_have_pieces_too() -> None:
    draw = np.random.default_rng(0)
    for kind in ("BMP", "TIFF", "PPM"):
        pixels = np.full((200, 300, 3), 200, np.uint8)
        pixels[120:150, 40:80] = draw.integers(0, 255, (30, 40, 3))
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, kind)
        assert photo_forms(sink.getvalue()), kind
        flat = io.BytesIO()
        Image.new("RGB", (200, 300), (1, 2, 3)).save(flat, kind)
        assert not photo_forms(flat.getvalue()), kind


_SCANNED = """
import sys
from facelake.erase import Needles, scan
hits = scan("x.parquet", open(sys.argv[1], "rb").read(), Needles.of(["person-0042"]))
print(hits, open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def test_a_parquet_file_that_decodes_to_a_terabyte_is_searched(tmp_path: Path) -> None:
    """14 kB: one value of 20 MB, to which 60,000 rows refer; and a compressed column that names somebody."""
    coded = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000, pa.int32()), pa.array(["z" * (20 << 20)]))
    texts = [f"{i % 7} abcdefgh person-0042 {i % 11}" for i in range(60_000)]
    options = {"compression": {"a": "zstd", "b": "gzip"}, "use_dictionary": ["a"], "store_schema": False}
    (tmp_path / "x.parquet").write_bytes(parquet(pa.table({"a": coded, "b": texts}), **options))
    command = [sys.executable, "-c", _SCANNED, tmp_path / "x.parquet"]
    hits, peak_kb = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert hits == 60_000
    assert peak_kb < 1 << 20


def test_shared_prefixes_that_decode_to_too_much_are_unsearchable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facelake.erase.unpacking._MOST_BYTES", 1 << 20)
    values = [f"{'z' * 10_000}{i}" for i in range(1000)]
    encoded = {"use_dictionary": False, "column_encoding": {"a": "DELTA_BYTE_ARRAY"}}
    assert scan("x", parquet(pa.table({"a": values}), **encoded), NEEDLES) == 1
    assert scan("x", parquet(pa.table({"a": values[:90]}), **encoded), NEEDLES) == 0


def test_a_parquet_file_with_a_damaged_column_is_unsearchable() -> None:
    table = pa.table({"a": ["x" * 50] * 100, "b": [f"{i} person-0042" for i in range(100)]})
    body = bytearray(parquet(table, compression="gzip", use_dictionary=False))
    at = body.find(b"\x1f\x8b")
    body[at + 12] ^= 0xFF
    body[at + 13] ^= 0xFF
    assert scan("x.parquet", bytes(body), NEEDLES) >= 1
    assert scan("x.parquet", bytes(body), Needles.of(["nobody-here"])) == 1
    body[:4] = b"\0\0\0\0"  # readers look at the end only
    assert scan("x", bytes(body), Needles.of(["nobody-here"])) == 1


def nested(data: bytes, levels: int) -> bytes:
    for _ in range(levels):
        data = gzip.compress(data)
    return data


def test_what_cannot_be_searched_is_not_taken_for_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    note = b'{"image": "album/ann.jpg"}'
    assert [scan("x", nested(note, levels), NEEDLES) for levels in range(7)] == [1] * 7
    assert [scan("x", nested(b"nobody", levels), NEEDLES) for levels in range(7)] == [0, 0, 0, 0, 0, 1, 1]
    monkeypatch.setattr("facelake.erase.unpacking._MOST_BYTES", 1 << 20)
    zeros = bytes(1 << 21)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):  # each within the limit, together beyond it
            archive.writestr(f"{number}", zeros[: 1 << 19])
    for bomb in (*(pack(zeros) for pack in (gzip.compress, bz2.compress, lzma.compress, zlib.compress)), zipped.getvalue()):  # fmt: skip
        assert scan("x", bomb, NEEDLES) == 1
    assert scan("x", gzip.compress(zeros[: 1 << 19]), NEEDLES) == 0


def test_a_bomb_is_given_up_at_the_limit() -> None:
    """A gigabyte and more in a megabyte."""
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 24)) for _ in range(80)) + packer.flush()
    begin = time.process_time()
    assert scan("x", bomb, NEEDLES) == 1
    assert time.process_time() - begin < 30


def test_an_identifier_in_the_object_name_counts() -> None:
    for name in ("reports/person-0042.html", "t/subject_ref=person-0042/x", "person%2D0042", "a/album/ann.jpg.tmp"):
        assert scan(name, b"", NEEDLES) == 1, name
    for name in ("reports/person-00421.html", "t/x-person-0042", "my-album/ann.jpg"):
        assert scan(name, b"", NEEDLES) == 0, name


def test_undecodable_objects_are_searched_as_raw_bytes() -> None:
    note = b" album/ann.jpg "
    whole = parquet(pa.table({"a": ["person-0042"]}), compression="none", use_dictionary=False)
    for body in (
        note,
        b"",
        b"PAR1" + note,
        b"PAR1" + note + b"PAR1",
        whole[:-6] + note,
        whole[:-20] + whole[-8:] + note,
    ):
        assert scan("x.parquet", body, NEEDLES) == (note in body) + (b"person" in body)
    for magic in (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"PAR1"):
        assert scan("x", magic + note, NEEDLES) == 1
    long = gzip.compress(note * 50_000 + RNG.bytes(300_000))
    assert scan("x.gz", long[:-1000], NEEDLES) == 50_000


def test_damaged_objects_never_raise() -> None:
    bodies = [parquet(pa.table({"a": ["album/ann.jpg", "b"] * 9, "n": [[1.0]] * 18})), gzip.compress(b"album " * 50)]
    for round_ in range(300):
        body = bytearray(bodies[round_ % 2])
        body[RNG.integers(len(body))] = RNG.integers(256)
        assert scan("x.parquet", bytes(body[: len(body) - round_ % 3]), NEEDLES) >= 0


_DAMAGED = {
    "ends the process": [(152, 0), (154, 1), (166, 0), (259, 44), (325, 25)],
    "ends the reading of the footer": [(683, 21), (683, 44)],
    "raises KeyError": [(156, 0), (223, 0)],
}


@pytest.mark.parametrize("how", _DAMAGED)
def test_a_footer_that_pyarrow_cannot_describe_is_unsearchable(how: str) -> None:
    """Also as a photo that somebody delivers, packed, in which it must prevent no erasure."""
    whole = parquet(pa.table({"a": ["album/ann.jpg", "b"] * 9, "n": [[1.0]] * 18}))
    assert scan("x", gzip.compress(whole), NEEDLES) == 9
    for at, value in _DAMAGED[how]:
        body = bytearray(whole)
        body[at] = value
        assert scan("x.parquet", bytes(body), NEEDLES) >= 1
        assert scan("c.parquet", parquet(pa.table({"image": [gzip.compress(bytes(body))]})), NEEDLES) <= 1


def test_without_needles_there_are_no_hits() -> None:
    assert scan("x", b"anything", Needles((b"",))) == scan("x", b"anything", Needles(())) == 0
    assert scan("x", b"anything", Needles.of(["", ""], [b"short"])) == 0
    assert scan("x", BLOB, Needles.of(["person-0042"])) == 0


def test_twenty_thousand_needles_over_twenty_megabytes() -> None:
    ids = [f"school-2026/{i:07d}_a.jpg" for i in range(10_000)]
    blobs = [RNG.standard_normal(256).astype("<f2").tobytes() for _ in range(10_000)]
    needles = Needles.of(ids, blobs)
    planted = [f'"{ids[i]}"'.encode() for i in range(0, 10_000, 100)] + blobs[::200]
    lines = [f'{{"id": "school-2026/{i:07d}_b.jpg"}}\n'.encode() for i in range(300_000)]
    for i, line in enumerate(planted):
        lines[i * 1997] = line
    body = b"".join(lines) + RNG.bytes(20_000_000 - sum(map(len, lines)))
    assert scan("faces/log.json", body, needles) == 100 + 50
    assert scan("faces/log.json", body, Needles.of([f"x{name}" for name in ids])) == 0


HIDDEN = {
    "float64": lambda: np.frombuffer(BLOB, "<f2").astype("<f8").tobytes(),
    "hex": lambda: BLOB.hex().encode(),
    "numbers": lambda: json.dumps({"v": np.frombuffer(BLOB, "<f2").tolist()}).encode(),
    "compact numbers": lambda: json.dumps(np.frombuffer(BLOB, "<f2").tolist(), separators=(",", ":")).encode(),
    "upper-case hex": lambda: BLOB.hex().upper().encode(),
    "numbers of half precision": lambda: " ".join(map(str, np.frombuffer(BLOB, "<f2"))).encode(),
    "numbers with semicolons": lambda: ";".join(map(repr, np.frombuffer(BLOB, "<f2").tolist())).encode(),
    "numbers in lines": lambda: "\r\n".join(f"{value:.18e}" for value in np.frombuffer(BLOB, "<f2")).encode(),
    "base64 for URLs": lambda: base64.urlsafe_b64encode(b"1" + BLOB),
    "a piece of the photo in base64 for URLs": lambda: base64.urlsafe_b64encode(PHOTO),
    "a piece of the photo in upper-case hex": lambda: PHOTO.hex().upper().encode(),
    "float32 numbers": lambda: ", ".join(map(str, np.frombuffer(BLOB, "<f2").astype("<f4"))).encode(),
    **{f"base64 at {n}": lambda n=n: base64.b64encode(bytes(n) + BLOB + b"end") for n in range(4)},
    "an id in base64": lambda: base64.b64encode(b"xx album/ann.jpg yy"),
    "an id in hex": lambda: b"album/ann.jpg".hex().upper().encode(),
    "UTF-16": lambda: "id album/ann.jpg".encode("utf-16"),
    "a URL": lambda: b"GET /?id=album%2Fann.jpg HTTP/1.1",
    "a URL in lower case": lambda: b"GET /?id=album%2fann.jpg HTTP/1.1",
    "JSON of PHP": lambda: b'{"id":"album\\/ann.jpg"}',
    "a piece of the photo": lambda: b"--boundary\r\n" + PHOTO[500:] + b"\r\n--",
}
PHOTO = RNG.bytes(3000)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, zlib.compress, bz2.compress, lzma.compress], ids=["", "gz", "zlib", "bz2", "xz"]
)
def test_every_listed_form_is_found(name: str, packed: Callable[[bytes], bytes]) -> None:
    needles = Needles.of(["album/ann.jpg", "person-0042"], [BLOB], photo_forms(PHOTO))
    assert scan("x.bin", packed(HIDDEN[name]()), needles) > 0
    assert scan("x.parquet", parquet(pa.table({"v": [HIDDEN[name]()]})), needles) > 0
    assert scan("x.bin", packed(OTHER.hex().encode() + OTHER), needles) == 0


def test_names_are_found_in_both_unicode_forms_and_are_redacted() -> None:
    needles = Needles.of(["Zo\u00eb-1"])
    for spelled in ("Zo\u00eb-1", "Zoe\u0308-1"):
        assert scan("x", f"of {spelled}.".encode(), needles) == 1
        assert needles.redacted(f"release of {spelled}, and Zo\u00eb-12") == "release of [erased], and Zo\u00eb-12"
    assert needles.redacted("nobody") == "nobody"
