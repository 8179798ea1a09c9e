"""Dynamic batching against theory and a plain engine that looks at everything at every event."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capacity.errors import CapacityError
from capacity.fleet.flow import Flow, Outcome
from capacity.fleet.replicas import Failures, Replicas
from capacity.fleet.servers import Batching, Policy, Station

INF = math.inf
LINEAR = np.array([0.0, *(1.0 + 0.25 * texts for texts in range(1, 13))])
"""A batch of n texts takes 1 + n/4 s."""


def at(*times_s: float, tokens: tuple[int, ...] = ()) -> Flow:
    flow = Flow.of(np.arange(len(times_s)), np.array(times_s, np.float64))
    return replace(flow, input_tokens=np.array(tokens, np.int64)) if tokens else flow


def random_flow(count: int, rate: float, seed: int = 1, longest: int = 60) -> Flow:
    random = np.random.default_rng(seed)
    times_s = np.cumsum(random.exponential(1 / rate, count))
    return replace(Flow.of(np.arange(count), times_s), input_tokens=random.integers(1, longest, count))


def sojourns(flow: Flow) -> np.ndarray:
    return (flow.time_s - flow.arrival_s)[np.argsort(flow.request)]


class Plain:
    """One event at a time, lists, and a look at everything: slow and obviously right."""

    def __init__(self, flow: Flow, how: Batching, replicas: int, policy: Policy) -> None:
        self.flow, self.how, self.policy = flow, how, policy
        self.shared, self.turn, self.now_s = policy.routing == "shared", 0, 0.0
        self.waiting: list[list[dict]] = [[] for _ in range(1 if self.shared else replicas)]
        lanes = [replica for replica in range(replicas) for _ in range(how.lanes)]
        self.lanes = [{"station": 0 if self.shared else replica, "end_s": INF, "batch": []} for replica in lanes]
        self.freed_s: list[float] = [0.0] * len(self.waiting)
        self.left = dict.fromkeys(range(len(flow)), how.sequences)
        self.result: dict[int, tuple[float, int]] = {}

    def run(self) -> dict[int, tuple[float, int]]:
        coming = list(zip(self.flow.time_s.tolist(), range(len(self.flow)), strict=True))
        while coming or any(self.waiting) or any(lane["end_s"] < INF for lane in self.lanes):
            arrival_s = coming[0][0] if coming else INF
            end = min(self.lanes, key=lambda lane: lane["end_s"])
            due_s = min((self.due_s(head, station) for head, station in self.heads()), default=INF)
            fresh = [one for queue in self.waiting for one in queue if one["texts"] == self.how.sequences]
            late = min(fresh, key=lambda one: one["since_s"], default=None)
            late_s = late["since_s"] + self.policy.timeout_s if late else INF
            self.now_s = min(arrival_s, end["end_s"], due_s, late_s)
            if self.now_s == arrival_s:
                self.admit({"request": coming.pop(0)[1], "tries": 0, "texts": self.how.sequences})
            elif self.now_s == end["end_s"]:
                self.finish(end)
            elif self.now_s == late_s and self.now_s != due_s:
                self.give_up(late)
            self.serve()
        return self.result

    def heads(self):
        """Yield the oldest of each bucket where a lane is free, and where."""
        for station, queue in enumerate(self.waiting):
            if self.free(station):
                for bucket in range(len(self.how.edges) + 1):
                    yield from [(one, station) for one in queue if one["bucket"] == bucket][:1]

    def free(self, station: int) -> bool:
        return any(lane["station"] == station and lane["end_s"] == INF for lane in self.lanes)

    def due_s(self, head: dict, station: int) -> float:
        since_s = max(head["since_s"], self.freed_s[station] if self.how.waits_from == "lane" else 0.0)
        return since_s + self.how.max_wait_s

    def station(self) -> int:
        if self.policy.routing == "round-robin":
            self.turn += 1
            return (self.turn - 1) % len(self.waiting)
        loads = [sum(one["texts"] for one in queue) for queue in self.waiting]
        for lane in self.lanes:
            loads[lane["station"]] += sum(texts for _, texts in lane["batch"])
        return int(np.argmin(loads))

    def admit(self, one: dict) -> None:
        station = self.station()
        full = self.policy.queue_limit is not None and len(self.waiting[station]) >= self.policy.queue_limit
        if full and not self.free(station):
            self.result[one["request"]] = (self.now_s, Outcome.SHED)
        else:
            self.enter(one, station)

    def enter(self, one: dict, station: int) -> None:
        tokens = self.flow.input_tokens[one["request"]]
        bucket = sum(tokens > edge for edge in self.how.edges)
        self.waiting[station].append(one | {"since_s": self.now_s, "bucket": bucket})

    def finish(self, lane: dict) -> None:
        if not self.free(lane["station"]):
            self.freed_s[lane["station"]] = self.now_s
        for request, texts in lane["batch"]:
            self.left[request] -= texts
            if self.left[request] == 0:
                self.result[request] = (self.now_s, Outcome.SERVED)
        lane["end_s"], lane["batch"] = INF, []

    def give_up(self, one: dict) -> None:
        for queue in self.waiting:
            if one in queue:
                queue.remove(one)
        one["tries"] += 1
        if one["tries"] > self.policy.retries:
            self.result[one["request"]] = (self.now_s, Outcome.TIMED_OUT)
        else:
            self.enter(one, self.station())

    def serve(self) -> None:
        for lane in self.lanes:
            if lane["end_s"] == INF:
                queue = self.waiting[lane["station"]]
                buckets = [[one for one in queue if one["bucket"] == b] for b in range(len(self.how.edges) + 1)]
                ready = [
                    ones for ones in buckets
                    if ones and (sum(one["texts"] for one in ones) >= self.how.max_batch
                                 or self.due_s(ones[0], lane["station"]) <= self.now_s)
                ]  # fmt: skip
                if ready:
                    self.start(lane, queue, min(ready, key=lambda ones: ones[0]["since_s"]))

    def start(self, lane: dict, queue: list, ones: list) -> None:
        room = self.how.max_batch
        for one in ones:
            taken = min(room, one["texts"])
            if taken:
                lane["batch"].append((one["request"], taken))
                room, one["texts"] = room - taken, one["texts"] - taken
                if one["texts"] == 0:
                    queue.remove(one)
        texts = [int(self.flow.input_tokens[request]) for request, count in lane["batch"] for _ in range(count)]
        table, place = np.asarray(self.how.batch_s), float(len(texts))
        if self.how.token_step:
            place = (len(texts) * max(texts) if self.how.padded else sum(texts)) / self.how.token_step
        lane["end_s"] = self.now_s + float(np.interp(place, np.arange(len(table)), table))


# By hand


def test_a_full_batch_leaves_at_once_and_a_small_one_when_the_oldest_has_waited():
    stage = Station(Batching(max_batch=4, max_wait_s=2.0, batch_s=LINEAR[:5]), Replicas(count=2))
    left = stage.advance(at(0.0, 0.1, 0.2, 0.3, 1.0, 1.5), INF)
    assert left.time_s.tolist() == pytest.approx([2.3] * 4 + [4.5] * 2)  # 0.3 + 2; 1.0 + 2 waited + 1.5
    assert stage.statistics()["batches"].tolist() == [0, 0, 1, 0, 1]


def test_a_lane_that_takes_the_oldest_holds_it_from_then_on():
    how = Batching(max_batch=3, max_wait_s=2.0, waits_from="lane", batch_s=LINEAR)
    flow = at(0.0, 0.5, 2.5, 4.0)
    # taken at 0, begun at 2, done at 3.5; then 2.5 is taken, held till 5.5 although it has waited 2 s at 4.5, with 4.0
    assert Station(how).advance(flow, INF).time_s.tolist() == [3.5, 3.5, 7.0, 7.0]
    assert Station(replace(how, lanes=2)).advance(flow, INF).time_s.tolist() == [3.5, 3.5, 6.0, 6.0]
    full = Station(how).advance(at(0.0, 2.5, 2.6, 2.7), INF)
    assert full.time_s.tolist() == [3.25, 5.0, 5.0, 5.0]  # begun at once: three wait when the lane is free


def test_a_held_batch_starts_again_with_the_replica():
    how = Batching(max_batch=3, max_wait_s=2.0, waits_from="lane", batch_s=LINEAR)
    failures = Failures(outages=((0, 1.0, 10.0),))
    left = Station(how, Replicas(failures=failures)).advance(at(0.0, 11.0), INF)
    assert left.time_s.tolist() == [13.5, 13.5]  # waits in the shared queue, is held from 10 till 12


def test_requests_of_one_moment_share_a_batch_without_waiting():
    left = Station(Batching(max_batch=4, batch_s=LINEAR[:5])).advance(at(1.0, 1.0, 1.0), INF)
    assert left.time_s.tolist() == [2.75] * 3


def test_candidates_are_split_over_batches_and_replicas():
    how = Batching(max_batch=8, batch_s=LINEAR, sequences=20)
    one = Station(how).advance(at(0.0), INF)
    two = Station(how, Replicas(count=2)).advance(at(0.0), INF)
    assert one.time_s.tolist() == [8.0]  # 8 + 8 + 4 texts: 3 + 3 + 2 s
    assert two.time_s.tolist() == [5.0]  # 3 s beside 3 s, then 2 s


def test_padding_packing_and_buckets():
    flow, tokens = at(0.0, 0.0, 0.0, 0.0, tokens=(10, 50, 12, 60)), np.arange(0.0, 11.0)  # 1 s for 100 tokens
    how = Batching(max_batch=4, batch_s=tokens, token_step=100.0)
    assert Station(how).advance(flow, INF).time_s.tolist() == pytest.approx([1.32] * 4)
    assert Station(replace(how, padded=True)).advance(flow, INF).time_s.tolist() == pytest.approx([2.4] * 4)
    buckets = Station(replace(how, padded=True, edges=(20,))).advance(flow, INF)
    assert buckets.time_s.tolist() == pytest.approx([0.24, 0.24, 1.44, 1.44])
    assert buckets.request.tolist() == [0, 2, 1, 3]


def test_lanes_of_one_replica_work_side_by_side_each_at_its_speed():
    how = Batching(max_batch=1, batch_s=[[0.0, 1.0], [0.0, 4.0]], lanes=2)
    assert Station(how).advance(at(0.0, 0.0, 0.0), INF).time_s.tolist() == [1.0, 2.0, 4.0]


def test_texts_of_a_lost_replica_are_done_again_by_another():
    how = Batching(max_batch=8, batch_s=LINEAR, sequences=16)
    replicas = Replicas(count=2, failures=Failures(outages=((0, 1.0, 100.0),)))
    left = Station(how, replicas, Policy(retries=1)).advance(at(0.0), INF)
    assert left.time_s.tolist() == [6.0]
    assert Station(how, replicas).advance(at(0.0), INF).outcome.tolist() == [Outcome.FAILED]


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"max_batch": 13}, {"max_wait_s": INF}, {"lanes": 0}, {"sequences": 0}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(CapacityError):
        Station(Batching(**({"max_batch": 8, "batch_s": LINEAR} | wrong)))


# Theory


def collected(flow: Flow, how: Batching) -> np.ndarray:
    """Return when each request is done on one lane that takes the oldest, then collects: as mosec's source reads."""
    times_s, done_s, first, free_s = flow.time_s, np.empty(len(flow)), 0, 0.0
    while first < len(flow):
        taken_s = max(free_s, times_s[first])
        last = int(np.searchsorted(times_s, taken_s + how.max_wait_s, side="right"))
        full = last - first >= how.max_batch
        last = first + how.max_batch if full else last
        start_s = max(taken_s, times_s[last - 1]) if full else taken_s + how.max_wait_s
        done_s[first:last] = free_s = start_s + np.asarray(how.batch_s)[last - first]
        first = last
    return done_s


