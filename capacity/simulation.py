"""From a scenario to simulated serving: each candidate device sized by simulation, run, and priced."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from capacity import planner
from capacity.errors import CapacityError
from capacity.fleet import online, pools, verify
from capacity.fleet.online import Case
from capacity.fleet.pool import Pool, fitted
from capacity.fleet.simulated import Settings, Simulated
from capacity.fleet.sizing import Miss, least
from capacity.money.prices import PriceRange, price_range
from capacity.phases import generate
from capacity.phases.serving_step import Context
from capacity.planner import Inputs
from capacity.spec.hardware import Hardware
from capacity.spec.scenario import Scenario
from capacity.timing import transfer
from capacity.timing.band import Z90, Basis, weakest
from capacity.timing.device import Device
from capacity.work.models import resized

HOUR_S = 3600.0
DAY_H = 24
REQUESTS = 50_000
NEARLY = 2.0
"""How far the closed form may miss the objective for a simulation to be tried all the same [1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What to simulate.

    Attributes
    ----------
    requests
        Requests of a run; None with `day`: all of a day.
    seed
        Of everything random.
    day
        Whether the rate follows the day.
    size
        Whether the fleet is sized by simulation; else it is the closed form's.
    band
        Whether the fleet is run again with step times at the ends of their 90 % band.
    keep
        Requests recorded one by one.
    """

    requests: int | None = REQUESTS
    seed: int = 0
    day: bool = False
    size: bool = True
    band: bool = True
    keep: int = 0
    progress: Callable[[str], None] | None = None

    def told(self, what: str) -> None:
        """Say what is being done."""
        if self.progress is not None:
            self.progress(what)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolServing:
    """Replicas of one pool.

    Attributes
    ----------
    closed_form
        Replicas that the closed form asks for.
    floor
        Replicas that a perfect autoscaler would keep on average over the day: no fleet is cheaper.
    utilization
        Busy share at peak by work: rate ÷ the rate at which the replicas saturate [1].
    """

    name: str
    node: str
    replicas: int
    spare: int
    closed_form: int
    floor: float
    devices_per_replica: float
    utilization: float

    @property
    def devices(self) -> int:
        """Devices to pay for, spares included."""
        return math.ceil((self.replicas + self.spare) * self.devices_per_replica)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCost:
    """What is paid for devices while serving at peak, by what is served [USD].

    Attributes
    ----------
    hour_usd
        Of all devices, spares included.
    thousand_usd
        For 1,000 answered requests, called recommendations.
    million_input_usd, million_output_usd, million_total_usd
        For 1 M tokens read, written, and both: all cost set against each in turn; None without text.
    flags
        What is doubtful about the price.
    """

    hour_usd: float
    thousand_usd: float
    million_input_usd: float | None
    million_output_usd: float | None
    million_total_usd: float | None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """One candidate device, simulated.

    Attributes
    ----------
    refused
        Why nothing could be simulated; empty when it could.
    meets
        Whether the fleet met the objective at peak plus headroom.
    bound
        What limits the stage that takes longest.
    share
        One in so many replicas, and of the requests, was simulated.
    result, slow, fast
        The run, and those with step times at the ends of their 90 % band.
    without_spare_s
        The tail latency at peak if one replica of each pool is gone and no spare is left; infinite where none remains
        or the rest cannot keep up [s].
    """

    hardware: str
    name: str
    basis: Basis
    origin: str
    refused: str = ""
    meets: bool = False
    bound: str = ""
    pools: tuple[PoolServing, ...] = ()
    share: int = 1
    trials: int = 0
    closed_form_s: float = math.nan
    result: Simulated | None = None
    slow: Simulated | None = None
    fast: Simulated | None = None
    without_spare_s: float = math.nan
    cost: UnitCost | None = None

    @property
    def devices(self) -> int:
        """Devices of all pools, spares included."""
        return sum(pool.devices for pool in self.pools)


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
    return tuple(sorted((_one(scenario, profile, given, question) for profile in profiles), key=_rank))


def _rank(item: Serving) -> tuple[int, float]:
    if item.refused or not item.pools:
        return 3, math.inf
    if not item.meets:
        return 2, item.devices
    return (0, item.cost.hour_usd) if item.cost else (1, item.devices)


def _one(scenario: Scenario, hardware: Hardware, given: Inputs, question: Question) -> Serving:
    device = transfer.device(hardware, scenario.engine, given.calibrations, given.shared)
    items, users = scenario.catalogue.items, scenario.audience.users
    models = {name: resized(model, items, users) for name, model in given.models.items()}
    context = Context(scenario=scenario, models=models, engines=given.shared.serving_engines)
    blank = Serving(hardware=hardware.id, name=hardware.name, basis=device.basis, origin=device.origin)
    question.told(f"{hardware.name}: sizing")
    try:
        fitting, violations = fitted(context, device)
        if violations:
            miss = violations[0]
            return replace(blank, refused=f"{miss.where} misses {miss.constraint}: {miss.needed / miss.allowed:.3g} × the limit")
        choice = pools.cheapest(fitting, scenario)
        if isinstance(choice, Miss):
            if choice.best_s > NEARLY * choice.allowed_s:
                said = f"misses {choice.constraint}: best {choice.best_s:.3g} s, allowed {choice.allowed_s:.3g} s"
                return replace(blank, refused=said)
            choice = pools.fewest(fitting, scenario)  # the closed form may be wrong by as much
        return _served(blank, fitting, choice, scenario, given, question, device)
    except CapacityError as error:
        return replace(blank, refused=str(error))


def _served(
    blank: Serving, fitting: Sequence[Pool], choice: pools.Choice, scenario: Scenario, given: Inputs,
    question: Question, device: Device,
) -> Serving:  # noqa: PLR0913  (what one candidate is made of)  # fmt: skip
    case = Case(
        replicas=dict(choice.fleet.replicas), batches=choice.batches, rate=scenario.traffic.peak_rate,
        seed=question.seed, day=question.day,
    )  # fmt: skip
    fixed = [pool.name for pool in fitting if pool.spec.replicas]
    found = verify.Sized(replicas=case.replicas, meets=True, latency_s=math.nan, trials=0)
    if question.size and scenario.traffic.trace is None and not scenario.traffic.load:
        found = verify.sized(fitting, scenario, case, fixed)
    case = replace(case, replicas=found.replicas, share=online.representative(found.replicas))
    settings = Settings(
        requests=question.requests, duration_s=DAY_H * HOUR_S if question.day else None, keep=question.keep,
        objectives={"end_to_end": scenario.objective.latency},
    )  # fmt: skip
    if question.day and question.requests is not None:
        settings = replace(settings, requests=None)
    question.told(f"{blank.name}: {sum(found.replicas.values())} replicas, running")
    result = verify.run(fitting, scenario, case, settings)
    ends = [verify.run(fitting, scenario, replace(case, shift=z), settings) if question.band else None for z in (Z90, -Z90)]
    fewer = {name: count - 1 for name, count in found.replicas.items()}
    lost_s = math.inf
    if min(fewer.values()) > 0:
        lost = verify.run(fitting, scenario, replace(case, replicas=fewer, day=False), Settings(requests=verify.ENOUGH))
        lost_s = verify.tail_s(lost, scenario.objective.percentile)
    served = tuple(_pool(pool, choice, case, scenario) for pool in fitting)
    price = price_range(
        blank.hardware, scenario.pricing.term, scenario.pricing.provider, scenario.pricing.region, today=given.today
    )
    services = [pool.service(case.batches[pool.name]) for pool in fitting]
    longest = max(fitting, key=lambda pool: float(pool.service(case.batches[pool.name]).value))
    return replace(
        blank, basis=weakest([item.basis for item in services]), meets=found.meets, pools=served, share=case.share,
        trials=found.trials, closed_form_s=choice.fleet.quantile_s, result=result, slow=ends[0], fast=ends[1],
        without_spare_s=lost_s, bound=_bound(longest, device),
        cost=None if price is None else _cost(price, served, result, case, fitting, scenario),
    )  # fmt: skip


def _bound(pool: Pool, device: Device) -> str:
    from capacity.phases import serving_step  # noqa: PLC0415

    work = [op for stage in pool.stages for op in serving_step.operations(stage, 1, pool.context)]
    return device.bound(work) if work else "host"


def _pool(pool: Pool, choice: pools.Choice, case: Case, scenario: Scenario) -> PoolServing:
    load = pool.load(case.batches[pool.name])
    mean = scenario.traffic.peak_rate * scenario.traffic.mean_to_peak
    return PoolServing(
        name=pool.name, node=online.node_name(pool), replicas=case.replicas[pool.name],
        spare=scenario.resilience.spare_replicas, closed_form=choice.fleet.replicas[pool.name],
        floor=max(mean / load.most_rate(), least(load, 1e-9)), devices_per_replica=pool.devices_per_replica,
        utilization=case.rate / load.most_rate() / case.replicas[pool.name],
    )  # fmt: skip


def _cost(
    price: PriceRange, served: Sequence[PoolServing], result: Simulated, case: Case, fitting: Sequence[Pool],
    scenario: Scenario,
) -> UnitCost:  # fmt: skip
    """Return the hourly price of all devices by what they serve in an hour at the simulated rate."""
    hour_usd = price.usd_per_device_hour * sum(pool.devices for pool in served)
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


def band_s(option: Serving, name: str) -> Mapping[str, float]:
    """Return a latency's quantile of the run and of both ends of the step times' band: value, low, high [s]."""
    runs = {"value": option.result, "low": option.fast, "high": option.slow}
    return {
        end: run.end_to_end.quantiles[name].value for end, run in runs.items() if run is not None and run.end_to_end.count
    }
