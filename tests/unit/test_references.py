"""Two references that look the same are one, for a text and for a column."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facelake.contracts import reference, references
from facelake.publish.leases import recipient_key
from facelake.stages.admission.known_references import as_seen

_ODD = "\u00a0\u2007\u3164\u115f\uffa0\u2800\u180b\u17b4\ufffe\x01\x7f\x85\u200b\ufeff\u0301 \t\n"


@given(st.lists(st.none() | st.text(st.sampled_from("aé" + _ODD) | st.characters(codec="utf-8"), max_size=12)))
def test_columns_agree_with_texts(texts: list[str | None]) -> None:
    expected = [None if text is None else reference(text) for text in texts]
    assert references(pa.array(texts, pa.string())).to_pylist() == expected
    assert [None if text is None else reference(text) for text in expected] == expected


@pytest.mark.parametrize("code", [0xA0, 0x2007, 0x3164, 0x115F, 0xFFA0, 0x2800, 0x85, 0x2003, 0x09])
def test_what_looks_like_a_space_is_one(code: int) -> None:
    assert reference(f"{chr(code)}Ann{chr(code)} Smith") == "Ann Smith"


def test_what_nobody_sees_is_left_out() -> None:
    unseen = [chr(c) for c in range(0x11_0000) if unicodedata.category(chr(c)) in ("Cc", "Cf") and not chr(c).isspace()]
    shown = {c for c in unseen if reference(f"An{c}n") != "Ann"}
    # marks of numbers in Arabic, Syriac and Kaithi, shorthand and hieroglyphs, which are drawn
    assert {ord(c) for c in shown} <= {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13440)}  # fmt: skip


def test_letters_of_another_script_are_seen_as_latin_ones() -> None:
    assert as_seen("\u0410nn Sm\u0456th") == as_seen("Ann Smith") != as_seen("Anna Smith")
    assert as_seen("person-0041") == as_seen("PERSON 41") != as_seen("person-42")


@pytest.mark.parametrize("name", ["gate-7", "Gate 7", "gate\u20117", "gate_7", "gate7\x7f", "\u3164gate-7"])
def test_a_recipient_is_one_in_every_spelling(name: str) -> None:
    assert recipient_key(name) == recipient_key("gate-7") != recipient_key("gate-8")
