"""The one mapping from raw names in measurement tables to the product's terms: hardware, models, precisions, engines.

People write a device, a model, a dtype and an engine in many ways. Everything behind this module sees one; a name that
cannot be read is refused with the nearest known ones, never guessed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from capacity.documents import catalogue
from capacity.errors import InputError, UnknownNameError
from capacity.spec.hardware import Dtype

# --- hardware -------------------------------------------------------------------------------------------------------

_NOISE = re.compile(
    r"\((?:r|tm)\)|\bcpu\b|@\s*[\d.]+\s*ghz|\b\d+-core processor\b|^(?:intel|amd|nvidia|aws)\s", re.IGNORECASE
)
_ALIASES = {
    "arc-pro-b60-24gb": "arc-pro-b60",
    "gaudi2-96gb": "gaudi2",
    "rtx-4090-24gb": "rtx-4090",
    "xeon-platinum-8380": "xeon-8380",
    "xeon-platinum-8480+": "xeon-8480plus",
    "xeon-platinum-8592+": "xeon-8592plus",
}


def hardware_id(name: str) -> str:
    """Return the id of the hardware profile that `name` means: an id, an alias, or a processor's full name.

    Parameters
    ----------
    name
        As it stands in a measurement table.

    Raises
    ------
    UnknownNameError
        When no profile of the catalogue has that name; sizes and form factors are never assumed.

    Examples
    --------
    >>> hardware_id("a100-sxm-80gb"), hardware_id("gaudi2-96gb")
    ('a100-sxm-80gb', 'gaudi2')
    >>> hardware_id("Intel(R) Xeon(R) Platinum 8480+ 56-Core Processor")
    'xeon-8480plus'
    """
    known = catalogue("hardware_profiles")
    bare = _NOISE.sub(" ", name).strip()  # the vendor stands bare only once its (R) is gone: hence twice
    folded = "-".join(_NOISE.sub(" ", bare).casefold().split())
    for candidate in (name, _ALIASES.get(folded, folded)):
        if candidate in known:
            return candidate
    raise UnknownNameError("hardware", name, known)


# --- precision ------------------------------------------------------------------------------------------------------

_NARROW_FIRST: tuple[Dtype, ...] = ("fp4", "int4", "fp8", "int8", "bf16", "fp16", "tf32", "fp32", "fp64")
_DTYPES: dict[str, Dtype] = {dtype: dtype for dtype in _NARROW_FIRST} | {
    "nvfp4": "fp4", "mxfp4": "fp4", "float4": "fp4", "nf4": "int4", "uint4": "int4", "uint8": "int8",
    "float8": "fp8", "mxfp8": "fp8", "e4m3": "fp8", "e5m2": "fp8", "w8a8": "int8", "w8a16": "int8",
    "bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32", "float64": "fp64",
}  # fmt: skip
_AUTOCAST = {"amp", "mixed"}
_WEIGHT_ONLY = {"weightonly", "wo", "awq", "gptq", "nf4", "w4a16", "w8a16"}
_SILENT = {
    *_AUTOCAST, *_WEIGHT_ONLY, "w4a8", "smoothquant", "block", "blockwise", "tensorwise", "rowwise", "per", "tensor",
    "channel", "token", "dynamic", "static", "hybrid", "cs", "mx", "cublas", "rceil", "dq", "bnb", "v1", "v2", "true",
    "precision", "google", "other", "single", "device", "rows",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Precision:
    """In what the matrix products of a measurement run, as far as its table says it."""

    compute: Dtype
    """What the matrix unit multiplies: the key of the device's dense rate."""
    weight: Dtype
    """What the product reads its weights as."""
    activation: Dtype
    """What the product reads its activations as."""
    raw: str = field(default="", compare=False)
    """The name as it was written."""

    @property
    def mixed(self) -> bool:
        """Whether the name says autocasting: the weights are held once more, in fp32."""
        return bool(_AUTOCAST & set(_words(self.raw)))

    @property
    def block_scaled(self) -> bool:
        """Whether blocks of the operands carry scales of their own."""
        return bool({"block", "blockwise"} & set(_words(self.raw)))


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", name.casefold().replace("weight_only", "weightonly"))


