"""From a scenario's pools to a pipeline to simulate: stages as nodes, traffic as arrivals, texts as lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from capacity.errors import CapacityError
from capacity.fleet import arrivals as arriving
from capacity.fleet import generation
from capacity.fleet.arrivals import Arrivals
from capacity.fleet.compose import Delay, Guarded, InSeries, Texted
from capacity.fleet.continuous import ContinuousStage
from capacity.fleet.continuous import Policy as EnginePolicy
from capacity.fleet.flow import Times
from capacity.fleet.lengths import Fixed, InOrder, Length, Lengths, Lognormal, Prefixes, Text
from capacity.fleet.pool import Pool, batch_sizes
from capacity.fleet.replicas import Autoscaling, Failures, Replicas
from capacity.fleet.servers import Batching, Policy, Servers, Station
from capacity.fleet.simulator import Node, Stage
from capacity.phases import generate
from capacity.phases.step_table import Texts
from capacity.spec import serving
from capacity.spec.scenario import DAY_S, Scenario
from capacity.spec.stages import EncodeStage, GenerateStage, HostStage, RetrieveStage
from capacity.spec.stages import Stage as StageSpec

HOUR_S = 3600.0
MOST_SIMULATED = 64
"""Replicas of the largest pool that are simulated; a larger fleet is represented by a share of itself."""
TOKEN_CELLS = 64
"""Cells of the table of batch times by tokens."""
PEAK_S = 900.0
"""Time between two changes of the perfect autoscaler [s]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One fleet to simulate.

    Attributes
    ----------
    replicas, batches
        By pool.
    rate
        Requests per second at peak, of the whole fleet.
    seed
        Of arrivals, lengths and everything random in the stages.
    shift
        Standard deviations by which step times are longer than expected.
    day
        Whether the rate follows the day, replicas fail and the autoscaler acts, instead of the peak going on and on.
    share
        One in so many replicas, and of the requests, is simulated.
    """

    replicas: Mapping[str, int]
    batches: Mapping[str, int]
    rate: float
    seed: int = 0
    shift: float = 0.0
    day: bool = False
    share: int = 1

    def count(self, pool: Pool) -> int:
        """Return the simulated replicas of a pool."""
        return max(1, round(self.replicas[pool.name] / self.share))


def representative(replicas: Mapping[str, int]) -> int:
    """Return one in how many replicas must be simulated: as many as keep the largest pool at `MOST_SIMULATED`.

    A pool of few replicas cannot be divided without changing how busy it is: then all are simulated.

    Examples
    --------
    >>> representative({"encode": 6400, "rank": 640}), representative({"encode": 6400, "rank": 3})
    (100, 1)
    """
    share = max(1, max(replicas.values()) // MOST_SIMULATED)
    return share if min(replicas.values()) >= 4 * share else 1


def resized(case: Case, replicas: Mapping[str, int]) -> Case:
    """Return the case with another number of replicas of each pool."""
    return replace(case, replicas=dict(replicas), share=representative(replicas))


def arrivals(scenario: Scenario, case: Case) -> Arrivals:
    """Return how requests come, to the simulated share of the fleet."""
    traffic, rate = scenario.traffic, case.rate / case.share
    if traffic.trace is not None:
        return arriving.Trace.read(traffic.trace).thinned(case.share)
    if traffic.load:
        process: Literal["constant", "poisson"] = "constant" if traffic.arrivals == "constant" else "poisson"
        stages = tuple((part.rate / case.share, part.duration) for part in traffic.load)
        return arriving.Schedule(stages, process)
    if case.day:
        return arriving.Diurnal(rate, max(traffic.mean_to_peak, 0.05), traffic.peak_hour)
    if traffic.arrivals == "constant":
        return arriving.Constant(rate)
    return arriving.Gamma(rate, traffic.burst_cv) if traffic.arrivals == "gamma" else arriving.Poisson(rate)


def nodes(pools: Sequence[Pool], scenario: Scenario, case: Case) -> list[Node]:
    """Return the pipeline as nodes: one for each host stage and one for the devices' work of each pool.

    Raises
    ------
    CapacityError
        When a request would visit the replicas of one pool twice with other work between.
    """
    came = arrivals(scenario, case)
    recorded = came.lengths if isinstance(came, arriving.Trace) else None
    builder = _Builder(scenario, case, came, recorded)
    found = [node for pool in pools for node in builder.of(pool)]
    names = builder.names
    return [replace(node, after=_targets(node, names)) for node in found]


def node_name(pool: Pool) -> str:
    """Return the name of the node that is a pool's devices: that of its only stage, or its own."""
    work = [stage.name for stage in pool.stages if not isinstance(stage, HostStage)]
    return work[0] if len(work) == 1 else pool.name


