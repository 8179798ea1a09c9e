"""FLOP and bytes against counts by hand, and the laws they keep: broadcasting, additivity, monotony."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from capacity import catalogue
from capacity.work import embedding, models, recurrent, retrieval
from capacity.work import operations as ops
from capacity.work import transformer as tf


def attention(**fields) -> ops.Attention:
    shape = {"batch": 1, "heads": 1, "kv_heads": 1, "query": 4, "keys": 4, "head_dim": 1, "dtype": "fp32"}
    return ops.Attention(**shape | fields)


def architecture(name: str):
    return models.architecture(catalogue.model(name))


def forward(name: str, batch, tokens):
    return tf.prefill(architecture(name), batch, tokens, "bf16", fusion="eager")


WORK = {
    "encode bert": lambda b, t: tf.encode(architecture("bert-base"), b, t, "bf16"),
    "prefill qwen3": lambda b, t: forward("qwen3-0.6b", b, t),
    "prefill mistral, window": lambda b, t: forward("mistral-7b", b, t * 100),
    "prefill mixtral": lambda b, t: forward("mixtral-8x7b", b, t),
    "decode mixtral": lambda b, t: tf.decode(architecture("mixtral-8x7b"), b, t, "bf16"),
    "train bert": lambda b, t: tf.training_step(architecture("minilm-l6"), b, t, "fp32"),
    "lstm": lambda b, t: recurrent.next_item(catalogue.model("lstm-recommender"), b, t, "fp32"),
    "train lstm": lambda b, t: recurrent.training_step(catalogue.model("lstm-recommender"), b, t, "fp32"),
    "id ranker": lambda b, t: embedding.rank_pairs(catalogue.model("bert-id-ranker"), b * t, "fp32"),
    "train id ranker": lambda b, t: embedding.id_ranker_training_step(catalogue.model("bert-id-ranker"), b * t, "fp32"),
    "factorization SGD": lambda b, t: embedding.factorization_sgd_step(
        catalogue.model("ratings-factorization"), b * t, "fp32"
    ),
    "ALS": lambda b, t: embedding.alternating_least_squares(catalogue.model("ratings-factorization"), 1e6 * b * t),
    "top-k dot": lambda b, t: retrieval.exact_top_k(b, 1000 * t, 768, 10, "fp32"),
    "top-k L2": lambda b, t: retrieval.exact_top_k(b, 1000 * t, 768, 10, "fp32", "l2"),
    "fusion": lambda b, t: retrieval.fusion_scores(catalogue.model("fusion-scorer"), b, t, "fp32"),
}
TOTALS = (ops.total_flop, ops.total_counter_flop, ops.total_bytes)
EVERY = pytest.mark.parametrize("work", WORK.values(), ids=WORK)


def test_bert_base_by_hand():
    # A block multiplies each of 128 tokens with four 768×768 and two 768×3072 matrices: 7,077,888 multiply-adds; twelve
    # blocks 84,934,656; two FLOP each. Attention: two products of 128×128 pairs · 768 columns in twelve blocks. The
    # pooler multiplies one token with 768×768.
    linear = 2 * 128 * 84_934_656
    pairs = 12 * 2 * 2 * 128 * 128 * 768
    assert ops.total_counter_flop(forward("bert-base", 1, 128)) == linear + pairs + 2 * 768 * 768 == 22_348_431_360


def test_decoding_llama_8b_by_hand():
    # Every weight but the token table and the 65 norms meets the token once; 100 cached keys and the new one are
    # multiplied twice over 32 heads of 128 in 32 blocks.
    weights = 8_030_261_248 - 128_256 * 4096 - 65 * 4096
    work = tf.decode(architecture("llama-3.1-8b"), 1, 100, "bf16")
    assert ops.total_counter_flop(work) == 2 * weights + 32 * 2 * 2 * 101 * 4096


def test_only_the_last_position_is_projected_when_serving():
    shape = {"batch": 3, "query": 10, "keys": 10, "dtype": "bf16", "phase": "prefill"}
    every = tf.forward(architecture("gpt2"), tf.Pass(**shape, logits="all"))
    last = tf.forward(architecture("gpt2"), tf.Pass(**shape))
    # 9 of 10 positions of 3 sequences spare 768 × 50,257 multiply-adds.
    assert ops.total_flop(every) - ops.total_flop(last) == 2 * 3 * 9 * 768 * 50_257


def test_expert_products_do_not_depend_on_the_spread():
    # 5 tokens, each through 2 of 8 experts of 3·4096·14,336 weights, in 32 blocks.
    experts = [op for op in forward("mixtral-8x7b", 1, 5) if isinstance(op, ops.GroupedGemm)]
    assert ops.total_flop(experts) == 2 * 32 * 5 * 2 * 3 * 4096 * 14_336


def test_experts_that_are_hit():
    # One token reads the weights of 2 experts of 8, many tokens those of all 8.
    def weights(tokens):
        return [op.groups for op in forward("mixtral-8x7b", 1, tokens) if isinstance(op, ops.GroupedGemm)]

    assert weights(1) == pytest.approx([2.0, 2.0])
    assert weights(1000) == pytest.approx([8.0, 8.0])


@pytest.mark.parametrize(
    ("fields", "pairs"),
    [
        ({}, 16),
        ({"causal": True}, 1 + 2 + 3 + 4),
        ({"causal": True, "query": 6, "keys": 6, "window": 3}, 1 + 2 + 3 + 3 + 3 + 3),
        # The second part of a prompt of 5, 2 tokens long: queries see 4 and 5 keys, or 3 each in a window.
        ({"causal": True, "query": 2, "keys": 5}, 4 + 5),
        ({"causal": True, "query": 2, "keys": 5, "window": 3}, 3 + 3),
        # Queries 3…5 of 5 see 3, 4 and 4 of 4 keys in the window.
        ({"causal": True, "query": 3, "keys": 5, "window": 4}, 3 + 4 + 4),
        ({"causal": True, "phase": "decode", "query": 1, "keys": 9}, 9),
        ({"causal": True, "phase": "decode", "query": 1, "keys": 9, "window": 4}, 4),
    ],
)
def test_visible_pairs_by_hand(fields, pairs):
    operation = attention(**fields)
    assert operation.visible_pairs == pairs
    assert operation.flop == 2 * 2 * pairs


def test_visible_pairs_equal_a_drawn_mask():
    for query, past, window in itertools.product(range(1, 7), range(5), (None, 1, 2, 3, 5, 20)):
        row, column = np.arange(past, past + query)[:, None], np.arange(past + query)[None]
        mask = (column <= row) & (True if window is None else column > row - window)
        operation = attention(causal=True, query=query, keys=past + query, window=window)
        assert operation.visible_pairs == mask.sum(), (query, past, window)


def test_causal_attention_is_counted_full_and_executed_half():
    # 1000 queries see 1 + 2 + … + 1000 = 500,500 of 1,000,000 pairs: one half and the diagonal's other half.
    operation = attention(causal=True, query=1000, keys=1000, head_dim=64, heads=12, batch=2)
    assert operation.counter_flop == 2 * 2 * 2 * 12 * 64 * 1_000_000
    assert operation.flop == 2 * 2 * 2 * 12 * 64 * 500_500


def test_backward_attention():
    # Unfused: each of two products has two gradients, 4 products. Fused: scores are computed again, 5 products.
    operation = attention(backward=True)
    assert (operation.counter_flop, operation.flop) == (4 * 2 * 16, 5 * 2 * 16)


def test_bytes_by_hand():
    # Attention reads Q (2 heads), K and V (1 shared head), writes the result: 7·(2·2·3 + 2·1·5) values of 4 byte.
    assert attention(heads=2, query=3, keys=5, head_dim=7).moved_bytes == 4 * 7 * (2 * 2 * 3 + 2 * 5)
    # fp8 operands of 1 byte, int4 weights of half a byte, results of 2 bytes.
    assert ops.Gemm(m=2, n=3, k=4, dtype="fp8", weight_dtype="int4").moved_bytes == 8 + 6 + 12
    # 6 rows of 5 values and an index of 8 byte, summed by threes into 2 rows.
    assert ops.Gather(rows=6, width=5, pooled=3, dtype="fp32").moved_bytes == 6 * (20 + 8) + 2 * 20
    # Each of 4 devices passes three quarters of 100 byte around the ring, twice when it also reduces.
    assert ops.Collective(kind="all_gather", message_bytes=100, devices=4).moved_bytes == 75
    assert ops.Collective(kind="all_reduce", message_bytes=100, devices=4).moved_bytes == 150


@EVERY
def test_arrays_broadcast_like_a_loop(work):
    batches, lengths = np.array([[1.0], [3.0], [64.0]]), np.array([[1.0, 17.0, 300.0, 512.0]])
    operations = work(batches, lengths)
    for total in TOTALS:
        looped = [[total(work(b, t)) for t in lengths[0]] for b in batches[:, 0]]
        np.testing.assert_allclose(np.broadcast_to(total(operations), (3, 4)), looped, rtol=1e-13)


@pytest.mark.parametrize("work", [WORK[name] for name in WORK if name not in {"ALS", "top-k L2"}])
def test_flop_of_a_split_batch_add_up(work):
    # Not so an ALS sweep, which solves every system once, and L2 distances, which need every norm once.
    for total in (ops.total_flop, ops.total_counter_flop):
        assert total(work(2, 30)) + total(work(5, 30)) == total(work(7, 30))


@EVERY
def test_splitting_a_batch_never_saves_bytes(work):
    # Weights are read once more.
    assert ops.total_bytes(work(2, 30)) + ops.total_bytes(work(5, 30)) >= ops.total_bytes(work(7, 30)) * (1 - 1e-13)


@EVERY
def test_work_grows_with_batch_and_length(work):
    steps = np.arange(1.0, 200.0)
    for total in TOTALS:
        for operations in (work(steps, 16.0), work(16.0, steps)):
            assert np.all(np.diff(np.broadcast_to(total(operations), steps.shape)) >= 0)


def test_backward_of_products_is_twice_forward():
    forward_pass = forward("bert-base", 4, 64)
    products = [op for op in forward_pass if isinstance(op, ops.Gemm)]
    assert ops.total_flop(ops.backward(products)) == 2 * ops.total_flop(products)


def test_encoding_with_a_language_model_spares_the_vocabulary():
    # The last positions of 4 sequences are not multiplied with the 1024 × 151,936 token table.
    whole = tf.prefill(architecture("qwen3-0.6b"), 4, 64, "bf16")
    body = tf.encode(architecture("qwen3-0.6b"), 4, 64, "bf16")
    assert ops.total_counter_flop(whole) - ops.total_counter_flop(body) == 2 * 4 * 1024 * 151_936


def test_fusing_changes_no_product():
    model = architecture("qwen3-0.6b")
    eager, fused = (tf.encode(model, 2, 30, "bf16", fusion) for fusion in ("eager", "fused"))
    assert ops.total_counter_flop(eager) == ops.total_counter_flop(fused)
    assert ops.total_bytes(fused) < ops.total_bytes(eager)