def dtype(name: str) -> Precision:
    """Return the precision that `name` means.

    Of several dtypes the narrowest counts, because it carries the matrix products; autocasting that names none is
    fp16; four-bit integers are weights only, multiplied in 16 bits, as in every engine of the tables.

    Parameters
    ----------
    name
        As it stands in a measurement table, in any case and with any separators.

    Raises
    ------
    UnknownNameError
        When a word of it is not known, or no dtype is in it.

    Examples
    --------
    >>> dtype("fp16 mixed").compute, dtype("fp16 mixed").mixed
    ('fp16', True)
    >>> dtype("int8,fp16") == dtype("int8_smoothquant") == Precision("int8", "int8", "int8")
    True
    >>> dtype("int4_weightonly")
    Precision(compute='bf16', weight='int4', activation='bf16', raw='int4_weightonly')
    >>> dtype("w4a8_mxfp4_mxfp8").compute
    'fp8'
    """
    words = _words(name)
    found = sorted({_DTYPES[word] for word in words if word in _DTYPES}, key=_NARROW_FIRST.index)
    if not found and "w4a16" in words:
        found = ["int4"]
    if not found and _AUTOCAST & set(words):
        found = ["fp16"]
    if not found or not all(word in _DTYPES or word in _SILENT for word in words):
        raise UnknownNameError("dtype", name, _DTYPES)
    weight, wider = found[0], found[1:]
    if "int4" in found or _WEIGHT_ONLY & set(words):
        wide: Dtype = wider[0] if wider else "bf16"
        return Precision(wide, weight, wide, name)
    if "w4a8" in words:
        eight: Dtype = wider[0] if wider else "fp8"
        return Precision(eight, weight, eight, name)
    return Precision(weight, weight, weight, name)


# --- engines --------------------------------------------------------------------------------------------------------

