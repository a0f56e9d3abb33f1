"""The tables' schemas: an allow-list, documented, free of demographics."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facelake import errors
from facelake.contracts import TABLES, embedding_matrix
from facelake.erase import Needles, scan

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


def test_unsound_embeddings_are_set_aside() -> None:
    good = np.eye(4, dtype="<f2")[0].tobytes()
    bad = [None, b"", good[:4], np.full(4, np.nan, "<f2").tobytes(), np.full(4, 3, "<f2").tobytes()]
    matrix, sound = embedding_matrix(pa.chunked_array([pa.array([good, *bad, good], pa.binary())]))
    assert sound.tolist() == [True] + [False] * 5 + [True]
    assert np.isfinite(matrix).all()


def test_errors_travel_between_processes() -> None:
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
