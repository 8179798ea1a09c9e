"""The fit: roofs that are known come back from noisy rows, and its errors are those that were put in."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from capacity import calibration, catalogue, documents
from capacity.errors import CapacityError, InputError
from capacity.spec.calibration import Calibration, Composition, Efficiency, Machine, Power
from capacity.spec.hardware import Hardware
from capacity.timing import tables, transfer
from capacity.timing.calibrate import Fit, Rows, composition, efficiency, fitted, grouped
from capacity.timing.form import Board, MissingFactError
from capacity.timing.gemm import GEMM
from capacity.timing.roofline import Roof, seconds
from capacity.work.measurement import Measurement
from capacity.work.operations import Attention, Gemm, Operation, Streaming

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TODAY = date(2026, 11, 22)
NOISE = 0.05
TRUTH = Roof(t0_s=5e-6, flop_per_s=80e12, bytes_per_s=1.2e12, sharpness=3.0)
SEEDS = range(3)


def products(seed: int, count: int = 120, dtype: str = "fp16") -> Gemm:
    """Return products from one row to 8192, in which launches, traffic and compute each bound some."""
    draw = np.random.default_rng(seed)
    m = np.round(2 ** draw.uniform(0, 13, count))
    n, k = (np.round(2 ** draw.uniform(8, 13, count)) for _ in range(2))
    return Gemm(m=m, n=n, k=k, dtype=dtype)


def noisy(operation: Operation, roof: Roof, seed: int, outliers: float = 0.0) -> Rows:
    """Return rows that follow `roof` with `NOISE`, the given share of them disturbed to five times their time."""
    draw = np.random.default_rng(1000 + seed)
    times = seconds(operation, roof) * draw.lognormal(sigma=NOISE, size=np.shape(operation.flop))
    times[draw.choice(len(times), round(outliers * len(times)), replace=False)] *= 5
    return Rows([operation], [times])


def shares(fit: Fit, truth: Roof) -> dict[str, float]:
    """Return each parameter as a multiple of the true one."""
    names = ("t0_s", "flop_per_s", "bytes_per_s", "sharpness")
    return {name: getattr(fit.roof, name) / getattr(truth, name) for name in names}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("outliers", [0.0, 0.1])
def test_a_known_roof_comes_back_from_noisy_rows(seed, outliers):
    found = shares(fitted(noisy(products(seed), TRUTH, seed, outliers)), TRUTH)
    assert found["t0_s"] == pytest.approx(1, abs=0.15)
    assert found["flop_per_s"] == pytest.approx(1, abs=0.05)
    assert found["bytes_per_s"] == pytest.approx(1, abs=0.08)
    assert found["sharpness"] == pytest.approx(1, abs=0.3)  # only the few rows at the corner tell it


@pytest.mark.parametrize("seed", SEEDS)
def test_the_held_out_error_is_the_noise_that_was_put_in(seed):
    fit = fitted(noisy(products(seed), TRUTH, seed))
    assert fit.rows == 120
    assert 0.7 * NOISE < fit.log_sigma < 1.4 * NOISE
    assert 0.7 < fit.median_error / (0.6745 * NOISE) < 1.4  # the median of |normal| is 0.6745 standard deviations


def test_outliers_widen_the_band_and_leave_the_median_error():
    clean, disturbed = (fitted(noisy(products(1), TRUTH, 1, share)) for share in (0.0, 0.1))
    assert disturbed.log_sigma > 2 * clean.log_sigma
    assert disturbed.median_error < 1.5 * clean.median_error


def test_softmax_columns_of_attention_come_back():
    truth, draw = Roof(t0_s=8e-6, flop_per_s=60e12, bytes_per_s=1e12, softmax_columns=75), np.random.default_rng(0)
    length = np.round(2 ** draw.uniform(5, 12, 150))
    calls = Attention(
        batch=np.round(2 ** draw.uniform(0, 5, 150)), heads=12, kv_heads=12, query=length, keys=length,
        head_dim=draw.choice([32.0, 64.0, 128.0], 150), dtype="fp16",
    )  # fmt: skip
    fit = fitted(noisy(calls, truth, 0), attention=True)
    assert fit.roof.softmax_columns == pytest.approx(75, rel=0.15)
    assert fit.roof.flop_per_s == pytest.approx(60e12, rel=0.08)
    assert fitted(noisy(calls, truth, 0)).roof.softmax_columns < 1e-6  # without attention there are none


@pytest.mark.parametrize("name", ["m", "n", "k"])
def test_fitted_times_grow_with_every_size(name):
    roof = fitted(noisy(products(2), TRUTH, 2, outliers=0.1)).roof
    sizes = {"m": 64.0, "n": 768.0, "k": 768.0} | {name: 2.0 ** np.arange(0, 16, 0.25)}
    times = seconds(Gemm(**sizes, dtype="fp16"), roof)
    assert np.all(np.diff(times) >= 0)
    assert times[0] > roof.t0_s


def test_rows_of_one_size_cannot_tell_what_bounds_them_but_are_predicted():
    one_size = Gemm(m=np.full(9, 64.0), n=768.0, k=768.0, dtype="fp16")
    fit = fitted(noisy(one_size, TRUTH, 0))
    assert seconds(Gemm(m=64, n=768, k=768, dtype="fp16"), fit.roof) == pytest.approx(
        seconds(one_size, TRUTH)[0], rel=0.1
    )


def test_the_fit_is_deterministic():
    rows = noisy(products(0), TRUTH, 0, outliers=0.1)
    assert fitted(rows) == fitted(rows)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_rows_are_refused(count):
    with pytest.raises(ValueError, match=f"{count} rows are too few to fit; at least 3"):
        fitted(noisy(products(0, count), TRUTH, 0))
    assert fitted(noisy(products(0, 3), TRUTH, 0)).rows == 3


# --- efficiencies and whole models ----------------------------------------------------------------------------------


def profile(**more) -> Hardware:
    source = {"value": 1.0, "source": "made_up"}
    facts = {"dense_rates": {"fp16": source | {"value": 100e12}}, "memory_bandwidth": source | {"value": 1.5e12}}
    base = {"id": "made-up", "name": "Made up", "vendor": "ACME", "kind": "gpu"} | facts
    return Hardware.model_validate(
        base | {"sources": {"made_up": {"citation": "made up", "date": "2026-11-22"}}} | more
    )


def test_efficiencies_are_shares_of_the_datasheet():
    fit = efficiency(("gemm", "fp16"), noisy(products(0), TRUTH, 0), profile())
    assert (fit.operation, fit.dtype, fit.rows, fit.basis) == ("gemm", "fp16", 120, "calibrated")
    assert fit.flop_efficiency == pytest.approx(0.8, rel=0.05)  # 80 of 100 TFLOP/s
    assert fit.bandwidth_efficiency == pytest.approx(0.8, rel=0.08)  # 1.2 of 1.5 TB/s
    assert float(f"{fit.t0:.3g}") == fit.t0  # three digits: what a person reads


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dense_rates": {}}, "made-up has no dense fp16 rate; its profile knows none"),
        ({"memory_bandwidth": None}, "made-up has no memory_bandwidth in its profile"),
    ],
)
def test_a_missing_fact_is_named(changed, message):
    with pytest.raises(MissingFactError, match=message):
        efficiency(("gemm", "fp16"), noisy(products(0), TRUTH, 0), profile(**changed))


def rounded(value: float) -> Measurement:
    return Measurement("x", (Gemm(m=8, n=8, k=value, dtype="fp16"),), 1e-6)


def test_measurements_are_grouped_by_class_and_dtype_without_whole_models():
    norm = Streaming(kind="norm", elements=100, dtype="fp32")
    single = [rounded(8), Measurement("n", (norm,), 2e-6), rounded(16)]
    model = Measurement("model", (norm, norm), 1e-3, "inference")
    found = grouped([*single, model])
    assert {key: list(rows.measured) for key, rows in found.items()} == {
        ("gemm", "fp16"): [1e-6, 1e-6],
        ("streaming.norm", "fp32"): [2e-6],
    }


def device_and_sums(kind: str = "gpu"):
    made_up = profile(kind=kind)
    fit = Efficiency(
        operation="gemm", dtype="fp16", t0=5e-6, flop_efficiency=0.8, bandwidth_efficiency=0.8, log_sigma=0.05,
        median_error=0.03, rows=120,
    )  # fmt: skip
    draft = Calibration(
        id="made-up", hardware="made-up", engine="eager", source="", date="2026-11-22", efficiencies=(fit,)
    )
    return transfer.device(made_up, "eager", [(draft, made_up)], catalogue.shared())


def models(launch_s: float, slowdown: float, count: int, noise: float = 0.0) -> list[Measurement]:
    """Return whole models of few large or many small products that cost a launch and a slowdown each."""
    device, draw, found = device_and_sums(), np.random.default_rng(5), []
    for number in range(count):
        size, times = (4096, 10) if number % 2 else (256, 40 * (number + 1))
        work = (Gemm(m=size, n=size, k=size, dtype="fp16", count=times),)
        exact = launch_s * times + slowdown * float(device.time(work[0]).value)
        found.append(Measurement(f"model {number}", work, exact * draw.lognormal(sigma=noise), "inference"))
    return found


def test_launch_cost_and_slowdown_of_whole_models_come_back():
    found = composition("inference", device_and_sums(), models(20e-6, 1.2, 8, noise=0.02))
    assert found.launch == pytest.approx(20e-6, rel=0.15)
    assert found.slowdown == pytest.approx(1.2, rel=0.1)
    assert (found.rows, found.basis) == (8, "calibrated")
    assert 0.03 <= found.log_sigma < 0.06  # 3 % is the floor; 2 % noise was put in
    assert found.median_error < 0.04


@pytest.mark.parametrize(("count", "assumed"), [(1, True), (2, True), (3, False)])
def test_with_fewer_than_three_models_the_scatter_is_assumed(count, assumed):
    device = device_and_sums()
    found = composition("inference", device, models(20e-6, 1.0, count))
    assert (found.log_sigma == device.compositions["inference"].log_sigma) is assumed
    assert composition("inference", device, []) is None


# --- documents ------------------------------------------------------------------------------------------------------


def whole_calibration() -> Calibration:
    fits = [efficiency(("gemm", "fp16"), noisy(products(seed), TRUTH, seed), profile()) for seed in (0, 1)]
    step = Composition(mode="inference", launch=1e-5, slowdown=1, log_sigma=0.05, median_error=0.03, rows=4)
    return Calibration(
        id="made-up", hardware="made-up", engine="eager", source="a test: “quoted”, with # and [brackets]",
        date="2026-11-22", machine=Machine(name="x: y", system="Linux", software={"torch": "2.13.0+cpu"}, threads=2),
        profile=profile(), power=Power(busy=212.5, idle=30, window=5, method="NVML"),
        composition=(step,),
        efficiencies=(fits[0], fits[1].model_copy(update={"operation": "recurrent", "note": "it's: odd"})),
        unstable=("gemm 1x768x768 fp32", "topk 1x100000 k=5"),
    )  # fmt: skip


def read_back(text: str, path: Path) -> Calibration:
    path.write_text(text, encoding="utf-8")
    return documents.validated(documents.read(path), Calibration)


def test_a_calibration_written_and_read_is_equal(tmp_path):
    whole = whole_calibration()
    bare = Calibration.model_validate(
        {name: getattr(whole, name) for name in ("id", "hardware", "engine", "source", "date", "efficiencies")}
    )
    for item in (whole, bare):
        text = calibration.to_yaml(item)
        assert read_back(text, tmp_path / "made-up.yaml") == item
        assert "method_version: 2\n" in text  # a file says how it was fitted, not what the reader's default is
        lines = [line for line in text.splitlines() if line.startswith("  - {operation")]
        assert len(lines) == 2


def test_the_shipped_calibrations_are_written_as_they_are_read(tmp_path):
    for item, _ in catalogue.calibrations():
        again = read_back(calibration.to_yaml(item), tmp_path / f"{item.id}.yaml")
        assert again.model_dump() == item.model_dump()  # all but the learned residuals, which lie in a file beside it


def test_too_few_measurements_make_no_calibration():
    machine = Machine(name="x", system="Linux")
    with pytest.raises(CapacityError, match="too little was measured"):
        calibration.from_measurements(
            [rounded(8), rounded(16)], profile(), machine, calibration.Known((), catalogue.shared()), TODAY
        )


# --- tables ---------------------------------------------------------------------------------------------------------

A100 = catalogue.hardware("a100-sxm-80gb")
KNOWN = calibration.Known((), catalogue.shared())
FAMILY = next(family for family in KNOWN.shared.families if family.key == ("gemm", "library", "bf16", "bf16"))
OWN = {"t0_s": 5e-6, "flop_efficiency": 0.8, "bandwidth_efficiency": 0.75, "derating": 0.02}


def table(
    count: int = 80, dtype: str = "bf16", copies: float = tables.ROTATING_COPIES, hardware: Hardware = A100
) -> pd.DataFrame:
    """Return products at 80 % of the device's rate and 75 % of its bandwidth."""
    draw = np.random.default_rng(0)
    m = np.round(2 ** draw.uniform(0, 13, count))
    n, k = (np.round(2 ** draw.uniform(9, 14, count)) for _ in range(2))
    product = Gemm(m=m, n=n, k=k, dtype="bf16", weight_copies=copies)
    times = GEMM.seconds(product, Board(hardware), FAMILY.values | OWN) * draw.lognormal(sigma=NOISE, size=count)
    names = {"hardware": hardware.id, "engine": "vllm 0.14.0", "dtype": dtype}
    return pd.DataFrame(names | {"m": m, "n": n, "k": k, "latency_us": times * 1e6})


