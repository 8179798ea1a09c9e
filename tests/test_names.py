"""Raw names of measurement tables: each is read or refused, never guessed."""

import contextlib
import csv
import subprocess
import sys
from pathlib import Path

import pytest

from capacity import catalogue
from capacity.errors import UnknownNameError
from capacity.spec.hardware import DTYPE_BYTES
from capacity.spec.names import Engine, NotModeledError, Precision, dtype, engine, hardware_id, model
from capacity.work import models

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.parametrize(
    ("raw", "profile"),
    [
        ("h100-sxm-80gb", "h100-sxm-80gb"),
        ("arc-pro-b60-24gb", "arc-pro-b60"),
        ("rtx-4090-24gb", "rtx-4090"),
        ("INTEL(R) XEON(R) PLATINUM 8592+", "xeon-8592plus"),
        ("Intel(R) Xeon(R) 6980P", "xeon-6980p"),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.20GHz", "xeon-8380"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
        ("NVIDIA RTX 3090", "rtx-3090"),
    ],
)
def test_hardware_is_found_by_id_alias_or_full_name(raw, profile):
    assert hardware_id(raw) == profile


@pytest.mark.parametrize(
    "raw", ["v100-sxm-16gb", "Intel(R) Xeon(R) Platinum 8380H CPU @ 2.90GHz", "h100", "arc-pro-b60-dual-48gb", ""]
)
def test_other_hardware_is_refused_with_a_near_name(raw):
    # An 8380H is another chip than an 8380, and "h100" does not say which of four.
    with pytest.raises(UnknownNameError, match=r"unknown hardware .*(did you mean|known)") as caught:
        hardware_id(raw)
    assert caught.value.name == raw


def test_hardware_of_the_working_folder_counts(tmp_path, monkeypatch):
    (tmp_path / "hardware_profiles").mkdir()
    (tmp_path / "hardware_profiles" / "my-box.yaml").write_text("id: my-box\n", encoding="utf-8")
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    assert hardware_id("my-box") == "my-box"


PRECISIONS = [
    ("fp32", "fp32", "fp32", "fp32"),
    ("fp32 (single-device rows)", "fp32", "fp32", "fp32"),
    ("tf32", "tf32", "tf32", "tf32"),
    ("fp16 mixed", "fp16", "fp16", "fp16"),
    ("AMP", "fp16", "fp16", "fp16"),
    ("amp_bf16", "bf16", "bf16", "bf16"),
    ("bfloat16", "bf16", "bf16", "bf16"),
    ("Google bfloat16.", "bf16", "bf16", "bf16"),
    ("fp16/bf16", "bf16", "bf16", "bf16"),
    ("int8-v1", "int8", "int8", "int8"),
    ("int8-v2", "int8", "int8", "int8"),
    ("int8,fp16", "int8", "int8", "int8"),
    ("FP32 + Int8", "int8", "int8", "int8"),
    ("int8_smoothquant", "int8", "int8", "int8"),
    ("int8_weightonly", "bf16", "int8", "bf16"),
    ("int4_weightonly", "bf16", "int4", "bf16"),
    ("int4_wo", "bf16", "int4", "bf16"),
    ("UINT4", "bf16", "int4", "bf16"),
    ("bnb.nf4-dq", "bf16", "int4", "bf16"),
    ("fp8_block", "fp8", "fp8", "fp8"),
    ("FP8-MX/other", "fp8", "fp8", "fp8"),
    ("float8 tensorwise", "fp8", "fp8", "fp8"),
    ("mxfp8_cublas_rceil", "fp8", "fp8", "fp8"),
    ("nvfp4", "fp4", "fp4", "fp4"),
    ("w4a8_mxfp4_mxfp8", "fp8", "fp4", "fp8"),
    ("w4a16_mxfp4", "bf16", "fp4", "bf16"),
]


