"""From a scenario to simulated serving: each candidate device sized by simulation, run, and priced."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from capacity import planner
from capacity.errors import CapacityError
from capacity.fleet import generation, online, pools, replicas, verify
from capacity.fleet.online import Case
from capacity.fleet.pool import Pool, fitted
from capacity.fleet.served import Point, PoolServing, Question, Serving, UnitCost
from capacity.fleet.simulated import Settings, Simulated
from capacity.fleet.sizing import Miss, least
from capacity.money.prices import PriceRange
from capacity.money.purchase import hourly
from capacity.phases import generate, serving_step
from capacity.phases.context import Context
from capacity.planner import Inputs
from capacity.spec.hardware import Hardware
from capacity.spec.scenario import Scenario
from capacity.timing import transfer
from capacity.timing.band import Z90, weakest
from capacity.timing.device import Device
from capacity.work.models import resized

HOUR_S = 3600.0
DAY_H = 24
DAYS = 12
"""Most fleets to run through a day in search of one that holds it."""
CURVE = (0.2, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.1)
"""Shares of what a fleet can serve at which its latency curve is drawn [1]."""
CURVE_REQUESTS, MOST_CURVE_REQUESTS = 5_000, 500_000
CURVE_SPAN = 50
"""Latencies of the objective that a point of the curve lasts at least, so that a queue has time to grow [1]."""
NEARLY = 2.0
"""How far the closed form may miss the objective for a simulation to be tried all the same [1]."""


def compiled() -> bool:
    """Return whether the event engine was ever compiled on this machine; else its first run takes some 20 s longer."""
    kernel: Any = replicas.settle
    return any(Path(kernel.stats.cache_path).glob("replicas.settle-*.nbi"))


def simulated(
    scenario: Scenario, given: Inputs, question: Question, hardware: Sequence[str] | None = None
) -> tuple[Serving, ...]:
    """Return each candidate simulated, best first: those that meet the objective by cost, then by devices.

    Raises
    ------
    InputError
        For unknown hardware.
    """
    names = list(dict.fromkeys(hardware or scenario.hardware))
    profiles = [planner.profile(name, given) for name in names]
    return tuple(sorted((_one(scenario, profile, given, question) for profile in profiles), key=rank))


def rank(item: Serving) -> tuple[int, float]:
    """Return what candidates are sorted by: those that meet the objective by cost, others by devices."""
    if item.refused or not item.pools:
        return 3, math.inf
    if not item.meets:
        return 2, item.devices
    return (0, item.cost.hour_usd) if item.cost else (1, item.devices)


def _one(scenario: Scenario, hardware: Hardware, given: Inputs, question: Question) -> Serving:
    device = transfer.device(hardware, scenario.engine, given.calibrations, given.shared)
    context = _context(scenario, given)
    blank = Serving(hardware=hardware.id, name=hardware.name, basis=device.basis, origin=device.origin)
    question.told(f"{hardware.name}: sizing")
    try:
        fitting, violations = fitted(context, device)
        if violations:
            miss = violations[0]
            said = f"{miss.where} misses {miss.constraint}: {miss.needed / miss.allowed:.3g} × the limit"
            return replace(blank, refused=said)
        choice = pools.cheapest(fitting, scenario)
        if isinstance(choice, Miss):
            given_all = all(pool.spec.replicas for pool in fitting)
            if choice.best_s > NEARLY * choice.allowed_s and not given_all:
                said = f"misses {choice.constraint}: best {choice.best_s:.3g} s, allowed {choice.allowed_s:.3g} s"
                return replace(blank, refused=said)
            choice = pools.fewest(fitting, scenario)  # the closed form may be wrong by as much
        return _Candidate(blank, device, fitting, scenario, given, question).served(choice)
    except CapacityError as error:
        return replace(blank, refused=str(error))


def _context(scenario: Scenario, given: Inputs) -> Context:
    items, users = scenario.catalogue.items, scenario.audience.users
    models = {name: resized(model, items, users) for name, model in given.models.items()}
    engines, points = given.shared.serving_engines, given.points
    return Context(scenario=scenario, models=models, engines=engines, points=points)


def curve(scenario: Scenario, given: Inputs, option: Serving, seed: int = 0) -> tuple[Point, ...]:
    """Return how the latency of an option's fleet grows with a steady rate, from 20 to 110 % of what it can serve."""
    steady = scenario.model_copy(update={"traffic": scenario.traffic.model_copy(update={"trace": None, "load": ()})})
    device = transfer.device(planner.profile(option.hardware, given), scenario.engine, given.calibrations, given.shared)
    fitting, _ = fitted(_context(steady, given), device)
    counts = {pool.name: pool.replicas for pool in option.pools}
    batches = {pool.name: pool.batch for pool in option.pools}
    most = min(pool.load(batches[pool.name]).most_rate() * counts[pool.name] for pool in fitting)
    case = Case(replicas=counts, batches=batches, rate=most, seed=seed, share=option.share)
    found = []
    for share in CURVE:
        wanted = int(share * most / option.share * CURVE_SPAN * scenario.objective.latency)
        settings = Settings(
            requests=min(max(CURVE_REQUESTS, wanted), MOST_CURVE_REQUESTS),
            objectives={"end_to_end": scenario.objective.latency},
        )  # fmt: skip
        run = verify.run(fitting, steady, replace(case, rate=share * most), settings)
        found.append(_point(run, share, share * most, scenario, option.share))
    return tuple(found)


