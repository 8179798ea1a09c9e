"""What a step of a generating engine executes, against the whole model's forward pass and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import catalogue
from capacity.spec import names
from capacity.work import decoder_step, transformer
from capacity.work.decoder_step import ACTIVATION_BYTES, Layout, Served, usual_kv_dtype
from capacity.work.expert_layer import ExpertLayer
from capacity.work.models import architecture
from capacity.work.operations import Attention, Collective, Gemm, Streaming
from capacity.work.transformer import Pass

LLAMA = architecture(catalogue.model("llama-3.1-8b"))
MIXTRAL = architecture(catalogue.model("mixtral-8x7b"))
WINDOWED = architecture(catalogue.model("gpt-oss-20b"))
FP8 = names.dtype("fp8")


def flop(work, *kinds) -> float:
    """Return the FLOP of all launches of some kinds of operations, one device's."""
    return float(sum(np.sum(op.flop * op.count) for op in work if isinstance(op, kinds)))


def moved(work, *kinds) -> float:
    return float(sum(np.sum(op.moved_bytes * op.count) for op in work if isinstance(op, kinds)))


def step(served: Served, tokens: int, sequences: int, keys: int, phase: str = "decode"):
    """Return everything of a step in which each sequence has `tokens` ÷ `sequences` new tokens."""
    query = tokens // sequences
    return (
        *decoder_step.linear(served, float(tokens)),
        *decoder_step.attention(served, phase, float(sequences), float(query), float(keys)),
        *decoder_step.vocabulary(served, float(sequences)),
    )


# The same model by another route


@pytest.mark.parametrize(("tokens", "sequences", "keys", "phase"), [(16, 16, 1001, "decode"), (512, 1, 512, "prefill")])
def test_products_and_attention_are_those_of_the_forward_pass(tokens, sequences, keys, phase):
    """One launch for query, key and value, and one for gate and up, read their input once instead of two or three."""
    shape = Pass(batch=sequences, query=tokens // sequences, keys=keys, dtype="bf16", phase=phase, fusion="fused")
    whole, mine = transformer.forward(LLAMA, shape), step(Served(model=LLAMA), tokens, sequences, keys, phase)
    assert flop(mine, Gemm) == flop(whole, Gemm)
    assert flop(mine, Attention) == flop(whole, Attention)
    assert moved(mine, Attention) == moved(whole, Attention)
    again = 3 * LLAMA.layers * tokens * LLAMA.layer.hidden * ACTIVATION_BYTES
    assert moved(mine, Gemm) == moved(whole, Gemm) - again


def test_layers_with_a_window_see_no_further():
    """Half of gpt-oss' layers see 128 positions, half all of them."""
    found = decoder_step.attention(Served(model=WINDOWED), "decode", 4.0, 1.0, 1000.0)
    assert sorted((float(op.keys), op.count) for op in found) == [(128, 12), (1000, 12)]
    (short, _) = sorted(
        decoder_step.attention(Served(model=WINDOWED), "decode", 4.0, 1.0, 50.0), key=lambda op: op.keys
    )
    assert float(short.keys) == 50


def test_experts_execute_what_each_token_is_routed_to():
    (layer,) = [op for op in decoder_step.linear(Served(model=MIXTRAL), 64.0) if isinstance(op, ExpertLayer)]
    each = 2 * 3 * MIXTRAL.layer.hidden * MIXTRAL.layer.intermediate  # gate, up and down
    assert float(layer.flop) == pytest.approx(64 * MIXTRAL.layer.experts_per_token * each)
    assert layer.count == MIXTRAL.layers


# What is stored


def test_weights_are_all_parameters_at_two_bytes():
    for model in (LLAMA, MIXTRAL):
        assert Served(model=model).weight_bytes == pytest.approx(2 * model.parameters)


def test_quantized_weights_leave_the_embeddings_in_sixteen_bits():
    table = LLAMA.vocabulary * LLAMA.layer.hidden
    outside = 2 * table + LLAMA.layer.hidden  # token table, head and the last norm
    assert Served(model=LLAMA, products=FP8).weight_bytes == LLAMA.parameters - outside + 2 * outside


@pytest.mark.parametrize(
    "layout",
    [
        Layout(tensor=4), Layout(tensor=4, expert_tensor=1, expert=4), Layout(tensor=2, expert_tensor=2, pipeline=4),
        Layout(tensor=2, expert_tensor=2, expert=4, attention_data=4),
    ],
)  # fmt: skip
def test_experts_are_shared_out_by_all_devices_and_the_rest_by_those_that_split_products(layout):
    routed = MIXTRAL.layers * 8 * MIXTRAL.layer.expert_parameters
    outside = MIXTRAL.embedding_parameters + MIXTRAL.head_parameters + MIXTRAL.layer.hidden
    inside = MIXTRAL.parameters - routed - outside
    held = routed / (layout.expert_tensor * layout.expert * layout.pipeline)
    held += inside / (layout.tensor * layout.pipeline) + outside / layout.tensor
    assert Served(model=MIXTRAL, layout=layout).weight_bytes == pytest.approx(2 * held)


def test_keys_and_values_by_hand():
    """Llama-3.1-8B: 2 · 32 layers · 8 heads · 128 · 2 byte = 128 KiB a token."""
    assert Served(model=LLAMA).kv_bytes_per_token == 131_072
    assert Served(model=LLAMA, kv_dtype="fp8").kv_bytes_per_token == 65_536
    assert Served(model=LLAMA, layout=Layout(tensor=4, pipeline=2)).kv_bytes_per_token == 131_072 / 8
    assert Served(model=LLAMA, layout=Layout(tensor=16)).kv_bytes_per_token == 131_072 / 8  # a head is not split


def test_keys_and_values_are_stored_narrow_where_a_dense_model_is():
    assert usual_kv_dtype(FP8, experts=False) == "fp8"
    assert usual_kv_dtype(FP8, experts=True) == "bf16"
    assert usual_kv_dtype(names.dtype("fp16"), experts=False) == "fp16"


# What devices share


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.integers(1, 4000))
def test_splitting_products_adds_up(tensor, pipeline, tokens):
    one = step(Served(model=LLAMA), tokens, 1, tokens)
    part = step(Served(model=LLAMA, layout=Layout(tensor=tensor, pipeline=pipeline)), tokens, 1, tokens)
    head = flop(decoder_step.vocabulary(Served(model=LLAMA), 1.0), Gemm)
    shared = (flop(one, Gemm) - head) / (tensor * pipeline) + head / tensor
    assert flop(part, Gemm) == pytest.approx(shared)
    assert flop(part, Attention) == pytest.approx(flop(one, Attention) / (tensor * pipeline))


