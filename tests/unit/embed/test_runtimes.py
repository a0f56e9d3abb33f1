"""Which runtime a network gets on a host: fixed, measured, or refused; and that all compute the same function."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from facelake.config import Config, load_config
from facelake.contracts import F32
from facelake.embed import Pack, PipelineOptions, calibration, model_digest
from facelake.embed.batch_sizes import padded_batch
from facelake.embed.calibration import device_runtime, resolve
from facelake.embed.cpu_features import Cpu, parse_cpuinfo
from facelake.embed.models import encoder_network
from facelake.embed.onnx_runtime import CPU, CUDA, TENSORRT, OnnxGraph, card, engine_key, gpu_providers
from facelake.embed.packs import check_precision
from facelake.embed.runtime import (
    InFixedSizes,
    InPieces,
    Network,
    Runtime,
    must_have,
    open_graph,
    open_network,
    unavailable,
)
from facelake.errors import ConfigError
from facelake.stages.models.registry import find_card, pipeline_options

AVX2 = "processor : 0\nmodel name : Old\nflags : fpu avx2 fma\n"
AMX = "model name : New\nflags : avx2 avx512f avx512_bf16 amx_bf16 amx_int8 avx512_vnni\n"
ARM = "processor : 0\nFeatures : fp asimd asimddp bf16\n"


@pytest.fixture(scope="module")
def model() -> bytes:
    """A small encoder: a convolution, PRelu, a mean, as (n, 8)."""
    random = np.random.default_rng(0)
    weights = {"w": random.normal(size=(8, 3, 3, 3)), "slope": random.uniform(0, 1, (8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


@pytest.fixture(scope="module")
def network(model: bytes) -> Network:
    return Network("encoder", model, (3, 16, 16), input_name="x", batch=4)


def test_flags_of_processors() -> None:
    old, new, arm = (parse_cpuinfo(text) for text in (AVX2, AMX, ARM))
    assert (old.model, old.features()) == ("Old", ["avx2", "fma"])
    assert "amx_bf16" in (old.lacking("bf16") or "")
    assert old.lacking("int8") is None, "weights of seven bits: AVX2's sums are exact"
    assert new.lacking("bf16") is None
    assert new.lacking("int8") is None
    assert arm.lacking("bf16") is None
    assert parse_cpuinfo(AMX + AVX2).lacking("bf16"), "a worker may run on any core: all must have the flag"
    assert Cpu("none", frozenset()).lacking("float32") is None


@pytest.mark.parametrize(
    ("runtime", "flags", "where", "step"),
    [
        (Runtime("openvino", precision="bf16"), AVX2, "embed.precision", "float32"),
        (Runtime("onnxruntime", precision="bf16"), AMX, "embed.runtime", "openvino or auto"),
        (Runtime("openvino", "cuda"), AMX, "embed.runtime", "embed.device to cpu"),
        (Runtime("tensorrt"), AMX, "embed.runtime", "embed.device to cuda"),
        (Runtime("onnxruntime", "cuda"), AMX, "embed.runtime", "onnxruntime-gpu"),
        (Runtime("onnxruntime", half=True), AMX, "embed.runtime", "torch"),
        (Runtime("onnxruntime", "cuda", precision="int8"), AMX, "embed.runtime", "embed.device to cpu"),
    ],
)
def test_a_fixed_choice_that_the_host_lacks_is_refused(runtime: Runtime, flags: str, where: str, step: str) -> None:
    with pytest.raises(ConfigError) as refused:
        must_have(runtime, parse_cpuinfo(flags))
    assert refused.value.where == where
    assert step in refused.value.next_step


def test_a_fixed_choice_that_the_host_has_is_obeyed(network: Network) -> None:
    assert unavailable(Runtime("openvino", precision="bf16"), parse_cpuinfo(AMX)) is None
    fixed, choice = resolve(network, Runtime("openvino"))
    assert (fixed.name, choice.name, choice.ms) == ("openvino", "openvino", {})


def test_bf16_is_not_emulated(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` finds no runtime for bf16 on a processor without it, and a detector stays in float32."""
    monkeypatch.setattr("facelake.embed.runtime.this_cpu", lambda: parse_cpuinfo(AVX2))
    with pytest.raises(ConfigError, match="none of amx_bf16"):
        resolve(network, Runtime("auto", precision="bf16"))
    fixed, _ = resolve(replace(network, role="detector"), Runtime("onnxruntime", precision="bf16"))
    assert fixed.precision == "float32"


def test_runtimes_compute_the_same_function_in_any_pieces(network: Network) -> None:
    blob = np.random.default_rng(1).uniform(-1, 1, (5, 3, 16, 16)).astype(np.float32)
    wanted = OnnxGraph(network.prepared("onnxruntime")).run(blob)[0]
    openvino = open_graph(network.prepared("openvino"), Runtime("openvino"))
    assert openvino.outputs == ["y"]
    first = openvino.run(blob)[0]
    assert np.allclose(first, wanted, rtol=1e-5, atol=1e-6)
    assert np.array_equal(openvino.run(blob[:1])[0], first[:1])
    for size in (1, 2, 8):
        assert np.array_equal(InPieces(openvino, size).run(blob)[0], first)
    kept = first.copy()
    openvino.run(blob * 2)
    assert np.array_equal(first, kept), "outputs are copies"


