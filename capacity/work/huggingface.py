"""Hugging Face `config.json` fields → `Transformer`. One reader a family; an unknown `model_type` is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from capacity.errors import InputError, UnknownNameError
from capacity.work.architecture import Head, Layer, Transformer

Config = Mapping[str, Any]


class ConfigError(InputError):
    """A field of a config that does not describe a model known here; `key` names the field."""

    def __init__(self, key: str, what: str) -> None:
        self.key = key
        super().__init__(what)


_QWEN3_MOE = {"qwen3_moe", "qwen3_vl_moe_text"}
_QWEN3 = {"qwen3", "qwen3_vl_text", *_QWEN3_MOE}
_SPARSE = {"mixtral", "gpt_oss", "minimax_m2", "llama4_text", *_QWEN3_MOE}
_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
_HEADS = {"none", "pooler", "classification", "language-model"}
_POOLED = {
    "bert": "BertModel",
    "camembert": "CamembertModel",
    "roberta": "RobertaModel",
    "xlm-roberta": "XLMRobertaModel",
}
"""Types whose bare model, named here, carries a pooler unless it is built without."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "distilbert": {"type_vocab_size": 0},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096},
    "mixtral": {"num_key_value_heads": 8, "num_experts_per_tok": 2},
    "qwen2": {"num_key_value_heads": 32},
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": {"num_key_value_heads": 4, "num_experts_per_tok": 8, "moe_intermediate_size": 768},
    "qwen3_vl_text": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_vl_moe_text": {
        "num_key_value_heads": 16, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "tie_word_embeddings": True,
    },
    "gemma": {"num_key_value_heads": 16, "head_dim": 256, "tie_word_embeddings": True},
    "gpt_oss": {
        "num_key_value_heads": 8, "head_dim": 64, "num_experts_per_tok": 4, "sliding_window": 128,
        "attention_bias": True,
    },
    "minimax_m2": {"num_key_value_heads": 8, "head_dim": 128, "num_experts_per_tok": 8},
    "llama4_text": {
        "num_key_value_heads": 8, "head_dim": 128, "num_experts_per_tok": 1, "attention_chunk_size": 8192,
    },
}  # fmt: skip
"""Values that the class of a type in transformers 5 gives a missing key, where no common rule gives them."""


def transformer(config: Config, name: str = "", head: str | None = None) -> Transformer:
    """Return the architecture that a config describes.

    Parameters
    ----------
    config
        Fields of a `config.json`. Hidden size, layers, heads, feed-forward width and vocabulary must stand there; other
        missing ones take the defaults of that class in transformers.
    head
        What stands on the body; by default read from `architectures`.

    Raises
    ------
    UnknownNameError
        For a `model_type` whose structure is not known here.
    InputError
        For a dimension that is missing, no positive whole number, or does not divide; for a head the type does not
        have; for blocks that are not all equal.
    """
    kind = str(config.get("model_type", ""))
    if kind not in _READERS:
        raise UnknownNameError("model_type", kind, _READERS)
    chosen = _head(config) if head is None else head
    if chosen not in _HEADS:
        raise UnknownNameError("head", chosen, _HEADS)
    filled = {**_DEFAULTS.get(kind, {}), **config}
    model = _READERS[kind](filled, name or str(config.get("_name_or_path") or kind), cast(Head, chosen))
    if (chosen == "pooler" and kind not in _POOLED) or (chosen == "language-model" and not model.layer.causal):
        key = "architectures" if head is None else "head"
        raise ConfigError(key, f"head {chosen!r} of model_type {kind!r} is not known here")
    return model


def _head(config: Config) -> str:
    names = config.get("architectures") or [""]
    if not isinstance(names, Sequence):
        raise ConfigError("architectures", f"config field 'architectures' must be a list, got {names!r}")
    architecture = names if isinstance(names, str) else str(names[0])
    if "SequenceClassification" in architecture:
        return "classification"
    if architecture in _POOLED.values():
        return "pooler"
    return "language-model" if architecture.endswith(("ForCausalLM", "LMHeadModel")) else "none"


