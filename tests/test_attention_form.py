"""The forms of attention against hand counts, bounds, properties and rows made with known parameters."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity import catalogue
from capacity.timing import attention
from capacity.timing.fit import Sample, fitted
from capacity.timing.form import Board
from capacity.work.operations import Attention

TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "attention.parquet"
BOARD = Board(catalogue.hardware("h100-sxm-80gb"))
FORMS = {"encoder": attention.ENCODER, "prefill": attention.PREFILL, "decode": attention.DECODE}
PLAIN = {"batched": 1e-12, "split": 1e-12, "p": 50.0, "quantized": 1.0, "droop": 1e-12, "passes": 1e-12, "pad": 1e-12}
"""Values under which only what a case counts by hand is left."""
SIZES = {
    "batch": st.integers(1, 512), "kv_heads": st.integers(1, 32), "group": st.integers(1, 16),
    "length": st.integers(1, 20_000), "head_dim": st.sampled_from([64, 72, 80, 128, 256]),
}  # fmt: skip


def call(phase="encoder", batch=8, kv_heads=8, group=1, length=1024, head_dim=64, **more) -> Attention:
    lengths = {"query": 1.0 if phase == "decode" else length, "keys": length}
    shape = {"batch": batch, "heads": kv_heads * group, "kv_heads": kv_heads, "head_dim": head_dim, **lengths}
    fields = {name: np.asarray(size, float) for name, size in shape.items()}
    return Attention(**fields, **({"dtype": "bf16", "phase": phase, "causal": phase == "prefill"} | more))


def seconds(operation: Attention, form=None, **values: float) -> float:
    form = form or FORMS[operation.phase]
    return float(form.seconds(operation, BOARD, form.typical | values))


def test_an_encoder_call_of_two_waves_by_hand():
    # 33 sequences, 4 heads, 256 queries: 33·4·2 = 264 blocks on 132 SMs, two waves. A block multiplies 128 rows with
    # 256 + 100 columns, 4·128·356·(64 + 75) FLOP, at 989e12/132 FLOP/s.
    values = PLAIN | {"t0": 1e-6, "ef": 1.0, "softmax": 75.0, "prologue": 100.0, "eb": 100.0}
    expected = 1e-6 + 2 * 4 * 128 * 356 * 139 / (989e12 / 132)
    assert seconds(call(batch=33, kv_heads=4, length=256), **values) == pytest.approx(expected, rel=1e-6)
    assert seconds(call(batch=34, kv_heads=4, length=256), **values) == pytest.approx(expected * 1.5 - 0.5e-6, rel=1e-6)


def test_a_decode_step_that_reads_memory_by_hand():
    # 64 sequences of 16,384 keys, 8 heads of 128, bf16: 64·8·16384·128·2·2 = 4.3 GB of keys and values, far beyond L2.
    values = PLAIN | {"t0": 5e-6, "eb": 0.8, "ef": 1.0, "latency": 1e-9, "key_s": 1e-12}
    operation = call("decode", 64, 8, 1, 16_384, 128)
    assert seconds(operation, **values) == pytest.approx(5e-6 + operation.moved_bytes / (0.8 * 3350e9), rel=1e-4)


def test_what_fits_the_cache_comes_from_it_unless_the_model_is_cold():
    operation = call("decode", 8, 8, 1, 512, 128)  # 17 MB of 50 MB
    values = PLAIN | {"t0": 1e-9, "latency": 1e-9, "key_s": 1e-12, "cache_gain": 4.0, "ef": 1.0}
    assert seconds(operation, **values, **attention.COLD) == pytest.approx(4 * seconds(operation, **values), rel=0.05)


def test_narrow_caches_and_windows_read_less():
    wide, narrow = (call("decode", 256, 8, 4, 8192, 128, kv_dtype=kind) for kind in ("bf16", "fp8"))
    assert 0.45 < seconds(narrow) / seconds(wide) < 0.7
    window = dataclasses.replace(wide, window=np.asarray(1024.0))
    assert seconds(window) < seconds(wide) / 5
    long = call("prefill", 2, 8, 4, 8192, 128)
    assert seconds(dataclasses.replace(long, window=np.asarray(1024.0))) < seconds(long) / 2


def test_packing_is_a_fact_of_the_kernel():
    short = call("prefill", 64, 4, 8, 16, 128)  # 8 heads of 16 queries fill one tile of 128 rows when packed
    packed, spread = (attention.form("prefill", f"vllm/{name}.ampere/bf16/bf16") for name in ("flashinfer", "trtllm"))
    values = {"eb": 100.0, "passes": 1e-12}
    assert seconds(short, spread, **values) > 2 * seconds(short, packed, **values)
    step = call("decode", 64, 1, 64, 2048, 128)  # 64 heads share one key-value head: too many for XQA
    few, many = (attention.form("decode", name) for name in ("trtllm.hopper", "trtllm-gen.blackwell"))
    assert seconds(step, few) > 2 * seconds(step, many)


def test_a_key_leads_to_its_kernel_with_architecture_and_dtype():
    # 65 rows: two tiles of 64 on Ada, one of 128 on Hopper; fp8 on Ada takes five tiles of 16 rows for wide heads
    many = call("encoder", 512, 8, 1, 65, 128, dtype="fp8")
    values = {"eb": 100.0, "passes": 1e-12, "t0": 1e-9, "quantized": 1e-9, "droop": 1e-12, "p": 50.0}
    names = ("trtllm/trtllm.hopper/fp8/fp8", "trtllm/trtllm.ada/bf16/fp8", "trtllm/trtllm.ada/fp8/fp8")
    hopper, ada, ada_fp8 = (seconds(many, attention.form("encoder", name), **values) for name in names)
    assert ada == pytest.approx(hopper, rel=1e-5)  # 2·64 rows = 128 rows
    assert ada_fp8 == pytest.approx(hopper * 5 * 16 / 128, rel=1e-5)
    # flash-attention 2 does not split unshared keys: 16,384 of them at 4 ns each, one after the other
    step, values = (
        call("decode", 1, 8, 1, 16_384, 128),
        PLAIN | {"t0": 1e-9, "latency": 1e-9, "eb": 100.0, "key_s": 4e-9},
    )
    whole, split = (
        attention.form("decode", name) for name in ("vllm/fa2.ampere/bf16/bf16", "vllm/fa3.hopper/bf16/bf16")
    )
    assert seconds(step, whole, **values) == pytest.approx(65.54e-6, rel=1e-3)
    assert seconds(step, split, **values) < 65.54e-6 / 8


@pytest.mark.parametrize(
    ("kernel", "engine", "phase", "architecture", "expected"),
    [
        ("vllm_flash_attn", "vllm", "decode", "ampere", "fa2.ampere"),
        ("vllm_vit_flash_attn_fa4", "vllm", "encoder", "blackwell", "fa4.blackwell"),
        ("flash_attention_v3", "sglang", "encoder", "hopper", "fa3.hopper"),
        ("flash_attention", "sglang", "prefill", "ampere", "flashinfer.ampere"),
        ("trtllm_mha", "sglang", "decode", "blackwell", "trtllm-gen.blackwell"),
        ("torch_flow", "trtllm", "decode", "ada", "trtllm.ada"),
        ("vllm_flashinfer_trtllmdecode", "vllm", "prefill", "blackwell", "step.blackwell"),
        ("vllm_flashinfer_fidecode", "vllm", "decode", "ada", "flashinfer.ada"),
        ("triton", "sglang", "encoder", "ada", "triton.ada"),
        ("vllm_flash_attn", "vllm", "decode", "battlemage", "sycl.battlemage"),
        ("somebody's next kernel", "vllm", "prefill", "hopper", "fa3.hopper"),
        ("", "", "encoder", "cdna3", "fa2.cdna3"),
    ],
)
def test_kernel_families(kernel, engine, phase, architecture, expected):
    assert attention.kernel_family(kernel, engine, phase, architecture) == expected
    whole = attention.family(kernel, engine, phase, architecture, ("bf16", "fp8"))
    assert whole == f"{engine}/{expected}/bf16/fp8"
    assert seconds(call(phase), attention.form(phase, whole)) > 0


def test_workstation_blackwell_runs_the_kernels_of_ada():
    assert attention.generation(catalogue.hardware("rtx-pro-6000-server")) == "ada"
    assert attention.generation(catalogue.hardware("b200-sxm")) == "blackwell"


@settings(max_examples=60, deadline=None)
@given(phase=st.sampled_from(list(FORMS)), **SIZES)
def test_no_call_beats_the_datasheet(phase, **shape):
    operation = call(phase, **shape)
    cache = 12 if phase == "decode" else attention.ENCODER.typical["cache_gain"]
    taken = seconds(operation)
    assert np.isfinite(taken)
    assert taken > float(operation.flop) / BOARD.rate("bf16")
    assert taken > float(operation.moved_bytes) / (BOARD.bandwidth * cache)


@settings(max_examples=60, deadline=None)
@given(phase=st.sampled_from(list(FORMS)), **SIZES)
def test_more_sequences_or_longer_ones_take_no_less(phase, **shape):
    # A split step may become cheaper with the batch by what joining the parts costs, as it does on real devices.
    slack = attention.DECODE.typical["split"] if phase == "decode" else 0.0
    first = seconds(call(phase, **shape))
    assert seconds(call(phase, **shape | {"batch": 2 * shape["batch"]})) >= (first - slack) * (1 - 1e-9)
    assert seconds(call(phase, **shape | {"length": 2 * shape["length"]})) >= first * (1 - 1e-9)


@pytest.mark.parametrize("phase", FORMS)
def test_arrays_are_their_entries(phase):
    draw = np.random.default_rng(1)
    sizes = {"batch": draw.integers(1, 99, 20), "length": draw.integers(1, 9999, 20), "group": draw.integers(1, 9, 20)}
    together = FORMS[phase].seconds(call(phase, **sizes), BOARD, FORMS[phase].typical)
    alone = [seconds(call(phase, **{name: size[row] for name, size in sizes.items()})) for row in range(20)]
    assert together == pytest.approx(alone)


@pytest.mark.parametrize("phase", ["encoder", "prefill"])  # nobody trains on decode steps
def test_a_backward_pass_takes_longer(phase):
    assert seconds(call(phase, length=4096, backward=True)) > 2 * seconds(call(phase, length=4096)) - 2e-5


@pytest.mark.parametrize("phase", FORMS)
def test_known_parameters_are_found_again(phase):
    draw, form = np.random.default_rng(2), FORMS[phase]
    shortest = 256 if phase == "decode" else 32
    sizes = {
        "batch": 2.0 ** draw.integers(0, 9, 400), "length": shortest * 2.0 ** draw.integers(0, 7, 400),
        "group": 2.0 ** draw.integers(0, 4, 400), "head_dim": draw.choice([64.0, 128.0], 400),
    }  # fmt: skip
    operation = call(phase, **sizes)
    true = form.typical | {"t0": 6e-6, "ef": 0.5, "eb": 0.9}
    rows = form.seconds(operation, BOARD, true) * draw.lognormal(sigma=0.02, size=400)
    (found,) = fitted(form, [Sample(operation, BOARD, rows)])
    again = form.seconds(operation, BOARD, found)
    assert np.median(np.abs(np.log(again / rows))) < 0.02
    assert found["t0"] == pytest.approx(6e-6, rel=0.15)
    assert found["eb" if phase == "decode" else "ef"] == pytest.approx(0.9 if phase == "decode" else 0.5, rel=0.3)


@pytest.mark.skipif(not TABLE.exists(), reason="needs the measurements of ../shared/data")
@pytest.mark.parametrize(
    ("phase", "kernel", "most"),
    [("encoder", "vllm_vit_flash_attn_fa3", 0.11), ("prefill", "fa3", 0.1), ("decode", "fa3", 0.09)],
)
def test_left_out_shapes_of_measured_kernels(phase, kernel, most):
    pandas = pytest.importorskip("pandas")
    table = pandas.read_parquet(TABLE)
    table = table[(table.phase == phase) & (table.kernel == kernel) & (table["dtype"] == "bf16")]
    table = table[table.kv_dtype == "bf16"]
    groups = table.groupby(["heads", "kv_heads", "head_dim", "batch"]).ngroup().to_numpy()
    held = np.isin(groups, np.random.default_rng(0).permutation(groups.max() + 1)[::5])
    form = attention.form(phase, attention.kernel_family(kernel, "", phase, "hopper"))
    samples = []
    for rows in (table[~held].sample(1000, random_state=0), table[held]):
        shape = {name: rows[name].to_numpy(float) for name in ("batch", "heads", "kv_heads", "head_dim")}
        lengths = {"query": rows.query_length.to_numpy(float), "keys": rows.kv_length.to_numpy(float)}
        operation = Attention(**shape, **lengths, dtype="bf16", phase=phase, causal=phase == "prefill")
        samples.append(Sample(operation, BOARD, rows.latency_us.to_numpy(float) * 1e-6))
    (values,) = fitted(form, samples[:1])
    error = form.seconds(samples[1].operation, BOARD, values) / samples[1].seconds - 1
    assert np.abs(error).mean() < most
