"""A pool before sizing: its stages on the fewest devices that hold them, its memory, and its load at a batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from capacity.errors import CapacityError
from capacity.fleet.equilibrium import Course, Steady, course
from capacity.fleet.sizing import GenerateLoad, Load, PoolLoad
from capacity.phases import generate, memory, serving_step
from capacity.phases.context import Context
from capacity.phases.server import Server
from capacity.plan import Violation
from capacity.spec.model import TransformerModel
from capacity.spec.serving import Pool as PoolSpec
from capacity.spec.stages import GenerateStage, HostStage, RankStage, RetrieveStage, ScoreStage, Stage
from capacity.timing.band import Estimate, total
from capacity.timing.device import Device
from capacity.timing.slices import sliced
from capacity.units import text

DEGREES = (1, 2, 4, 8)
"""Tensor-parallel degrees tried, smallest first."""


@dataclass(frozen=True)
class Pool:
    """Stages that run one after the other on the same replicas.

    Attributes
    ----------
    device
        What a replica is made of: a whole device, or a slice.
    largest_batch
        Most requests that fit a replica's memory at once; 0: not even one.
    available_bytes
        Memory of one device that a program can use; None where its profile does not know [byte].
    """

    name: str
    stages: tuple[Stage, ...]
    spec: PoolSpec
    device: Device
    context: Context
    largest_batch: int = 0
    available_bytes: float | None = None

    @cached_property
    def generates(self) -> GenerateStage | None:
        """The stage in which an LLM writes, if the pool is that of one.

        Raises
        ------
        CapacityError
            When other stages share its replicas: an engine keeps them to itself.
        """
        found = [stage for stage in self.stages if isinstance(stage, GenerateStage)]
        others = [stage for stage in self.stages if not isinstance(stage, GenerateStage | HostStage)]
        if found and (others or len(found) > 1):
            other = next(stage for stage in (*others, *found[1:]))
            raise CapacityError(
                f"pool {self.name}: stage {other.name} shares it with {found[0].name}; "
                "an LLM engine needs a pool of its own"
            )
        return found[0] if found else None

    @cached_property
    def server(self) -> Server:
        """One replica of the engine that generates."""
        stage = self.generates
        if stage is None:
            raise CapacityError(f"pool {self.name} generates nothing")
        server = self._server(stage, stage.model)
        if stage.speculation is None or stage.speculation.model is None:
            return server
        return replace(server, draft=self._server(stage, stage.speculation.model), drafted=stage.speculation.tokens)

    def _server(self, stage: GenerateStage, name: str) -> Server:
        model = self.context.models[name]
        if not isinstance(model, TransformerModel):
            raise CapacityError(f"model {name} is of family {model.family!r}; a generate stage needs 'transformer'")
        context = self.context
        return generate.server(stage, model, context.scenario, self.device, context.tensor_parallel, context.engines)

    @property
    def devices_per_replica(self) -> int | float:
        """Devices of one replica, all its shards; less than one for a slice."""
        degree = self.server.served.layout.devices if self.generates else self.context.tensor_parallel
        degree *= max((stage.shards for stage in self.stages if isinstance(stage, RetrieveStage)), default=1)
        return degree / self.spec.slices if self.spec.slices > 1 else degree

    def batch(self, level: int) -> int:
        """Return the pool's batch size when all pools are at `level`."""
        return min(level, self.largest_batch)

    def parts(self, requests: int) -> dict[str, float]:
        """Memory of one device by component; parts of different stages add, one model's weights count once [byte]."""
        if self.generates:
            texts = generate.texts(self.generates, self.context.scenario)
            held = requests * (texts.prompt + texts.output * texts.beams / 2)
            return {**self.server.memory_bytes, "KV cache": held * self.server.kv_bytes_per_token}
        found: dict[str, float] = {}
        loaded: set[tuple[object, ...]] = set()
        for stage in self.stages:
            model = (getattr(stage, "model", ""), stage.dtype, getattr(stage, "tables", None))
            for name, size in serving_step.memory_parts(stage, requests, self.context).items():
                shared = name == "weights" and model in loaded
                found[name] = found.get(name, 0.0) + (0.0 if shared else float(size))
            loaded.add(model)
        return found

    @property
    def host_s(self) -> float:
        """Time of a request in host work, which keeps no device busy [s]."""
        return sum(stage.time for stage in self.stages if isinstance(stage, HostStage))

    @property
    def reaching(self) -> float:
        """Share of the requests that reach the pool: caches of results before it answer the others."""
        return max(self.context.reaching(stage) for stage in self.stages)

    def stage_time(self, stage: Stage, requests: int) -> Estimate:
        """Return the time of one batch in a stage; of an LLM, of one request among as many [s]."""
        if (stage.name, requests) not in self._stage_times:
            self._stage_times[stage.name, requests] = self._stage_time(stage, requests)
        return self._stage_times[stage.name, requests]

    @cached_property
    def _stage_times(self) -> dict[tuple[str, int], Estimate]:
        return {}

    def _stage_time(self, stage: Stage, requests: int) -> Estimate:
        if not isinstance(stage, GenerateStage):
            return serving_step.time(stage, requests, self.device, self.context).scaled(self.slowed)
        table, texts = self.server.table, generate.texts(stage, self.context.scenario)
        working = max(requests * (1 - self.context.hit_rate(stage)), 1.0)
        sequences = min(working, self.server.slots(texts)) * texts.beams
        errors = {f"{stage.software} steps on {self.device.hardware.id}": table.log_sigma}
        return Estimate(table.request_s(texts, sequences) * self.slowed, errors, table.basis)

    @cached_property
    def _services(self) -> dict[int, Estimate]:
        return {}

    def service(self, requests: int) -> Estimate:
        """Return the time of one batch through every stage that runs on the device [s]."""
        if requests not in self._services:
            work = [stage for stage in self.stages if not isinstance(stage, HostStage)]
            self._services[requests] = total(self.stage_time(stage, requests) for stage in work)
        return self._services[requests]

    def running(self, replicas: int, rate: float, batch: int) -> int:
        """Return the requests that a replica works on at once: the batch, or where continuous batching settles."""
        load = self._generate_load(0.0) if self.generates else None
        found = load.steady(replicas, rate) if load else None
        return max(1, round(found.sequences / load.course.texts.beams)) if found and load else batch

    def load(self, level: int, shift: float = 0.0) -> Load:
        """Return the pool's load with its step time moved by `shift` standard deviations."""
        if self.generates:
            return self._generate_load(shift)
        requests = self.batch(level)
        service = self.service(requests)
        variation = self.context.scenario.resilience.service_variation
        return PoolLoad(
            name=self.name, batch=requests, service_s=_shifted(service, shift), service_scv=variation**2 / requests,
            host_s=self.host_s, devices_per_replica=self.devices_per_replica, max_wait_s=self.spec.max_wait or 0.0,
            share=self.reaching,
        )  # fmt: skip

    def _generate_load(self, shift: float) -> GenerateLoad:
        stage = self.generates
        if stage is None:
            raise CapacityError(f"pool {self.name} generates nothing")
        texts, slots = self._course.texts, self.server.slots(self._course.texts)
        variation = stage.output_cv or self.context.scenario.resilience.service_variation
        adds = self.server.engine

        def seen_s(found: Steady) -> float:
            running = adds.visible_steps * found.step_s + adds.visible_sequence * found.sequences / texts.beams
            return adds.visible + running + adds.visible_token * texts.prompt

        return GenerateLoad(
            name=self.name, course=self._course.slowed(math.exp(shift * self.server.table.log_sigma)), slots=slots,
            service_scv=variation**2, seen=seen_s, share=self.reaching * (1 - self.context.hit_rate(stage)),
            host_s=self.host_s, devices_per_replica=self.devices_per_replica, fewest=self.fewest,
        )  # fmt: skip

    @property
    def fewest(self) -> int:
        """Fewest replicas that work at all: one that reads and one that writes where prompts are read apart."""
        return 2 if self.generates is not None and self.generates.disaggregated else 1

    @cached_property
    def _course(self) -> Course:
        """How the load of an LLM's replica goes with the sequences in service."""
        if self.generates is None:
            raise CapacityError(f"pool {self.name} generates nothing")
        texts = generate.texts(self.generates, self.context.scenario)
        return course(self.server.table.scaled(self.slowed), texts, self.server.slots(texts))

    @property
    def slowed(self) -> float:
        """How much longer steps take while the other slices of the device are busy [1]."""
        return 1 + self.spec.interference if self.spec.slices > 1 else 1.0