def _size(config: Config, *keys: str, default: int | None = None) -> int:
    """Return the first of `keys` that the config has, as a positive whole number."""
    value = next((config[key] for key in keys if config.get(key) is not None), default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**10:
        raise ConfigError(keys[0], f"config field {keys[0]!r} must be a positive whole number, got {value!r:.60}")
    return value


def _head_dim(config: Config, hidden: int, heads: int) -> int:
    if config.get("head_dim") is None and hidden % heads:
        what = f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        raise ConfigError("num_attention_heads", what)
    return _size(config, "head_dim", default=hidden // heads)


def _labels(config: Config) -> int:
    names = config.get("id2label")
    return len(names) if isinstance(names, Mapping) and names else _size(config, "num_labels", default=2)


def _bert_like(config: Config, name: str, head: Head) -> Transformer:
    hidden, heads = _size(config, "hidden_size", "dim"), _size(config, "num_attention_heads", "n_heads")
    layer = Layer(
        hidden=hidden, heads=heads, kv_heads=heads, head_dim=_head_dim({}, hidden, heads),
        intermediate=_size(config, "intermediate_size", "hidden_dim"), gated=False,
        activation=str(config.get("hidden_act") or config.get("activation") or "gelu"), norm="layer",
        attention_bias=True, output_bias=True, mlp_bias=True,
    )  # fmt: skip
    return Transformer(
        name=name, layer=layer, layers=_size(config, "num_hidden_layers", "n_layers"),
        vocabulary=_size(config, "vocab_size"), positions=_size(config, "max_position_embeddings", default=512),
        token_types=_size(config, "type_vocab_size", default=2) if config.get("type_vocab_size") != 0 else 0,
        embedding_norm=True, head=head, labels=_labels(config),
    )  # fmt: skip


def _gpt2(config: Config, name: str, head: Head) -> Transformer:
    hidden, heads = _size(config, "n_embd", "hidden_size"), _size(config, "n_head", "num_attention_heads")
    layer = Layer(
        hidden=hidden, heads=heads, kv_heads=heads, head_dim=_head_dim({}, hidden, heads),
        intermediate=_size(config, "n_inner", default=4 * hidden), gated=False,
        activation=str(config.get("activation_function", "gelu_new")), norm="layer",
        attention_bias=True, output_bias=True, mlp_bias=True, fused_qkv=True, causal=True,
    )  # fmt: skip
    return Transformer(
        name=name, layer=layer, layers=_size(config, "n_layer", "num_hidden_layers"),
        vocabulary=_size(config, "vocab_size"),
        positions=_size(config, "n_positions", "max_position_embeddings", default=1024),
        final_norm=True, tied=bool(config.get("tie_word_embeddings", True)), head=head, labels=_labels(config),
    )  # fmt: skip


def _llama_like(config: Config, name: str, head: Head) -> Transformer:
    kind = config["model_type"]
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    if kind in _QWEN3_MOE and (config.get("decoder_sparse_step", 1) != 1 or config.get("mlp_only_layers")):
        raise ConfigError("mlp_only_layers", f"{kind} with dense blocks between the sparse ones is not known here")
    experts = _size(config, "num_local_experts", "num_experts") if kind in _SPARSE else 0
    inner = _size(config, "moe_intermediate_size" if kind in _QWEN3_MOE else "intermediate_size")
    bias = bool(config.get("attention_bias", False)) and kind not in {"mistral", "mixtral", "qwen2", "minimax_m2"}
    mlp_bias = bool(config.get("mlp_bias", False)) and kind == "llama"
    windowed = kind in {"mistral", "mixtral"} and config.get("sliding_window") is not None
    window = _size(config, "sliding_window") if windowed else None
    layer = Layer(
        hidden=hidden, heads=heads, kv_heads=_size(config, "num_key_value_heads", default=heads),
        head_dim=_head_dim(config, hidden, heads), intermediate=inner, gated=True,
        activation=str(config.get("hidden_act", "silu")), norm="rms",
        attention_bias=bias or kind == "qwen2", output_bias=bias, mlp_bias=mlp_bias,
        query_key_norm="head" if kind in _QWEN3 else "none", rotary=True, causal=True, window=window, experts=experts,
        experts_per_token=_size(config, "num_experts_per_tok") if experts else 0,
    )  # fmt: skip
    return Transformer(
        name=name, layer=layer, layers=_size(config, "num_hidden_layers"), vocabulary=_size(config, "vocab_size"),
        positions=0, final_norm=True, tied=bool(config.get("tie_word_embeddings", False)), head=head,
        labels=_labels(config),
    )  # fmt: skip


def _gpt_oss(config: Config, name: str, head: Head) -> Transformer:
    """Every second block has a window; experts and router have biases, and heads a sink."""
    model = _llama_like(config, name, head)
    layer = replace(model.layer, mlp_bias=True, router_bias=True, sinks=True)
    return _windowed(replace(model, layer=layer), config, "sliding_window", model.layers // 2)


def _minimax_m2(config: Config, name: str, head: Head) -> Transformer:
    model = _llama_like(config, name, head)
    return replace(model, layer=replace(model.layer, query_key_norm="width"))


def _llama4(config: Config, name: str, head: Head) -> Transformer:
    """Blocks that rotate positions see the chunk of the prompt they stand in: counted as a window of that length."""
    model = _llama_like(config, name, head)
    sparse, rotated = _each_block(config, "moe_layers"), _each_block(config, "no_rope_layers")
    if config.get("interleave_moe_layer_step", 1) != 1 or (sparse is not None and len(sparse) != model.layers):
        what = "llama4_text with dense blocks between the sparse ones is not known here"
        raise ConfigError("interleave_moe_layer_step", what)
    layer = replace(
        model.layer, query_key_norm="weightless" if config.get("use_qk_norm", True) else "none",
        shared_intermediate=model.layer.intermediate,
    )  # fmt: skip
    full = rotated.count(0) if rotated else model.layers // _size(config, "no_rope_layer_interval", default=4)
    return _windowed(replace(model, layer=layer), config, "attention_chunk_size", full)


def _windowed(model: Transformer, config: Config, key: str, full: int) -> Transformer:
    """Return the model with the window that `key` names; `full` blocks have none where `layer_types` says nothing."""
    kinds = _each_block(config, "layer_types")
    if kinds and not {str(kind) for kind in kinds} <= _KINDS:
        raise ConfigError("layer_types", f"config field 'layer_types' must name kinds known here: {sorted(_KINDS)}")
    full = kinds.count("full_attention") if kinds else full
    if config.get(key) is None or full >= model.layers:
        return model
    return replace(model, layer=replace(model.layer, window=_size(config, key)), full_layers=full)


def _each_block(config: Config, key: str) -> list[object] | None:
    """Return what a field says of each block, if it says it."""
    value = config.get(key)
    if value is not None and not isinstance(value, list):
        raise ConfigError(key, f"config field {key!r} must be a list, got {value!r:.60}")
    return value


_READERS: dict[str, Callable[[Config, str, Head], Transformer]] = {
    "bert": _bert_like,
    "xlm-roberta": _bert_like,
    "roberta": _bert_like,
    "camembert": _bert_like,
    "distilbert": _bert_like,
    "gpt2": _gpt2,
    "llama": _llama_like,
    "mistral": _llama_like,
    "qwen2": _llama_like,
    "qwen3": _llama_like,
    "qwen3_moe": _llama_like,
    "mixtral": _llama_like,
    "qwen3_vl_text": _llama_like,
    "qwen3_vl_moe_text": _llama_like,
    "gemma": _llama_like,
    "gpt_oss": _gpt_oss,
    "minimax_m2": _minimax_m2,
    "llama4_text": _llama4,
}
MODEL_TYPES = tuple(_READERS)
