"""Real transformers, built from configs by their own library at sizes that fit; random weights, real shapes."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capacity.work import transformer as work
from capacity.work.huggingface import transformer
from capacity.work.operations import Operation
from capacity.work.optimizer import optimizer_step
from kernels.timing import Case, Run
from kernels.torch_backend import Backend, torch

CLASSES = {
    "bert": ("BertConfig", "BertModel"),
    "gpt2": ("GPT2Config", "GPT2Model"),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaForSequenceClassification"),
    "llama": ("LlamaConfig", "LlamaModel"),
    "qwen3": ("Qwen3Config", "Qwen3Model"),
}
HEADS = {"bert": "pooler", "xlm-roberta": "classification"}
TOKENS_IN_TABLE = 2000
"""Rows of the token table of a built model: look-ups cost the same at any size, and memory stays small."""


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """A transformer and the batch it is run on."""

    model_type: str
    layers: int
    hidden: int
    heads: int
    intermediate: int
    batch: int
    tokens: int
    dtype: str

    @property
    def name(self) -> str:
        """One line that says it all."""
        width = f"{self.layers}x{self.hidden}/{self.intermediate}"
        return f"{self.model_type} {width} {self.dtype} {self.batch}x{self.tokens}"

    def config(self) -> dict[str, Any]:
        """Return Hugging Face config fields of this shape."""
        if self.model_type == "gpt2":
            return {
                "model_type": "gpt2", "n_layer": self.layers, "n_embd": self.hidden, "n_head": self.heads,
                "n_inner": self.intermediate, "vocab_size": TOKENS_IN_TABLE, "n_positions": 1024, "bos_token_id": 0,
                "eos_token_id": 0,
            }  # fmt: skip
        fields: dict[str, Any] = {
            "model_type": self.model_type, "num_hidden_layers": self.layers, "hidden_size": self.hidden,
            "num_attention_heads": self.heads, "intermediate_size": self.intermediate, "vocab_size": TOKENS_IN_TABLE,
            "max_position_embeddings": 1026,
        }  # fmt: skip
        if self.model_type == "xlm-roberta":
            fields |= {"num_labels": 1, "type_vocab_size": 1}
        if self.model_type == "llama":
            fields |= {"num_key_value_heads": self.heads}
        return fields

    def operations(self, engine: work.Fusion = "eager") -> tuple[Operation, ...]:
        """Return what an engine executes in one pass."""
        architecture = transformer(self.config(), head=HEADS.get(self.model_type, "none"))
        return work.encode(architecture, self.batch, self.tokens, self.dtype, engine)


def built(config: Mapping[str, Any], backend: Backend, dtype: str) -> Any:  # noqa: ANN401
    """Return the library's own module of a config, random weights, on the device, in evaluation mode."""
    library = importlib.import_module("transformers")
    config_class, model_class = CLASSES[str(config["model_type"])]
    fields = {key: value for key, value in config.items() if key != "model_type"}
    settings = getattr(library, config_class)(**fields)
    with torch().device(backend.device):
        return getattr(library, model_class)(settings).to(backend.dtype(dtype)).eval()


def encoder_case(shape: EncoderShape, backend: Backend) -> Case:
    """Return the case that times one forward pass of `shape`."""

    def build() -> Run:
        module = built(shape.config(), backend, shape.dtype)
        ids = torch().randint(5, TOKENS_IN_TABLE, (shape.batch, shape.tokens), device=backend.device)
        inference = torch().inference_mode

        def run() -> object:
            with inference():
                return module(input_ids=ids)

        return run

    return Case(shape.name, shape.operations(), build, "inference")


def loss(output: Any) -> Any:  # noqa: ANN401
    """Return a scalar that depends on every weight: the mean of the head's result, or of the last states."""
    results = (output.get(name) for name in ("logits", "pooler_output", "last_hidden_state"))
    return next(result for result in results if result is not None).float().mean()


def fine_tuning_case(shape: EncoderShape, backend: Backend) -> Case:
    """Return the case that times one full fine-tuning step: forward, backward, AdamW."""

    def build() -> Run:
        module = built(shape.config(), backend, "fp32").train()
        optimizer = torch().optim.AdamW(module.parameters(), lr=2e-5)
        ids = torch().randint(5, TOKENS_IN_TABLE, (shape.batch, shape.tokens), device=backend.device)

        def run() -> object:
            output = module(input_ids=ids)
            loss(output).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return output

        return run

    architecture = transformer(shape.config(), head=HEADS.get(shape.model_type, "none"))
    step = work.training_step(architecture, shape.batch, shape.tokens, "fp32")
    operations = step + optimizer_step(architecture.parameters, "adamw")
    return Case(f"fine-tune {shape.name}", operations, build, "training")
