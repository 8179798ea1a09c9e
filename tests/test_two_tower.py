"""Two towers: parameters and FLOP equal to those of real torch modules, the in-batch softmax over devices by hand."""

from __future__ import annotations

from typing import Any

import pytest
import real_recommenders
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import InputError
from capacity.work import operations as ops
from capacity.work import two_tower as tt

torch = pytest.importorskip("torch", reason="FlopCounterMode needs torch: pip install 'capacity-planner[calibrate]'")
real = pytest.importorskip("real_modules", reason="the real modules need torch and transformers")
counter = ops.total_counter_flop


def tower(name: str, **more) -> tt.Tower:
    return tt.Tower(**({"name": name, "tables": (11, 7), "embedding_size": 4, "layers": (16, 8)} | more))


MODELS = {
    "tables": tt.TwoTower(user=tower("user"), item=tower("item", tables=(5,))),
    "tables and dense": tt.TwoTower(user=tower("user", dense_features=3), item=tower("item", dense_features=9)),
    "dense alone": tt.TwoTower(user=tower("user", tables=(), dense_features=3), item=tower("item")),
    "multi-hot": tt.TwoTower(user=tower("user", lookups=(3, 20)), item=tower("item", layers=(32, 16, 8))),
    "one layer": tt.TwoTower(user=tower("user", layers=(8,)), item=tower("item", layers=(8,))),
}
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def module(model: tt.TwoTower) -> Any:
    with torch.device("meta"):
        return real_recommenders.TwoTower(model)


@EACH
def test_parameters_equal_the_real_module(model):
    assert tt.parameters(model) == real.parameters(module(model))


@EACH
@pytest.mark.parametrize("samples", [1, 6, 100])
def test_encoding_equals_the_counter(model, samples):
    built = module(model)
    for one, encoder in ((model.user, built.user), (model.item, built.item)):
        assert counter(tt.encode(one, samples, "fp32")) == real.counted(lambda e=encoder: e(samples)).total


@EACH
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_a_training_step_equals_the_counter(model, devices):
    built = module(model)
    counted = real.counted(lambda: built(6, devices).backward(), gradients=True)
    assert counter(tt.training_step(model, 6, "fp32", devices)) == counted.total


sizes = st.integers(1, 40)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    tables=st.lists(sizes, min_size=1, max_size=3), dense=st.integers(0, 5), size=sizes, width=sizes, hidden=sizes,
    batch=sizes, devices=st.integers(1, 4),
)  # fmt: skip
def test_any_two_towers(*, tables, dense, size, width, hidden, batch, devices):
    model = tt.TwoTower(
        user=tower("user", tables=tuple(tables), embedding_size=size, dense_features=dense, layers=(hidden, width)),
        item=tower("item", tables=(), dense_features=dense + 1, layers=(width,)),
    )
    built = module(model)
    assert tt.parameters(model) == real.parameters(built)
    counted = real.counted(lambda: built(batch, devices).backward(), gradients=True)
    assert counter(tt.training_step(model, batch, "fp32", devices)) == counted.total


def test_scores_and_messages_by_hand():
    # 6 users against 4 · 6 items of 8 values: 2 · 6 · 24 · 8 FLOP, and as much for each of both gradients.
    step = tt.training_step(MODELS["tables"], 6, "fp16", devices=4)
    scores = [op.counter_flop for op in step if isinstance(op, ops.Gemm) and op.label.startswith("scores")]
    assert scores == [2 * 6 * 24 * 8] * 3
    # 24 vectors of 8 values of 2 byte, of which a device receives three quarters.
    messages = [op for op in step if isinstance(op, ops.Collective)]
    assert [(op.kind, op.message_bytes, op.moved_bytes) for op in messages] == [
        ("all_gather", 384, 288), ("reduce_scatter", 384, 288)
    ]  # fmt: skip
    alone = tt.training_step(MODELS["tables"], 6, "fp16")
    assert sum(op.moved_bytes for op in alone if isinstance(op, ops.Collective)) == 0


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 500), devices=st.integers(1, 64))
def test_devices_share_the_work_of_one_large_batch(batch, devices):
    """Gathered vectors change who scores, not what is scored: each device's step is its part of the whole batch's."""
    model = MODELS["tables and dense"]
    part, whole = tt.training_step(model, batch, "fp32", devices), tt.training_step(model, batch * devices, "fp32")
    assert devices * counter(part) == counter(whole)
    assert devices * ops.total_bytes(part) >= ops.total_bytes(whole)  # weights are read by each


def test_a_fused_engine_moves_less_and_computes_the_same():
    eager, fused = (tt.encode(MODELS["multi-hot"].item, 64, "fp16", engine) for engine in ("eager", "fused"))
    assert counter(eager) == counter(fused)
    assert ops.total_bytes(eager) > ops.total_bytes(fused)


def test_what_an_eager_engine_launches_for_a_tower():
    # 10 samples look up 3 + 20 rows of 4 values of 4 byte (8 byte an index) and write 2 sums; 8 values side by side;
    # layers of 16 and 8, the first rectified; vectors normed.
    work = tt.encode(MODELS["multi-hot"].user, 10, "fp32")
    assert [(op.label, op.moved_bytes) for op in work if not isinstance(op, ops.Gemm)] == [
        ("user embedding bags", 230 * (16 + 8) + 20 * 16), ("user features side by side", 2 * 80 * 4),
        ("user 1 activation", 2 * 160 * 4), ("user norm", 2 * 80 * 4),
    ]  # fmt: skip
    assert [op.label for op in tt.encode(MODELS["one layer"].user, 10, "fp32", "fused", normed=False)] == [
        "user embedding bags", "user 1"
    ]  # fmt: skip


def test_kept_activations_by_hand():
    # Inputs 8 and 4, layers 16 + 8 each: 60 values a pair; 20 vectors of 8; twice 10 · 20 scores; 4 byte each.
    assert tt.activation_bytes(MODELS["tables"], 10, "fp32", devices=2) == (10 * 60 + 20 * 8 + 2 * 200) * 4


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tower("user", layers=()), "tower user: needs layers"),
        (lambda: tower("user", tables=(0,)), "sizes from 1"),
        (lambda: tower("user", lookups=(1,)), "1 lookups for 2 tables"),
        (lambda: tower("user", tables=()), "needs tables or dense features"),
        (lambda: tt.TwoTower(user=tower("user"), item=tower("item", layers=(9,))), "equally wide, not 8 .* and 9"),
    ],
)
def test_towers_that_do_not_fit_together(call, said):
    with pytest.raises(InputError, match=said):
        call()
