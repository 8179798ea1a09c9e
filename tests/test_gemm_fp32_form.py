"""The fp32 form and the steps composed of it: hand cases, properties, recovery, measured rows left out of the fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capacity import catalogue
from capacity.errors import InputError, UnknownNameError
from capacity.phases.fp32_steps import Workload, composed_s, parts_s
from capacity.timing.fit import Sample, fitted
from capacity.timing.form import Board
from capacity.timing.gemm_fp32 import GEMM_FP32, PARAMETERS, sustained
from capacity.work import fp32_models
from capacity.work.operations import Gemm, Streaming

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent: nothing measured to compare with")
A100, H100, L4 = (Board(catalogue.hardware(name)) for name in ("a100-pcie-80gb", "h100-sxm-80gb", "l4"))
STEPS = catalogue.shared().eager_steps
TYPICAL = GEMM_FP32.typical
SIMPLE = {**TYPICAL, "t0_s": 0.0, "ef": 1.0, "q": 1.0, "kpro": 0.0, "lk": 0.0, "watt": 1e-3, "eb": 1.0, "p": 12.0}
"""No overhead, no power limit: only tiles and waves are left."""
size = st.integers(1, 20_000)


def gemm(m: object, n: object, k: object, batch: object = 1) -> Gemm:
    return Gemm(m=m, n=n, k=k, batch=batch, dtype="fp32")


def seconds(operation: Gemm, board: Board = A100, values: dict[str, float] = TYPICAL) -> float:
    return float(GEMM_FP32.seconds(operation, board, values))


def test_a_whole_wave_of_the_largest_tile_runs_at_the_peak():
    # 12×9 tiles of 128×128 fill the 108 SMs once; k is long enough that traffic does not count
    operation = gemm(12 * 128, 9 * 128, 8192)
    assert seconds(operation, values=SIMPLE) == pytest.approx(operation.flop / A100.rate("fp32"), rel=1e-3)


def test_one_tile_more_costs_a_second_wave():
    # with split products and small tiles priced out, the 109th tile waits for the 108 before it
    values = {**SIMPLE, "split_s": 1.0, "ia": 1e6}
    one, two = seconds(gemm(12 * 128, 9 * 128, 8192), values=values), seconds(gemm(109 * 128, 128, 8192), values=values)
    assert two == pytest.approx(2 * one, rel=1e-3)


def test_a_long_thin_product_takes_the_time_of_its_bytes():
    operation = gemm(4096, 4096, 1)
    assert seconds(operation, values=SIMPLE) >= operation.moved_bytes / A100.bandwidth


def test_a_card_with_too_few_watts_loses_clock():
    # the L4 has 2.4 W for each TFLOP/s of its fp32 rate, the H100 10.4
    assert sustained(L4, TYPICAL) < 0.7
    assert sustained(H100, TYPICAL) > 0.95


def test_an_unknown_power_limit_costs_nothing():
    board = Board(A100.hardware.model_copy(update={"power": None}))
    assert sustained(board, TYPICAL) == 1.0


@pytest.mark.parametrize(
    ("board", "tflop_per_s"), [(H100, 51.7), (L4, 12.2), (Board(catalogue.hardware("h100-pcie-80gb")), 37.3)]
)
def test_published_square_products_of_unmeasured_devices(board, tflop_per_s):
    # 4096³ in eager fp32, KernelBench results/timing 2025: 2.66 ms, 11.3 ms, 3.68 ms
    assert 2 * 4096**3 / seconds(gemm(4096, 4096, 4096), board) / 1e12 == pytest.approx(tflop_per_s, rel=0.12)


@given(size, size, size, st.integers(1, 500))
def test_time_is_positive_and_above_the_roofline(m, n, k, batch):
    operation = gemm(m, n, k, batch)
    bound = max(operation.flop / A100.rate("fp32"), operation.moved_bytes / A100.bandwidth)
    assert seconds(operation) >= bound > 0


@given(size, size, size, st.integers(2, 500), st.integers(1, 4000), st.sampled_from("mnk"))
def test_more_work_never_takes_less_time(m, n, k, batch, more, axis):
    shape = {"m": m, "n": n, "k": k, "batch": batch}
    larger = {**shape, axis: shape[axis] + more}
    assert seconds(gemm(**larger)) >= seconds(gemm(**shape)) * (1 - 1e-9)
    assert seconds(gemm(m, n, k, batch + more)) >= seconds(gemm(m, n, k, batch)) * (1 - 1e-9)


def test_arrays_give_what_scalars_give():
    shapes = np.array([(64, 64, 64, 1), (512, 768, 1024, 1), (128, 64, 512, 96), (65536, 50272, 1600, 1)], dtype=float)
    whole = GEMM_FP32.seconds(gemm(*shapes.T), H100, TYPICAL)
    assert whole == pytest.approx([seconds(gemm(*shape), H100) for shape in shapes])


def test_far_outside_the_tables_the_efficiency_stays():
    large = gemm(1e6, 1e6, 1e5)
    assert 0.5 < large.flop / A100.rate("fp32") / seconds(large) < 1.0


def test_the_fit_finds_the_device_again():
    rng = np.random.default_rng(0)
    shapes = gemm(*(2.0 ** rng.uniform(6, 13, 80) for _ in range(3)), 1.0)
    truth = {**TYPICAL, "t0_s": 2e-5, "ef": 0.85, "eb": 0.7}
    measured = GEMM_FP32.seconds(shapes, A100, truth) * np.exp(rng.normal(0, 0.02, 80))
    fixed = frozenset(parameter.name for parameter in PARAMETERS if parameter.shared)
    (found,) = fitted(GEMM_FP32, [Sample(shapes, A100, measured)], fixed=fixed)
    again = GEMM_FP32.seconds(shapes, A100, found)
    assert found["t0_s"] == pytest.approx(2e-5, rel=0.1)
    assert np.median(np.abs(again / measured - 1)) < 0.03


def test_a_step_has_the_products_of_its_model():
    # OPT-1.3B, a token: 2 FLOP for each of 24·50.3e6 block weights and 103e6 head weights; 4·2048·2048 a layer attend
    tokens, block = 2 * 2048, 12 * 2048**2
    by_hand = tokens * (24 * (2 * block + 4 * 2048 * 2048) + 2 * 50272 * 2048)
    step = fp32_models.operations("opt_13", 2048, 2)
    assert sum(op.flop * op.count for op in step if isinstance(op, Gemm)) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("model", [*fp32_models.MODELS, fp32_models.SWITCH])
def test_training_multiplies_the_products_by_three(model):
    forward, both = (fp32_models.operations(model, 512, 2, mode) for mode in ("inf", "train"))
    products = [sum(op.flop * op.count for op in step if isinstance(op, Gemm)) for step in (forward, both)]
    head = (
        6 * 1024 * (30522 + 1024) * 1024 if model == "bert_large" else 0
    )  # the language-model head of BERT's training
    assert products[1] == pytest.approx(3 * products[0] + head, rel=1e-3)


@pytest.mark.parametrize("model", fp32_models.MODELS)
def test_fusion_keeps_the_products_and_saves_traffic(model):
    plain, merged = (fp32_models.operations(model, 512, 2, fusion=fusion) for fusion in (False, True))
    streams = [sum(op.moved_bytes * op.count for op in step if isinstance(op, Streaming)) for step in (plain, merged)]
    products = [sum(op.flop * op.count for op in step if isinstance(op, Gemm)) for step in (plain, merged)]
    assert streams[1] < streams[0]
    assert products[1] == products[0]


@pytest.mark.parametrize(("model", "count"), [("bert_large", 335e6), ("gpt2_large", 774e6), ("gpt3_27", 2.65e9)])
def test_models_have_their_published_size(model, count):
    assert fp32_models.parameters(model) == pytest.approx(count, rel=0.01)


def test_the_slower_of_host_and_device_decides():
    work = fp32_models.operations("bert_large", 16, 1)
    launches = sum(op.count for op in work)
    assert composed_s(work, H100, TYPICAL, STEPS.model_copy(update={"host": 1.0})) == pytest.approx(launches)


def test_bad_requests_are_refused_by_name():
    with pytest.raises(UnknownNameError):
        fp32_models.operations("gpt5", 512, 1)
    with pytest.raises(InputError):
        fp32_models.operations(fp32_models.SWITCH, 512, 1, tensor_parallel=4)
    with pytest.raises(InputError):
        parts_s(Workload(model="bert_large", sequence_length=512, batch=4, option="xx4"), A100, TYPICAL, STEPS)


def test_a_step_is_its_passes_and_its_exchange():
    one = Workload(model="bert_large", sequence_length=128, batch=4, mode="train")
    step, forward, backward = parts_s(one, A100, TYPICAL, STEPS)
    assert step == pytest.approx(forward + backward)
    assert backward > forward > 0
    shared = parts_s(dataclasses.replace(one, batch=16, option="dp4"), H100, TYPICAL, STEPS)
    alone = parts_s(one, H100, TYPICAL, STEPS)
    assert shared[1:] == pytest.approx(alone[1:])  # four devices with four sequences each
    assert shared[0] > alone[0]  # and an exchange of gradients


def measured(hardware: str) -> pd.DataFrame:
    """Rows of one device; NeuSight's B×M×N·N×K names the inner dimension n, so n and k change places."""
    table = pd.read_parquet(DATA / "gemm_fp32.parquet").rename(columns={"n": "k", "k": "n"})
    return table[table.hardware == hardware].fillna({"batch": 1}).astype(dict.fromkeys(("m", "n", "k"), float))


