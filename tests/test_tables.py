"""Measurement tables as operations: what each column means, which kernels ran a row, what a fit gets to see."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_up import RATES, board
from tables_by_hand import BASE, BOARD, CHANGES, rows

from capacity import validate
from capacity.errors import UnknownNameError
from capacity.timing.form import Board
from capacity.timing.tables import ROTATING_COPIES, TABLES, joined, said, skew
from capacity.work.operations import Attention, Gemm

HERE = Board(BOARD)


def by_family(kind: str, frame: pd.DataFrame, where: Board = HERE):
    return TABLES[kind].by_family(validate.checked(frame, kind, "t"), where)


def keys(kind: str, *changes: dict, where: Board = HERE) -> set[str]:
    return {"/".join(key) for key in by_family(kind, rows(kind, *changes), where)}


# --- families -------------------------------------------------------------------------------------------------------


def test_one_engine_alone_is_the_family():
    assert keys("gemm", {}, {"m": 5}) == {"gemm/library/bf16/bf16"}


def test_engines_are_parts_of_the_family_and_teach_it_together():
    found = by_family("gemm", rows("gemm", {}, {"m": 5}, {"m": 7, "engine": "trtllm 1.0", "latency_us": 9.0}))
    sizes = {key[1]: rows_.operation.m.tolist() for key, rows_ in found.items()}
    assert sizes == {"library": [7, 64, 5], "library/trtllm": [7], "library/vllm": [64, 5]}
    both = found["gemm", "library", "bf16", "bf16"]
    assert both.seconds.tolist() == pytest.approx([9e-6, 40e-6, 40e-6])
    assert both.groups.tolist() == [0, 0, 0]  # one shape (n, k): held out together, whoever ran it
    assert both.board is HERE


def test_versions_of_an_engine_are_one():
    assert keys("gemm", {}, {"engine": "vllm 0.24.0"}) == {"gemm/library/bf16/bf16"}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"dtype": "fp16"}, "gemm/library/fp16/fp16"),
        ({"dtype": "fp8"}, "gemm/cutlass/fp8/fp8"),
        ({"dtype": "fp8_block", "kernel": "deep_gemm"}, "gemm/deepgemm-block/fp8/fp8"),
        ({"dtype": "int4_weightonly"}, "gemm/cutlass/bf16/int4"),
        ({"dtype": "nvfp4"}, "gemm/cutlass/bf16/fp4"),  # no units for it here: multiplied in bf16
        ({"dtype": "fp8", "engine": "sglang 0.5"}, "gemm/sgl/fp8/fp8"),
        ({"dtype": "fp8", "engine": "trtllm 1.0", "kernel": "a new kernel"}, "gemm/trtllm/fp8/fp8"),
    ],
)
def test_families_of_products(change, key):
    assert keys("gemm", change) == {key}


def test_a_device_with_units_for_a_dtype_multiplies_in_it():
    assert keys("gemm", {"dtype": "nvfp4"}, where=board(rates=RATES | {"fp4": 1e15})) == {"gemm/cutlass/fp4/fp4"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"attention.prefill/fa3.hopper/bf16/bf16"}),
        ({"phase": "decode", "query_length": 1}, {"attention.decode/fa3.hopper/bf16/bf16"}),
        ({"kv_dtype": "fp8"}, {"attention.prefill/fa3.hopper/bf16/fp8"}),
        ({"engine": "trtllm 1.0"}, {"attention.prefill/trtllm.hopper/bf16/bf16"}),
        ({"kernel": "flashinfer_something"}, {"attention.prefill/flashinfer.hopper/bf16/bf16"}),
    ],
)
def test_families_of_attention(change, expected):
    assert keys("attention", change) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, {"experts/triton/bf16/bf16"}),
        ({"dtype": "fp8_block", "kernel": "deepgemm"}, {"experts/deepgemm-block/fp8/fp8"}),
        ({"engine": "trtllm 1.0"}, {"experts/cutlass/bf16/bf16"}),
        ({"dtype": "int4_wo"}, {"experts/marlin/bf16/int4"}),
    ],
)
def test_families_of_experts(change, expected):
    assert keys("moe", change) == expected


def test_versions_of_an_engine_are_parts_where_experts_are_rewritten():
    found = keys("moe", {}, {"engine": "vllm 0.24.0"})
    assert found == {"experts/triton/bf16/bf16"} | {
        f"experts/triton/vllm-{version}/bf16/bf16" for version in ("0.14.0", "0.24.0")
    }


@pytest.mark.parametrize(
    ("operation", "engine", "kernel", "expected"),
    [
        ("all_reduce", "nccl 2.27.3", "", ("all_reduce", "nccl.all_reduce")),
        ("all_gather", "nccl 2.27.3", "", ("all_gather", "nccl.all_gather")),
        ("reduce_scatter", "nccl 2.27.3", "", ("reduce_scatter", "nccl.reduce_scatter")),
        ("alltoall", "nccl 2.27.3", "", ("alltoall", "nccl.alltoall")),
        ("all_to_all", "nccl 2.27.3", "", ("alltoall", "nccl.alltoall")),
        ("sendrecv", "nccl 2.27.3", "", ("send", "nccl.alltoall")),
        ("p2p", "nccl 2.27.3", "", ("send", "nccl.alltoall")),
        ("all_reduce", "vllm 0.14.0", "vLLM_custom", ("all_reduce", "custom.vllm")),
        ("all_reduce", "sglang 0.5.14", "sglang_custom", ("all_reduce", "custom.sglang_fused")),
    ],
)
def test_families_of_collectives(operation, engine, kernel, expected):
    (key,) = by_family("collective", rows("collective", {"operation": operation, "engine": engine, "kernel": kernel}))
    assert key[:2] == (f"collective.{expected[0]}", expected[1])


def test_an_unknown_collective_is_refused():
    with pytest.raises(
        UnknownNameError, match="unknown operation 'broadcast'; known: all_gather, all_reduce, alltoall"
    ):
        by_family("collective", rows("collective", {"operation": "broadcast"}))


def test_an_unknown_phase_is_refused():
    with pytest.raises(UnknownNameError, match="unknown phase 'middle'; known: decode, encoder, prefill"):
        by_family("attention", rows("attention", {"phase": "middle"}))


# --- columns --------------------------------------------------------------------------------------------------------


def only(kind: str, *changes: dict):
    (found,) = by_family(kind, rows(kind, *changes)).values()
    return found


def test_products_rotate_through_copies_of_their_weights():
    found = only("gemm", {}, {"m": 5}).operation
    assert (found.m.tolist(), found.n.tolist(), found.k.tolist()) == ([64, 5], [4096, 4096], [1024, 1024])
    assert (found.dtype, found.weight_dtype, found.weight_copies) == ("bf16", "bf16", ROTATING_COPIES)


def test_n_of_the_fp32_table_is_what_is_summed_over():
    found = only("gemm_fp32", {}, {"batch": None})
    product = found.operation
    assert (product.m.tolist(), product.n.tolist(), product.k.tolist()) == ([64, 64], [1024, 1024], [512, 512])
    assert product.batch.tolist() == [2, 1]
    assert found.seconds.tolist() == pytest.approx([2e-4, 2e-4])
    without = by_family("gemm_fp32", rows("gemm_fp32").drop(columns="batch"))
    assert without["gemm", "simt", "fp32", "fp32"].operation.batch.tolist() == [1]


def test_attention_is_causal_unless_it_encodes():
    prefill, encoder = (only("attention", {"phase": phase}).operation for phase in ("prefill", "encoder"))
    assert (prefill.causal, encoder.causal) == (True, False)
    assert (prefill.query.tolist(), prefill.keys.tolist(), prefill.kv_dtype) == ([256], [512], "bf16")


def test_expert_layers_say_how_tokens_spread():
    found = only("moe", {"distribution": "power_law_1.2"}, {"tokens": 8}).operation
    assert sorted(zip(found.tokens.tolist(), found.skew.tolist(), strict=True)) == [(8, 0.0), (64, 1.2)]
    assert (found.warm, found.experts.tolist(), found.per_token.tolist()) == (True, [16, 16], [2, 2])


@pytest.mark.parametrize(
    ("name", "exponent"),
    [("balanced", 0.0), ("uniform", 0.0), ("power_law_1.2", 1.2), ("power_law_0", 0.0), (" power_law_1.01 ", 1.01)],
)
def test_distributions_are_exponents(name, exponent):
    assert skew(name) == exponent


@pytest.mark.parametrize("name", ["", "power_law", "power_law_", "power_law_-1", "zipf_1.2"])
def test_other_distributions_are_refused(name):
    with pytest.raises(UnknownNameError, match="unknown distribution"):
        skew(name)


def test_collectives_say_bytes_and_devices():
    found = only("collective", {}, {"devices": 2, "message_bytes": 3e9}).operation
    assert (found.message_bytes.tolist(), found.devices.tolist(), found.kind) == ([1e6, 3e9], [8, 2], "all_reduce")


def test_what_was_measured_becomes_seconds():
    frame = rows("gemm", {"latency_us": 12.5}, {"m": 5, "latency_us": 7})
    assert by_family("gemm", frame)["gemm", "library", "bf16", "bf16"].seconds.tolist() == pytest.approx(
        [12.5e-6, 7e-6]
    )


def test_large_sizes_do_not_overflow():
    sizes = np.array([2**31 - 1], dtype=np.int32)
    frame = rows("gemm").assign(m=sizes, n=sizes, k=sizes)
    (found,) = TABLES["gemm"].by_family(frame, HERE).values()
    assert found.operation.flop == 2.0 * (2.0**31 - 1) ** 3


@pytest.mark.parametrize("kind", TABLES)
def test_every_row_is_in_exactly_one_whole_family(kind):
    frame = rows(kind, {}, *CHANGES[kind])
    frame = frame[(validate.checked(frame, kind, "t")[list(TABLES[kind].sizes)] > 0).all(axis=1)].reset_index(drop=True)
    found = by_family(kind, frame)
    known = {(key[0], key[1].partition("/")[0], *key[2:]) for key in found}
    assert sum(len(found[key]) for key in known) == len(frame)
    seconds = np.concatenate([found[key].seconds for key in known])
    expected = frame[TABLES[kind].target] * TABLES[kind].unit_s
    assert sorted(seconds) == pytest.approx(sorted(expected))


# --- joining --------------------------------------------------------------------------------------------------------


def test_joined_operations_keep_the_numbers_they_agree_on():
    first = Gemm(m=np.array([1.0, 2.0]), n=8, k=4.0, dtype="bf16")
    second = Gemm(m=3.0, n=8, k=5.0, dtype="bf16")
    found = joined([first, second], [2, 1])
    assert (found.m.tolist(), found.n, found.k.tolist(), found.dtype) == ([1, 2, 3], 8, [4, 4, 5], "bf16")
    assert joined([second], [1]) == second
    calls = [Attention(batch=b, heads=8, kv_heads=8, query=1, keys=9, head_dim=64, dtype="bf16") for b in (1, 2)]
    assert joined(calls, [1, 1]).batch.tolist() == [1, 2]
    assert joined(calls, [1, 1]).window is None


def test_blank_texts_are_nothing():
    values = {"kernel": None, "variant": float("nan"), "kv_dtype": "fp8"}
    assert [said(values, name) for name in ("kernel", "variant", "kv_dtype", "absent")] == ["", "", "fp8", ""]


def test_tables_and_kinds_agree():
    for kind, table in TABLES.items():
        assert validate.KINDS[kind].targets == (table.target,)
        assert set(table.names) | set(table.sizes) <= set(BASE[kind])
        assert set(table.shape) <= set(table.sizes)
