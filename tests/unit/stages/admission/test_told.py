"""What is said before somebody acts on a mistaken idea of the lake: withdrawn and erased sources, other lakes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from facelake.config import load_config
from facelake.contracts import EventKind, Scope
from facelake.errors import ConfigError
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.event_effects import effects
from facelake.stages.admission.import_grants import Grant, refuse_erased_source
from facelake.stages.admission.import_images import import_folder, write_corpus_file
from facelake.stages.admission.known_references import Known
from facelake.stages.admission.ledger import Entry, record
from facelake.stages.core.hash_keys import note_of_other_lakes
from facelake.stages.erasure.request import Request
from facelake.stages.erasure.stage import erase
from facelake.stages.operations.verify import verify_residual

P = "identity-grouping"


def test_a_grant_that_the_withdrawal_of_a_source_leaves_without_effect_is_told(tmp_path: Path) -> None:
    config = load_config(lake=str(tmp_path / "lake"))
    with writing(config, "test") as context:
        rows = [{"image_id": "a.jpg", "image": b"1", "source_id": "school", "subject_ref": "anna"}]
        write_corpus_file(context, rows)
        grants = [Entry(EventKind.GRANT, Scope.SUBJECT, name, (P,), "b") for name in ("anna", "bert")]
        for withdrawn in (False, True):
            if withdrawn:
                record(context.lake, [Entry(EventKind.WITHDRAW, Scope.SOURCE, "school")])
            known = Known.of(config, context.lake, subjects=["anna", "bert"])
            said = [text for text in effects(context.lake, known, grants, datetime.now(UTC)) if "is withdrawn" in text]
            assert len(said) == int(withdrawn)
        assert said[0].startswith("the source 'school' is withdrawn: its photos of 'anna' stay refused")


def test_an_erased_source_is_not_imported_again_and_a_mistyped_name_is_questioned(tmp_path: Path) -> None:
    (tmp_path / "smith-family").mkdir()
    (tmp_path / "smith-family/a.jpg").write_bytes(b"1")
    with writing(load_config(lake=str(tmp_path / "lake")), "test") as context:
        import_folder(context, str(tmp_path / "smith-family"), grant=Grant("signed release"))
        context.now = datetime.now(UTC)
        admit(context)
        assert verify_residual(context, ["smith-family", "smyth-family"]).never_erased == ()  # something was found
        erase(context, Request.of(sources=["smith-family"]))
        assert verify_residual(context, ["smith-family", "smyth-family"]).never_erased == ("smyth-family",)
        with pytest.raises(ConfigError, match="the source 'smith-family' was erased"):
            import_folder(context, str(tmp_path / "smith-family"), grant=Grant("signed release"))
        refuse_erased_source(context, "smyth-family")


def test_a_second_lake_is_told_that_it_does_not_know_who_was_erased_in_the_first(tmp_path: Path) -> None:
    copies = {"governance.ledger_copy": str(tmp_path / "copies")}
    for name, told in (("one", None), ("two", "another lake has its copy"), ("three", "2 other lakes have")):
        config = load_config(lake=str(tmp_path / name), overrides=copies)
        with writing(config, "test"):
            pass
        note = note_of_other_lakes(config)
        assert note is None if told is None else note and note.startswith(told)
