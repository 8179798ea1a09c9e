"""Charts hold the plan's own numbers and name their units."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from report_plans import plan

from capacity import catalogue, charts, charts_accuracy
from capacity.report import curves, kernels, residuals
from capacity.spec.calibration import BandKnot, Calibration, Distance, KernelFit
from capacity.timing import transfer


def test_cost_bars_add_up_and_the_range_is_exact():
    figure = charts.cost_bars(plan())
    bars = [trace for trace in figure.data if trace.type == "bar"]
    (range_,) = [trace for trace in figure.data if trace.type == "scatter"]
    for place, option in enumerate(plan().options):
        assert sum(bar.y[place] for bar in bars) == pytest.approx(option.cost.usd)
        assert range_.y[place] - range_.error_y.array[place] == pytest.approx(option.cost.p10_usd)
        assert range_.y[place] + range_.error_y.array[place] == pytest.approx(option.cost.p90_usd)


def test_latency_bars_follow_each_other_up_to_the_expected_latency():
    option = plan().options[0]
    bars = charts.latency_bars(option, 2.0).data
    for bar, after in pairwise(bars):
        assert bar.base[0] + bar.x[0] == pytest.approx(after.base[0])
    last = bars[-1].base[0] + bars[-1].x[0]
    assert last / 1000 == pytest.approx(option.latency_quantile_s, rel=0.02)  # one pool: its p99 wait is the wait


def test_memory_bars_hold_every_component():
    option = plan().options[0]
    figure = charts.memory_bars(option)
    shown_gb = sum(sum(trace.x) for trace in figure.data if trace.type == "bar")
    held = [*option.pools, *option.jobs]
    assert shown_gb * 1e9 == pytest.approx(sum(sum(part.memory_bytes.values()) for part in held))


def test_predicted_against_measured_counts_what_it_leaves_out():
    frame = {
        "measured": [1.0, 2.0, 0.0], "predicted": [1.1, np.nan, 3.0], "low": [1, 1, 1], "high": [2, 2, 2],
        "hardware": ["t4", "t4", "l4"],
    }  # fmt: skip
    figure = charts.predicted_measured(frame)
    assert [trace.name for trace in figure.data] == ["t4", "1:1"]
    assert "1 rows, 2 left out" in figure.layout.title.text
    assert "plotly.js v" in charts.page(figure)


def test_axes_name_their_units():
    option = plan().options[0]
    assert "[USD/month]" in charts.cost_bars(plan()).layout.yaxis.title.text
    assert "[ms]" in charts.latency_bars(option).layout.xaxis.title.text
    assert "[GB]" in charts.memory_bars(option).layout.xaxis.title.text


# --- calibrations ---------------------------------------------------------------------------------------------------

H100, H200, T4 = (catalogue.hardware(name) for name in ("h100-sxm-80gb", "h200-sxm-141gb", "t4"))
PRODUCT = ("gemm", "library", "bf16", "bf16")
KNOTS = (BandKnot(seconds=1e-5, log_sigma=0.2), BandKnot(seconds=1e-2, log_sigma=0.05))
SHARED = catalogue.shared().model_copy(
    update={
        "families": (),
        "carried_kernels": {
            "gemm": Distance(sibling=0.1, same_class=0.2, same_vendor=0.3, same_kind=0.4, source="made up")
        },
    }
)


def calibration(hardware, *dtypes: str, **more) -> tuple[Calibration, object]:
    """Return a calibration of products with known bands."""
    fit = {"operation": "gemm", "family": "library", "form": "gemm", "values": {"t0_s": 2e-6}, "log_sigma": 0.1}
    fit |= {"median_error": 0.04, "mean_error": 0.06, "rows": 500, "band": KNOTS, "engines": ("vllm 0.24.0",)}
    fits = tuple(KernelFit(**(fit | {"dtype": dtype} | more)) for dtype in dtypes)
    found = Calibration(
        id=f"{hardware.id}-fused", hardware=hardware.id, engine="fused", source="made up", date="2026-11-22",
        kernels=fits,
    )  # fmt: skip
    return found, hardware


def served(hardware, *pairs):
    """Return the device that these calibrations make, and where its kernel families come from."""
    return transfer.device(hardware, "fused", pairs, SHARED), kernels.origins(hardware, pairs)


def test_origins_are_those_of_the_kernels_in_use():
    pairs = catalogue.calibrations()
    for hardware in (H100, H200, T4):
        known = transfer.device(hardware, "fused", pairs, SHARED).kernels
        found = kernels.origins(hardware, pairs)
        assert set(found) == {key for key in known if kernels.runs(key, hardware)}
        for key, origin in found.items():
            assert (known[key].basis == "calibrated") == (origin.far == kernels.OWN)
            names = ", ".join(profile.name for _, _, profile in origin.sources)
            assert origin.far == kernels.OWN or f"carried over from {names}" in known[key].errors


def test_a_family_measured_here_states_its_errors_and_its_band():
    device, known = served(H100, calibration(H100, "bf16", "fp4"))
    (row,) = kernels.families_table(device, known).rows  # an H100 has no rate for fp4
    assert (row["origin"], row["median_error_fraction"], row["mean_error_fraction"]) == ("measured here", 0.04, 0.06)
    assert (row["rows"], row["engines"]) == (500, "vllm 0.24.0")
    assert row["band_short"] == pytest.approx(np.exp(1.6449 * 0.2))
    assert row["band_long"] == pytest.approx(np.exp(1.6449 * 0.05))


def test_what_is_carried_over_says_from_where_at_what_cost():
    pairs = (calibration(H100, "bf16"), calibration(T4, "fp16"))
    device, known = served(H200, *pairs)
    first, *_ = kernels.families_table(device, known).rows
    assert first["origin"] == f"carried over from {H100.name} (sibling)"
    assert first["band_long"] == pytest.approx(np.exp(1.6449 * np.hypot(0.05, 0.1)))
    rows = kernels.provenance_table(device, known, pairs, SHARED).rows
    assert [row["calibration"] for row in rows] == ["h100-sxm-80gb-fused", "t4-fused", "shared"]
    assert rows[0]["extra_band"] == "× or ÷ 1.18"
    assert "no kernel family was measured here; 2 carried over" in kernels.summary(device, known)


def test_the_band_is_drawn_through_its_knots_and_wider_when_carried():
    device, _ = served(H200, calibration(H100, "bf16"))
    found = curves.band(PRODUCT, device.kernels[PRODUCT])
    assert found.knots == pytest.approx(np.exp(1.6449 * np.array([0.2, 0.05])))
    assert np.interp(found.knots_s, found.predicted_s, found.measured) == pytest.approx(found.knots)
    assert (found.total > found.measured).all()
    figure = charts_accuracy.band(found)
    assert [trace.name for trace in figure.data] == [
        "scatter of a launch", "knots of the calibration", "with carrying over",
    ]  # fmt: skip
    assert "[s]" in figure.layout.xaxis.title.text


SWEPT = (
    PRODUCT, ("gemm", "library", "fp16", "int8"), ("attention.encoder", "fa2.ampere", "fp16", "fp16"),
    ("attention.prefill", "fa2.ampere", "bf16", "bf16"), ("attention.decode", "fa2.ampere", "bf16", "fp8"),
    ("collective.all_reduce", "nccl.all_reduce", "fp32", "fp32"), ("experts", "triton", "bf16", "bf16"),
)  # fmt: skip


@pytest.mark.parametrize("key", SWEPT)
def test_every_kind_of_kernel_has_a_size_to_grow(key):
    found = curves.sweep(key)
    assert (np.diff(found.size) > 0).all()
    assert (np.diff(found.operation.moved_bytes) > 0).all()
    assert found.operation.operation == key[0]


def test_times_grow_between_their_band_and_a_dtype_of_the_same_width_stands_in():
    device, _ = served(T4, calibration(H100, "bf16"))  # a T4 has no bf16: it runs these kernels in fp16
    found = curves.curve(PRODUCT, device.kernels[PRODUCT], T4)
    assert (found.low < found.seconds).all()
    assert (found.seconds < found.high).all()
    assert found.seconds[-1] > 10 * found.seconds[0]
    assert found.bound_s[-1] == pytest.approx(2 * 2**16 * 4096**2 / T4.rate("fp16"))
    assert found.bound_s[0] == pytest.approx((4096**2 + 2 * 4096) * 2 / T4.memory_bandwidth.value)
    figure = charts_accuracy.curve(found)
    assert [trace.name for trace in figure.data] == [
        "high",
        "90 % band",
        "predicted",
        "datasheet rate or bandwidth alone",
    ]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    assert curves.sweep(("streaming.norm", "x", "fp16", "fp16")) is None


def table(count: int, sigma: float = 0.1) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    predicted = np.exp(draw.uniform(0, 8, count))
    columns = {"measured": predicted * draw.lognormal(sigma=sigma, size=count), "predicted": predicted}
    columns |= {"low": predicted * np.exp(-1.6449 * sigma), "high": predicted * np.exp(1.6449 * sigma)}
    return columns | {"hardware": np.array(["t4", "l4"])[np.arange(count) % 2]}


def test_charts_draw_a_part_of_many_rows_and_say_so():
    frame = table(5000)
    frame["predicted"][:10] = np.nan
    found = residuals.points(frame, most=1000)
    assert (len(found.drawn["measured"]), found.usable, found.total) == (1000, 4990, 5000)
    assert found.said.startswith("4,990 of 5,000 rows have a measured and a predicted value; 1,000 of them")
    again = residuals.points(frame, most=1000)
    assert (found.drawn["measured"] == again.drawn["measured"]).all()
    assert residuals.points(frame).said == "4,990 of 5,000 rows have a measured and a predicted value"


def test_residuals_show_their_spread_beside_the_band_that_was_promised():
    found = residuals.points(table(5000))
    lines = found.residuals
    assert lines["middle"] == pytest.approx(0, abs=0.03)
    assert lines["high"] == pytest.approx(lines["promised_high"], abs=0.05)
    assert lines["low"] == pytest.approx(lines["promised_low"], abs=0.05)
    assert (np.diff(lines["predicted"]) > 0).all()
    figure = charts_accuracy.residuals(found, "µs")
    shown = [trace for trace in figure.data if trace.mode == "markers"]
    assert sum(len(trace.y) for trace in shown) == 5000
    assert {trace.type for trace in figure.data} == {"scattergl"}
    assert "[µs]" in figure.layout.xaxis.title.text


def test_few_rows_have_points_and_no_lines():
    figure = charts_accuracy.residuals(residuals.points(table(10)))
    assert {trace.mode for trace in figure.data} == {"markers"}
    assert {trace.type for trace in figure.data} == {"scatter"}