def from_table(frame: pd.DataFrame, known: calibration.Known = KNOWN, hardware: Hardware = A100) -> Calibration:
    return calibration.from_table([("t.csv", "gemm", frame)], hardware, "fused", TODAY, known)


def test_a_table_is_fitted_to_the_rows_of_its_device():
    mine = table()
    other = mine.assign(hardware="l40s", latency_us=mine["latency_us"] * 9)
    found = from_table(pd.concat([mine, other]))
    (fit,) = found.kernels
    assert (found.id, found.engine, found.efficiencies) == ("a100-sxm-80gb-fused", "fused", ())
    assert (fit.key, fit.form, fit.rows, fit.learned) == (FAMILY.key, "gemm", 80, None)
    assert fit.values.keys() == OWN.keys()  # the constants are the family's
    assert fit.values["flop_efficiency"] == pytest.approx(0.8, rel=0.03)
    assert fit.values["bandwidth_efficiency"] == pytest.approx(0.75, rel=0.03)
    assert fit.values["t0_s"] == pytest.approx(5e-6, rel=0.15)
    assert 0.7 < fit.median_error / (0.6745 * NOISE) < 1.4
    assert found.source == "80 rows of kind gemm (vllm 0.14.0)"


def test_weights_that_stay_in_the_cache_are_rows_like_others():
    l40s = catalogue.hardware("l40s")  # 96 MB of cache, faster than its memory
    warm, cold = (table(300, copies=copies, hardware=l40s) for copies in (tables.ROTATING_COPIES, float("inf")))
    assert (warm["latency_us"] < 0.8 * cold["latency_us"]).any()  # small weights, read again from the cache
    assert len(tables.TABLES["gemm"].by_family(warm, Board(l40s))[FAMILY.key]) == 300
    errors = [from_table(frame, hardware=l40s).kernels[0].mean_error for frame in (warm, cold)]
    assert errors[0] < 1.3 * 0.8 * NOISE < errors[1]  # the rows are warm; taken for cold ones they would not fit


