"""The expert layer: its loads and work by hand; the form of its time: bounds, monotony, recovery of parameters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capacity import catalogue
from capacity.errors import UnknownNameError
from capacity.timing import experts as form_of_experts
from capacity.timing.experts import EXPERTS, PRECISION, arriving, family, form, gated, precision
from capacity.timing.fit import Sample, fitted
from capacity.timing.form import Board
from capacity.work.expert_layer import CLASSES, ExpertLayer, PowerLaw, expected_load

ROWS = Path(__file__).resolve().parents[2] / "shared" / "data" / "moe.parquet"
SKEWS = {"balanced": 0.0, "power_law_1.01": 1.01, "power_law_1.2": 1.2}
DEVICES = ("a100-sxm-80gb", "h100-sxm-80gb", "h200-sxm-141gb", "b200-sxm", "b300-sxm", "gb200", "l40s")


def layer(**changes) -> ExpertLayer:
    fields = {"tokens": 256.0, "hidden": 4096, "intermediate": 1536, "experts": 128, "per_token": 8, "dtype": "bf16"}
    return ExpertLayer(**(fields | changes))


def board(name: str = "h100-sxm-80gb") -> Board:
    return Board(catalogue.hardware(name))


def time(operation: ExpertLayer, device: str = "h100-sxm-80gb", **changes) -> np.ndarray:
    return EXPERTS.seconds(operation, board(device), EXPERTS.typical | changes)


# ---- loads


@pytest.mark.parametrize(
    ("tokens", "experts", "per_token", "group", "rows", "hit"),
    [
        (64, 8, 2, 1, 128, 8),  # all 128 pairs, all experts
        (64, 8, 2, 4, 32, 2),  # a quarter of both
        (2, 8, 2, 1, 4, 4),  # four pairs go to four experts
        (1, 128, 8, 128, 1, 1),  # the most loaded device has at least one pair
    ],
)
def test_a_balanced_load_divides_evenly(tokens, experts, per_token, group, rows, hit):
    load = expected_load(tokens, experts, per_token, group, 0.0)
    assert (float(load.rows), float(load.hit)) == (rows, hit)
    np.testing.assert_allclose(load.count.sum(), hit)
    np.testing.assert_allclose((load.count * load.each).sum(), rows)


def test_moments_of_a_power_law_by_hand():
    # density ∝ 1/x on [1, e]: mean e − 1, second moment (e² − 1)/2
    law = PowerLaw(np.array(1.0), np.array(np.e), np.array(1.0))
    mean, second = np.e - 1, (np.e**2 - 1) / 2
    assert law.mean == pytest.approx(mean, rel=1e-5)
    assert law.variation == pytest.approx(np.sqrt(second / mean**2 - 1), rel=1e-4)
    np.testing.assert_allclose(law.quantiles, np.exp((np.arange(CLASSES) + 0.5) / CLASSES), rtol=1e-5)
    # as many low as high values, so to say: the exponent 0 is the uniform density, which is symmetric
    assert PowerLaw(np.array(1.0), np.array(3.0), np.array(0.0)).skewness == pytest.approx(0.0, abs=1e-9)


def drawn(rng, tokens, experts, per_token, group, skew):
    """Rows, experts hit and heaviest expert of the most loaded device in one random draw."""
    law = PowerLaw(np.array(1.0), np.array(0.8 * tokens), np.array(skew))
    end = 1 - skew
    popularity = (1 + rng.random(experts) * (law.most**end - 1)) ** (1 / end)
    counts = np.minimum(np.round(popularity / popularity.sum() * tokens * per_token), tokens).reshape(group, -1)
    heaviest = counts[counts.sum(axis=1).argmax()]
    return heaviest.sum(), (heaviest > 0).sum(), heaviest.max()


@pytest.mark.parametrize("group", [1, 4, 16, 128])
@pytest.mark.parametrize(("tokens", "skew"), [(256, 1.01), (4096, 1.01), (256, 1.2), (4096, 1.2)])
def test_expected_loads_are_those_of_random_draws(tokens, skew, group):
    rng = np.random.default_rng(7)
    rows, hit, most = np.mean([drawn(rng, tokens, 128, 8, group, skew) for _ in range(200)], axis=0)
    load = expected_load(tokens, 128, 8, group, skew)
    assert float(load.rows) == pytest.approx(rows, rel=0.2)
    assert float(load.hit) == pytest.approx(hit, rel=0.1)
    assert float(load.each.max()) == pytest.approx(most, rel=0.65)  # sixteen classes cut the tail


def test_loads_are_bounded_and_skew_adds_to_the_most_loaded():
    tokens = np.array([1.0, 3, 17, 256, 4096, 65536])[:, None, None]
    group, skew = np.array([1.0, 2, 8, 32, 128])[:, None], np.array([0.0, 0.5, 1.0, 1.2])
    load = expected_load(tokens, 128, 8, group, skew)
    assert np.all(load.rows <= np.minimum(tokens * 8, tokens * 128 / group) * (1 + 1e-12))
    assert np.all(load.rows >= tokens * 8 / group - 1e-9)
    assert np.all((load.hit >= 1) & (load.hit <= np.maximum(128 / group, 1) + 1e-9))
    assert np.all(load.each <= np.maximum(tokens[..., None], 1) + 1e-6)
    assert np.all(load.rows[..., 3] >= load.rows[..., 0])
    np.testing.assert_allclose(load.rows[:, 0], np.broadcast_to(tokens[:, 0] * 8, (6, 4)))  # one device has them all


# ---- work


def test_flop_and_bytes_by_hand():
    one = layer(tokens=64, tensor_parallel=2, expert_parallel=4, weight_dtype="int4")
    # 64·8/4 = 128 rows on 32 experts of 3·4096·768 weights; tokens in and out are 64·4096·(2 + 2) byte
    assert float(one.flop) == 2 * 128 * 3 * 4096 * 768 == one.counter_flop
    assert float(one.moved_bytes) == 32 * 3 * 4096 * 768 * 0.5 + 64 * 4096 * 4
    assert float(layer(gated=False).flop) * 3 == float(layer().flop) * 2
    assert float(layer(skew=1.2, expert_parallel=8).flop) > float(layer(expert_parallel=8).flop)


# ---- time


def test_time_of_one_full_tile_by_hand(monkeypatch):
    # one expert of 256 rows, hidden and intermediate 256, ungated: both products are one 256×256 tile, deep 256
    values = EXPERTS.typical | {
        "launch_s": 1e-5, "expert_s": 1e-7, "compute": 0.5, "memory": 0.5, "passes": 2.0, "sharpness": 1.0,
        "intensity": 1.0, "prologue": 44.0, "occupancy": 1.0, "throttle": 0.0,
    }  # fmt: skip
    one = layer(tokens=256, hidden=256, intermediate=256, experts=1, per_token=1, gated=False)
    h100 = board()
    each = h100.rate("bf16") * 0.5 / 132
    compute, read = 2 * 256 * 256 * 300 / each, 256 * 256 * 2 * 132 / (0.5 * h100.bandwidth)  # 1 of 132 SMs reads
    moved = 2.0 * (256 * 256 + 256 * 256 * 2)
    largest = 1e-5 + 1e-7 + 2 * moved / (0.5 * h100.bandwidth) + 2 * (compute + read)
    assert EXPERTS.seconds(one, h100, values) <= largest  # smaller tiles fill more SMs; the largest one is a bound
    monkeypatch.setattr(form_of_experts, "TILE_ROWS", (256,))
    monkeypatch.setattr(form_of_experts, "TILE_COLUMNS", (256,))
    assert EXPERTS.seconds(one, h100, values) == pytest.approx(largest, rel=1e-9)


def test_time_grows_with_every_size():
    tokens = np.unique(np.geomspace(1, 1e6, 200).round())
    assert np.all(np.diff(time(layer(tokens=tokens))) >= 0)
    assert np.all(np.diff(time(layer(tokens=tokens, expert_parallel=8, arriving=True))) >= 0)
    for name, sizes in {"hidden": (1024, 8192), "intermediate": (512, 16384), "per_token": (1, 16)}.items():
        assert np.all(np.diff(time(layer(**{name: np.linspace(*sizes, 16).round()}))) >= 0), name


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("skew", [0.0, 1.2])
def test_time_is_above_the_roofline(device, skew):
    tokens, group = np.meshgrid(np.array([1.0, 16, 256, 4096, 65536, 1e7]), np.array([1.0, 8, 128]))
    one = layer(tokens=tokens, expert_parallel=group, skew=skew)
    best = EXPERTS.typical | {"launch_s": 1e-9, "compute": 1.0, "memory": 1.0, "passes": 1.0, "sharpness": 8.0}
    best |= {"prologue": 1e-9, "occupancy": 1e-9, "expert_s": 1e-12, "throttle": 0.0}
    b = board(device)
    taken = EXPERTS.seconds(one, b, best)
    assert np.all(np.isfinite(taken))
    assert np.all(taken >= np.maximum(one.flop / b.rate("bf16"), one.load.hit * one.weight_bytes / b.bandwidth))
    assert np.all(EXPERTS.seconds(one, b, EXPERTS.typical) > taken)


def test_many_tokens_run_at_the_rate_and_few_at_the_bandwidth():
    h100, values = board(), EXPERTS.typical
    full = layer(tokens=1e7)
    assert values["compute"] * h100.rate("bf16") > full.flop / time(full) > 0.5 * values["compute"] * h100.rate("bf16")
    few = layer(tokens=16, intermediate=14336)  # 128 experts of 352 MB
    reading = few.load.hit * few.weight_bytes / (values["memory"] * h100.bandwidth)
    assert 1.0 < time(few) / reading < 1.1


def test_warp_level_kernels_gain_nothing_from_newer_matrix_units():
    marlin, full = form("marlin"), layer(tokens=1e6, weight_dtype="int4")
    a100, b200 = (marlin.seconds(full, board(name), marlin.typical) for name in ("a100-sxm-80gb", "b200-sxm"))
    assert a100 / b200 == pytest.approx(4e12 * 148 / 312e12, rel=0.1)  # SMs times 4e12 against the A100's own rate
    assert b200 > 2 * time(full, "b200-sxm")
    np.testing.assert_allclose(a100, time(full, "a100-sxm-80gb"))


def test_options_order_as_they_must():
    base = {"tokens": 256.0, "expert_parallel": 8}
    assert time(layer(**base, skew=1.2)) > time(layer(**base))
    assert time(layer(**base, gated=False)) < time(layer(**base))
    assert time(layer(**base, weight_dtype="int4")) < time(layer(**base))
    assert time(layer(**base, arriving=True)) > time(layer(**base))  # other pairs of its tokens are computed as well
    small = {"tokens": 16.0, "expert_parallel": 8, "tensor_parallel": 8}
    assert time(layer(**small, warm=True), "l40s") < time(layer(**small), "l40s")
    assert time(layer(**small, warm=True)) <= time(layer(**small))


def test_arrays_equal_scalars():
    tokens, group = np.array([1.0, 33, 700, 9000]), np.array([1.0, 2, 16, 128])
    flags = np.array([True, False, True, False])
    many = time(layer(tokens=tokens, expert_parallel=group, gated=flags, arriving=~flags, skew=1.01, warm=True))
    single = [
        time(layer(tokens=t, expert_parallel=g, gated=bool(f), arriving=not f, skew=1.01, warm=True))
        for t, g, f in zip(tokens, group, flags, strict=True)
    ]
    np.testing.assert_allclose(many, single, rtol=1e-12)
    assert np.shape(single[0]) == ()


def test_known_parameters_are_recovered():
    rng = np.random.default_rng(3)
    names = ("tokens", "tensor_parallel", "expert_parallel")
    grids = ((1, 8, 64, 512, 4096, 16384), (1, 8), (1, 4, 16))
    fields = dict(zip(names, (axis.ravel().astype(float) for axis in np.meshgrid(*grids)), strict=True))
    true = EXPERTS.typical | {"launch_s": 4e-5, "compute": 0.45, "memory": 0.85, "passes": 3.0}
    samples = []
    for shape in ({"hidden": 4096, "intermediate": 1536}, {"hidden": 7168, "intermediate": 2048, "experts": 256}):
        one, b = layer(**fields, **shape), board()
        exact = EXPERTS.seconds(one, b, true)
        samples.append(Sample(one, b, exact * np.exp(0.02 * rng.standard_normal(exact.shape))))
    fixed = frozenset(p.name for p in EXPERTS.parameters if p.shared) | {"throttle"}
    for found in fitted(EXPERTS, samples, fixed=fixed):
        for name in ("launch_s", "compute", "memory", "passes"):
            assert found[name] == pytest.approx(true[name], rel=0.1), name


# ---- names


@pytest.mark.parametrize(
    ("kernel", "engine", "dtype", "expected"),
    [
        ("sglang_fused_moe_triton", "sglang", "bf16", "triton"),
        ("vllm_unquantizedfusedmoe_triton_tritonexperts", "vllm", "bf16", "triton"),
        ("vllm_fused_moe", "vllm", "fp8", "triton"),
        ("vllm_modeloptfp8moe_flashinfer_trtllm_trtllmfp8expertsmonolithic", "vllm", "fp8", "trtllm_gen"),
        ("vllm_fp8moe_flashinfer_cutlass_flashinferexperts", "vllm", "fp8_block", "cutlass"),
        ("moe_torch_flow_cutlass", "trtllm 1.3.0rc20", "nvfp4", "cutlass"),
        ("moe_torch_flow_nongated", "trtllm", "bf16", "cutlass"),
        ("moe_torch_flow_min_latency", "trtllm", "nvfp4", "min_latency"),
        ("moe_torch_flow", "trtllm", "w4a8_mxfp4_mxfp8", "trtllm_gen"),
        ("sglang_flashinfer_mxfp4_moe", "sglang", "w4a8_mxfp4_mxfp8", "trtllm_gen"),
        ("sglang_flashinfer_cutedsl_moe", "sglang", "nvfp4", "cutedsl"),
        ("vllm_compressedtensorsw4a4mxfp4moe_marlin_marlinexperts_situ_as_silu", "vllm", "w4a16_mxfp4", "marlin"),
        ("deepgemm", "trtllm", "fp8_block", "deepgemm"),
        ("nobody_knows", "sglang 0.6", "bf16", "triton"),
    ],
)
def test_families(kernel, engine, dtype, expected):
    assert family(kernel, engine, dtype) == expected


def test_precisions_and_an_unknown_one():
    assert precision("nvfp4") == ("fp4", "fp4")
    assert precision("w4a8_mxfp4_mxfp8") == ("fp8", "fp4")
    with pytest.raises(UnknownNameError, match="fp8_block"):
        precision("fp8_blok")


def test_what_rows_do_not_say():
    nemotron, mixtral, qwen = (4096, 2688, 512, 22), (4096, 14336, 8, 2), (4096, 1536, 128, 8)
    assert gated("vllm 0.14.0", "vllm_fused_moe", nemotron)
    assert not gated("vllm 0.25.1", "vllm_fused_moe", nemotron)
    assert not gated("trtllm 1.3.0rc20", "moe_torch_flow_nongated", qwen)
    assert gated("sglang", "sglang_fused_moe_triton", qwen)
    assert arriving("sglang 0.5.14", "sglang_fused_moe_triton", mixtral)
    assert not arriving("sglang 0.5.14", "sglang_fused_moe_triton", qwen)
    assert not arriving("vllm 0.14.0", "vllm_fused_moe", mixtral)


# ---- measured rows


def sample_of(rows: pd.DataFrame) -> Sample:
    """Return the operation and seconds of rows of one device, kernel family and dtype."""
    numbers = {
        field: rows[column].to_numpy(dtype=float)
        for field, column in {
            "tokens": "tokens", "hidden": "hidden_size", "intermediate": "intermediate_size", "experts": "experts",
            "per_token": "experts_per_token", "tensor_parallel": "moe_tensor_parallel",
            "expert_parallel": "expert_parallel",
        }.items()
    }  # fmt: skip
    shapes = zip(rows.hidden_size, rows.intermediate_size, rows.experts, rows.experts_per_token, strict=True)
    said = list(zip(rows.engine, rows.kernel, shapes, strict=True))
    compute, weight = precision(rows["dtype"].iloc[0])
    flags = {"gated": np.array([gated(*row) for row in said]), "arriving": np.array([arriving(*row) for row in said])}
    skew = rows.distribution.map(SKEWS).to_numpy(dtype=float)
    operation = ExpertLayer(**numbers, **flags, skew=skew, dtype=compute, weight_dtype=weight, warm=True)
    return Sample(operation, board(rows.hardware.iloc[0]), rows.latency_us.to_numpy(dtype=float) * 1e-6)


@pytest.mark.skipif(not ROWS.exists(), reason="the reference tables of ../shared/data are not here")
@pytest.mark.parametrize(
    ("engine", "kernel", "dtype", "device", "limit"),
    [
        ("sglang 0.5.14", "sglang_fused_moe_triton", "fp8_block", "h100-sxm-80gb", 0.12),
        ("trtllm 1.3.0rc20", "moe_torch_flow_cutlass", "fp8", "b200-sxm", 0.15),
    ],
)
def test_median_error_on_shapes_left_out(engine, kernel, dtype, device, limit):
    wanted = [("engine", "==", engine), ("kernel", "==", kernel), ("dtype", "==", dtype), ("hardware", "==", device)]
    rows = pd.read_parquet(ROWS, filters=wanted)
    shape = rows.groupby(["hidden_size", "intermediate_size", "experts", "experts_per_token"]).ngroup()
    seen, unseen = (rows[part].sample(600, random_state=0) for part in (shape % 3 != 0, shape % 3 == 0))
    (values,) = fitted(EXPERTS, [sample_of(seen)])
    out = sample_of(unseen)
    error = np.abs(EXPERTS.seconds(out.operation, out.board, values) / out.seconds - 1)
    assert np.median(error) < limit
    assert set(rows["dtype"]) <= set(PRECISION)