def test_groups_that_attend_to_their_own_requests_share_only_the_experts():
    served = Served(model=MIXTRAL, layout=Layout(tensor=2, attention_data=4, expert_tensor=1, expert=8))
    alone = replace(served, layout=Layout(tensor=2, expert_tensor=1, expert=2))
    group, whole = decoder_step.linear(served, 64.0), decoder_step.linear(alone, 16.0)
    names_ = ("qkv", "attention output")
    mine, theirs = ([op for op in work if getattr(op, "label", "") in names_] for work in (group, whole))
    assert mine == theirs  # a quarter of the tokens each
    (experts,) = [op for op in group if isinstance(op, ExpertLayer)]
    assert float(experts.tokens) == 64
    kinds = [op.kind for op in group if isinstance(op, Collective)]
    assert kinds == ["all_reduce", "all_gather", "reduce_scatter"]


def test_devices_that_split_products_exchange_hidden_states_twice_a_layer():
    work = decoder_step.linear(Served(model=LLAMA, layout=Layout(tensor=4)), 100.0)
    exchanges = [op for op in work if isinstance(op, Collective)]
    assert [(op.kind, op.devices, op.count, float(op.message_bytes)) for op in exchanges] == [
        ("all_reduce", 4, 32, 100 * 4096 * 2)
    ] * 2
    assert not [op for op in decoder_step.linear(Served(model=LLAMA), 100.0) if isinstance(op, Collective)]


def test_the_last_positions_are_projected_and_gathered():
    (product,) = decoder_step.vocabulary(Served(model=LLAMA), 8.0)
    assert (float(product.m), product.n, product.k) == (8, LLAMA.vocabulary, 4096)
    split, gathered = decoder_step.vocabulary(Served(model=LLAMA, layout=Layout(tensor=8)), 8.0)
    assert split.n == LLAMA.vocabulary / 8
    assert float(gathered.message_bytes) == 8 * LLAMA.vocabulary * 2


def test_norms_rotation_and_activation_stream_once_a_layer():
    work = [op for op in decoder_step.linear(Served(model=LLAMA), 10.0) if isinstance(op, Streaming)]
    assert [op.label for op in work] == ["norm", "rotary and cache", "norm", "activation"]
    assert all(op.count == 32 for op in work)
    assert float(work[3].elements) == 10 * LLAMA.layer.intermediate
