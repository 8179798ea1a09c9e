"""BERT4Rec: parameters and FLOP equal to those of transformers' masked language model over items."""

from __future__ import annotations

from typing import Any

import pytest
import real_recommenders
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import CapacityError, InputError
from capacity.work import bert4rec as b4r
from capacity.work import operations as ops
from capacity.work.huggingface import transformer

torch = pytest.importorskip("torch", reason="FlopCounterMode needs torch: pip install 'capacity-planner[calibrate]'")
real = pytest.importorskip("real_modules", reason="the real modules need torch and transformers")
counter = ops.total_counter_flop
SMALL = b4r.bert4rec(items=500, hidden=32, layers=2, heads=4, positions=60)
PAPER = b4r.bert4rec(items=3416, hidden=64, layers=2, heads=2, positions=200)


def module(model: b4r.Bert4Rec) -> Any:
    """Return BERT with the head of the masked language model, whose output shares the item table."""
    with torch.device("meta"):
        return real_recommenders.Bert4Rec(model).masked


def states(built: Any, batch: int, length: int, masked: int) -> Any:
    """Return the states of the masked positions, [batch · masked × hidden], gathered by their indices."""
    found = built.bert(input_ids=real.tokens(batch, length)).last_hidden_state
    places = real.tokens(batch, masked)[..., None].expand(-1, -1, found.shape[-1])
    return found.gather(1, places).flatten(0, 1)


def sampled_scores(built: Any, found: Any, negatives: int) -> Any:
    """Return the scores of targets and of the sample, as tf.nn.sampled_softmax_loss computes them."""
    table, found = built.bert.embeddings.word_embeddings, built.cls.predictions.transform(found)
    targets = table(torch.zeros(len(found), dtype=torch.long, device="meta"))
    sample = table(torch.zeros(negatives, dtype=torch.long, device="meta"))
    return torch.cat([(found * targets).sum(-1, keepdim=True), found @ sample.T], dim=1)


@pytest.mark.parametrize("model", [SMALL, PAPER], ids=["small", "paper"])
def test_parameters_equal_the_real_module(model):
    assert b4r.parameters(model) == real.parameters(module(model))


@pytest.mark.parametrize("model", [SMALL, PAPER], ids=["small", "paper"])
@pytest.mark.parametrize(("requests", "events"), [(1, 1), (3, 40)])
def test_next_item_equals_the_counter(model, requests, events):
    built = module(model)
    counted = real.counted(lambda: built.cls(states(built, requests, events + 1, 1)))
    assert counter(b4r.next_item(model, requests, events, "fp32")) == counted.total


@pytest.mark.parametrize(("batch", "length", "masked"), [(1, 1, 1), (4, 30, 6), (2, 60, 60)])
@pytest.mark.parametrize("negatives", [0, 1, 100])
def test_a_training_step_equals_the_counter(batch, length, masked, negatives):
    built = module(SMALL)

    def step():
        found = states(built, batch, length, masked)
        scores = sampled_scores(built, found, negatives) if negatives else built.cls(found)
        scores.logsumexp(-1).sum().backward()

    counted = real.counted(step, gradients=True)
    assert counter(b4r.training_step(SMALL, batch, length, masked, "fp32", negatives)) == counted.total


def test_all_positions_masked_is_the_masked_language_model_itself():
    built = module(SMALL)
    counted = real.counted(lambda: built(input_ids=real.tokens(3, 20)).logits.sum().backward(), gradients=True)
    assert counter(b4r.training_step(SMALL, 3, 20, 20, "fp32")) == counted.total


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    items=st.integers(1, 300), head=st.integers(1, 8), heads=st.integers(1, 4), layers=st.integers(1, 3),
    batch=st.integers(1, 5), length=st.integers(1, 30), negatives=st.integers(0, 9), data=st.data(),
)  # fmt: skip
def test_any_size(*, items, head, heads, layers, batch, length, negatives, data):
    model = b4r.bert4rec(items=items, hidden=head * heads, layers=layers, heads=heads, positions=length)
    masked, built = data.draw(st.integers(1, length)), module(model)
    assert b4r.parameters(model) == real.parameters(built)

    def step():
        found = states(built, batch, length, masked)
        scores = sampled_scores(built, found, negatives) if negatives else built.cls(found)
        scores.sum().backward()

    counted = real.counted(step, gradients=True)
    assert counter(b4r.training_step(model, batch, length, masked, "fp32", negatives)) == counted.total


def test_scores_by_hand():
    # 4 sequences with 6 masked positions each: 24 rows · 502 items · 32 values, forward and two gradients.
    step = b4r.training_step(SMALL, 4, 30, 6, "fp32")
    scores = [op.counter_flop for op in step if isinstance(op, ops.Gemm) and op.label.startswith("item scores")]
    assert scores == [2 * 24 * 502 * 32] * 3
    assert SMALL.items == 500


def test_what_a_sampled_softmax_reads():
    # 24 rows: their targets and a sample of 9 items, 32 values of 4 byte and an index each, read and handed on.
    step = b4r.training_step(SMALL, 4, 30, 6, "fp32", negatives=9)
    (fetched,) = [op for op in step if op.label == "targets and sampled items"]
    assert fetched.moved_bytes == 33 * (2 * 32 * 4 + 8)
    (normed,) = [op for op in step if op.label == "sampled softmax"]
    assert normed.moved_bytes == 2 * 24 * 10 * 4


def test_a_sample_spares_work_that_grows_with_the_catalogue():
    def work(items, negatives):
        return counter(b4r.training_step(b4r.resized(PAPER, items), 64, 200, 30, "fp32", negatives))

    assert work(10**6, 0) - work(10**5, 0) == 3 * 2 * 64 * 30 * 900_000 * 64
    assert work(10**6, 1000) == work(10**5, 1000)
    everything = PAPER.body.vocabulary
    assert work(PAPER.items, everything) == work(PAPER.items, 0)
    full, part = (b4r.training_step(PAPER, 64, 200, 30, "fp32", negatives) for negatives in (0, 100))
    assert ops.total_bytes(part) < ops.total_bytes(full)
    assert b4r.score_bytes(PAPER, 1920, "fp32", 100) < b4r.score_bytes(PAPER, 1920, "fp32")


def test_only_one_position_is_scored_when_serving():
    short, long = (b4r.next_item(PAPER, 8, events, "fp16", "fused") for events in (10, 100))
    scores = [[op for op in work if getattr(op, "label", "") == "item scores"] for work in (short, long)]
    assert scores[0] == scores[1]
    eager = b4r.next_item(PAPER, 8, 100, "fp16")
    assert counter(eager) == counter(long)
    assert ops.total_bytes(eager) > ops.total_bytes(long)


def test_what_is_no_bert4rec_is_refused():
    gpt2 = transformer({"model_type": "gpt2", "n_embd": 32, "n_head": 4, "n_layer": 2, "vocab_size": 50}, head="none")
    with pytest.raises(InputError, match="needs an encoder without a head"):
        b4r.Bert4Rec(body=gpt2)
    with pytest.raises(CapacityError, match="reads at most 60 positions, and 61 are asked for"):
        b4r.next_item(SMALL, 1, 60, "fp32")
    with pytest.raises(InputError, match="31 positions are masked of 30"):
        b4r.training_step(SMALL, 1, 30, 31, "fp32")
    with pytest.raises(CapacityError, match="reads at most 60 positions"):
        b4r.training_step(SMALL, 1, 61, 5, "fp32")