def test_auto_measures_once_per_host_and_says_why(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FACELAKE_CACHE", raising=False)
    auto = Runtime("auto", cache=str(tmp_path))
    fixed, choice = resolve(network, auto)
    assert fixed.name in ("onnxruntime", "openvino")
    assert {key.split()[0] for key in choice.ms} == {"onnxruntime", "openvino"}, choice.reason
    assert "CPU ms each" in choice.summary
    (kept,) = (tmp_path / "runtimes").glob("*.json")
    assert kept.stat().st_mode & 0o077 == 0
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"name": "openvino", "piece": 2, "reason": "kept"}))
    again, choice = resolve(network, auto)
    assert (again.name, again.piece, choice.reason) == ("openvino", 2, "kept"), "all workers of a host use one choice"
    assert open_network(network, again).run(np.zeros((3, 3, 16, 16), np.float32))[0].shape == (3, 8)


def test_a_runtime_with_other_outputs_is_not_chosen(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong:
        outputs = ("y",)

        def run(self, blob: np.ndarray) -> list[np.ndarray]:
            return [np.ones((len(blob), 8), np.float32)]

    real = calibration.open_network

    def opened(network: Network, runtime: Runtime) -> object:
        return Wrong() if runtime.name == "openvino" else real(network, runtime)

    monkeypatch.setattr(calibration, "open_network", opened)
    choice = calibration.measure(network, Runtime("auto"), ["onnxruntime", "openvino"])
    assert choice.name == "onnxruntime"
    assert "openvino not usable: outputs differ" in choice.reason


def test_another_runtime_must_be_clearly_faster() -> None:
    close = {("onnxruntime", 1): 10.0, ("onnxruntime", 2): 9.0, ("openvino", 2): 8.6}
    assert calibration._choose("encoder", close, {}, on_gpu=False).name == "onnxruntime"
    faster = calibration._choose("encoder", close | {("openvino", 1): 8.0}, {}, on_gpu=False)
    assert (faster.name, faster.piece) == ("openvino", 1)


def in_bf16(model: bytes) -> bytes:
    """The graph with what every convolution and product reads rounded to bf16, as AMX computes it."""
    loaded = onnx.load_from_string(model)
    for weights in loaded.graph.initializer:
        if weights.data_type == TensorProto.FLOAT and len(weights.dims) in (2, 4):
            rounded = numpy_helper.to_array(weights).astype(ml_dtypes.bfloat16).astype(np.float32)
            weights.CopyFrom(numpy_helper.from_array(rounded, weights.name))
    nodes = []
    for i, node in enumerate(loaded.graph.node):
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            nodes.append(helper.make_node("Cast", [node.input[0]], [f"short-{i}"], to=TensorProto.BFLOAT16))
            nodes.append(helper.make_node("Cast", [f"short-{i}"], [f"rounded-{i}"], to=TensorProto.FLOAT))
            node.input[0] = f"rounded-{i}"
        nodes.append(node)
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    return bytes(loaded.SerializeToString())


def test_bf16_passes_the_calibration_of_the_default_pack(pack: Pack) -> None:
    """On noise around one grey level SFace in bf16 has a cosine of .97 to float32, and was refused on every host."""
    network = encoder_network(pack)
    blob, model = calibration.sample_input(network), network.prepared("openvino")
    wanted, rounded = OnnxGraph(model).run(blob), OnnxGraph(in_bf16(model)).run(blob)
    assert calibration._difference(rounded, wanted, "encoder", "bf16") is None
    assert calibration._difference(rounded, wanted, "encoder", "float32"), "the rounding is there"


def test_a_failed_calibration_falls_back(tmp_path: Path) -> None:
    broken = Network("encoder", b"no graph", (3, 16, 16))
    _, choice = resolve(broken, Runtime("auto"))
    assert choice.name == "onnxruntime"
    assert "calibration failed" in choice.reason


def test_gpu_providers_and_their_engine_cache(tmp_path: Path) -> None:
    shapes = (3, 192, 192), (3, 640, 640)
    cuda = gpu_providers(Runtime("onnxruntime", "cuda:1"), b"m", "x", shapes, 16)
    assert [provider if isinstance(provider, str) else provider[0] for provider in cuda] == [CUDA, CPU]
    assert cuda[0][1]["device_id"] == 1
    assert cuda[0][1]["use_tf32"] == 0, "float32 stays float32"
    (name, options), *rest = gpu_providers(Runtime("tensorrt", "cuda", cache=str(tmp_path)), b"m", "x", shapes, 16)
    assert (name, [provider[0] for provider in rest[:1]]) == (TENSORRT, [CUDA])
    assert options["trt_profile_min_shapes"] == "x:1x3x192x192"
    assert options["trt_profile_max_shapes"] == "x:16x3x640x640"
    assert Path(options["trt_engine_cache_path"]).is_dir()
    plain = Runtime("tensorrt", "cuda")
    keys = {
        engine_key(b"m", "1", plain, "NVIDIA H100"),
        engine_key(b"n", "1", plain, "NVIDIA H100"),
        engine_key(b"m", "2", plain, "NVIDIA H100"),
        engine_key(b"m", "1", replace(plain, precision="bf16"), "NVIDIA H100"),
        engine_key(b"m", "1", plain, "NVIDIA L4"),
    }
    assert len(keys) == 5
    gpus = tmp_path / "gpus"
    (gpus / "0000:01").mkdir(parents=True)
    (gpus / "0000:01" / "information").write_text("Model: \t\t NVIDIA L4\nIRQ: 1\n")
    assert card(0, str(tmp_path / "none")) == ""
    assert card(0, str(gpus)) == "NVIDIA L4"


def test_a_missing_provider_is_an_error(network: Network) -> None:
    """onnxruntime itself would go on with the CPU."""
    with pytest.raises(ConfigError, match="could not start CUDA"):
        OnnxGraph(network.prepared("torch"), providers=[CUDA, CPU])


def test_the_digest_has_the_precision_and_not_the_runtime() -> None:
    card_ = find_card("opencv")
    plain = PipelineOptions().shaping()
    for name in ("auto", "openvino", "tensorrt"):
        assert PipelineOptions(runtime=Runtime(name, piece=3, cache="x")).shaping() == plain  # type: ignore[arg-type]
    bf16 = PipelineOptions(runtime=Runtime("openvino", precision="bf16")).shaping()
    assert model_digest(card_, bf16) != model_digest(card_, plain)
    configured = pipeline_options(load_config(overrides={"embed.precision": "bf16"}), card_)
    assert configured.runtime.precision == "bf16"


def test_int8_needs_a_file_in_int8() -> None:
    float_card = find_card("opencv")
    int8_card = float_card.model_copy(update={"encoder": float_card.encoder.model_copy(update={"precision": "int8"})})
    with pytest.raises(ConfigError, match="is in float32") as refused:
        pipeline_options(load_config(overrides={"embed.precision": "int8"}), float_card)
    assert "facelake models int8" in refused.value.next_step
    assert pipeline_options(Config(), int8_card).runtime.precision == "int8"
    with pytest.raises(ConfigError, match="is in int8"):
        check_precision(int8_card, "bf16")
    assert model_digest(int8_card, {}) == model_digest(float_card, {}), "the file's digest tells them apart"


def test_openvino_cannot_import_its_telemetry(network: Network) -> None:
    open_graph(network.prepared("openvino"), Runtime("openvino"))
    assert sys.modules["openvino_telemetry"] is None


def test_a_padded_batch_is_the_smallest_half_that_fits() -> None:
    assert [padded_batch(count, 256) for count in (1, 16, 17, 64, 65, 129, 256)] == [16, 16, 32, 64, 128, 256, 256]
    assert [padded_batch(count, 8) for count in (1, 8)] == [8, 8]
    assert [padded_batch(count, 96) for count in (1, 24, 25, 49)] == [24, 24, 48, 96]
    assert padded_batch(3, 1) == 1, "a graph that could not be made batchable is given one by one"


def test_a_gpu_provider_sees_few_numbers_of_inputs(network: Network) -> None:
    graph = open_network(network, Runtime("onnxruntime"))
    sizes: list[int] = []

    class Counting:
        outputs = graph.outputs

        def run(self, blob: F32) -> list[F32]:
            sizes.append(len(blob))
            return graph.run(blob)

    fixed = InFixedSizes(Counting(), 64)
    faces = np.random.default_rng(1).uniform(-1, 1, (64, *network.shape)).astype(np.float32)
    for count in (1, 7, 16, 17, 33, 64):
        assert np.allclose(fixed.run(faces[:count])[0], graph.run(faces[:count])[0], rtol=1e-5, atol=1e-6)
    assert sizes == [16, 16, 16, 32, 64, 64]


@pytest.mark.parametrize(
    ("installed", "sees", "chosen"), [(True, True, "torch"), (True, False, "auto"), (False, False, "auto")]
)
def test_auto_on_a_gpu_is_torch_where_torch_sees_the_gpu(
    monkeypatch: pytest.MonkeyPatch, installed: bool, sees: bool, chosen: str
) -> None:
    monkeypatch.setattr(calibration, "torch_sees_gpu", lambda: sees)
    monkeypatch.setattr(calibration, "unavailable", lambda r: None if r.name != "torch" or installed else "no torch")
    assert device_runtime(Runtime("auto", "cuda")).name == chosen
