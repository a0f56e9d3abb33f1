"""plan: projected time and cost, and the budget that holds before any photo is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from facelake.config import Config, load_config
from facelake.embed import Pack
from facelake.errors import Refused
from facelake.nightly import writing
from facelake.stages.admission.admit import admit
from facelake.stages.admission.import_grants import Grant
from facelake.stages.admission.import_images import import_folder
from facelake.stages.embedding.cost_projection import Projection, check_budget, project
from facelake.stages.embedding.embed import embed
from facelake.stages.embedding.plan import plan
from facelake.terminal import format_duration


def priced(lake: Path, **more: Any) -> Config:
    return load_config(lake=str(lake), overrides={"plan.price_per_node_hour": 3.6, "plan.nodes": 2} | more)


def test_hours_and_cost_follow_from_seconds_per_photo(pack: Pack, tmp_path: Path) -> None:
    found = project(priced(tmp_path), pack, 1_000_000, 200_000, 1.5)
    assert found.seconds_per_photo > 0
    assert found.hours == pytest.approx(1_000_000 * found.seconds_per_photo / 4 / 3600)
    assert found.node_hours == pytest.approx(2 * found.hours)
    assert found.cost == pytest.approx(3.6 * found.node_hours)
    assert project(load_config(), pack, 10, 200_000, 1.0).cost is None


def test_a_few_photos_are_not_said_to_take_no_time() -> None:
    figures = Projection(0.05, 1.44 / 3600, 1.44 / 3600, None).figures()
    assert (figures["seconds"], figures["hours"]) == (1.4, 0.0)
    assert [format_duration(seconds) for seconds in (0, 0.04, 1.4, 9.94, 9.96, 119)] == [
        "0 s",
        "0.1 s",
        "1.4 s",
        "9.9 s",
        "10 s",
        "119 s",
    ]


def test_a_budget_is_kept() -> None:
    check_budget(load_config(), Projection(1, 1, 1, 10_000))
    allowed = load_config(overrides={"plan.price_per_node_hour": 1.0, "plan.budget": 10.0})
    check_budget(allowed, Projection(1, 1, 10, 10.0))
    with pytest.raises(Refused, match=r"node-hours and cost 10\.01, the budget is 10\.00"):
        check_budget(allowed, Projection(1, 1, 10, 10.01))
    with pytest.raises(Refused, match="without a price"):
        check_budget(load_config(overrides={"plan.budget": 10.0}), Projection(1, 1, 1, None))


def test_embed_over_budget_reads_no_photo(pack: Pack, shared: Path, tmp_path: Path) -> None:
    """And with the budget raised the same lake has all its rows open."""
    config = priced(tmp_path / "lake", **{"plan.budget": 0.0})
    photos = tmp_path / "photos"
    photos.mkdir()
    for path in sorted((shared / "data/london/images").glob("*.jpg"))[:3]:
        (photos / path.name).write_bytes(path.read_bytes())
    with writing(config, "test") as context:
        context.lake.mark_as_demo()
        import_folder(context, str(photos), grant=Grant("b"))
        admit(context)
        context.pack = pack
        with pytest.raises(Refused, match="the budget is 0"):
            embed(context)
        assert context.lake["faces"].version() < 0 or context.lake["faces"].snapshot().rows == 0
    with pytest.raises(Refused, match="the budget is 0"):
        plan(config, calibrate=True)
    figures = plan(priced(tmp_path / "lake"), calibrate=True)
    assert figures["to_embed"] == 3
    assert figures["hours"] >= 0
    assert (figures["next_run"], figures["on_ray"]) == (3, False)
    assert figures["cost"] is not None
    assert "cost" not in plan(config)
