"""FLOP of training steps equal torch's FlopCounterMode: all weights, and low-rank updates of frozen ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capacity import catalogue
from capacity.work import operations as ops
from capacity.work import training_step
from capacity.work import transformer as tf
from capacity.work.huggingface import transformer
from capacity.work.operations import Attention, Gemm
from capacity.work.trained import Method, Trained

torch = pytest.importorskip("torch", reason="FlopCounterMode needs torch: pip install 'capacity-planner[calibrate]'")
real = pytest.importorskip("real_modules", reason="the real modules need torch and transformers")
counter = ops.total_counter_flop
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96, "vocab_size": 320,
    "tie_word_embeddings": False,
}  # fmt: skip
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
TARGETS = {"qkv": ATTENTION, "all": (*ATTENTION, "gate_proj", "up_proj", "down_proj")}
LABELS = {"qkv": ("query", "key", "value", "attention output")}
LABELS["all"] = (*LABELS["qkv"], "up", "down")


def step(trained: Trained) -> int:
    """Return the counted FLOP of blocks and head, forward and backward."""
    blocks = counter((*training_step.block(trained), *training_step.block_backward(trained)))
    return int(trained.layers * blocks + counter(training_step.head(trained)))


@pytest.mark.parametrize("name", ["gpt2", "llama-3.2-1b", "qwen3-0.6b"])
def test_a_full_step_is_the_one_that_torch_counts(name):
    model = replace(catalogue_model(name), head="language-model")
    trained = Trained(model=model, batch=2, tokens=33, dtype="fp32")
    assert step(trained) == counter(tf.training_step(model, 2, 33, "fp32"))  # tests/test_flop.py holds it to torch


def catalogue_model(name: str):
    from capacity.work.models import architecture

    return architecture(catalogue.model(name))


class Updated(torch.nn.Module):
    """A frozen linear layer with a low-rank update."""

    def __init__(self, linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = torch.nn.Linear(linear.in_features, rank, bias=False, device="meta")
        self.up = torch.nn.Linear(rank, linear.out_features, bias=False, device="meta")

    def forward(self, states):
        return self.linear(states) + self.up(self.down(states))


@pytest.mark.parametrize("which", ["qkv", "all"])
def test_low_rank_updates_are_the_ones_that_torch_counts(which):
    """All but the first block's: nothing before it is trained, so its frozen products pass no gradient on."""
    rank, batch, length = 4, 2, 9
    module = real.transformer(LLAMA, "language-model")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for layer in module.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name in TARGETS[which]:
                if hasattr(part, name):
                    setattr(part, name, Updated(getattr(part, name), rank))
    counted = real.counted(lambda: real.train(module, batch, length), gradients=True).total
    model = transformer(LLAMA, head="language-model")
    method = Method(kind="lora", rank=rank, targets=LABELS[which])
    trained = Trained(model=model, batch=batch, tokens=length, dtype="fp32", method=method)
    first = training_step.block(trained)
    spared = [op for op in first if isinstance(op, Gemm) and op.label in {"query", "key", "value"}]
    spared += [op for op in first if op.label == "update down" and op.k == 64][:3]  # dx of the same three's updates
    assert step(trained) - counter(spared) == counted
    full = replace(trained, method=Method())
    assert 0.6 < step(trained) / step(full) < 0.85


def test_attention_has_its_own_backward_pass():
    trained = Trained(model=transformer(LLAMA), batch=1, tokens=8, dtype="fp32")
    (forward,) = (op for op in training_step.block(trained) if isinstance(op, Attention))
    (back,) = (op for op in training_step.block_backward(trained) if isinstance(op, Attention))
    assert back.counter_flop == 2 * forward.counter_flop