def test_few_rows_are_enough_where_relatives_are_known():
    relatives = calibration.Known(catalogue.calibrations(), catalogue.shared())
    few, many = from_table(table(2), relatives).kernels[0], from_table(table(), relatives).kernels[0]
    assert (few.rows, many.rows) == (2, 80)
    assert few.log_sigma > 2 * many.log_sigma  # no surer than on a device that nobody measured
    assert 0.5 < few.values["flop_efficiency"] < 1.1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (table().assign(hardware="l40s"), "t.csv: no rows of hardware a100-sxm-80gb; it has l40s"),
        (table().iloc[:0], "t.csv: no rows of hardware a100-sxm-80gb; it has no usable row at all"),
        (table().assign(dtype="fp99"), "unknown dtype 'fp99'; did you mean fp8"),
        (table().assign(engine="nobody 3"), "unknown engine 'nobody 3'; known: "),
    ],
)
def test_a_table_that_cannot_be_fitted_says_why(frame, message):
    with pytest.raises(InputError, match=message):
        from_table(frame)


@pytest.mark.parametrize(
    ("dtype", "key"),
    [
        ("int4_weightonly", ("gemm", "cutlass", "bf16", "int4")),  # unpacked on the way
        ("fp8", ("gemm", "cutlass", "bf16", "fp8")),  # an A100 has no units for it: multiplied in bf16
    ],
)
def test_dtypes_without_units_of_their_own_are_fitted(dtype, key):
    (fit,) = from_table(table(dtype=dtype)).kernels
    assert (fit.key, fit.rows) == (key, 80)


@pytest.mark.skipif(not (DATA / "gemm.parquet").is_file(), reason="needs shared/data/gemm.parquet, absent here")
def test_the_shipped_a100_fit_comes_back_from_the_published_rows():
    columns = ["hardware", "engine", "dtype", "m", "n", "k", "latency_us"]
    frame = pd.read_parquet(DATA / "gemm.parquet", columns=columns, filters=[("hardware", "==", A100.id)])
    found = from_table(frame[frame["dtype"] == "bf16"].sample(2000, random_state=0))
    fit = next(item for item in found.kernels if item.key == FAMILY.key)
    assert fit.median_error <= 0.08  # 4.4 % with all rows
    shipped = next(item for item, _ in catalogue.calibrations(["a100-sxm-80gb-fused"]) if item.hardware == A100.id)
    known = next(item for item in shipped.kernels if item.key == FAMILY.key)
    for name in ("flop_efficiency", "bandwidth_efficiency", "t0_s"):
        assert fit.values[name] == pytest.approx(known.values[name], rel=0.1)
