"""The form of matrix products: cases by hand, bounds that hold for every shape, and one answer from both loops."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import board, hardware

from capacity import catalogue
from capacity.spec.hardware import DTYPE_BYTES
from capacity.timing import compiled
from capacity.timing.form import Board, MissingFactError
from capacity.timing.gemm import (
    CLOCK_SETTLES_S,
    GEMM,
    GEMM_QUANTIZED,
    PARAMETERS,
    SMALL,
    judging_numbers,
    seconds,
    vectorized,
)
from capacity.work.operations import Gemm

HERE = board()  # 100 cores, 1 TB/s, 1 TFLOP/s a core
BARE = {
    "t0_s": 0.0, "flop_efficiency": 1.0, "bandwidth_efficiency": 1.0, "derating": 0.0, "sharpness": 20.0,
    "half_rate_intensity": 0.0, "prologue_columns": 0.0, "fill": 0.01, "wave_rounding": 1.0, "split_s": 1.0,
    "cache_bytes_per_cycle": 10.0,
}  # fmt: skip
"""Nothing but tiles, waves and bytes: no launch, every tile at the full rate, one block saturates the memory, no splits
(a second each). What is left out of a test is priced out by `FREE_MEMORY` or `FREE_COMPUTE`."""
FREE_MEMORY = BARE | {"bandwidth_efficiency": 1e12}
FREE_COMPUTE = BARE | {"flop_efficiency": 1e12}
CORE = 1e12
TYPICAL = GEMM.typical


def gemm(m=1.0, n=1.0, k=1.0, **more) -> Gemm:
    return Gemm(**({"m": m, "n": n, "k": k, "dtype": "bf16"} | more))


def time(operation: Gemm, values=BARE, where: Board = HERE) -> float:
    return float(seconds(operation, where, values))


# --- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("m", "n", "k", "flop"),
    [
        (16, 128, 1024, 2 * 16 * 128 * 1024),  # one block of the smallest tile, whole
        (1, 1, 1024, 2 * 16 * 128 * 1024),  # a block computes its whole tile, whatever of it is wanted
        (16, 128, 1025, 2 * 16 * 128 * 1056),  # and k in steps of 32
        (17, 128, 1024, 2 * 16 * 128 * 1024),  # the next row is another block's, on another core
    ],
)
def test_a_block_runs_at_the_rate_of_its_core(m, n, k, flop):
    assert time(gemm(m, n, k), FREE_MEMORY) == pytest.approx(flop / CORE)


def test_filling_the_pipeline_costs_columns_of_k():
    values = FREE_MEMORY | {"prologue_columns": 100.0}
    assert time(gemm(16, 128, 1024), values) == pytest.approx(2 * 16 * 128 * 1124 / CORE)


def test_small_tiles_reach_less_of_the_rate():
    # intensities: 16·128/144 = 14.2 of the smallest tile, 85.3 of the largest; half the rate at 40
    share = 14.222 / 54.222 * (85.333 + 40) / 85.333
    values = FREE_MEMORY | {"half_rate_intensity": 40.0}
    assert time(gemm(16, 128, 1024), values) == pytest.approx(2 * 16 * 128 * 1024 / (share * CORE), rel=1e-4)
    large = gemm(256 * 100, 128, 1024)  # one wave of the largest
    assert time(large, values) == pytest.approx(large.flop / 100e12)


@pytest.mark.parametrize(
    ("blocks", "rounding", "waves"),
    [(1, 1.0, 1.0), (99, 1.0, 1.0), (100, 1.0, 1.0), (101, 1.0, 2.0), (101, 0.25, 0.25 * 2 + 0.75 * 1.01)],
)
def test_a_block_more_than_cores_starts_a_second_wave(blocks, rounding, waves):
    # larger tiles have fewer blocks of as much more work each: two waves of small ones or one of twice the size
    found = time(gemm(16 * blocks, 128, 1024), FREE_MEMORY | {"wave_rounding": rounding})
    assert found == pytest.approx(waves * 2 * 16 * 128 * 1024 / CORE)


@pytest.mark.parametrize(
    ("blocks", "k", "factor"),
    [
        (1, 4096, 1 / 16),  # 16 cores share the sum
        (1, 255, 256 / 255),  # a part has 128 columns at least
        (1, 256, 1 / 2),
        (1, 640, 160 / 640),  # four parts of 160
        (50, 4096, 1 / 2),  # 100 cores are two a block
        (60, 4096, 1.0),  # two parts are two waves; four would be three waves, but more than 200 blocks
    ],
)
def test_the_sum_is_split_where_it_may_be(blocks, k, factor):
    found = time(gemm(16 * blocks, 128, k), FREE_MEMORY | {"split_s": 0.0})
    assert found == pytest.approx(factor * 2 * 16 * 128 * k / CORE)


def test_a_split_costs_a_second_pass():
    whole = 2 * 16 * 128 * 4096 / CORE  # 16.8 µs; sixteen parts save 15.7 µs of them
    for split_s, expected in ((1e-6, whole / 16 + 1e-6), (15e-6, whole / 16 + 15e-6), (16e-6, whole)):
        assert time(gemm(16, 128, 4096), FREE_MEMORY | {"split_s": split_s}) == pytest.approx(expected)
    partial = FREE_COMPUTE | {"split_s": 0.0, "fill": 1.0}  # every core draws a hundredth of the bandwidth
    operation = gemm(16, 64, 4096)
    sums = 16 * 16 * 64 * 4 / 1e12  # sixteen partial results in fp32, written and read once at full bandwidth
    assert time(operation, partial) == pytest.approx(operation.moved_bytes / 1e12 * 100 / 16 + sums)


def test_weights_are_read_at_the_bandwidth():
    operation = gemm(1, 4096, 4096)
    assert time(operation, FREE_COMPUTE) == pytest.approx((4096 * 4096 + 4096 + 4096) * 2 / 1e12)
    assert time(operation, FREE_COMPUTE | {"bandwidth_efficiency": 0.8}) == pytest.approx(
        operation.moved_bytes / 0.8e12
    )
    packed = dataclasses.replace(operation, weight_dtype="int4")
    assert time(packed, FREE_COMPUTE) == pytest.approx((4096 * 4096 / 2 + 2 * 4096 + 2 * 4096) / 1e12)


def test_few_blocks_do_not_saturate_the_memory():
    operation = gemm(16, 64, 96)  # one block, too short to be split
    assert time(operation, FREE_COMPUTE | {"fill": 0.5}) == pytest.approx(operation.moved_bytes / 1e12 * 50)


def test_the_corner_is_a_p_norm():
    # 100 blocks of one tile, 2·16·128·k at 1 TFLOP/s against its bytes at the bandwidth that makes both as long
    operation = gemm(1600, 128, 4096)
    even = float(operation.moved_bytes) / (2 * 16 * 128 * 4096)  # byte/s over FLOP/s of a core
    for sharpness in (1.0, 3.0, 20.0):
        values = BARE | {"bandwidth_efficiency": even, "sharpness": sharpness}
        assert time(operation, values) == pytest.approx(2 * 16 * 128 * 4096 / CORE * 2 ** (1 / sharpness))


@pytest.mark.parametrize(
    ("cache", "copies", "share"),
    [
        (1e9, 1.0, 1.0),
        (1e9, 6.0, 1.0),
        (2_006_000 / 0.8, 1.0, 1.0),  # 2·2 kB of activations, 2 kB of results, one set of weights: just fits
        (2_006_000 / 0.8 / 2, 1.0, 0.5),
        (2_006_000 / 0.8, 2.0, 2_006_000 / 4_006_000),  # two sets take turns
        (1e9, float("inf"), 0.0),  # the layers of a model never come back in time
    ],
)
def test_warm_weights_come_from_the_cache(cache, copies, share):
    where = board(last_level_cache=int(cache), memory_bandwidth=1e11)
    operation = gemm(1, 1000, 1000, weight_copies=copies)
    expected = operation.moved_bytes * ((1 - share) / 1e11 + share / 1e12)  # 100 cores · 10 byte/cycle · 1 GHz
    assert time(operation, FREE_COMPUTE, where) == pytest.approx(expected, rel=1e-5)


def test_a_cache_is_never_slower_than_the_memory():
    operation = gemm(1, 1000, 1000)
    values = FREE_COMPUTE | {"cache_bytes_per_cycle": 1.0}
    assert time(dataclasses.replace(operation, weight_copies=1.0), values) == time(operation, values)


def test_facts_of_the_cache_are_needed_for_warm_weights_only():
    bare = board(last_level_cache=None, clock=None)
    assert time(gemm(8, 8, 8), TYPICAL, bare) > 0
    with pytest.raises(MissingFactError, match="made-up has no last_level_cache in its profile"):
        time(gemm(8, 8, 8, weight_copies=6.0), TYPICAL, bare)
    for name in ("cores", "memory_bandwidth"):
        with pytest.raises(MissingFactError, match=f"made-up has no {name} in its profile"):
            time(gemm(8, 8, 8), TYPICAL, board(**{name: None}))
    with pytest.raises(MissingFactError, match="made-up has no dense fp8 rate; its profile knows fp32, fp16, bf16"):
        time(gemm(8, 8, 8, dtype="fp8"), TYPICAL, HERE)


def test_the_clock_falls_in_long_runs_only():
    values = FREE_MEMORY | {"derating": 0.3}
    short, medium, long = (gemm(25_600, 128, k) for k in (1024, 152_587.890625, 2**30))  # 0.067, 10, 70_369 ms
    for operation, share in ((short, 0.0629), (medium, 10 / 11), (long, 1.0)):
        ideal = float(operation.flop) / 100e12
        assert ideal / (ideal + CLOCK_SETTLES_S) == pytest.approx(share, rel=2e-3)
        assert time(operation, values) == pytest.approx(ideal * (1 + 0.3 * share), rel=1e-3)


def test_quantizing_adds_the_traffic_of_the_activations():
    operation = gemm(np.array([1.0, 300.0]), 512.0, 4096.0, batch=3.0)
    values = TYPICAL | {"quantization_bytes": 7.0}
    added = GEMM_QUANTIZED.seconds(operation, HERE, values) - GEMM.seconds(operation, HERE, TYPICAL)
    expected = 7 * 3 * operation.m * 4096 / (TYPICAL["bandwidth_efficiency"] * 1e12)
    np.testing.assert_allclose(added, expected, rtol=1e-9)


def test_a_batch_is_as_many_more_blocks():
    one, many = gemm(256, 128, 1024, batch=30.0), gemm(256 * 30, 128, 1024)
    assert time(one, FREE_MEMORY) == pytest.approx(time(many, FREE_MEMORY))
    extra = 29 * 128 * 1024 * 2 / 1e12  # but every product has weights of its own
    assert time(one, FREE_COMPUTE) == pytest.approx(time(many, FREE_COMPUTE) + extra)


# --- for all --------------------------------------------------------------------------------------------------------

EDGES = [1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 255, 257, 4095, 4096, 65535, 65536]
SIZES = st.one_of(st.sampled_from(EDGES), st.integers(1, 65536)).map(float)
VALUES = st.fixed_dictionaries({p.name: st.floats(p.low, p.high) for p in PARAMETERS})
SHAPES = st.lists(st.tuples(SIZES, SIZES, SIZES, st.integers(1, 64).map(float)), min_size=1, max_size=20)
COPIES = st.sampled_from([1.0, 6.0, float("inf")])
DTYPES = st.sampled_from(["bf16", "fp8", "fp4"])
B200 = Board(catalogue.hardware("b200-sxm"))


@settings(max_examples=80, deadline=None)
@given(SHAPES, VALUES, COPIES, DTYPES)
def test_the_compiled_loop_is_the_vectorized_one(shapes, values, copies, dtype):
    m, n, k, batch = (np.array(column) for column in zip(*shapes, strict=True))
    numbers = judging_numbers(gemm(dtype=dtype, weight_copies=copies), B200, values)
    expected = vectorized(m, n, k, batch, numbers)
    np.testing.assert_allclose(compiled.best_seconds(m, n, k, batch, numbers), expected, rtol=1e-9)


@pytest.mark.parametrize("copies", [6.0, float("inf")])
def test_the_loop_that_is_compiled_is_the_vectorized_one_in_python_too(copies):
    draw = np.random.default_rng(0)
    m, n, k = (np.round(np.exp(draw.uniform(0, 11, 30))) for _ in range(3))
    numbers = judging_numbers(gemm(weight_copies=copies), HERE, TYPICAL)
    with mock.patch.object(compiled, "_candidates", compiled._candidates.py_func):
        found = compiled.best_seconds(m, n, k, np.ones(30), numbers)
    np.testing.assert_allclose(found, vectorized(m, n, k, np.ones(30), numbers), rtol=1e-9)


def test_many_shapes_are_as_many_single_ones():
    draw = np.random.default_rng(0)
    m, n, k = (np.round(np.exp(draw.uniform(0, 11, SMALL + 100))) for _ in range(3))
    many = seconds(gemm(m, n, k, weight_copies=6.0), HERE, TYPICAL)
    few = seconds(gemm(m[:SMALL], n[:SMALL], k[:SMALL], weight_copies=6.0), HERE, TYPICAL)
    some = [time(gemm(m[i], n[i], k[i], weight_copies=6.0), TYPICAL) for i in range(20)]
    np.testing.assert_allclose(many[: SMALL - 1], few[: SMALL - 1], rtol=1e-9)
    np.testing.assert_allclose(many[:20], some, rtol=1e-9)


def test_fields_broadcast():
    m, n = np.array([1, 7, 4096]), np.array([[128.0], [9000.0]])
    whole = seconds(gemm(m, n, 512, batch=2), HERE, TYPICAL)
    assert whole.shape == (2, 3)
    loop = [[time(gemm(float(a), b, 512.0, batch=2.0), TYPICAL) for a in m] for b in n[:, 0]]
    np.testing.assert_allclose(whole, loop, rtol=1e-12)
    assert seconds(gemm(8, 8, 8), HERE, TYPICAL).shape == ()


@settings(deadline=None)
@given(SHAPES, VALUES, DTYPES)
def test_no_product_is_faster_than_its_work_and_its_bytes(shapes, values, dtype):
    m, n, k, batch = (np.array(column) for column in zip(*shapes, strict=True))
    operation = gemm(m, n, k, batch=batch, dtype=dtype)
    found = seconds(operation, B200, values)
    compute_s = operation.flop / (values["flop_efficiency"] * B200.rate(dtype))
    traffic_s = operation.moved_bytes / (values["bandwidth_efficiency"] * B200.bandwidth)
    assert (found >= (values["t0_s"] + np.maximum(compute_s, traffic_s)) * (1 - 1e-9)).all()


@pytest.mark.parametrize("name", ["m", "n", "k", "batch"])
@pytest.mark.parametrize("device", ["h100-sxm-80gb", "t4"])
def test_twice_the_work_takes_longer(name, device):
    # Not for every shape: more blocks draw more bandwidth, and a tile or a split that did not fit before may fit now.
    draw, where = np.random.default_rng(0), Board(catalogue.hardware(device))
    sizes = {size: np.round(np.exp(draw.uniform(0, 10, 4000))) for size in ("m", "n", "k")} | {"batch": np.ones(4000)}
    base = gemm(**sizes, dtype="fp16")
    ratio = seconds(dataclasses.replace(base, **{name: 2 * sizes[name]}), where, TYPICAL) / seconds(
        base, where, TYPICAL
    )
    assert np.exp(np.mean(np.log(ratio))) > 1.15
    assert np.mean(ratio < 0.999) < 0.02
    assert ratio.min() > 0.7


def test_times_far_outside_any_table_stay_sane():
    sizes = np.geomspace(1e4, 1e12, 30)
    times = seconds(gemm(sizes, 8192.0, 8192.0), HERE, TYPICAL)
    assert np.isfinite(times).all()
    assert (np.diff(times) > 0).all()
    ideal = 2 * sizes * 8192 * 8192 / (TYPICAL["flop_efficiency"] * 100e12)
    assert times[-1] / ideal[-1] == pytest.approx(1.15, rel=0.15)  # 1 + derating, and the prologue of a k of 8192


def test_integers_do_not_overflow():
    sizes = np.array([2**20, 2**31 - 1], dtype=np.int32)
    found = seconds(gemm(sizes, sizes, sizes), HERE, TYPICAL)
    assert (found >= 2 * sizes.astype(float) ** 3 / 100e12).all()
    assert time(Gemm(m=2**40, n=2**40, k=2**40, dtype="bf16"), TYPICAL) > 2 * 2.0**120 / 100e12


def test_every_number_of_the_form_is_a_parameter_within_its_bounds():
    assert set(TYPICAL) == set(BARE)
    assert all(p.low < p.start < p.high and p.spread > 0 for p in GEMM_QUANTIZED.parameters)
    assert {p.name for p in PARAMETERS if not p.shared} == {
        "t0_s", "flop_efficiency", "bandwidth_efficiency", "derating",
    }  # fmt: skip
    assert DTYPE_BYTES["bf16"] == 2
    assert hardware().rate("bf16") == 100e12
