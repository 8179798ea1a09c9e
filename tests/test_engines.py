"""ONNX Runtime and OpenVINO: each really runs tiny cases and encoders, refuses what it cannot, and serves plans."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from command_line import capacity

from capacity import calibration as calibrations
from capacity import catalogue, files
from capacity.errors import CapacityError
from capacity.spec.calibration import Calibration, Machine
from capacity.spec.engine import MATRIX_DTYPES, PROCESSOR_ENGINES
from capacity.timing import transfer
from capacity.timing.form import MissingFactError
from capacity.timing.roofline import Roof, seconds
from capacity.work import huggingface, transformer
from capacity.work.measurement import Measurement
from capacity.work.operations import Attention, Gemm, Streaming, TopK, total_counter_flop

BERT = {
    "model_type": "bert", "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 128,
    "vocab_size": 100, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "n_inner": 128, "vocab_size": 100}
ROOF = Roof(t0_s=1e-6, flop_per_s=1e11, bytes_per_s=2e10, sharpness=2)
MACHINE = Machine(name="made up", system="none")
SHARED = catalogue.shared()
KNOWN = calibrations.Known((), SHARED)
CPU = catalogue.hardware("xeon-8480plus")


def installed(engine: str):
    """Return the engine with one thread, or skip the test with the reason."""
    pytest.importorskip("torch", reason="kernels need torch: pip install 'capacity-planner[calibrate]'")
    for package in ("onnx", engine):
        pytest.importorskip(package, reason=f"{package} is missing: pip install 'capacity-planner[{engine}]'")
    from kernels import engine_suite

    return engine_suite.ENGINES[engine](1)


# --- what an engine executes ----------------------------------------------------------------------------------------


def labels(config, engine: str, dtype: str = "fp32") -> list[str]:
    work = transformer.encode(huggingface.transformer(config), 2, 16, dtype, engine)
    return [op.label for op in work if isinstance(op, Streaming) for _ in range(int(op.count))]


@pytest.mark.parametrize("config", [BERT, GPT2], ids=["bert", "gpt2"])
def test_every_engine_executes_the_same_products(config):
    model = huggingface.transformer(config)
    flop = {total_counter_flop(transformer.encode(model, 2, 16, "fp32", e)) for e in ("eager", *PROCESSOR_ENGINES)}
    assert len(flop) == 1


def test_engines_differ_in_what_they_launch_beside_the_products():
    assert labels(BERT, "onnxruntime").count("residual and norm") == 4  # two a layer: BERT norms the sum
    assert "residual" not in labels(BERT, "onnxruntime")
    assert labels(GPT2, "onnxruntime").count("residual") == 4  # a decoder needs the sum later
    assert labels(GPT2, "openvino").count("split heads") == 2  # one projection for query, key and value
    assert len(labels(BERT, "openvino")) < len(labels(BERT, "onnxruntime")) + 1 < len(labels(BERT, "eager"))


def test_int8_is_for_products_and_the_rest_stays_in_fp32():
    work = transformer.encode(huggingface.transformer(BERT), 2, 16, "int8", "onnxruntime")
    assert {op.dtype for op in work if isinstance(op, Gemm)} == {"int8"}
    assert {op.dtype for op in work if not isinstance(op, Gemm)} == {"fp32"}


# --- the engines themselves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", PROCESSOR_ENGINES)
def test_every_kind_of_case_runs(engine, monkeypatch):
    runner = installed(engine)
    from kernels import engine_cases as cases

    monkeypatch.setattr(cases, "ROTATING_BYTES", 1e5)
    for dtype in runner.matrix_dtypes():
        cases.gemm_case(4, 32, 32, dtype, runner).build()()
        if dtype != "int8":
            assert cases.streaming_case("add", 4, 64, dtype, runner).build()() is not None
    for causal in (False, True):
        shape = {"batch": 1, "heads": 2, "kv_heads": 2, "query": 8, "keys": 8, "head_dim": 16, "dtype": "fp32"}
        cases.attention_case(Attention(**shape, causal=causal), runner).build()()
    for kind in ("norm", "residual_norm", "activation", "add", "softmax", "copy"):
        assert cases.streaming_case(kind, 4, 64, "fp32", runner).build()() is not None
    cases.gather_case(4, 16, 10, runner).build()()


@pytest.mark.parametrize("model_type", ["bert", "gpt2", "xlm-roberta", "llama"])
@pytest.mark.parametrize("engine", PROCESSOR_ENGINES)
def test_an_encoder_gives_what_pytorch_gives(engine, model_type):
    runner = installed(engine)
    pytest.importorskip("transformers", reason="encoders need transformers")
    import torch

    from kernels.encoders import EncoderShape
    from kernels.engine_cases import encoder_case, encoder_module

    shape = EncoderShape(model_type, 1, 64, 2, 128, 2, 12, "fp32")
    module, ids = encoder_module(shape), torch.randint(5, 100, (2, 12))
    with torch.inference_mode():
        wanted = module(ids).numpy()
    found = runner.prepared(module, [ids], "fp32")()
    np.testing.assert_allclose(np.asarray(found[0]), wanted, atol=1e-3)
    for dtype in runner.matrix_dtypes():
        case = encoder_case(EncoderShape(model_type, 1, 64, 2, 128, 2, 12, dtype), runner)
        assert case.build()() is not None
        assert case.mode == "inference"


def test_int8_really_multiplies_integers():
    installed("onnxruntime")
    import onnx
    import torch

    from kernels.onnx_export import exported
    from kernels.onnxruntime_backend import _quantized

    model = exported(torch.nn.Linear(32, 32).eval(), [torch.randn(1, 4, 32)])
    kinds = {node.op_type for node in onnx.load_from_string(_quantized(model)).graph.node}
    assert "MatMulInteger" in kinds
    assert "MatMul" not in kinds


@pytest.mark.parametrize(("engine", "dtype"), [("onnxruntime", "bf16"), ("openvino", "int8"), ("openvino", "fp16")])
def test_a_dtype_that_an_engine_has_no_products_of_is_refused_by_name(engine, dtype):
    runner = installed(engine)
    import torch

    with pytest.raises(CapacityError, match=f"{PROCESSOR_ENGINES[engine]} .* not in {dtype}"):
        runner.prepared(torch.nn.Linear(8, 8), [torch.randn(1, 8)], dtype)


@pytest.mark.parametrize("engine", PROCESSOR_ENGINES)
def test_the_suite_names_its_cases_once_and_only_in_dtypes_it_has(engine):
    runner = installed(engine)
    from kernels import engine_suite

    quick, full = ([case.name for case in engine_suite.cases(runner, quick=quick)] for quick in (True, False))
    assert len(full) == len(set(full))
    assert set(quick) <= set(full)
    assert set(runner.matrix_dtypes()) <= set(MATRIX_DTYPES[engine])


def test_a_missing_extra_says_how_to_get_it(monkeypatch):
    pytest.importorskip("torch")
    from kernels import engine_suite, onnx_export
    from kernels.torch_backend import Backend, MissingExtraError

    def missing(name: str):
        raise ImportError(name)

    monkeypatch.setattr(onnx_export.importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"capacity-planner\[openvino\]"):
        engine_suite.runner("openvino", Backend("cpu", 1), quick=True)


def test_an_engine_of_processors_is_not_calibrated_on_a_gpu():
    pytest.importorskip("torch")
    from kernels import engine_suite
    from kernels.torch_backend import Backend

    with pytest.raises(CapacityError, match="calibrated on processors only"):
        engine_suite.runner("onnxruntime", Backend("cuda", 1), quick=True)


def test_the_command_line_refuses_what_it_cannot_mean():
    assert "unknown engine 'warp'" in capacity("calibrate", "--engine", "warp").err
    said = capacity("calibrate", "--engine", "all", "--output", "one.yaml")
    assert said.code == 2
    assert "3 engines write a calibration each" in said.err


# --- plans ----------------------------------------------------------------------------------------------------------


def fitted(engine: str, dtypes: tuple[str, ...]) -> Calibration:
    """Return a calibration made from imaginary times of an engine on an imaginary processor of the catalogue."""
    draw = np.random.default_rng(3)
    work = []
    for dtype in dtypes:
        for _ in range(12):
            m, n, k = (int(value) for value in draw.integers(8, 2000, 3))
            work.append(Gemm(m=m, n=n, k=k, dtype=dtype))
    for tokens in (16, 64, 128, 256, 512):
        shape = {"heads": 8, "kv_heads": 8, "query": tokens, "keys": tokens, "head_dim": 64, "dtype": "fp32"}
        work.append(Attention(batch=4, **shape))
        work += [Streaming(kind=kind, elements=tokens * 768, dtype="fp32") for kind in ("norm", "add", "copy")]
    if engine == "eager":
        work += [TopK(rows=rows, columns=50_000, k=10, dtype="fp32") for rows in (1, 2, 4, 8, 16)]
    measured = [Measurement(f"{i}", (op,), float(seconds(op, ROOF))) for i, op in enumerate(work)]
    return calibrations.from_measurements(measured, CPU, MACHINE, KNOWN, date(2026, 11, 22), engine)  # type: ignore[arg-type]


def test_a_calibration_says_which_engine_it_is_of():
    found = fitted("openvino", ("fp32", "bf16"))
    assert (found.id, found.engine) == (f"{CPU.id}-openvino", "openvino")
    assert fitted("eager", ("fp32",)).id == CPU.id


def test_a_plan_asks_for_the_engine_and_takes_the_rest_from_pytorch():
    known = [(fitted("openvino", ("fp32", "bf16")), CPU), (fitted("eager", ("fp32",)), CPU)]
    device = transfer.device(CPU, "openvino", known, SHARED)
    assert device.origin == f"{CPU.id}-openvino"
    assert device.time(Gemm(m=64, n=768, k=768, dtype="bf16")).basis == "calibrated"
    assert device.time(TopK(rows=2, columns=1000, k=5, dtype="fp32")).basis == "calibrated"  # PyTorch's
    other = transfer.device(CPU, "onnxruntime", known, SHARED).time(Gemm(m=64, n=768, k=768, dtype="fp32"))
    assert other.basis == "projected"
    assert other.errors["engine not measured"] == SHARED.engine_log_sigma


@pytest.mark.parametrize(
    ("engine", "hardware", "dtype", "why"),
    [
        ("onnxruntime", "xeon-8480plus", "bf16", "ONNX Runtime on a processor multiplies matrices in fp32 and int8"),
        ("openvino", "xeon-8480plus", "int8", "OpenVINO on a processor multiplies matrices in fp32 and bf16"),
        ("openvino", "l40s", "fp32", "OpenVINO is planned for processors only"),
    ],
)
def test_what_an_engine_does_not_run_is_refused(engine, hardware, dtype, why):
    device = transfer.device(catalogue.hardware(hardware), engine, [], SHARED)
    with pytest.raises(MissingFactError, match=why):
        device.time(Gemm(m=8, n=8, k=8, dtype=dtype))


def test_a_plan_with_an_engine_works_from_its_calibration_file(tmp_path):
    path = tmp_path / "mine.yaml"
    files.write_text(path, calibrations.to_yaml(fitted("openvino", ("fp32", "bf16"))))

    def planned(dtype: str) -> dict:
        wished = ("engine=openvino", f"serving.stages.rerank.dtype={dtype}", "training.fine-tune.dtype=fp32")
        settings = [word for wish in (*wished, "objective.latency=3600 s") for word in ("-s", wish)]
        said = capacity("plan", "cross-encoder-rerank", "-H", CPU.id, "-c", path, *settings, "--json")
        return said.json["options"][0]

    found = planned("fp32")
    assert (found["engine"], found["origin"]) == ("openvino", f"{CPU.id}-openvino")
    assert found["stages"]
    refused = planned("int8")
    assert not refused["feasible"]
    assert "multiplies matrices in fp32 and bf16, not in int8" in refused["violations"][0]["constraint"]
