"""Tables of whole LLM servers: rows are predicted from their inputs alone, refused one by one, and saturation shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from capacity import catalogue
from capacity.validate import KINDS, Context, predictions
from capacity.validate.serving import LOAD_TARGETS, Row, closed_loop, open_load
from capacity.validate.table import checked

CONTEXT = Context(calibrations=catalogue.calibrations(()), shared=catalogue.shared())
CLOSED = {
    "hardware": "h100-sxm-80gb", "engine": "vllm", "engine_version": "0.14.0", "dtype": "bf16", "gemm_dtype": "bf16",
    "model": "meta-llama/Llama-3.1-8B-Instruct", "input_tokens": 512, "output_tokens": 64, "concurrency": 4,
    "tensor_parallel": 1, "ttft_ms": 40.0, "tpot_ms": 8.0,
}  # fmt: skip
LOAD = {
    "hardware": "h100-sxm-80gb", "engine": "vllm 0.15.1", "model": "meta-llama/Llama-2-7b-hf", "dtype": "fp16/bf16",
    "tensor_parallel": 1, "max_model_len": 4096, "max_num_batched_tokens": 2048, "max_num_seqs": 128,
    "load": "2rps x 60s;6rps x 60s", "arrivals": "constant", "prefix_groups": 3, "users_per_group": 2,
    "system_prompt_tokens": 100, "question_tokens": 400, "requested_output_tokens": 100, "stage": "summary",
    "ttft_mean_ms": 30.0,
}  # fmt: skip
TRACE = {
    "hardware": "rtx-pro-6000-server", "engine": "vllm 0.19.0", "model": "meta-llama/Llama-3.1-8B", "dtype": "bf16",
    "tensor_parallel": 1,
}  # fmt: skip


def predicted(kind: str, *rows: dict) -> pd.DataFrame:
    """Return the long table of some rows."""
    return predictions(checked(pd.DataFrame(list(rows)), kind, "t.csv"), kind, CONTEXT)


def values(table: pd.DataFrame) -> pd.DataFrame:
    return table[["row", "target", "predicted", "low", "high", "basis", "reason"]]


def trace(count: int = 12, gap_s: float = 0.2) -> list[dict]:
    random = np.random.default_rng(0)
    lengths = random.integers(20, 300, (count, 2))
    rows = zip(gap_s * np.arange(count), *lengths.T.tolist(), strict=True)
    return [TRACE | {"arrival_s": when, "input_tokens": read, "output_tokens": wrote} for when, read, wrote in rows]


ROWS = {
    "serving_closed_loop": [CLOSED, CLOSED | {"concurrency": 16}, CLOSED | {"tensor_parallel": 2, "output_tokens": 32}],
    "serving_load": [LOAD, LOAD | {"stage": "stage_0"}, LOAD | {"stage": "stage_1"}],
    "serving_trace": trace(),
}


# What every kind keeps


@pytest.mark.parametrize("kind", ROWS)
def test_every_row_is_predicted_with_its_band(kind):
    found = predicted(kind, *ROWS[kind])
    assert (found["reason"] == "").all()
    assert len(found) == len(ROWS[kind]) * len(KINDS[kind].targets)
    assert (found["low"] < found["predicted"]).all()
    assert (found["predicted"] < found["high"]).all()


@pytest.mark.parametrize("kind", ROWS)
def test_the_same_rows_are_predicted_the_same(kind):
    pd.testing.assert_frame_equal(predicted(kind, *ROWS[kind]), predicted(kind, *ROWS[kind]))


@pytest.mark.parametrize("kind", ROWS)
def test_a_prediction_never_sees_a_measurement(kind):
    measured = (*KINDS[kind].targets, "requests_ok", "requests_per_s")
    plain = [{name: value for name, value in row.items() if name not in measured} for row in ROWS[kind]]
    wild = [row | dict.fromkeys(measured, 7.0) for row in ROWS[kind]]
    pd.testing.assert_frame_equal(values(predicted(kind, *plain)), values(predicted(kind, *wild)))


@pytest.mark.parametrize("kind", ROWS)
def test_the_order_of_rows_does_not_matter(kind):
    order = np.random.default_rng(1).permutation(len(ROWS[kind]))
    plain, mixed = predicted(kind, *ROWS[kind]), predicted(kind, *(ROWS[kind][row] for row in order))
    mixed["row"] = order[mixed["row"]]
    back = mixed.sort_values(["row", "target"], kind="stable", ignore_index=True)
    pd.testing.assert_frame_equal(values(plain), values(back))


@pytest.mark.parametrize(
    ("kind", "wrong", "said"),
    [
        ("serving_closed_loop", {"model": "no-such-model"}, "no-such-model"),
        ("serving_closed_loop", {"model": "meta-llama/Llama-3.1-70B-Instruct"}, "no room"),  # 140 GB on 80
        ("serving_closed_loop", {"concurrency": -1}, "concurrency"),
        ("serving_closed_loop", {"hardware": "no-such-gpu"}, "no-such-gpu"),
        ("serving_load", {"stage": "stage_9"}, "stage_9"),
        ("serving_load", {"load": "often"}, "often"),
    ],
)
def test_one_impossible_row_is_refused_alone(kind, wrong, said):
    found = predicted(kind, *ROWS[kind], ROWS[kind][0] | wrong)
    last = found["row"] == len(ROWS[kind])
    assert found.loc[last, "reason"].str.contains(said).all()
    assert found.loc[last, "predicted"].isna().all()
    assert (found.loc[~last, "reason"] == "").all()


# A fixed number of clients


def test_more_clients_share_a_server_and_wait_longer():
    one, many = (closed_loop(Row(CLOSED | {"concurrency": count}), CONTEXT) for count in (1, 32))
    assert len(one.end_s) == 10
    assert len(many.end_s) == 320
    assert np.nanmean(many.token_s) > np.nanmean(one.token_s)
    assert many.first_s.mean() > one.first_s.mean()


def test_two_devices_answer_sooner_than_one():
    one, two = (
        closed_loop(Row(CLOSED | {"model": "Qwen/Qwen3-32B", "tensor_parallel": count}), CONTEXT) for count in (1, 2)
    )
    assert np.nanmean(two.token_s) < np.nanmean(one.token_s)


# An open load


def test_stages_hold_the_requests_that_arrive_in_them():
    seen, starts = open_load(Row(LOAD), CONTEXT)
    assert starts == [0.0, 60.0, 120.0]
    assert len(seen.end_s) == 2 * 60 + 6 * 60
    found = predicted("serving_load", *ROWS["serving_load"]).set_index(["row", "target"])["predicted"]
    parts = [found[1, "e2e_mean_ms"], found[2, "e2e_mean_ms"]]
    assert found[0, "e2e_mean_ms"] == pytest.approx((parts[0] * 120 + parts[1] * 360) / 480)
    assert set(LOAD_TARGETS) == set(KINDS["serving_load"].targets)


def test_an_overloaded_server_says_so_by_its_numbers():
    """40 requests/s of 1,000 tokens ask for more than 128 sequences give: what is answered waited for minutes."""
    rows = [LOAD | {"load": f"{rate}rps x 200s", "requested_output_tokens": 1000} for rate in (1, 40)]
    found = predicted("serving_load", *rows).set_index(["row", "target"])["predicted"]
    assert found[0, "ttft_p99_ms"] < 1000
    assert found[1, "ttft_p90_ms"] > 60_000
    assert found[1, "e2e_p99_ms"] <= 300_000  # clients give up
    seen, _ = open_load(Row(rows[1]), CONTEXT)
    assert len(seen.within(300.0).end_s) < 40 * 200


# A trace


def test_requests_of_a_trace_come_back_in_their_order():
    rows = trace()
    found = predicted("serving_trace", *rows)
    tokens = found[found["target"] == "end_to_end_s"]["output_tokens"].to_numpy()
    assert tokens.tolist() == [row["output_tokens"] for row in rows]
    ends = found[found["target"] == "end_to_end_s"]["predicted"].to_numpy()
    assert np.corrcoef(ends, tokens)[0, 1] > 0.95  # longer answers take longer


def test_time_per_token_is_what_first_and_last_leave():
    row = trace(1)[0] | {"ttft_s": 0.1, "end_to_end_s": 1.1, "output_tokens": 11}
    found = predicted("serving_trace", row).set_index("target")
    assert found.loc["tpot_s", "measured"] == pytest.approx(0.1)
    steps = (found.loc["end_to_end_s", "predicted"] - found.loc["ttft_s", "predicted"]) / 10
    assert found.loc["tpot_s", "predicted"] == pytest.approx(steps)