@pytest.mark.parametrize(("raw", "compute", "weight", "activation"), PRECISIONS)
def test_precision(raw, compute, weight, activation):
    precision = dtype(raw)
    assert precision == Precision(compute, weight, activation)
    assert precision.raw == raw
    assert {compute, weight, activation} <= set(DTYPE_BYTES)
    # Weights are never read wider than they are multiplied.
    assert DTYPE_BYTES[weight] <= DTYPE_BYTES[compute]


def test_autocasting_is_told_from_plain_dtypes():
    assert dtype("amp_bf16").mixed
    assert dtype("fp16 mixed").mixed
    assert not dtype("bf16-true").mixed


@pytest.mark.parametrize("raw", ["", "fp12", "int8 sometimes", "awq", "quick"])
def test_unknown_dtype_is_refused(raw):
    with pytest.raises(UnknownNameError, match="unknown dtype"):
        dtype(raw)


ENGINES = [
    ("trtllm", "trtllm", ""),
    ("trtllm 1.3.0rc20", "trtllm", "1.3.0rc20"),
    ("vllm 0.24.0", "vllm", "0.24.0"),
    ("sglang 0.5.6.post2", "sglang", "0.5.6.post2"),
    ("vllm nightly-dev-20260216", "vllm", "nightly-dev-20260216"),
    ("nccl 2.27.3", "nccl", "2.27.3"),
    ("TensorRT 8.6 demo/BERT", "tensorrt", "8.6"),
    ("TensorRT 7.2, CUDA 11.0, libjemalloc2, tensorrt-laboratory mlperf branch", "tensorrt", "7.2"),
    ("FasterTransformer EFF-FT-INT8-v2 (TensorFlow op)", "fastertransformer", ""),
    ("TensorFlow 2 (+XLA/AMP)", "tensorflow", "2"),
    ("TensorFlow TF-FP16", "tensorflow", ""),
    ("tf2.0", "tensorflow", "2.0"),
    ("PyTorch 20.12", "pytorch", "20.12"),
    ("Pytorch NGC21.09", "pytorch", "21.09"),
    ("PyTorch TorchScript-FP16", "pytorch", ""),
    ("ONNX Runtime", "onnxruntime", ""),
    ("OpenVino 2021.2.200", "openvino", "2021.2.200"),
    ("PaddlePaddle AMP", "paddle", ""),
    ("Pytorch 1.9.1, AWS Neuron 1.9.1.2", "neuron", "1.9.1.2"),
    ("QUALCOMM Cloud AI SDK v1.12.2 / v1.14.2 (SDXL)", "qualcomm-ai", "1.12.2"),
    ("Triton TensorFlow + TensorRT", "tensorrt", ""),
    ("Triton 2.30.0 , CUDA 12.0", "triton", "2.30.0"),
    ("Megatron-Bridge/NeMo", "megatron-bridge", ""),
    ("NVIDIA NeMo Framework Release 25.04", "nemo", "25.04"),
    ("llm-foundry/Composer FSDP", "composer", ""),
]


@pytest.mark.parametrize(("raw", "family", "version"), ENGINES)
def test_engine(raw, family, version):
    assert engine(raw) == Engine(family, version)
    assert engine(raw).raw == raw


@pytest.mark.parametrize("raw", ["", "vlm 0.3", "somebody's engine"])
def test_unknown_engine_is_refused(raw):
    with pytest.raises(UnknownNameError, match="unknown engine"):
        engine(raw)


def test_the_nearest_engine_is_named():
    with pytest.raises(UnknownNameError, match="did you mean vllm"):
        engine("vlm 0.3")


def column(table: str, name: str) -> set[str]:
    path = DATA / table
    if not path.exists():
        pytest.skip(f"the reference data is not here: {path}")
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        return set(parquet.read_table(path, columns=[name])[name].unique().to_pylist())
    with path.open(encoding="utf-8", newline="") as file:
        return {row[name] for row in csv.DictReader(file)} - {""}