# First match wins: what runs the model stands before what it is built on or served by; of a list of the frameworks of a
# whole submission the most general one counts. Libraries stand last.
_ENGINES = {
    family: re.compile(pattern, re.IGNORECASE)
    for family, pattern in {
        "trtllm": r"tensorrt[- ]?llm|trt[- ]?llm",
        "vllm": r"vllm",
        "sglang": r"sglang",
        "fastertransformer": r"fastertransformer",
        "tensorrt": r"tensorrt(?!-laboratory)",
        "neuron": r"neuron",
        "openvino": r"openvino",
        "onnxruntime": r"onnx ?runtime",
        "qualcomm-ai": r"cloud ai sdk",
        "llmboost": r"llmboost",
        "rbln": r"rbln(?: sdk)?",
        "suinfer": r"suinfer",
        "saxml": r"\bsax(?:ml)?\b",
        "popart": r"popart(?: poplar sdk)?",
        "mindspore": r"mindspore",
        "tinygrad": r"tinygrad",
        "maxtext": r"maxtext",
        "megatron-bridge": r"megatron-bridge",
        "nemo": r"\bnemo\b(?: megatron)?(?: framework)?",
        "megatron-lm": r"megatron(?:-lm)?",
        "composer": r"composer|llm-foundry",
        "deepspeed": r"deepspeed",
        "torchtitan": r"torchtitan",
        "torchtune": r"torchtune",
        "litgpt": r"litgpt",
        "colossal-ai": r"colossal-?ai",
        "jax": r"\bjax\b|\bpax\b",
        "paddle": r"paddle(?:paddle)?",
        "pytorch": r"pytorch|torchscript|\btorch\b|aoti runtime|python runtime",
        "tensorflow": r"tensorflow|\btf(?=[\d.]*\b)",
        "mxnet": r"mxnet",
        "hugectr": r"huge_?ctr",
        "triton": r"triton",
        "nccl": r"\bnccl",
        "oneccl": r"oneccl",
        "ngc": r"ngc mlperf(?: training)?",
        "cuda": r"^cuda\b",
    }.items()
}
_VERSION = re.compile(r"[\s\-:]*(?:(?:nvidia|release|version|ngc)\s*)*v?(\d[\w.+]*|nightly[\w.+-]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Engine:
    """The software that ran a measurement."""

    family: str
    """Product term, e.g. vllm, trtllm, tensorrt, pytorch."""
    version: str = ""
    """Version as written, or empty when the table does not say it."""
    raw: str = field(default="", compare=False)
    """The name as it was written; it may say more, such as removed padding (EFF-FT)."""


def engine(name: str) -> Engine:
    """Return the engine that `name` means.

    Parameters
    ----------
    name
        As it stands in a measurement table; of several programs the one that runs the model counts.

    Raises
    ------
    UnknownNameError
        When no known engine is in it.

    Examples
    --------
    >>> engine("trtllm 1.3.0rc20") == Engine("trtllm", "1.3.0rc20")
    True
    >>> engine("JetPack 4.6, TensorRT 8.0.1, CUDA 10.2") == engine("TensorRT 8.0.1 demo/BERT")
    True
    >>> engine("PyTorch TorchScript").family
    'pytorch'
    """
    for family, pattern in _ENGINES.items():
        match = pattern.search(name)
        if match:
            version = _VERSION.match(name, match.end())
            return Engine(family, version[1].rstrip(".") if version else "", name)
    raise UnknownNameError("engine", name, _ENGINES)


# --- models ---------------------------------------------------------------------------------------------------------

_SAME_DIMENSIONS = {
    "llama-3-8b": "llama-3.1-8b",
    "llama-3-70b": "llama-3.1-70b",
    "llama-3.3-70b": "llama-3.1-70b",
    "llama-4-scout-17b-16e": "llama-4-scout",
    "minimax-m2": "minimax-m2.5",
}
"""Other releases and names with the dimensions of a profile."""
_RELEASES = {
    *_WEIGHT_ONLY, "instruct", "chat", "it", "thinking", "base", "hf", "kv", "v0.1", "2407", "2507", "dynamic",
    "static", "pertensor", "block", "quantized.w8a8", "quantized.w4a16", "quantized.w8a16",
}  # fmt: skip
"""Last words of a name that leave the dimensions as they are; other versions (v0.3) may change them."""
_NOT_MODELED = {
    re.compile(pattern): reason
    for pattern, reason in {
        r"distill": "",
        r"deepseek-v4": "uses sparse attention over compressed keys",
        r"deepseek-(?:r1|v\d)|kimi-k\d|glm-5": "uses multi-head latent attention",
        r"qwen3\.[56]|qwen3-next": "uses linear attention in most of its blocks",
        r"nemotron-(?:super|ultra)-\d+b-v1": "has blocks that are not equal",
        r"nemotron-(?:h|3(?:\.\d)?)-": "has Mamba blocks, a kind of linear attention",
        r"minimax-m3": "uses sparse attention",
        r"llama-4-maverick": "has experts in every second block only",
        r"gemma-4": "has wider heads in the blocks without a window than in the others",
        r"mimo-v2": "has values narrower than its keys",
        r"mimo-7b": "predicts further tokens with a block of its own",
        r"step-3": "has dense blocks before those with experts",
        r"-vl-": "reads images beside text",
    }.items()
}
"""First match wins; what has no reason is left to the catalogue."""


class NotModeledError(InputError):
    """A known model whose structure is not modeled; `reason` says what stands in the way."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name} {reason}, which is not modeled yet")


def model(name: str) -> str:
    """Return the id of the model profile that `name` means: an id, or a repository of the Hugging Face hub.

    Case, separators, the repository's owner and words about precision, tuning or release at the end do not count.

    Parameters
    ----------
    name
        As it stands in a measurement table.

    Raises
    ------
    NotModeledError
        For a model known to have a structure that is not modeled, with the reason.
    UnknownNameError
        When no profile of the catalogue has that name.

    Examples
    --------
    >>> model("nvidia/Llama-3.1-70B-Instruct-FP8"), model("meta-llama/Llama-2-7b-hf")
    ('llama-3.1-70b', 'llama-2-7b')
    >>> model("zai-org/GLM-5")
    Traceback (most recent call last):
    capacity.spec.names.NotModeledError: zai-org/GLM-5 uses multi-head latent attention, which is not modeled yet
    """
    profiles = catalogue("model_profiles")
    if name in profiles:
        return name
    known = {same: id for same, id in _SAME_DIMENSIONS.items() if id in profiles} | {id: id for id in profiles}
    known = {"".join(_model_words(same)): id for same, id in known.items()}  # so that LLAMA3.1_405B is llama-3.1-405b
    words = _model_words(name)
    while words and "".join(words) not in known and (words[-1] in _RELEASES or words[-1] in _DTYPES):
        words.pop()
    if "".join(words) in known:
        return known["".join(words)]
    plain = "-".join(_model_words(name))
    reason = next((reason for pattern, reason in _NOT_MODELED.items() if pattern.search(plain)), "")
    if reason:
        raise NotModeledError(name, reason)
    raise UnknownNameError("model", name.rsplit("/", 1)[-1], profiles)


def _model_words(name: str) -> list[str]:
    """Return the words of a model's name without its repository's owner and Meta's own prefix."""
    words = re.split(r"[-_\s]+", name.rsplit("/", 1)[-1].strip().casefold())
    return words[1:] if words[0] == "meta" else words
