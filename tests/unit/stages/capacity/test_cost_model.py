"""plan --at: costs add up, grow with the work, and count files and commits as the code creates them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from facelake.config import load_config
from facelake.contracts import Receipt
from facelake.errors import ConfigError
from facelake.lake.lake import Lake
from facelake.stages.capacity.cost_model import STAGES, Cost, Workload, appends, estimate
from facelake.stages.capacity.forecast import outlook, workload
from facelake.stages.capacity.measured_costs import COSTS
from facelake.stages.capacity.scaling_limits import scaling_limits

_SIZES = st.integers(1, 10**9)
# Up to 64 chunks (2 workers, 4 tasks each of up to 8 chunks) more photos may make larger tasks, and so fewer reads.
_BUNDLED, _TASKS_ARE_WHOLE = ("get", "head", "read_bytes"), 64


@given(images=_SIZES, more=st.integers(0, 10**8), chunk_rows=st.integers(1, 4096), every=st.integers(1, 256))
@example(images=64754, more=2, chunk_rows=1, every=5)
@example(images=249, more=1, chunk_rows=19, every=55)
def test_more_photos_never_cost_less(images: int, more: int, chunk_rows: int, every: int) -> None:
    work = Workload(images, chunk_rows=chunk_rows, commit_every_chunks=every)
    small, large = estimate(work).stages, estimate(replace(work, images=images + more)).stages
    for stage in STAGES:
        for one in fields(Cost):
            if stage == "embed" and one.name in _BUNDLED and work.chunks < _TASKS_ARE_WHOLE:
                continue
            assert getattr(small[stage], one.name) <= getattr(large[stage], one.name), (stage, one.name)


def test_stages_add_up_to_the_nightly_run() -> None:
    found = estimate(Workload(10**6))
    night, parts = found.nightly_run(), [found.stages[name] for name in STAGES if name != "scan"]
    for one in fields(Cost):
        values = [getattr(part, one.name) for part in parts]
        whole = max(values) if one.name == "driver_bytes" else sum(values)
        assert getattr(night, one.name) == pytest.approx(whole), one.name


def test_more_cores_shorten_what_workers_do_and_cost_no_less() -> None:
    one, many = Workload(10**7), Workload(10**7, nodes=8, cores_per_node=16)
    cost = estimate(one).stages["embed"]
    assert cost.seconds(many) < cost.seconds(one)
    assert cost.seconds(many) > cost.driver_cpu_s
    assert cost.node_hours(replace(many, nodes=16)) > cost.node_hours(many)


@pytest.mark.parametrize("files_each", [1, 3])
def test_log_entries_checkpoints_and_files_of_real_commits(tmp_path: Path, files_each: int) -> None:
    """More than two checkpoints' worth of commits to a real table: entries, checkpoints and data files, exactly."""
    table = Lake.create(str(tmp_path / "lake"))["chunks"]
    for number in range(105):
        table.commit([Receipt("chunks", f"x-{number}-{i}.parquet", 100, 1) for i in range(files_each)])
        if number in (0, 47, 48, 98, 104):
            said = appends(number + 1, files_each)
            log = tmp_path / "lake" / "chunks" / "_delta_log"
            checkpoints = list(log.glob("*.checkpoint.parquet"))
            assert len(list(log.glob("*.json"))) == said.log_entries
            assert len(table.snapshot().files) == said.data_files
            assert said.put == said.log_entries + 2 * len(checkpoints)
            assert said.head == len(checkpoints)


def test_bytes_of_a_log_entry_are_about_as_measured(tmp_path: Path) -> None:
    table = Lake.create(str(tmp_path / "lake"))["faces"]
    names = [f"0123abcd-0123456789ab-{i:010d}-0123456789abcdef.parquet" for i in range(1000)]
    table.commit([Receipt("faces", name, 123_456, 512) for name in names])
    size = (tmp_path / "lake/faces/_delta_log/00000000000000000001.json").stat().st_size
    assert appends(1, 1000).written_bytes == pytest.approx(size, rel=0.05)


def test_scaling_limits_are_reached_at_the_reported_size() -> None:
    work = Workload(10**6, dim=512)
    found = scaling_limits(work)
    assert [wall.at_images for wall in found] == sorted(wall.at_images for wall in found)
    for wall in found:
        assert not wall.exceeded, wall
        there = {w.what: w for w in scaling_limits(replace(work, images=wall.at_images)) if w.stage == wall.stage}[
            wall.what
        ]
        assert there.exceeded
        before = {
            w.what: w for w in scaling_limits(replace(work, images=int(wall.at_images * 0.99))) if w.stage == wall.stage
        }
        assert not before[wall.what].exceeded


def test_arrow_strings_of_face_ids_overflow_at_the_reported_limit() -> None:
    """Arrow's strings end at 2^31 bytes in one array: a review session joins all face ids into one."""
    (wall,) = (wall for wall in scaling_limits(Workload(1000)) if "Arrow" in wall.what)
    half = wall.at_images // 2
    body = pa.py_buffer(bytes(32 * half))
    offsets = pa.array(range(0, 32 * half + 1, 32 * half), pa.int32()).buffers()[1]
    one = pa.Array.from_buffers(pa.string(), 1, [None, offsets, body])
    assert len(pa.chunked_array([one, one[:0]]).combine_chunks()) == 1
    with pytest.raises(pa.ArrowInvalid, match="overflow"):
        pa.chunked_array([one, one, one.slice(0, 1)]).combine_chunks()


def test_the_workload_follows_the_config_and_invalid_numbers_are_refused() -> None:
    config = load_config(overrides={"embed.chunk_rows": 512, "plan.nodes": 4, "plan.price_per_node_hour": 2.0})
    work = workload(config, 1e9)
    assert (work.images, work.chunk_rows, work.nodes) == (10**9, 512, 4)
    found = outlook(work)
    assert found["night"]["cost"] == pytest.approx(2 * found["night"]["node_hours"], rel=0.01)
    assert any(wall["broken"] for wall in found["walls"])
    for bad in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError):
            workload(config, bad)


def test_every_cost_has_a_source() -> None:
    assert all(one.unit and one.where and one.value > 0 for one in COSTS.values())
