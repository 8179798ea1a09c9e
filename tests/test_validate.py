"""`capacity validate`, row by row: what is predicted, what is refused and why, and what a prediction may see."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from measured_rows import BASE, PACKING, PADDING, predicted, rows, varied

from capacity import validate
from capacity.timing.band import BASES
from capacity.work.operations import Gemm

COLUMNS = ["row", "target", "measured", "predicted", "low", "high", "error", "basis", "reason"]

# --- the long format ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BASE)
def test_one_row_for_each_input_row_and_target_in_input_order(kind):
    frame = varied(kind)
    found = predicted(frame, kind)
    targets = validate.KINDS[kind].targets
    assert list(found.columns) == COLUMNS + list(frame.columns)
    assert list(found["row"]) == sorted(list(range(len(frame))) * len(targets))
    assert set(found["target"]) == set(targets)
    assert list(found["hardware"]) == list(frame["hardware"])
    given = found[found["reason"] == ""]
    assert 0 < len(given) < len(found)
    assert (given[["low", "predicted", "high"]].gt(0).all(axis=None), given["basis"].isin(BASES).all()) == (True, True)
    assert (given["low"] < given["predicted"]).all()
    assert (given["predicted"] < given["high"]).all()
    scored = given[given["measured"].notna()]
    assert np.allclose(scored["error"], scored["predicted"] / scored["measured"] - 1)
    refused = found[found["reason"] != ""]
    assert refused[["predicted", "low", "high", "error"]].isna().all(axis=None)
    assert (refused["basis"] == "").all()


@pytest.mark.parametrize("kind", BASE)
def test_a_prediction_sees_its_own_inputs_only(kind):
    frame, asked = varied(kind), ["predicted", "low", "high", "basis", "reason"]
    expected = predicted(frame, kind)[asked]
    order = np.random.default_rng(1).permutation(len(frame))
    shuffled = predicted(frame.iloc[order], kind)[asked]
    pd.testing.assert_frame_equal(shuffled.iloc[np.argsort(order)].reset_index(drop=True), expected)
    outputs = [*validate.KINDS[kind].targets, *(["sequences_per_s"] if kind == "encoder" else [])]
    for blank in (np.nan, 1e-9, "secret"):
        blanked = frame.assign(**dict.fromkeys(outputs, blank))
        pd.testing.assert_frame_equal(predicted(blanked, kind)[asked], expected)
    pd.testing.assert_frame_equal(predicted(frame.drop(columns=outputs), kind)[asked], expected)
    more = frame.assign(source="x", notes=range(len(frame)), power_watts=3.0, p99_latency_ms=1.0, outlier=True)
    pd.testing.assert_frame_equal(predicted(more, kind)[asked], expected)
    alone = pd.concat([predicted(frame.iloc[[number]], kind)[asked] for number in range(len(frame))], ignore_index=True)
    pd.testing.assert_frame_equal(alone, expected)  # the basis too: which terms matter is a row's own business


def test_extra_columns_are_kept_and_stand_apart_from_ours():
    frame = rows("gemm").assign(notes="mine", row="r7", basis="guess", error=3)
    found = predicted(frame, "gemm")
    assert list(found.columns) == [*COLUMNS, *BASE["gemm"], "notes", "row_input", "basis_input", "error_input"]
    assert found.iloc[0][["notes", "row", "row_input", "basis_input", "error_input"]].tolist() == [
        "mine",
        0,
        "r7",
        "guess",
        3,
    ]


def test_a_result_is_a_table_again_and_again():
    found = predicted(varied("gemm"), "gemm")
    for _ in range(3):
        again = predicted(found, "gemm")
        assert again["predicted"].equals(found["predicted"])
        assert again.columns.is_unique
        found = again


# --- rows that cannot be predicted ----------------------------------------------------------------------------------

SIZES = [(kind, name) for kind in BASE for name in validate.KINDS[kind].sizes]


@pytest.mark.parametrize(("kind", "name"), SIZES)
@pytest.mark.parametrize("value", [0, -1, None, "many", "inf", -np.inf, 1e300])
def test_a_bad_size_is_refused_and_its_neighbors_are_not(kind, name, value):
    found = predicted(rows(kind, {}, {name: value}, {}), kind)
    assert found.loc[1, "reason"] == f"{name} must be a positive number, at most 1e+12"
    assert found.loc[[0, 2], "reason"].tolist() == ["", ""]
    assert found["predicted"].notna().tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("gemm", {"hardware": "a100-sxm"}, "unknown hardware 'a100-sxm'; did you mean a10 or a100-sxm-40gb"),
        ("gemm", {"hardware": "t5"}, "unknown hardware 't5'; did you mean t4?"),
        ("gemm", {"hardware": None}, "hardware is blank"),
        ("gemm", {"engine": "nobody 3"}, "unknown engine 'nobody 3'; known: "),
        ("gemm", {"engine": None}, "engine is blank"),
        ("gemm", {"dtype": "fp99"}, "unknown dtype 'fp99'; did you mean fp8"),
        ("gemm", {"hardware": "t4"}, "t4 has no dense bf16 rate; its profile knows "),
        ("attention", {"dtype": "fp8"}, "a100-sxm-80gb has no dense fp8 rate; its profile knows "),
        ("gemm", {"dtype": None, "m": 0}, "dtype is blank"),  # names before sizes: one reason a row
        ("attention", {"phase": "middle"}, "unknown phase 'middle'; known: decode, encoder, prefill"),
        ("attention", {"phase": None}, "phase is blank"),
        ("attention", {"kv_length": 100}, "kv_length must be at least query_length"),
        ("encoder", {"layers": 0}, "layers must be a positive whole number"),
        ("encoder", {"layers": 2.5}, "layers must be a positive whole number"),
        ("encoder", {"hidden_size": "wide"}, "hidden_size must be a positive whole number"),
        ("encoder", {"heads": -12}, "heads must be a positive whole number"),
        ("encoder", {"heads": np.inf}, "heads must be a positive whole number"),
        ("encoder", {"heads": None}, "heads must be a positive whole number"),
        ("encoder", {"heads": 7}, "hidden_size 768 is not a multiple of num_attention_heads 7"),
        ("encoder", {"mean_tokens": -3}, "mean_tokens must be a positive number, at most 1e+12"),
        ("encoder", {"mean_tokens": 0}, "mean_tokens must be a positive number, at most 1e+12"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(kind, change, reason):
    found = predicted(rows(kind, change, {}), kind)
    assert found.loc[0, "reason"].startswith(reason)
    assert (found.loc[1, "reason"], found["predicted"].notna().tolist()) == ("", [False, True])


def test_products_stored_in_a_dtype_without_units_run_in_bf16_and_are_projected():
    found = predicted(rows("gemm", {"dtype": "fp8"}, {"dtype": "bf16"}), "gemm")  # an A100 has no fp8 units
    assert found["reason"].tolist() == ["", ""]
    assert found.loc[0, "basis"] == "projected"
    width = found["high"] / found["low"]
    assert width[0] > 1.3 * width[1]


def test_refused_rows_are_counted_never_dropped():
    frame = rows("gemm", {}, {"m": 0}, {"m": -1}, {"hardware": "t5"}, {"dtype": None})
    found = predicted(frame, "gemm")
    figures = validate.summary(found, "gemm", len(frame))
    assert figures["rows"] == len(found) == 5
    assert figures["refused"] == {
        "m must be a positive number, at most 1e+12": 2,
        "unknown hardware 't5'; did you mean t4?": 1,
        "dtype is blank": 1,
    }
    assert (figures["targets"]["latency_us"]["predicted"], figures["targets"]["latency_us"]["share"]) == (1, 0.2)


def test_products_of_sizes_beyond_int32_are_finite():
    sizes = np.array([2**20, 2**31 - 1], dtype=np.int32)
    frame = rows("gemm", {}, {}).assign(m=sizes, n=sizes, k=sizes)
    found = predicted(frame, "gemm")
    work = Gemm(m=sizes.astype(float), n=sizes.astype(float), k=sizes.astype(float), dtype="bf16")
    assert (found["predicted"] * 1e-6 > work.flop / 312e12).all()  # slower than the datasheet's peak, and not negative
    assert np.isfinite(found["high"]).all()
    largest = predicted(rows("attention", dict.fromkeys(validate.KINDS["attention"].sizes, 1e12)), "attention")
    assert np.isfinite(largest["high"]).all()


@pytest.mark.parametrize("measured", [0, -3, "inf", "fast", None])
def test_a_measured_value_that_is_none_is_not_scored(measured):
    found = predicted(rows("gemm", {"latency_us": measured}, {}), "gemm")
    assert found["predicted"].notna().all()
    assert found["error"].notna().tolist() == [False, True]
    figures = validate.summary(found, "gemm", 2)["targets"]["latency_us"]
    assert (figures["predicted"], figures["median_ape"]) == (2, abs(found.loc[1, "error"]))


# --- encoders -------------------------------------------------------------------------------------------------------


def test_latency_as_given_else_batch_by_throughput():
    found = predicted(
        rows(
            "encoder",
            {"latency_ms": 5.0, "sequences_per_s": 1.0},
            {"latency_ms": None, "sequences_per_s": 2000.0},
            {"latency_ms": None},
        ),
        "encoder",
    )
    assert found["measured"].tolist()[:2] == [5.0, 4.0]  # 8 sequences at 2000 a second are 4 ms
    assert np.isnan(found["measured"][2])
    assert found["predicted"].nunique() == 1
    without = predicted(rows("encoder", {"sequences_per_s": 2000.0}).drop(columns="latency_ms"), "encoder")
    assert without["measured"].tolist() == [4.0]


def test_engines_that_remove_padding_compute_the_real_tokens():
    frame = rows(
        "encoder",
        *({"engine": engine, "mean_tokens": mean} for engine in (PACKING, PADDING) for mean in (64, 128, None)),
    )
    packed, packed_full, packed_unknown, padded, padded_full, padded_unknown = predicted(frame, "encoder")["predicted"]
    assert packed < packed_full == packed_unknown
    assert padded == padded_full == padded_unknown == packed_full


def test_an_encoder_takes_longer_with_every_size():
    base = predicted(rows("encoder"), "encoder")["predicted"][0]
    for name, value in (("batch", 16), ("sequence_length", 256), ("layers", 24), ("hidden_size", 1536)):
        assert predicted(rows("encoder", {name: value}), "encoder")["predicted"][0] > base