def _shifted(estimate: Estimate, shift: float) -> float:
    return float(estimate.value) * math.exp(shift * float(estimate.log_sigma))


def batch_sizes(most: int) -> list[int]:
    """Return powers of two up to `most`, and `most` itself.

    Examples
    --------
    >>> batch_sizes(12)
    [1, 2, 4, 8, 12]
    """
    return [2**power for power in range(int(math.log2(most)) + 1)] + ([most] if most & (most - 1) else [])


def fitted(context: Context, device: Device) -> tuple[list[Pool], list[Violation]]:
    """Return the pools of a scenario with the fewest devices a replica that hold them, and the memory violations."""
    pools, violations = [], []
    for tried in candidates(context, device):
        pool = next((candidate for candidate in tried if candidate.largest_batch), tried[-1])
        pools.append(pool)
        if not pool.largest_batch:
            violations.append(too_small(pool))
    return pools, violations


def candidates(context: Context, device: Device) -> list[list[Pool]]:
    """Return each pool of a scenario with every number of devices that may share its products, fewest first."""
    found = []
    serving = context.scenario.serving
    for name in dict.fromkeys(stage.pool for stage in serving.stages):
        stages = tuple(stage for stage in serving.stages if stage.pool == name)
        spec = serving.pool(name)
        part = sliced(device, spec.slices)
        degrees = _degrees(stages, spec)
        found.append([_pool(Pool(name, stages, spec, part, replace(context, tensor_parallel=at))) for at in degrees])
    return found


