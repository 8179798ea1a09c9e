"""DLRM, DCNv2 and HSTU: parameters and FLOP equal to the real torch modules', figures of MLPerf, counts by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from capacity import catalogue
from capacity.spec.model import DlrmModel, HstuModel
from capacity.work import interaction, models, sequential
from capacity.work import operations as ops

torch = pytest.importorskip("torch", reason="FlopCounterMode needs torch: pip install 'capacity-planner[calibrate]'")
real = pytest.importorskip("real_recommenders", reason="the real modules need torch")
counter = ops.total_counter_flop
BASE = {"id": "m", "name": "", "source": "by hand"}
DCN = catalogue.model("dlrm-dcnv2")
HSTU = catalogue.model("hstu-mlperf")


def dlrm(interaction_kind: str = "dot", **more) -> DlrmModel:
    cross = {"cross_layers": 2, "cross_rank": 3} if interaction_kind == "cross" else {}
    shape = {"dense_features": 5, "tables": (7, 11), "embedding_size": 4, "bottom": (6, 4), "top": (8, 1)}
    return DlrmModel(family="dlrm", interaction=interaction_kind, **BASE, **shape, **cross, **more)


def hstu(**more) -> HstuModel:
    shape = {
        "tables": (9, 9), "contexts": (9,), "actions": 3, "encodings": (5, 4), "embedding_size": 6, "hidden_size": 8,
        "layers": 2, "heads": 2, "query_size": 3, "value_size": 5,
        "position_mlps": ((6, 4, 8), (6, 4, 8), (3, 4, 8)), "candidate_mlps": ((12, 7, 8), (10, 8)), "head": (8, 7, 1),
    }  # fmt: skip
    return HstuModel(family="hstu", **BASE, **(shape | more))


def flop(function, *, gradients: bool = False) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counted, torch.set_grad_enabled(gradients):
        function()
    return counted.get_total_flops()


def on_meta(kind, model):
    with torch.device("meta"):
        return kind(model)


def count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def pairs_of(model: DlrmModel, pairs: int) -> tuple:
    rows = [
        torch.empty(pairs, many, dtype=torch.long, device="meta") for many in model.lookups or [1] * len(model.tables)
    ]
    return torch.empty(pairs, model.dense_features, device="meta"), rows


def sequence_of(requests: int, positions: int) -> tuple:
    rows = torch.empty(requests, positions, dtype=torch.long, device="meta")
    return rows, torch.empty(requests, dtype=torch.long, device="meta")


# DLRM and DCNv2.

DLRMS = pytest.mark.parametrize(
    "model", [dlrm(), dlrm("cross"), dlrm("dot", lookups=(3, 1)), dlrm("cross", lookups=(2, 5)), DCN],
    ids=["dot", "cross", "dot, multi-hot", "cross, multi-hot", "dlrm-dcnv2"],
)  # fmt: skip


@DLRMS
def test_dlrm_parameters_equal_the_real_module(model):
    assert models.parameters(model) == count(on_meta(real.Dlrm, model))


@DLRMS
@pytest.mark.parametrize("pairs", [1, 6])
def test_dlrm_flop_equal_the_counter(model, pairs):
    module = on_meta(real.Dlrm, model)
    assert counter(interaction.score_pairs(model, pairs, "fp32")) == flop(lambda: module(*pairs_of(model, pairs)))


@DLRMS
def test_dlrm_training_flop_equal_the_counter(model):
    module = on_meta(real.Dlrm, model)
    counted = flop(lambda: module(*pairs_of(model, 4)).sum().backward(), gradients=True)
    assert counter(interaction.training_step(model, 4, "fp32")) == counted


def test_dlrm_v2_is_what_mlperf_says():
    # Bottom 13·512 + 512·256 + 256·128; three cross layers of 2·3456·512; top 3456·1024 + 1024² + 1024·512 + 512·256
    # + 256: 16,030,464 multiply-adds. 214 rows of 128 values of 2 byte.
    work = interaction.score_pairs(DCN, 1, "fp16", "fused")
    assert counter(work) == 2 * 16_030_464
    assert counter(work) == pytest.approx(32e6, rel=0.01)
    assert interaction.lookups(DCN) * 128 * 2 == 54_784
    # Read besides: an index of 8 byte a row; written: 26 sums.
    assert work[0].moved_bytes == 54_784 + 214 * 8 + 26 * 128 * 2


def test_dlrm_v1_hands_479_values_to_the_top():
    # 27 vectors meet in 27·26/2 = 351 dots, beside the 128 dense values.
    one = DlrmModel(
        family="dlrm", **BASE, dense_features=13, tables=(1000,) * 26, embedding_size=128, bottom=(512, 256, 128),
        interaction="dot", top=(1024, 1024, 512, 256, 1),
    )  # fmt: skip
    assert interaction.interacted(one) == 479
    assert interaction.lookups(one) == 26
    assert models.vector_width(one) == 128


def test_a_fused_engine_moves_less_and_computes_the_same():
    eager, fused = (interaction.score_pairs(DCN, 64, "fp16", engine) for engine in ("eager", "fused"))
    assert counter(eager) == counter(fused)
    assert ops.total_bytes(eager) > ops.total_bytes(fused)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"lookups": (1,)}, "lookups names 1 tables, and there are 2"),
        ({"bottom": (6, 5)}, "bottom ends with 5 values, an embedding has 4"),
        ({"cross_layers": 1}, "a cross interaction needs"),
        ({"interaction": "cross"}, "a cross interaction needs"),
    ],
)
def test_a_dlrm_that_does_not_fit_together(more, said):
    with pytest.raises(ValidationError, match=said):
        DlrmModel.model_validate(dlrm().model_dump() | more)


@pytest.mark.parametrize("more", [{"head": (7, 1)}, {"position_mlps": ((6, 4),)}])
def test_an_hstu_that_does_not_fit_together(more):
    with pytest.raises(ValidationError, match="hidden_size of 8 values"):
        hstu(**more)


# HSTU.

HSTUS = pytest.mark.parametrize(
    "model", [hstu(), hstu(contexts=(9, 9)), hstu(layers=1, query_size=5), HSTU],
    ids=["one context", "two contexts", "one layer", "hstu-mlperf"],
)  # fmt: skip


@HSTUS
def test_hstu_parameters_equal_the_real_module(model):
    assert models.parameters(model) == count(on_meta(real.Hstu, model))


@HSTUS
@pytest.mark.parametrize(("requests", "events", "candidates"), [(1, 1, 1), (3, 10, 4)])
def test_hstu_flop_equal_the_counter(model, requests, events, candidates):
    module = on_meta(real.Hstu, model)
    counted = flop(lambda: module(*sequence_of(requests, events + candidates), candidates))
    assert counter(sequential.score_candidates(model, requests, events, candidates, "fp32")) == counted


@HSTUS
def test_hstu_training_flop_equal_the_counter(model):
    module = on_meta(real.Hstu, model)
    counted = flop(lambda: module(*sequence_of(2, 9), 3).sum().backward(), gradients=True)
    assert counter(sequential.training_step(model, 2, 6, 3, "fp32")) == counted


def test_attention_in_parts_is_the_masked_attention():
    torch.manual_seed(0)
    module = real.Hstu(hstu())
    rows, context = torch.randint(0, 9, (2, 9)), torch.randint(0, 9, (2,))
    with torch.no_grad():
        assert torch.allclose(module(rows, context, 3), module(rows, context, 3, masked=True), atol=1e-6)


def test_a_candidate_does_not_see_another():
    torch.manual_seed(0)
    module = real.Hstu(hstu()).eval()
    rows, context = torch.randint(0, 9, (1, 9)), torch.tensor([1])
    changed = rows.clone()
    changed[0, -1] = (rows[0, -1] + 1) % 9
    with torch.no_grad():
        before, after = module(rows, context, 3), module(changed, context, 3)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2])


def test_executed_attention_is_what_the_mask_leaves():
    # Context and 4 events see 1 … 5 positions, each of 3 candidates the 5 and itself: 15 + 18 pairs in 2 heads of 2
    # layers; query·key costs 3 and score·value 5 multiply-adds a pair.
    work = sequential.score_candidates(hstu(), 1, 4, 3, "fp32")
    attention = [op for op in work if isinstance(op, ops.Attention)]
    assert ops.total_flop(attention) == 2 * 2 * 33 * (2 * 3 + 2 * 5)


def test_dlrm_v3_is_what_mlperf_says():
    # Mean history 6,720 events, 2,048 candidates: about 0.54 TFLOP; attention 0.372, its projections 0.161, the rest
    # before and after the layers 0.017.
    work = sequential.score_candidates(HSTU, 1, 6720, 2048, "fp16")
    assert ops.total_flop(work) == pytest.approx(0.54e12, rel=0.03)
    attention = [op for op in work if isinstance(op, ops.Attention)]
    pairs = 6721 * 6722 / 2 + 2048 * 6722
    assert ops.total_flop(attention) == 5 * 4 * pairs * 2 * 256
    assert models.vector_width(HSTU) == 512


@settings(max_examples=25, deadline=None)
@given(requests=st.integers(1, 8), events=st.integers(1, 500), candidates=st.integers(1, 50))
def test_hstu_work_grows_with_the_request_and_adds_up(requests, events, candidates):
    def work(*shape):
        done = sequential.score_candidates(HSTU, *shape, "fp16")
        return ops.total_flop(done), ops.total_bytes(done)

    one, all_of_them = work(1, events, candidates), work(requests, events, candidates)
    assert all_of_them[0] == pytest.approx(requests * one[0])
    assert all_of_them[1] <= requests * one[1]  # weights are read once a batch
    assert work(1, events + 1, candidates)[0] > one[0]
    assert work(1, events, candidates + 1)[0] > one[0]


@settings(max_examples=25, deadline=None)
@given(pairs=st.integers(1, 1000))
def test_dlrm_work_adds_up(pairs):
    one, many = (interaction.score_pairs(DCN, number, "fp16") for number in (1, pairs))
    assert counter(many) == pairs * counter(one)
    assert ops.total_bytes(many) <= pairs * ops.total_bytes(one)