def test_every_alias_of_the_reference_is_read_or_refused():
    column("hardware_aliases.csv", "hardware")
    with (DATA / "hardware_aliases.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["hardware"]:
                assert hardware_id(row["name_in_tables"]) == row["hardware"]
            else:
                with pytest.raises(UnknownNameError):
                    hardware_id(row["name_in_tables"])


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("encoder.csv", "dtype"), ("gemm.parquet", "dtype"), ("attention.parquet", "kv_dtype"),
        ("moe.parquet", "dtype"), ("collective.parquet", "dtype"), ("fp32_steps.csv", "precision"),
        ("serving_closed_loop.csv", "gemm_dtype"), ("serving_closed_loop.csv", "moe_dtype"),
        ("serving_load.csv", "dtype"), ("training.csv", "dtype"), ("training_memory.csv", "dtype"),
        ("mlperf_inference.csv", "weight_dtype"), ("recommender_and_retrieval.csv", "precision"),
    ],
)  # fmt: skip
def test_every_dtype_of_the_reference_is_known(table, name):
    for raw in column(table, name):
        assert dtype(raw).compute in DTYPE_BYTES


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("encoder.csv", "engine"), ("gemm.parquet", "engine"), ("attention.parquet", "engine"),
        ("moe.parquet", "engine"), ("collective.parquet", "engine"), ("serving_closed_loop.csv", "engine"),
        ("serving_load.csv", "engine"), ("training.csv", "engine"), ("training_memory.csv", "engine"),
        ("mlperf_inference.csv", "software"), ("mlperf_training.csv", "framework"),
        ("recommender_and_retrieval.csv", "framework"),
    ],
)  # fmt: skip
def test_every_engine_of_the_reference_is_known(table, name):
    for raw in column(table, name):
        assert engine(raw).family


MODELS = [
    ("llama-3.1-70b", "llama-3.1-70b"),
    ("meta-llama/Llama-3.1-70B", "llama-3.1-70b"),
    ("Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b"),
    ("nvidia/Llama-3.1-70B-Instruct-FP8", "llama-3.1-70b"),
    ("meta-llama/Llama-3.3-70B-Instruct", "llama-3.1-70b"),
    ("hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", "llama-3.1-8b"),
    ("RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8", "llama-3.1-8b"),
    ("LLAMA3.1_405B", "llama-3.1-405b"),
    ("Llama 3.1 8B", "llama-3.1-8b"),
    ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
    ("meta-llama/Llama-2-70b-chat-hf", "llama-2-70b"),
    ("codellama/CodeLlama-34b-Instruct-hf", "codellama-34b"),
    ("llama-4-scout-17b-16e-instruct-fp8-dynamic", "llama-4-scout"),
    ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
    ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo"),
    ("mistralai/Mixtral-8x22B-Instruct-v0.1", "mixtral-8x22b"),
    ("Qwen/Qwen3-235B-A22B-FP8", "qwen3-235b-a22b"),
    ("nvidia/Qwen3-235B-A22B-NVFP4", "qwen3-235b-a22b"),
    ("Qwen/Qwen3-32B-FP8-Static-PerTensor", "qwen3-32b"),
    ("MiniMaxAI/MiniMax-M2.5", "minimax-m2.5"),
    ("openai/gpt-oss-120b", "gpt-oss-120b"),
    ("01-ai/Yi-34B", "yi-34b"),
    ("BERT-base", "bert-base"),
]


@pytest.mark.parametrize(("raw", "profile"), MODELS)
def test_model(raw, profile):
    assert model(raw) == profile


