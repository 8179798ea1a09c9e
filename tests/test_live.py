"""The live proof in short: the real server on this machine, the order of its records, and the parts beside it."""

import json

import numpy as np
import pytest

from benchmarks.live import predict
from benchmarks.live.__main__ import shown
from benchmarks.live.calibrate import MOST_TOKENS, SIZES, TOKEN_STEP, Calibration, table_of
from benchmarks.live.encoder import agree, body
from benchmarks.live.load import drive
from benchmarks.live.predict import Workload
from benchmarks.live.proof import Plan, proof
from benchmarks.live.server import ECHO, ENCODE, MAX_BATCH, rig
from capacity.errors import CapacityError

RECORDS = ("calibration", "predictions", "measurements")
SHORT = Plan(rounds=2, loads=1, duration_s=1.0, passes=1)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    with rig(tmp_path_factory.mktemp("live") / "server.log") as running:
        yield running


def made_up(**changes):
    """A machine that takes 10 ms a batch and 1 ms a token, and nothing for the way."""
    tokens = np.arange(0, MOST_TOKENS + 1, TOKEN_STEP)
    facts = {"machine": {}, "token_s": tuple(0.01 + 0.001 * tokens), "variation": 0.0, "front_s": (0.0, 0.0)}
    facts |= {"worker_s": 0.0, "hold_s": 0.005, "shared": 0.0, "contaminated": 0.0, "unstable": 0.0}
    return Calibration(**facts | changes)


def test_the_server_says_what_the_encoder_says_and_the_records_come_in_order(live, tmp_path):
    (row,) = proof(live, 3, SHORT, tmp_path)
    frozen, said, found = (json.loads((tmp_path / f"{name}.json").read_text()) for name in RECORDS)
    assert frozen["written_s"] < said["written_s"] < found["written_s"]
    assert said["record"]["loads"][0]["latency_s"] == row.predicted.latency_s
    assert row.measured[0].shortest_s > 0
    assert 1 <= row.measured[0].mean_batch <= MAX_BATCH
    assert 0.4 <= row.predicted.load <= 0.8
    assert "p99" in shown([row])


def test_each_answer_belongs_to_its_request(live):
    random = np.random.default_rng(0)
    bodies = [body(random, int(tokens)) for tokens in random.integers(3, 33, 60)]
    answers = drive(live.port, ENCODE, np.sort(random.random(60)), bodies)
    assert live.worker.submit(agree, bodies, answers.bodies).result()
    assert not live.worker.submit(agree, bodies, answers.bodies[1:] + answers.bodies[:1]).result()
    assert (answers.latency_s > 0).all()
    assert (answers.late_s >= 0).all()


def test_latency_counts_from_the_intended_time(live):
    times_s = np.array([-0.5, 0.0])  # due half a second before the generator starts: sent late, and charged for it
    answers = drive(live.port, ECHO, times_s, [b"12", b"12"])
    assert answers.late_s[0] > 0.4
    assert answers.latency_s[0] > answers.late_s[0]


def test_a_refused_request_is_an_error(live):
    with pytest.raises(CapacityError, match="404"):
        drive(live.port, "/nowhere", np.zeros(1), [b"12"])


def test_a_free_worker_collects_from_the_moment_it_takes_the_first():
    # taken at 0, held 5 ms, 10 + 2·8 ms; the third, which came at 20 ms, is taken at 31 ms and held 5 ms all the same
    workload = Workload(0.5, np.array([0.0, 0.004, 0.02]), np.array([8, 4, 8]))
    latency_s, mean_batch, batch_s = predict.predicted(made_up(), workload, seed=0)
    np.testing.assert_allclose(latency_s, [0.031, 0.027, 0.034])
    assert mean_batch == 1.5
    assert batch_s == pytest.approx((0.026 + 0.018) / 2)


def test_a_full_batch_is_not_held():
    workload = Workload(0.5, np.full(MAX_BATCH, 0.001), np.full(MAX_BATCH, 4))
    np.testing.assert_allclose(predict.predicted(made_up(), workload, seed=0)[0], 0.01 + 0.032)


def test_the_way_to_the_server_and_back_is_added():
    workload = Workload(0.5, np.zeros(1), np.array([4]))
    latency_s, *_ = predict.predicted(made_up(front_s=(0.002, 0.002), worker_s=0.001), workload, seed=0)
    np.testing.assert_allclose(latency_s, 0.002 + 0.005 + 0.014 + 0.001)


def test_the_table_is_the_line_that_batches_lie_on():
    tokens = np.array([items * longest for items, longest in SIZES])
    assert (tokens.min(), tokens.max()) == (4, MOST_TOKENS)
    table_s = table_of(tokens, 0.01 + 0.001 * tokens)
    np.testing.assert_allclose(table_s[1:], 0.01 + 0.001 * np.arange(TOKEN_STEP, MOST_TOKENS + 1, TOKEN_STEP))
    assert table_s[0] == table_s[1]  # nothing is shorter than the shortest batch


def test_workloads_hang_on_the_seed_alone():
    first, again, other = (predict.drawn(seed, made_up(), 3, 10.0) for seed in (5, 5, 6))
    for one, same, different in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one.times_s, same.times_s)
        assert one.load != different.load
        assert 0.4 <= one.load <= 0.8
