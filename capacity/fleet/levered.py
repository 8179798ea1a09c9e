"""What levers change: records of one lever's effect and of the best combination. No arithmetic beyond ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capacity.plan import Option
from capacity.spec.levers import Note
from capacity.spec.scenario import Quality


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """An option in a few numbers.

    Attributes
    ----------
    usd, p10_usd, p90_usd
        A month's bill; None without a price or where nothing serves.
    latency_s
        End-to-end at the objective's percentile; None where nothing holds it.
    devices
        That serve, spares included.
    request_flop, request_bytes
        Work and traffic of all stages for one request.
    memory_bytes
        Of the fullest device of a pool.
    training_hours
        Device-hours of all jobs a month [h].
    missed, over
        The constraints that the option misses, in words, and needed ÷ allowed of the worst; empty where it misses none.
    """

    usd: float | None
    p10_usd: float | None
    p90_usd: float | None
    latency_s: float | None
    devices: int
    request_flop: float
    request_bytes: float
    memory_bytes: float
    training_hours: float
    missed: str = ""
    over: float = 0.0

    @classmethod
    def of(cls, option: Option) -> Figures:
        """Return the numbers of an option."""
        batches = {pool.name: pool.batch for pool in option.pools}
        each = [(stage, batches.get(stage.pool, 1)) for stage in option.stages]
        cost = option.cost if option.cost is not None and option.cost.complete else None
        return cls(
            usd=cost.usd if cost else None, p10_usd=cost.p10_usd if cost else None,
            p90_usd=cost.p90_usd if cost else None, latency_s=option.latency_quantile_s, devices=option.devices,
            request_flop=sum(stage.flop / size for stage, size in each),
            request_bytes=sum(stage.moved_bytes / size for stage, size in each),
            memory_bytes=max((sum(pool.memory_bytes.values()) for pool in option.pools), default=0.0),
            training_hours=sum(float(job.device_hours_per_month.value) for job in option.jobs),
            missed="; ".join(f"{miss.where}: {miss.constraint}" for miss in option.violations),
            over=max((miss.needed / miss.allowed for miss in option.violations if miss.allowed > 0), default=0.0),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulled:
    """One lever on one scenario and device.

    Attributes
    ----------
    after
        The option with it; None where it was refused.
    refused
        Why it was; empty where it was not.
    changes
        The override that it is.
    exact
        Whether the model's answers stay as they are.
    quality
        The user's own measurement of it, if the scenario has one.
    note
        The published one.
    assumes
        What it takes for granted.
    """

    id: str
    title: str
    group: str
    exact: bool
    assumes: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    after: Figures | None = None
    refused: str = ""
    quality: Quality | None = None
    note: Note | None = None

    @property
    def works(self) -> bool:
        """Whether it could be planned and misses nothing."""
        return self.after is not None and not self.after.missed


@dataclass(frozen=True, slots=True, kw_only=True)
class Levered:
    """Every lever alone, and the best combination that was found.

    Attributes
    ----------
    hardware, name
        The device on which all was planned.
    alone
        Cheapest first; then what misses a constraint, then what was refused.
    steps
        Levers of the combination in the order in which they were added, each with the option after it.
    changes
        The combination as one override.
    tried
        Plans made.
    """

    scenario: str
    title: str
    hardware: str
    name: str
    percentile: str
    before: Figures
    alone: tuple[Pulled, ...]
    steps: tuple[Pulled, ...]
    changes: Mapping[str, Any]
    tried: int

    @property
    def best(self) -> Figures:
        """The option with all levers of the combination."""
        last = self.steps[-1].after if self.steps else None
        return last if last is not None else self.before
