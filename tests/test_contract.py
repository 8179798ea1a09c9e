"""The contract of `capacity validate` for every kind of table: a prediction sees its own row's inputs, nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tables_by_hand import BASE, CHANGES, predicted, rows, varied

from capacity import validate
from capacity.timing.band import BASES

ASKED = ["target", "predicted", "low", "high", "basis", "reason"]
OUTPUTS = {kind: [*known.targets, *known.twins] for kind, known in validate.KINDS.items()}


def asked(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    return predicted(frame, kind)[ASKED]


def test_there_is_a_table_of_every_kind():
    assert list(BASE) == list(CHANGES)
    assert set(BASE) == set(validate.KINDS)


@pytest.mark.parametrize("kind", BASE)
def test_every_row_is_predicted_or_refused_with_its_reason(kind):
    frame = varied(kind)
    found = predicted(frame, kind)
    targets = validate.KINDS[kind].targets
    assert len(found) == len(frame) * len(targets)
    given, refused = found[found["reason"] == ""], found[found["reason"] != ""]
    assert len(given) >= 3 * len(targets)
    assert set(refused["row"]) >= {len(frame) - 2, len(frame) - 1}  # no such hardware, and a blank
    assert np.isfinite(given[["low", "predicted", "high"]]).all(axis=None)
    positive = given[given["target"] != "backward_ms"]  # inference has no backward pass
    assert ((positive["low"] < positive["predicted"]) & (positive["predicted"] < positive["high"])).all()
    assert (positive["low"] > 0).all()
    assert given["basis"].isin(BASES).all()
    assert refused[["predicted", "low", "high", "error"]].isna().all(axis=None)
    figures = validate.summary(found, kind, len(frame))
    assert sum(figures["refused"].values()) == refused["row"].nunique()
    assert set(figures["targets"]) == set(targets)


@pytest.mark.parametrize("kind", BASE)
@pytest.mark.parametrize("value", [np.nan, 1e-9, "secret"])
def test_what_was_measured_is_never_looked_at(kind, value):
    frame = varied(kind)
    blanked = frame.assign(**dict.fromkeys(OUTPUTS[kind], value))
    pd.testing.assert_frame_equal(asked(blanked, kind), asked(frame, kind))


@pytest.mark.parametrize("kind", BASE)
def test_columns_that_are_no_inputs_change_nothing(kind):
    frame = varied(kind)
    expected = asked(frame, kind)
    pd.testing.assert_frame_equal(asked(frame.drop(columns=OUTPUTS[kind], errors="ignore"), kind), expected)
    more = frame.assign(source="x", notes=range(len(frame)), power_watts=3.0, p99_latency_ms=1.0, energy_j=2.0)
    pd.testing.assert_frame_equal(asked(more, kind), expected)


@pytest.mark.parametrize("kind", BASE)
def test_rows_know_nothing_of_each_other(kind):
    frame, targets = varied(kind), len(validate.KINDS[kind].targets)
    expected = asked(frame, kind)
    order = np.random.default_rng(1).permutation(len(frame))
    places = (order[:, None] * targets + np.arange(targets)).ravel()
    shuffled = asked(frame.iloc[order], kind)
    pd.testing.assert_frame_equal(shuffled, expected.iloc[places].reset_index(drop=True))
    if kind == "serving_trace":  # its rows are the requests of one run
        return
    alone = pd.concat([asked(frame.iloc[[number]], kind) for number in range(len(frame))], ignore_index=True)
    pd.testing.assert_frame_equal(alone, expected)
    many = asked(pd.concat([frame] * 3, ignore_index=True), kind)
    pd.testing.assert_frame_equal(many.iloc[-len(expected) :].reset_index(drop=True), expected)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in BASE for name in validate.KINDS[kind].sizes])
def test_a_bad_size_is_refused_and_its_neighbors_are_not(kind, name):
    found = predicted(rows(kind, {}, {name: 0}, {name: "many"}, {}), kind)
    by_row = found.groupby("row")["reason"].first()
    assert by_row.tolist() == ["", *[f"{name} must be a positive number, at most 1e+12"] * 2, ""]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in BASE for name in validate.KINDS[kind].sizes])
def test_more_of_anything_never_ends_in_nonsense(kind, name):
    frame = rows(kind, *({name: value} for value in (1, 3, 1000, 1e7, 1e12)))
    if kind == "attention":
        frame["kv_length"] = np.maximum(frame["kv_length"], frame["query_length"])
    found = predicted(frame, kind)
    given = found[found["reason"] == ""]
    assert np.isfinite(given[["low", "predicted", "high"]]).all(axis=None)
    assert (given[["low", "predicted", "high"]] > 0).all(axis=None)
    least = 2 if kind.startswith("serving") else 4  # runs of 1e7 tokens are too long; one token has no time per token
    assert len(given) >= least * len(validate.KINDS[kind].targets)


def test_inference_has_no_backward_pass():
    found = predicted(rows("fp32_steps", {"mode": "inf"}, {}), "fp32_steps").set_index(["row", "target"])["predicted"]
    assert found[0, "backward_ms"] == 0
    assert found[0, "step_ms"] == pytest.approx(found[0, "forward_ms"])
    assert found[1, "step_ms"] == pytest.approx(found[1, "forward_ms"] + found[1, "backward_ms"])


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("moe", {"distribution": "odd"}, "unknown distribution 'odd'; known: balanced, power_law_1.2"),
        ("moe", {"dtype": "fp99"}, "unknown quantization of experts 'fp99'; did you mean fp8"),
        ("collective", {"devices": 1}, "a collective needs at least 2 devices"),
        ("collective", {"operation": "broadcast"}, "unknown operation 'broadcast'; known: all_gather, all_reduce"),
        ("fp32_steps", {"mode": "sleep"}, "unknown mode 'sleep'; known: inf, train"),
        ("fp32_steps", {"model": "bert"}, "unknown model 'bert'; did you mean bert_large"),
        ("fp32_steps", {"option": "tp"}, "option 'tp' is none of '', fusion, dpN"),
        ("gemm_fp32", {"batch": -1}, "batch must be a positive number, at most 1e+12"),
        ("attention", {"kv_dtype": "fp99"}, "unknown dtype 'fp99'; did you mean fp8"),
        ("attention", {"query_length": 600}, "kv_length must be at least query_length"),
        ("serving_closed_loop", {"model": "no-such-model"}, "unknown model 'no-such-model'"),
        ("serving_closed_loop", {"concurrency": 200_000}, "concurrency is at most 100,000"),
        ("serving_closed_loop", {"input_tokens": 500_000}, "the server has no room for such a request"),
        ("serving_load", {"load": "often"}, "load 'often' is no list of stages"),
        ("serving_load", {"load": "9999rps x 9999s"}, "load '9999rps x 9999s' is more than 1,000,000 requests"),
        ("serving_load", {"stage": "stage_2"}, "stage 'stage_2' is none of summary, stage_0 … stage_1"),
        ("serving_trace", {"output_tokens": 2e7}, "a sequence has at most 10,000,000 tokens"),
        ("mlperf_inference", {"scenario": "MultiStream"}, "unknown scenario 'MultiStream'"),
    ],
)
def test_a_row_that_cannot_be_predicted_says_why(kind, change, reason):
    found = predicted(rows(kind, change, {}), kind).groupby("row")["reason"].first()
    assert found[0].startswith(reason)
    assert found[1] == ""
