"""Continuous batching against cases computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from plain_continuous import flow

from capacity.errors import CapacityError
from capacity.fleet.continuous import ContinuousStage, Engine, Policy
from capacity.fleet.flow import Flow, Outcome
from capacity.fleet.replicas import Autoscaling, Failures, Replicas
from capacity.phases.step_table import StepTable

INF = math.inf


def flat(step_s=1.0, token_s=0.0, sequences=8, prompt_s=0.0) -> StepTable:
    """Return steps of `step_s`, and `token_s` for each new token: easily summed by hand."""
    return StepTable(
        linear_s=token_s * np.arange(2.0), decode_s=np.zeros((sequences + 1, 2)), context_step=1.0,
        prefill_s=np.zeros((2, 2)), query_step=1.0, start_step=1.0, host_s=np.full(sequences + 1, step_s),
        floor_s=np.zeros(sequences + 1), prompt_s=prompt_s,
    )  # fmt: skip


ROOMY = Engine(kv_blocks=1000, max_sequences=8, max_batched_tokens=100)


def served(stage: ContinuousStage, requests: Flow) -> Flow:
    result = stage.advance(requests, INF)
    return result.at(np.argsort(result.request))


def test_a_lone_request_takes_a_step_a_token():
    result = served(ContinuousStage(flat(), ROOMY), flow([0.5], 10, 4))
    assert result.first_s.tolist() == [1.5]  # one step reads the prompt
    assert result.time_s.tolist() == [4.5]  # three more tokens


def test_who_comes_during_a_step_joins_the_next():
    result = served(ContinuousStage(flat(), ROOMY), flow([0.0, 0.2], 10, [4, 2]))
    assert result.first_s.tolist() == [1.0, 2.0]
    assert result.time_s.tolist() == [4.0, 3.0]


def test_a_long_prompt_is_read_in_chunks_beside_decoding():
    engine = replace(ROOMY, max_batched_tokens=50)
    result = served(ContinuousStage(flat(), engine), flow([0.0, 0.5], [10, 100], [5, 1]))
    # steps 2 and 3 read 49 tokens beside one decoding sequence, step 4 the last 2
    assert result.first_s.tolist() == [1.0, 4.0]


def test_unchunked_prompts_wait_for_room_in_a_step():
    engine = replace(ROOMY, max_batched_tokens=50, chunked=False)
    result = served(ContinuousStage(flat(), engine), flow([0.0, 0.0, 0.0], [30, 30, 49], [1, 1, 2]))
    assert result.first_s.tolist() == [1.0, 2.0, 3.0]
    assert served(ContinuousStage(flat(), engine), flow([0.0], 50, 2)).outcome.tolist() == [Outcome.FAILED]


def test_prompts_in_steps_of_their_own_hold_decoding_up():
    engine = replace(ROOMY, mixed=False)
    stage = ContinuousStage(flat(), engine)
    result = served(stage, flow([0.0, 0.5], 10, 3))
    # read, read the second, then two decode steps for both
    assert result.first_s.tolist() == [1.0, 2.0]
    assert result.time_s.tolist() == [4.0, 4.0]
    gaps = stage.statistics()["gaps"]
    assert gaps[gaps > 0].tolist() == [3, 1]  # three gaps of 1 s; one of 2 s: the first waited for the second's prompt


def test_at_most_max_sequences_run_and_beams_count():
    engine = replace(ROOMY, max_sequences=2)
    assert served(ContinuousStage(flat(), engine), flow([0.0] * 3, 10, 2)).time_s.tolist() == [2.0, 2.0, 4.0]
    beams = replace(engine, beams=2)
    assert served(ContinuousStage(flat(), beams), flow([0.0] * 3, 10, 2)).time_s.tolist() == [2.0, 4.0, 6.0]


def test_speculation_takes_fewer_steps():
    engine = replace(ROOMY, tokens_per_step=2.5, verified_tokens=4)
    # 10 tokens after the first: 4 steps; each passes 4 tokens through the model
    stage = ContinuousStage(flat(token_s=0.01), engine)
    assert served(stage, flow([0.0], 10, 11)).time_s[0] == pytest.approx(1.1 + 4 * 1.04)


def test_kv_runs_out_and_the_last_one_admitted_is_read_again():
    engine = replace(ROOMY, kv_blocks=4, block_tokens=4)
    stage = ContinuousStage(flat(token_s=0.01), engine)
    # both hold 2 blocks of 8 tokens; the first token after that takes a third block of the first request
    result = served(stage, flow([0.0, 0.0], 8, [4, 2]))
    statistics = stage.statistics()
    assert statistics["preemptions"] == 1
    assert statistics["most_used"].tolist() == [4]
    assert result.first_s == pytest.approx([1.16, 1.16])
    assert result.time_s[0] == pytest.approx(1.16 + 3 * 1.01)
    # 8 + 1 tokens are read again once the first has left: they bring the second token
    assert result.time_s[1] == pytest.approx(1.16 + 3 * 1.01 + 1.09)
    assert statistics["prompt_tokens"] == 16 + 9


def test_what_never_fits_fails_at_the_door():
    engine = replace(ROOMY, kv_blocks=4, block_tokens=4)
    result = served(ContinuousStage(flat(), engine), flow([0.0, 0.0], [8, 8], [9, 10]))
    assert result.outcome.tolist() == [Outcome.SERVED, Outcome.FAILED]  # 16 and 17 tokens of KV; 16 fit


def test_beams_share_whole_blocks_of_the_prompt():
    engine = replace(ROOMY, beams=3, block_tokens=4)
    stage = ContinuousStage(flat(), engine)
    served(stage, flow([0.0], 10, 7))
    assert stage.statistics()["most_used"].tolist() == [2 + 3 * 2]  # 8 shared tokens; 2 + 6 of each beam


def test_a_prefix_is_read_once_and_held_once():
    engine = replace(ROOMY, block_tokens=4, prefix_tokens=(10,))
    stage = ContinuousStage(flat(token_s=0.01), engine)
    result = served(stage, flow([0.0, 10.0, 20.0, 20.0], 12, 1, [0, 0, 0, -1]))
    assert (result.first_s - result.time_s).tolist() == [0.0] * 4
    assert (result.time_s - [0.0, 10.0, 20.0, 20.0]) == pytest.approx([1.12, 1.04, 1.16, 1.16])
    statistics = stage.statistics()
    assert (statistics["prefix_hits"], statistics["cached_tokens"]) == (2, 16)
    assert statistics["most_used"].tolist() == [6]


def test_unused_prefixes_go_when_room_is_needed_oldest_first():
    engine = replace(ROOMY, kv_blocks=6, block_tokens=4, prefix_tokens=(8, 8))
    stage = ContinuousStage(flat(), engine)
    # 2 + 2 blocks stay; the third request takes 4: prefix 0 goes, 1 stays
    times = [0.0, 10.0, 20.0, 30.0, 40.0]
    served(stage, flow(times, [9, 9, 16, 9, 9], 1, [0, 1, -1, 1, 0]))
    assert stage.statistics()["prefix_hits"] == 1


def test_given_hit_rate_spares_whole_blocks_but_one_token():
    engine = replace(ROOMY, prefix_hit_rate=1.0, block_tokens=4)
    result = served(ContinuousStage(flat(token_s=0.01), engine), flow([0.0, 10.0], [11, 12], 1))
    assert result.time_s == pytest.approx([1.03, 11.04])


def test_decode_only_replicas_get_prompts_with_their_kv():
    engine = replace(ROOMY, prompts_cached=True, block_tokens=4)
    stage = ContinuousStage(flat(token_s=0.01), engine)
    result = served(stage, flow([1.0], 8, 4, first_s=[0.8]))
    assert result.first_s.tolist() == [0.8]
    assert result.time_s == pytest.approx([1.0 + 3 * 1.01])
    assert stage.statistics()["most_used"].tolist() == [3]  # 8 + 3 tokens


def test_tokens_are_seen_later_without_holding_the_engine_up():
    engine = replace(ROOMY, visible_after_s=0.25, visible_after_steps=2.0)
    stage = ContinuousStage(flat(), engine)
    result = served(stage, flow([0.0], 10, 2))
    assert (result.first_s.tolist(), result.time_s.tolist()) == ([3.25], [4.25])
    assert stage.statistics()["busy_s"].tolist() == [2.0]


def test_routing():
    requests = flow([0.0, 0.1, 0.2, 0.3], 10, [1, 9, 1, 1], [0, -1, 0, -1])
    two = Replicas(count=2)
    engine = replace(ROOMY, prefix_tokens=(9,), block_tokens=1)

    def hits(**policy):
        stage = ContinuousStage(flat(), engine, two, Policy(**policy))
        served(stage, requests)
        return stage.statistics()["prefix_hits"], stage.statistics()["most_running"].tolist()

    assert hits(routing="round-robin") == (1, [1, 2])
    assert hits(routing="least-loaded") == (1, [1, 2])
    assert hits(routing="prefix-aware", imbalance=0) == (1, [1, 2])


def test_prefix_aware_routing_follows_the_prefix_up_to_the_imbalance():
    requests = flow([0.0, 2.5, 2.6, 2.7], 10, 2, [0, 0, 0, 0])
    engine = replace(ROOMY, prefix_tokens=(9,), block_tokens=1)
    for imbalance, expected in ((0, [2, 1]), (2, [2, 0])):
        stage = ContinuousStage(flat(), engine, Replicas(count=2), Policy(routing="prefix-aware", imbalance=imbalance))
        served(stage, requests)
        assert (stage.statistics()["most_running"] > 0).tolist() == [bool(count) for count in expected]


def test_queue_limit_and_timeouts():
    engine = replace(ROOMY, max_sequences=1)
    shed = served(ContinuousStage(flat(), engine, policy=Policy(queue_limit=1)), flow([0.0, 0.1, 0.2], 10, 2))
    assert shed.outcome.tolist() == [Outcome.SERVED, Outcome.SERVED, Outcome.SHED]
    assert shed.time_s.tolist() == [2.0, 4.0, 0.2]
    late = ContinuousStage(flat(), engine, policy=Policy(timeout_s=1.5, retries=1))
    result = served(late, flow([0.0, 0.1, 0.2], 10, [3, 3, 3]))
    assert result.outcome.tolist() == [Outcome.SERVED, Outcome.SERVED, Outcome.TIMED_OUT]
    assert result.time_s.tolist() == [3.0, 6.0, 3.2]  # the last one waited 1.5 s twice


def test_a_lost_replica_loses_its_work():
    outage = Failures(outages=((0, 2.5, 4.0),))
    result = served(ContinuousStage(flat(), ROOMY, Replicas(failures=outage), Policy(retries=1)), flow([0.0], 10, 4))
    assert (result.first_s.tolist(), result.time_s.tolist()) == ([5.0], [8.0])  # anew, once the replica is back
    gone = served(ContinuousStage(flat(), ROOMY, Replicas(failures=outage)), flow([0.0], 10, 4))
    assert (gone.outcome.tolist(), gone.time_s.tolist()) == ([Outcome.FAILED], [2.5])


def test_autoscaling_adds_replicas_and_lets_them_finish():
    steps = ((1.0, 2), (3.5, 1))
    scaling = Autoscaling(kind="schedule", maximum=2, cold_start_s=1.0, schedule=steps)
    engine = replace(ROOMY, max_sequences=1)
    stage = ContinuousStage(flat(), engine, Replicas(scaling=scaling))
    result = served(stage, flow([0.0, 2.5, 6.0], 10, [4, 4, 1]))
    assert result.time_s.tolist() == [4.0, 6.5, 7.0]  # the second went to the new replica, which finished it
    assert stage.statistics()["replica_s"] == pytest.approx(7.0 + (6.5 - 1.0))


def test_closed_loop_keeps_as_many_requests_as_clients():
    stage = ContinuousStage(flat(), replace(ROOMY, max_sequences=2))
    result = stage.closed(4, flow(np.zeros(12), 10, 2))
    assert len(result) == 12
    assert stage.statistics()["most_running"].tolist() == [2]
    # Little's law, exactly: what is inside at any time adds up to the time spent
    areas = stage.statistics()["running_area_s"] + stage.statistics()["waiting_area_s"]
    assert float(areas.sum()) == pytest.approx(float((result.time_s - result.arrival_s).sum()))


def test_time_of_a_step_is_looked_up_between_grid_points():
    table = StepTable(
        linear_s=np.array([0.0, 1.0, 1.5, 2.0]), decode_s=np.array([[0.0, 0.0], [0.0, 8.0], [0.0, 16.0]]),
        context_step=16.0, prefill_s=np.array([[0.0, 0.0], [4.0, 8.0]]), query_step=4.0, start_step=4.0,
        host_s=np.array([0.0, 0.25, 0.5]), floor_s=np.array([0.0, 3.0, 3.0]), prompt_s=0.125,
    )  # fmt: skip
    engine = Engine(kv_blocks=10, max_sequences=2, max_batched_tokens=3)
    result = served(ContinuousStage(table, engine), flow([0.0], 5, 3))
    first = max(2.0 + 3.0, 3.0) + 0.25 + 0.125  # 3 tokens: linear 2, attention 3/4 of 4
    second = max(1.5 + (0.5 * 4.0 + 0.5 * 3.0), 3.0) + 0.25 + 0.125  # 2 tokens after 3: half of 4 + 4·3/4
    assert result.first_s[0] == pytest.approx(first + second)
    decode = (max(1.0 + 0.5 * 6, 3.0) + 0.25) + (max(1.0 + 0.5 * 7, 3.0) + 0.25)  # contexts of 6 and 7 tokens
    assert result.time_s[0] == pytest.approx(first + second + decode)


@pytest.mark.parametrize(
    ("engine", "policy", "message"),
    [
        (replace(ROOMY, max_sequences=9), Policy(), "max_sequences"),
        (replace(ROOMY, beams=0), Policy(), "beams"),
        (replace(ROOMY, tokens_per_step=0.5), Policy(), "tokens_per_step"),
        (replace(ROOMY, verified_tokens=99), Policy(), "max_batched_tokens"),
        (ROOMY, Policy(timeout_s=0.0), "timeout_s"),
        (ROOMY, Policy(routing="fastest"), "routing"),
    ],
)
def test_what_cannot_be_is_refused(engine, policy, message):
    with pytest.raises(CapacityError, match=message):
        ContinuousStage(flat(), engine, policy=policy)


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(CapacityError, match="no prompt"):
        ContinuousStage(flat(), ROOMY).advance(flow([0.0], 0, 4), INF)
    with pytest.raises(CapacityError, match="prefix"):
        ContinuousStage(flat(), ROOMY).advance(flow([0.0], 5, 4, [0]), INF)