def _degrees(stages: Sequence[Stage], spec: PoolSpec) -> tuple[int, ...]:
    """Return the numbers of devices that may share a product: slices have no link to share one over."""
    asked: list[Literal["auto", 1, 2, 4, 8]] = [
        stage.tensor_parallel for stage in stages if isinstance(stage, GenerateStage)
    ]
    given = [degree for degree in (*asked, spec.tensor_parallel) if degree != "auto"]
    if given:
        return (int(given[0]),)
    return DEGREES if spec.slices == 1 else (1,)


def _pool(pool: Pool) -> Pool:
    """Return the pool with the largest batch that fits its device."""
    capacity = pool.device.hardware.memory
    available = capacity.value - memory.reserve(capacity.value, pool.device.hardware.kind) if capacity else None
    largest = 0
    if pool.generates:
        texts = generate.texts(pool.generates, pool.context.scenario)
        slots = pool.server.slots(texts) if pool.server.kv_tokens >= texts.kv_tokens else 0
        largest = min(int(slots), pool.generates.max_sequences or int(slots))
    else:
        for requests in [] if _without_place(pool) else batch_sizes(pool.spec.max_batch or 1):
            if available is None or sum(pool.parts(requests).values()) <= available:
                largest = requests
    return replace(pool, largest_batch=largest, available_bytes=available)


def _without_place(pool: Pool) -> Violation | None:
    """Return the first stage whose rows the tiers of a device do not hold, if there is one."""
    looking = [stage for stage in pool.stages if isinstance(stage, RankStage | ScoreStage)]
    for stage in looking:
        lacking = serving_step.lacking_bytes(stage, pool.context)
        if lacking > 0:
            needed, count = serving_step.rows(stage, 1, pool.context).size_bytes, pool.context.tensor_parallel
            return Violation(
                where=f"stage {stage.name}", constraint=f"room for the rows of one of {count} devices in all tiers",
                needed=needed, allowed=needed - lacking, dimension="bytes",
                advice=f"{text(lacking, 'bytes')} a device more of tables.device_memory, host_memory or drives",
            )  # fmt: skip
    return None


def too_small(pool: Pool) -> Violation:
    """Return what a pool that holds no request misses: room for the rows of a table, or memory at batch 1."""
    return _without_place(pool) or _without_memory(pool)


def _without_memory(pool: Pool) -> Violation:
    count = pool.context.tensor_parallel
    return Violation(
        where=f"pool {pool.name}", constraint=f"memory of one of {count} devices at batch 1",
        needed=sum(pool.parts(1).values()), allowed=pool.available_bytes or 0.0, dimension="bytes",
        advice="a narrower dtype, a smaller model, or a larger device",
    )  # fmt: skip