def sample(rows: pd.DataFrame, board: Board) -> Sample:
    shape = (rows[name].to_numpy(dtype=float) for name in ("m", "n", "k", "batch"))
    return Sample(gemm(*shape), board, rows.latency_ms.to_numpy() / 1e3)


@pytest.fixture(scope="module")
def fit_of_a100() -> dict[str, dict[str, float]]:
    """Parameters of both A100 cards from 70 % of the (m, n, k) groups, at most 500 rows each."""
    names = ("a100-pcie-40gb", "a100-pcie-80gb")
    rows = [known[~left_out(known)].sample(500, random_state=0) for known in map(measured, names)]
    boards = [Board(catalogue.hardware(name)) for name in names]
    return dict(zip(names, fitted(GEMM_FP32, [sample(*pair) for pair in zip(rows, boards, strict=True)]), strict=True))


def left_out(rows: pd.DataFrame) -> pd.Series:
    return (rows.m * 7 + rows.n * 11 + rows.k * 13) // 4 % 10 < 3


@needs_data
@pytest.mark.parametrize(("op", "most"), [("linear", 0.06), ("bmm", 0.11)])
def test_unseen_shapes_of_a_measured_card(fit_of_a100, op, most):
    rows = measured("a100-pcie-80gb")
    held = sample(rows[left_out(rows) & (rows.op == op)], A100)
    ratio = GEMM_FP32.seconds(held.operation, A100, fit_of_a100["a100-pcie-80gb"]) / held.seconds
    assert np.mean(np.abs(ratio - 1)) < most


@needs_data
def test_whole_steps_from_products_alone(fit_of_a100):
    steps = pd.read_csv(DATA / "fp32_steps.csv").fillna({"option": ""})
    steps = steps[steps.hardware == "a100-pcie-40gb"]
    board = Board(catalogue.hardware("a100-pcie-40gb"))
    errors = [
        parts_s(
            Workload(
                model=row.model, sequence_length=row.sequence_length, batch=row.batch, mode=row.mode, option=row.option
            ),
            board,
            fit_of_a100["a100-pcie-40gb"],
            STEPS,
        )[0]
        / (row.step_ms / 1e3)
        - 1
        for row in steps.itertuples()
    ]
    assert np.mean(np.abs(errors)) < 0.07