def _point(run: Simulated, share: float, rate: float, scenario: Scenario, fleets: int) -> Point:
    tail = run.end_to_end.quantiles[scenario.objective.percentile]
    return Point(
        rate=rate, share_of_capacity=share, p50_s=run.end_to_end.quantiles["p50"].value, tail_s=tail.value,
        tail_error_s=tail.standard_error, goodput_per_s=run.goodput_per_s.value * fleets, state=run.saturation.state,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Candidate:
    """One device with the pools that it holds, and what was asked."""

    blank: Serving
    device: Device
    fitting: Sequence[Pool]
    scenario: Scenario
    given: Inputs
    question: Question

    def served(self, choice: pools.Choice) -> Serving:
        """Return the candidate run with its fleet, which is sized from the closed form's if that is asked."""
        case = Case(
            replicas=dict(choice.fleet.replicas), batches=choice.batches, rate=self.scenario.traffic.peak_rate,
            seed=self.question.seed, day=self.question.day,
        )  # fmt: skip
        peak = self.sized(case)
        trials = verify.Trials(self.scenario, self.run, online.resized(case, peak.replicas))
        held = self.through_the_day(trials) if self.question.day and peak.trials and peak.meets else peak
        case, result = online.resized(case, held.replicas), trials.result(held.replicas)
        slow, fast = (self.run(replace(case, shift=z)) if self.question.band else None for z in (Z90, -Z90))
        served = tuple(_pool(pool, choice, case, self.scenario, result) for pool in self.fitting)
        services = {pool.name: pool.service(case.batches[pool.name]) for pool in self.fitting}
        longest = max(self.fitting, key=lambda pool: float(services[pool.name].value))
        price = self.price()
        return replace(
            self.blank, basis=weakest([item.basis for item in services.values()]), pools=served, share=case.share,
            meets_peak=peak.meets, meets=peak.meets and trials.meets(held.replicas), trials=peak.trials,
            stressed_s=peak.latency_s,
            closed_form_s=choice.fleet.quantile_s, result=result, slow=slow, fast=fast,
            without_spare_s=self.without_spare_s(case), bound=_bound(longest, self.device),
            cost=None if price is None else _cost(price, served, result, case, self.fitting, self.scenario),
        )  # fmt: skip

    def sized(self, case: Case) -> verify.Sized:
        """Return the fleet sized by simulation where that is asked and requests come at a peak; else the given one."""
        if self.question.size and self.scenario.traffic.trace is None and not self.scenario.traffic.load:
            fixed = [pool.name for pool in self.fitting if pool.spec.replicas]
            return verify.sized(self.fitting, self.scenario, case, fixed)
        return verify.Sized(replicas=case.replicas, meets=True, latency_s=math.nan, trials=0)

    def through_the_day(self, trials: verify.Trials) -> verify.Sized:
        """Return the fleet that holds the objective at peak, enlarged where the day needs more."""
        free = [pool for pool in self.fitting if not pool.spec.replicas and not pool.spec.autoscaling]
        return verify.search(trials, free, trials.start.replicas, DAYS)

    def run(self, case: Case) -> Simulated:
        """Return one run as it was asked for: so many requests, or all of a day."""
        asked = self.question
        asked.told(f"{self.blank.name}: {sum(case.replicas.values())} replicas, running")
        settings = Settings(
            requests=None if asked.day else asked.requests, duration_s=DAY_H * HOUR_S if asked.day else None,
            keep=asked.keep, objectives={"end_to_end": self.scenario.objective.latency},
            progress=lambda came: asked.told(f"{self.blank.name}: {came:,} requests simulated"),
        )  # fmt: skip
        return verify.run(self.fitting, self.scenario, case, settings)

    def without_spare_s(self, case: Case) -> float:
        """Return the tail latency at peak with one replica of each pool less [s]; infinite where none remains."""
        fewer = {name: count - 1 for name, count in case.replicas.items()}
        if any(fewer[pool.name] < pool.fewest for pool in self.fitting):
            return math.inf
        lost = replace(case, replicas=fewer, day=False)
        found = verify.run(self.fitting, self.scenario, lost, Settings(requests=verify.ENOUGH))
        return verify.tail_s(found, self.scenario.objective.percentile)

    def price(self) -> PriceRange | None:
        """Return the price of one device on the scenario's terms."""
        return hourly(self.blank.hardware, self.scenario.pricing, self.given.today)


def _bound(pool: Pool, device: Device) -> str:
    work = [op for stage in pool.stages for op in serving_step.operations(stage, 1, pool.context)]
    return device.bound(work) if work else "host"


def _pool(pool: Pool, choice: pools.Choice, case: Case, scenario: Scenario, result: Simulated) -> PoolServing:
    load = pool.load(case.batches[pool.name])
    paid = float(case.replicas[pool.name])
    if case.day and pool.spec.autoscaling is not None:
        known = result.nodes[online.node_name(pool)].statistics
        paid = float(str(known["replica_s"])) / float(str(known["settled_s"])) * case.share
    mean = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak
    return PoolServing(
        name=pool.name, node=online.node_name(pool), replicas=case.replicas[pool.name],
        spare=scenario.resilience.spare_replicas, closed_form=choice.fleet.replicas[pool.name],
        floor=max(mean / load.most_rate(), least(load, 1e-9)), devices_per_replica=pool.devices_per_replica,
        utilization=case.rate / load.most_rate() / case.replicas[pool.name], batch=case.batches[pool.name],
        paid=paid, kv_blocks=generation.engine(pool.server).kv_blocks if pool.generates else 0,
    )  # fmt: skip


def _cost(
    price: PriceRange, served: Sequence[PoolServing], result: Simulated, case: Case, fitting: Sequence[Pool],
    scenario: Scenario,
) -> UnitCost:  # fmt: skip
    """Return the hourly price of all devices by what they serve in an hour at the simulated rate."""
    hour_usd = price.usd_per_device_hour * sum(pool.paid_devices for pool in served)
    answered = result.throughput_per_s * case.share * HOUR_S
    read, written = _tokens(fitting, scenario)

    def for_each(count: float, unit: float) -> float | None:
        return hour_usd / (answered * count) * unit if answered > 0 and count > 0 else None

    return UnitCost(
        hour_usd=hour_usd, thousand_usd=for_each(1.0, 1e3) or math.inf, million_input_usd=for_each(read, 1e6),
        million_output_usd=for_each(written, 1e6), million_total_usd=for_each(read + written, 1e6), flags=price.flags,
    )  # fmt: skip


def _tokens(fitting: Sequence[Pool], scenario: Scenario) -> tuple[float, float]:
    """Return the tokens that the LLMs read and write for one request, cached answers included [token]."""
    read = written = 0.0
    for pool in fitting:
        stage = pool.generates
        if stage is not None:
            texts, share = generate.texts(stage, scenario), 1 - pool.context.hit_rate(stage)
            read, written = read + share * texts.prompt, written + share * texts.output * texts.beams
    return read, written