@pytest.mark.parametrize("load", [0.1, 0.5, 0.9, 1.1])
@pytest.mark.parametrize("max_wait_s", [0.0, 0.3, 2.0, 9.0])
def test_one_lane_collects_like_a_plain_loop(load, max_wait_s):
    how = Batching(max_batch=8, max_wait_s=max_wait_s, waits_from="lane", batch_s=LINEAR)
    flow = random_flow(20_000, load * 8 / LINEAR[8])
    np.testing.assert_array_equal(Station(how).advance(flow, INF).time_s, collected(flow, how))


def m_d_b_1(rate: float, batch: int, most: int = 600) -> float:
    """Return the mean wait in M/D/1 with service 1 of up to `batch` at once, at any time (Bailey 1954, Downton 1955).

    From the number that wait just after a batch ends: the next begins at once, with what is there or the first to come.
    """
    arriving = np.exp([n * math.log(rate) - rate - math.lgamma(n + 1) for n in range(most)])
    step = np.zeros((most, most))
    for now in range(most):
        left = max(now - batch, 0)
        step[now, left:] = arriving[: most - left]
        step[now, -1] += 1 - step[now].sum()
    state = np.full(most, 1 / most)
    for _ in range(14):
        step = step @ step
    state = state @ step
    # between two ends: those left behind wait for 1, those that come wait half of it on average
    behind = np.maximum(np.arange(most) - batch, 0)
    waiting_s = (state * (behind + rate / 2)).sum()
    cycle_s = 1 + state[0] / rate
    return float(waiting_s / cycle_s / rate)