def lengths(scenario: Scenario, case: Case) -> Lengths:
    """Return what requests ask for where no stage says it: the lengths of a trace, else nothing."""
    came = arrivals(scenario, case)
    return came.lengths if isinstance(came, arriving.Trace) else Text()


def _targets(node: Node, names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the nodes that stand for the stages a node comes after."""
    return tuple(dict.fromkeys(names.get(name, name) for name in node.after if names.get(name, name) != node.name))


@dataclass(frozen=True)
class _Builder:
    """Makes nodes; `names` maps each stage to the node that ends it."""

    scenario: Scenario
    case: Case
    arrivals: Arrivals
    recorded: Lengths | None

    names: dict[str, str] = field(default_factory=dict)

    def of(self, pool: Pool) -> list[Node]:
        """Return the nodes of one pool: its host stages, then its devices."""
        hosts = [stage for stage in pool.stages if isinstance(stage, HostStage)]
        work = [stage for stage in pool.stages if not isinstance(stage, HostStage)]
        inside = {stage.name for stage in work}
        before = [name for stage in work for name in self._before(stage) if name not in inside]
        found = []
        for stage in hosts:
            found.append(Node(stage.name, self._host(stage, pool), self._before(stage)))
            self.names[stage.name] = stage.name
        name = node_name(pool)
        self._visited_once(pool, work)
        writer = pool.generates
        made = self._station(pool, work[0]) if writer is None else self._generating(writer, pool, name)
        found.append(Node(name, made, tuple(dict.fromkeys(before)), answers=any(item.cache_answers for item in work)))
        for item in work:
            self.names[item.name] = name
        return found

    def _before(self, stage: StageSpec) -> tuple[str, ...]:
        return self.scenario.serving.after(stage)

    def _visited_once(self, pool: Pool, work: Sequence[StageSpec]) -> None:
        """Refuse a pool whose later stage waits for other work that waits for its first."""
        serving, inside = self.scenario.serving, {stage.name for stage in work}
        between = {name for stage in work for name in serving.before(stage.name)} - inside
        if any(inside.intersection(serving.before(name)) for name in between):
            raise CapacityError(
                f"pool {pool.name} is visited again after other work; give stage {work[-1].name} a pool of its own"
            )

    def _host(self, stage: HostStage, pool: Pool) -> Stage:
        if stage.workers is None:
            return Delay(stage.time, stage.variation, seed=self.case.seed, name=stage.name)
        work = Servers(servers=stage.workers, mean_s=stage.time, spread="lognormal", variation=stage.variation)
        return Station(work, self._replicas(pool), self._policy(stage, pool), self.case.seed, stage.name)

    def _station(self, pool: Pool, stage: StageSpec) -> Stage:
        """Return the replicas of a pool that serves batches."""
        alone = sum(not isinstance(item, HostStage) for item in pool.stages) == 1
        hit = pool.context.hit_rate(stage) if alone else 0.0  # stages that share devices share batches, hits and all
        batch = math.ceil(self.case.batches[pool.name] * (1 - hit))
        worked = _worked(pool, stage) if alone else pool
        slow = math.exp(self.case.shift * float(worked.service(batch).log_sigma))
        work = self._work(worked, stage, batch, slow)
        policy = replace(self._policy(stage, pool), hit_rate=hit)
        station = Station(work, self._replicas(pool), policy, self.case.seed, pool.name)
        if not isinstance(work, Batching) or not work.token_step:
            return station
        return Texted(station, self._read(stage), seed=self.case.seed, name=stage.name, outputs=False)

    def _work(self, pool: Pool, stage: StageSpec, batch: int, slow: float) -> Servers | Batching:
        """Return how a replica serves: shards each at their own time, batches by tokens, or batches by requests."""
        variation, wait_s = self.scenario.resilience.service_variation, pool.spec.max_wait or 0.0
        if isinstance(stage, RetrieveStage) and stage.shards > 1:
            mean_s = slow * float(pool.service(batch).value)
            return Servers(
                servers=batch, mean_s=mean_s, shards=stage.shards, spread="lognormal" if variation else "fixed",
                variation=variation,
            )  # fmt: skip
        if isinstance(stage, EncodeStage) and stage.tokens_cv > 0 and stage.sequences == 1:
            step, table = _by_tokens(pool, stage, batch)
            return Batching(
                max_batch=batch, max_wait_s=wait_s, batch_s=slow * table, token_step=step,
                padded=stage.batching == "pad", edges=stage.buckets,
            )  # fmt: skip
        sizes = batch_sizes(batch)
        known = [0.0, *(float(pool.service(size).value) for size in sizes)]
        times = np.interp(np.arange(batch + 1), [0, *sizes], known)
        return Batching(
            max_batch=batch, max_wait_s=wait_s, batch_s=slow * times, variation=variation / math.sqrt(batch)
        )

    def _read(self, stage: StageSpec) -> Lengths:
        if self.recorded is not None or not isinstance(stage, EncodeStage):
            return self.recorded or Text()
        return Text(_length(self.scenario.tokens(stage.tokens), stage.tokens_cv))

    def _generating(self, stage: GenerateStage, pool: Pool, name: str) -> Stage:
        """Return an LLM's replicas, or those that read and those that write, and the way to the client."""
        server = pool.server
        texts = generate.texts(stage, self.scenario)
        table = server.table.scaled(math.exp(self.case.shift * server.table.log_sigma) * pool.slowed)
        policy, seed = self._engine_policy(stage, pool), self.case.seed
        client = Delay(self._seen_s(pool, texts), seed=seed, name=f"{name} client", first=True)
        prefixes = (stage.prefix_tokens,) * (stage.prefix_groups if stage.prefix_tokens else 0)
        limits = replace(
            generation.engine(server), beams=stage.beams, tokens_per_step=texts.tokens_per_step,
            verified_tokens=texts.verified_tokens, chunked=stage.chunked, prefix_tokens=prefixes,
        )  # fmt: skip
        told, everyone = self._texts(stage), self._replicas(pool)
        writers, parts = everyone, list[Stage]()
        if stage.disaggregated:
            readers = self._readers(pool, texts)
            short = self._texts(stage, output=Fixed(1))
            reading = ContinuousStage(
                table, replace(limits, beams=1), counted(everyone, readers), policy, seed, f"{name} prompts"
            )
            parts = [
                Texted(reading, short, seed=seed, name=name),
                Delay(self._transfer_s(pool, texts), seed=seed, name=name),
            ]
            writers, limits = counted(everyone, everyone.count - readers), replace(limits, prompts_cached=True)
        parts.append(Texted(ContinuousStage(table, limits, writers, policy, seed, name), told, seed=seed, name=name))
        whole = InSeries([*parts, client], speaks=len(parts) - 1)
        return Guarded(whole, pool.context.hit_rate(stage), stage.fallback, seed=seed, name=name)

    def _texts(self, stage: GenerateStage, output: Length | None = None) -> Lengths:
        """Return what requests of the stage read and write."""
        prefixes = Prefixes(stage.prefix_groups, stage.prefix_exponent) if stage.prefix_tokens else None
        if isinstance(self.recorded, InOrder):
            return self.recorded if output is None else Text(Fixed(self.scenario.tokens(stage.prompt_tokens)), output)
        varied = stage.output_cv or self.scenario.resilience.service_variation
        written = output or _length(stage.output_tokens, varied)
        return Text(_length(self.scenario.tokens(stage.prompt_tokens), stage.prompt_cv), written, prefixes)

    def _readers(self, pool: Pool, texts: Texts) -> int:
        """Return how many of the pool's replicas read prompts: as many as the work of reading is of all work."""
        table, slots = pool.server.table, pool.server.slots(texts) * texts.beams
        reading_s = table.read_s(texts, 0.0)
        writing_s = (texts.steps - 1) * table.step_s(texts, slots) / max(slots / texts.beams, 1.0)
        count = self.case.count(pool)
        if count < 2:
            raise CapacityError(f"pool {pool.name} needs at least 2 replicas where prompts are read apart")
        return min(max(1, round(count * reading_s / (reading_s + writing_s))), count - 1)

    def _transfer_s(self, pool: Pool, texts: Texts) -> float:
        hardware = pool.device.hardware
        paths = [fact.value.bandwidth if hasattr(fact.value, "bandwidth") else fact.value
                 for fact in (hardware.link, hardware.host_bandwidth) if fact is not None]  # fmt: skip
        if not paths:
            raise CapacityError(f"{hardware.id} has neither link nor host_bandwidth to send keys and values over")
        return texts.prompt * pool.server.kv_bytes_per_token / max(paths)

    def _seen_s(self, pool: Pool, texts: Texts) -> float:
        """Return how much later clients see tokens than the engine makes them, at the load of the peak [s]."""
        replicas = self.case.replicas[pool.name]
        running = pool.running(replicas, self.case.rate, 1)
        adds, step_s = pool.server.engine, pool.server.table.step_s(texts, running * texts.beams)
        return (
            adds.visible + adds.visible_steps * step_s + adds.visible_sequence * running
            + adds.visible_token * texts.prompt
        )  # fmt: skip

    def _policy(self, stage: StageSpec, pool: Pool) -> Policy:
        routing = "shared" if pool.spec.batcher == "central" else pool.spec.routing
        return Policy(
            routing="least-loaded" if routing == "prefix-aware" else routing, queue_limit=stage.queue_limit,
            timeout_s=stage.timeout or math.inf, retries=stage.retries, fallback_s=stage.fallback,
            hit_rate=0.0 if isinstance(stage, HostStage) else pool.context.hit_rate(stage),
        )  # fmt: skip

    def _engine_policy(self, stage: GenerateStage, pool: Pool) -> EnginePolicy:
        told: dict[str, object] = {"queue_limit": stage.queue_limit} if stage.queue_limit else {}
        return EnginePolicy(
            routing=pool.spec.routing, timeout_s=stage.timeout or math.inf, retries=stage.retries, **told,  # type: ignore[arg-type]
        )  # fmt: skip

    def _replicas(self, pool: Pool) -> Replicas:
        """Return the pool's simulated replicas with what becomes of them."""
        count, spec = self.case.count(pool), pool.spec
        if not self.case.day:
            return Replicas(count=count)
        failures = Failures()
        if spec.failures is not None:
            failures = Failures(mean_between_s=spec.failures.every, mean_repair_s=spec.failures.repair)
            lost = math.ceil(count * spec.failures.region_loss)
            if lost:
                peak_s = self.scenario.traffic.peak_hour * HOUR_S
                failures = failures.with_region(range(min(lost, count)), peak_s, peak_s + spec.failures.region_repair)
        if spec.autoscaling is None:
            return Replicas(count=count, failures=failures)
        scaling = self._scaling(pool, spec.autoscaling)
        return Replicas(count=min(max(count, scaling.minimum), scaling.maximum), scaling=scaling, failures=failures)

    def _scaling(self, pool: Pool, spec: serving.Autoscaling) -> Autoscaling:
        share = self.case.share
        most, least = max(1, spec.maximum // share), max(1, spec.minimum // share)
        if spec.by == "perfect":
            rate = pool.load(self.case.batches[pool.name], self.case.shift).most_rate() * spec.target
            times = list(np.arange(0.0, DAY_S + PEAK_S, PEAK_S))
            return Autoscaling.perfect(lambda t: float(self.arrivals.rate_at(np.asarray(t))), rate, most, times)
        steps = tuple((hour * HOUR_S, max(1, count // share)) for hour, count in spec.schedule)
        return Autoscaling(
            kind=spec.by, target=spec.target, interval_s=spec.interval, cold_start_s=spec.cold_start, minimum=least,
            maximum=max(most, least), scale_down_delay_s=spec.down_delay, schedule=steps,
        )  # fmt: skip


def _worked(pool: Pool, stage: StageSpec) -> Pool:
    """Return a pool of one stage without its cache, and with texts of the same length: the simulation draws both."""
    bare: dict[str, object] = {"cache_hit_rate": 0.0, "cache": None}
    if isinstance(stage, EncodeStage) and stage.sequences == 1:
        bare |= {"tokens_cv": 0.0, "buckets": ()}
    stages = tuple(item.model_copy(update=bare) if item is stage else item for item in pool.stages)
    return replace(pool, stages=stages)


def counted(replicas: Replicas, count: int) -> Replicas:
    """Return the same replicas in another number, without autoscaling: those that read and write keep their ratio."""
    outages = tuple(outage for outage in replicas.failures.outages if outage[0] < count)
    return Replicas(count=count, failures=replace(replicas.failures, outages=outages))


def _length(mean: int, cv: float) -> Length:
    return Lognormal(float(mean), cv) if cv else Fixed(mean)


def _by_tokens(pool: Pool, stage: EncodeStage, batch: int) -> tuple[float, Times]:
    """Return the time of a batch by its tokens, padding included, on a grid of equal steps: (step, times [s])."""
    tokens = pool.context.scenario.tokens(stage.tokens)
    most = batch * tokens * (1 + 4 * stage.tokens_cv)
    sizes = batch_sizes(batch)
    grid = np.linspace(0.0, most, TOKEN_CELLS + 1)
    known = np.array([float(pool.service(size).value) for size in sizes])
    times = np.interp(grid, np.array([0, *sizes]) * tokens, np.r_[known[0] / 2, known])
    beyond = grid > batch * tokens
    times[beyond] = known[-1] * grid[beyond] / (batch * tokens)
    return float(grid[1]), times