NOT_MODELED = [
    ("deepseek-ai/DeepSeek-R1", "multi-head latent attention"),
    ("nvidia/DeepSeek-V3.1-NVFP4", "multi-head latent attention"),
    ("deepseek-ai/DeepSeek-V4-Flash", "sparse attention"),
    ("moonshotai/Kimi-K2.5", "multi-head latent attention"),
    ("zhipuai/GLM-5", "multi-head latent attention"),
    ("Qwen/Qwen3.5-397B-A17B", "linear attention"),
    ("nvidia/Qwen3.6-27B-NVFP4", "linear attention"),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "Mamba"),
    ("nvidia/Nemotron-H-56B-Base-8K", "Mamba"),
    ("nvidia/Llama-3_3-Nemotron-Super-49B-v1", "not equal"),
    ("MiniMaxAI/MiniMax-M3", "sparse attention"),
    ("google/gemma-4-26B-A4B", "wider heads"),
    ("XiaomiMiMo/MiMo-V2-Flash", "values narrower"),
    ("stepfun-ai/Step-3.7-Flash-FP8", "dense blocks"),
    ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", "every second block"),
    ("Qwen/Qwen3-VL-8B-Instruct", "reads images"),
]


@pytest.mark.parametrize(("raw", "reason"), NOT_MODELED)
def test_a_model_of_another_structure_is_refused_with_the_reason(raw, reason):
    with pytest.raises(NotModeledError, match=f"^{raw} .*{reason}.*, which is not modeled yet$") as caught:
        model(raw)
    assert caught.value.name == raw


@pytest.mark.parametrize(
    "raw",
    [
        "", "fp8", "meta-llama", "meta-llama/Llama-3.1-9B", "mistralai/Mistral-7B-v0.3",
        "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "nvidia/Llama-3.1-Nemotron-70B-Instruct-HF",
    ],
)  # fmt: skip
def test_other_models_are_refused(raw):
    # Mistral 7B v0.3 has a larger vocabulary and no window; distilled models are of other families than their teachers.
    with pytest.raises(UnknownNameError, match=r"unknown model .*(did you mean|known)"):
        model(raw)


def test_the_nearest_model_is_named():
    with pytest.raises(UnknownNameError, match=r"'Llama-3\.1-9B'; did you mean llama-3\.1-8b"):
        model("meta-llama/Llama-3.1-9B")


def test_a_model_of_the_working_folder_goes_first(tmp_path, monkeypatch):
    (tmp_path / "model_profiles").mkdir()
    for own in ("llama-3-8b", "deepseek-r1"):
        (tmp_path / "model_profiles" / f"{own}.yaml").write_text(f"id: {own}\n", encoding="utf-8")
    monkeypatch.setenv("CAPACITY_PATH", str(tmp_path))
    assert model("meta-llama/Meta-Llama-3-8B-Instruct") == "llama-3-8b"
    assert model("deepseek-ai/DeepSeek-R1") == "deepseek-r1"


@pytest.mark.parametrize("table", ["model_architectures.csv", "serving_closed_loop.csv", "serving_load.csv"])
def test_every_model_of_the_reference_is_read_or_refused_with_a_reason(table):
    for raw in column(table, "model"):
        with contextlib.suppress(NotModeledError):
            assert model(raw)


def test_every_model_of_the_reference_has_its_dimensions():
    column("model_architectures.csv", "model")
    with (DATA / "model_architectures.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                layer = (built := models.architecture(catalogue.model(model(row["model"])))).layer
            except NotModeledError:
                continue
            width = row["moe_intermediate_size"] or row["intermediate_size"]
            read = (built.layers, layer.intermediate, layer.experts, layer.experts_per_token)
            names = ("layers", "experts", "experts_per_token")
            layers, experts, per_token = (int(float(row[name] or 0)) for name in names)
            assert read == (layers, int(float(width)), experts, per_token), row["model"]
            exact = {"hidden_size": layer.hidden, "heads": layer.heads, "kv_heads": layer.kv_heads,
                     "head_dim": layer.head_dim, "vocab_size": built.vocabulary}  # fmt: skip
            assert exact == {name: int(row[name]) for name in exact}, row["model"]
            assert row["tied_embeddings"] in {str(built.tied), ""}, row["model"]


def test_import_is_light():
    code = "import sys, capacity.spec.names; print([m for m in ('numpy', 'pandas', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