@pytest.mark.parametrize(("batch", "load"), [(1, 0.7), (4, 0.6), (8, 0.9)])
def test_bulk_service(batch, load):
    rate = load * batch
    expected = m_d_b_1(rate, batch)
    if batch == 1:
        assert expected == pytest.approx(load / (2 * (1 - load)), rel=1e-6)
    flow = random_flow(500_000, rate, seed=batch)
    left = Station(Batching(max_batch=batch, batch_s=[0.0] + [1.0] * batch)).advance(flow, INF)
    waits = sojourns(left)[20_000:] - 1
    means = np.array([part.mean() for part in np.array_split(waits, 30)])
    error = means.std(ddof=1) / math.sqrt(30)
    assert error < 0.05 * expected
    assert abs(means.mean() - expected) < 4 * error


def test_equal_batches_vary_as_said():
    stage = Station(Batching(max_batch=1, batch_s=[0.0, 2.0], lanes=400, variation=0.5))
    times_s = sojourns(stage.advance(random_flow(200_000, 50.0), INF))
    assert times_s.mean() == pytest.approx(2.0, abs=4 * 1.0 / math.sqrt(200_000))
    assert times_s.std() == pytest.approx(1.0, rel=0.02)


# The plain engine

HOW = st.builds(
    Batching, max_batch=st.integers(1, 8), max_wait_s=st.sampled_from([0.0, 0.4, 3.0]), padded=st.booleans(),
    batch_s=st.just(LINEAR), token_step=st.sampled_from([0.0, 50.0]), edges=st.sampled_from([(), (20,), (10, 40)]),
    sequences=st.sampled_from([1, 1, 3, 11]), lanes=st.integers(1, 2), waits_from=st.sampled_from(["arrival", "lane"]),
)  # fmt: skip
POLICY = st.builds(
    Policy, routing=st.sampled_from(["shared", "round-robin", "least-loaded"]), retries=st.integers(0, 2),
    queue_limit=st.sampled_from([None, 0, 5]), timeout_s=st.sampled_from([INF, 1.3]),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(how=HOW, policy=POLICY, replicas=st.integers(1, 3), load=st.floats(0.2, 1.4), seed=st.integers(0, 10**6))
def test_every_request_leaves_as_in_the_plain_engine(how, policy, replicas, load, seed):
    capacity = replicas * how.lanes * how.max_batch / (1 + how.max_batch / 4) / how.sequences
    flow = random_flow(120, load * capacity, seed)
    stage = Station(how, Replicas(count=replicas), policy)
    left = stage.advance(flow, INF)
    plain = Plain(flow, how, replicas, policy).run()
    mine = dict(zip(left.request.tolist(), zip(left.time_s.tolist(), left.outcome.tolist(), strict=True), strict=True))
    assert mine.keys() == plain.keys()
    for request, (time_s, outcome) in plain.items():
        assert mine[request] == (pytest.approx(time_s, rel=1e-12), outcome), request
    inside_s = stage.statistics()["mean_inside"] * stage.statistics()["until_s"]
    assert inside_s == pytest.approx(sojourns(left).sum())  # Little's law


@settings(max_examples=60, deadline=None)
@given(how=HOW, policy=POLICY, cuts=st.lists(st.floats(0.0, 60.0), max_size=6), fail=st.booleans())
def test_cuts_change_nothing(how, policy, cuts, fail):
    how = replace(how, variation=0.3)
    failures = Failures(outages=((0, 2.0, 7.0),), mean_between_s=15, mean_repair_s=3) if fail else Failures()
    replicas = Replicas(count=2, failures=failures)
    flow, first, parts = random_flow(200, 4.0), 0, []
    whole, cut = (Station(how, replicas, policy, 7, "encoder") for _ in range(2))
    left = whole.advance(flow, INF)
    for until_s in [*sorted(cuts), INF]:
        last = int(np.searchsorted(flow.time_s, until_s, side="right")) if until_s < INF else len(flow)
        parts.append(cut.advance(flow.at(np.arange(first, last)), until_s))
        first = last
    for name in Flow.__slots__:
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(left, name))
    assert sorted(left.request) == list(range(200))
