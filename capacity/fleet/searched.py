"""What a search compared and found: records of variants, candidates and near misses. No arithmetic beyond ratios."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from capacity.fleet.served import Serving
from capacity.plan import Option, Violation
from capacity.spec.model import Model
from capacity.spec.scenario import Scenario
from capacity.spec.space import Space

OWNED = "purchase"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A scenario with one choice of engine, dtype and levers, on one device.

    Attributes
    ----------
    dtype
        Of every stage that runs a model; empty: as the scenario has it.
    changes
        The override that it is.
    """

    hardware: str
    name: str
    """What the device is called."""
    engine: str
    dtype: str
    levers: tuple[str, ...]
    scenario: Scenario
    models: dict[str, Model]
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def told(self) -> str:
        """The choice in words."""
        return " + ".join((self.engine, *([self.dtype] if self.dtype else []), *self.levers))


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A choice that cannot be made, and why."""

    what: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Buying:
    """A way of buying with its price of a device-hour [USD/h]."""

    term: str
    region: str
    usd_per_hour: float
    flags: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The way in words."""
        return f"{self.term} in {self.region}" if self.region else self.term

    def of(self, scenario: Scenario) -> Scenario:
        """Return the scenario bought this way; bought devices pay for their energy, rented ones then no more."""
        changed = {"term": self.term, "region": self.region or None}
        if OWNED in {self.term, scenario.pricing.term}:
            changed["energy"] = "separate" if self.term == OWNED else "included"
        return scenario.model_copy(update={"pricing": scenario.pricing.model_copy(update=changed)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One fleet of one variant bought one way.

    Attributes
    ----------
    degrees, batches, replicas
        Devices that share each product, requests a batch, and replicas without spares, by pool.
    usd
        A month's bill [USD].
    latency_s
        End to end at the objective's percentile, at the peak [s].
    room
        Rate that the fleet can carry beyond the peak ÷ peak [1].
    kwh
        Energy of serving a month at the wall [kWh]; None where the profile knows no power.
    option
        The same as an option of a plan, with its bill and bands; None where it was not made.
    simulated
        Its serving played request by request; None where it was not.
    """

    variant: Variant
    buying: Buying
    degrees: dict[str, int]
    batches: dict[str, int]
    replicas: dict[str, int]
    devices: int
    usd: float
    latency_s: float
    room: float
    kwh: float | None
    option: Option | None = None
    simulated: Serving | None = None

    @property
    def simulated_s(self) -> float | None:
        """Latency at the objective's percentile when simulated [s]; None where it was not, or does not run."""
        if self.simulated is None or self.simulated.result is None:
            return None
        return self.simulated.result.end_to_end.quantiles[self.variant.scenario.objective.percentile].value

    @property
    def scenario(self) -> Scenario:
        """The scenario with this fleet and this way of buying: what a plan or a simulation of it starts from."""
        changed = self.variant.scenario
        pools = {
            name: changed.serving.pool(name).model_copy(
                update={"replicas": count, "max_batch": self.batches[name], "tensor_parallel": self.degrees[name]}
            )
            for name, count in self.replicas.items()
        }
        serving = changed.serving.model_copy(update={"pools": {**changed.serving.pools, **pools}})
        return self.buying.of(changed.model_copy(update={"serving": serving}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A cheaper fleet that misses something: the constraint it misses by most, which no fleet of its variant nears."""

    candidate: Candidate
    violation: Violation

    @property
    def gap(self) -> float:
        """How far it is from what is allowed, as a share of that [1]."""
        return abs(self.violation.needed / self.violation.allowed - 1) if self.violation.allowed else float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The answer of a search.

    Attributes
    ----------
    configurations, variants
        Fleets × ways of buying that were compared, and the variants they belong to.
    feasible
        How many of them keep every constraint, by the closed form over arrays.
    ranked
        The cheapest fleet of each variant and way of buying, cheapest first.
    front
        Fleets that no other one beats in cost, latency, energy and room at once, cheapest first.
    near
        Cheaper than the best, and what each misses.
    refused
        Choices that could not be made, and why.
    """

    scenario: Scenario
    space: Space
    date: str
    configurations: int
    variants: int
    feasible: int
    ranked: tuple[Candidate, ...]
    front: tuple[Candidate, ...]
    near: tuple[Near, ...]
    refused: tuple[Refused, ...]

    @property
    def best(self) -> Candidate | None:
        """The cheapest candidate; of those that were simulated, the cheapest that holds its objective there."""
        played = [item for item in self.ranked if item.simulated is not None]
        held = [item for item in played if item.simulated is not None and item.simulated.meets]
        return next(iter(held or ([] if played else self.ranked)), None)
