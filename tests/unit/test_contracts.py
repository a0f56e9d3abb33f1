"""Schemas without demographic columns, names of data files, the stored form of embeddings, errors and retries."""

from __future__ import annotations

import logging
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facelake import errors
from facelake.contracts import TABLES, DataFileName, is_of_model
from facelake.erase import Needles, scan
from facelake.lake.retries import retrying
from facelake.vectors import decode_embeddings, embedding_matrix, encode_embeddings, unit_rows

FORBIDDEN = ("age", "gender", "sex", "race", "ethnic", "emotion", "expression", "skin", "beard", "religion")


def test_no_table_has_a_demographic_column() -> None:
    for table, schema in TABLES.items():
        for name in schema.names:
            parts = name.lower().split("_")
            assert not [word for word in FORBIDDEN if word in parts], (table, name)


def test_no_identifying_column_is_a_partition_or_has_statistics() -> None:
    from facelake.lake.tables import _PROPERTIES

    assert _PROPERTIES["delta.dataSkippingNumIndexedCols"] == "0"


@given(arrays(np.float32, (5, 8), elements=st.floats(-1, 1, width=16)))
def test_embeddings_survive_the_round_trip(raw: np.ndarray) -> None:
    norm = np.linalg.norm(raw, axis=1)
    raw[norm > 0.01] /= norm[norm > 0.01, None]
    column = pa.chunked_array([pa.array([v.astype("<f2").tobytes() for v in raw], pa.binary())])
    matrix, sound = embedding_matrix(column)
    np.testing.assert_array_equal(sound, norm > 0.01)
    np.testing.assert_allclose(matrix[sound], raw[sound].astype(np.float16), atol=1e-6)


def test_unsound_embeddings_are_reported() -> None:
    good = np.eye(4, dtype="<f2")[0].tobytes()
    bad = [None, b"", good[:4], np.full(4, np.nan, "<f2").tobytes(), np.full(4, 3, "<f2").tobytes()]
    matrix, sound = embedding_matrix(pa.chunked_array([pa.array([good, *bad, good], pa.binary())]))
    assert sound.tolist() == [True] + [False] * 5 + [True]
    assert np.isfinite(matrix).all()


def test_errors_survive_pickling() -> None:
    for kind in (errors.ConfigError, errors.Refused, errors.Retryable, errors.Corrupt, errors.CommitUnknown):
        err = kind("what", where="key", next_step="do")
        again = pickle.loads(pickle.dumps(err))
        assert (type(again), str(again), again.where) == (kind, "what [key]. Next: do.", "key")


def test_scan_finds_a_needle_in_text_values_and_footers() -> None:
    import pyarrow.parquet as pq

    needles = Needles.of(["album/ann.jpg"], [b"\x01\x02\x03\x04\x05\x06\x07\x08"])
    table = pa.table(
        {"a": [["x", "album/ann.jpg"]], "b": [b"..\x01\x02\x03\x04\x05\x06\x07\x08.."], "c": [{"k": "album/ann.jpg"}]}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    assert scan("x.parquet", data, needles) >= 3
    assert scan("x.json", b'{"id": "album/ann.jpg"}', needles) == 1
    assert scan("x.json", b'{"id": "album/ann.jpg2", "n": "album/joann.jpg"}', needles) == 0
    assert scan("x.parquet", data, Needles.of(["album/bob.jpg"])) == 0
    assert scan("x.json", b"anything", Needles(())) == 0


_NONCE = "00112233445566ff"
_DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"01234567-aaaabbbbcccc-0000000128-{_NONCE}.parquet", ("01234567", "aaaabbbbcccc", "0000000128")),
        (f"aaaabbbbcccc-ddddeeeeffff-{_NONCE}.parquet", ("", "aaaabbbbcccc", "ddddeeeeffff")),
        (f"aaaabbbbcccc-erased-{_NONCE}.parquet", ("", "aaaabbbbcccc", "erased")),
        (f"aaaabbbbcccc-{_NONCE}.parquet", ("", "aaaabbbbcccc", "")),
        (f"01234567-000003-{_NONCE}.parquet", ("01234567", "", "000003")),
        (f"part-{_NONCE}.parquet", ("", "", "part")),
    ],
)
def test_names_of_data_files_are_parsed_and_rendered(path: str, name: tuple[str, str, str]) -> None:
    assert DataFileName.parse(path) == DataFileName(*name, nonce=_NONCE)
    assert DataFileName.parse(path).render() == path
    assert is_of_model(path, _DIGEST) == (name[0] == _DIGEST[:8])


def test_the_name_of_a_chunk_is_part_of_the_stored_format() -> None:
    name = DataFileName.of_chunk(_DIGEST, "a.parquet", 128).with_nonce(_NONCE)
    assert name.render() == f"01234567-cb8eb0d4cd41-0000000128-{_NONCE}.parquet"


def test_an_unknown_name_keeps_its_stem() -> None:
    name = DataFileName.parse("part-00000-c000.parquet")
    assert (name.part, name.nonce, name.corpus) == ("part-00000", "c000", "")


def test_unit_rows_keep_zero_rows_and_the_element_type() -> None:
    unit = unit_rows(np.array([[3, 4], [0, 0], [1e-6, 0]], np.float32))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[0.6, 0.8], [0, 0], [1, 0]], rtol=1e-6)


def test_stored_embeddings_are_decoded_as_they_were_encoded() -> None:
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    assert [len(body) for body in encode_embeddings(vectors)] == [6, 6]
    np.testing.assert_array_equal(decode_embeddings(encode_embeddings(vectors), 3), vectors)
    assert decode_embeddings([], 3).shape == (0, 3)


def test_retries_stop_at_the_limit_and_pause_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError("no reply")

    options = {"attempts": 4, "first_pause_s": 0.1, "log": logging.getLogger("test")}
    with pytest.raises(OSError, match="no reply"):
        retrying("read", when=lambda err: isinstance(err, OSError), **options)(fail)
    assert len(calls) == 4
    assert all(0.1 * 2**i <= pause <= 0.1 * 2**i + 0.1 for i, pause in enumerate(pauses))
    assert len(pauses) == 3
    with pytest.raises(OSError, match="no reply"):
        retrying("read", when=lambda err: isinstance(err, KeyError), **options)(fail)
    assert len(calls) == 5
