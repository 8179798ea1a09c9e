"""What was asked of a simulation, and what it found: one record for each candidate device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from capacity.fleet.simulated import Simulated
from capacity.timing.band import Basis

REQUESTS = 50_000


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
    batch
        Most requests that the closed form puts into one batch.
    kv_blocks
        Blocks of keys and values that one replica has room for; 0 where nothing is generated.
    closed_form
        Replicas that the closed form asks for.
    floor
        Replicas that a perfect autoscaler would keep on average over the day: no fleet is cheaper.
    paid
        Replicas paid on average over the run, without spares: fewer than `replicas` where an autoscaler follows a day.
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
    batch: int
    paid: float
    kv_blocks: int = 0

    @property
    def devices(self) -> int:
        """Devices to pay for, spares included."""
        return math.ceil((self.replicas + self.spare) * self.devices_per_replica)

    @property
    def scaled(self) -> bool:
        """Whether an autoscaler changed the number of replicas during the run."""
        return self.paid != self.replicas

    @property
    def paid_devices(self) -> float:
        """Devices paid on average over the run, spares included."""
        return self.devices + (self.paid - self.replicas) * self.devices_per_replica


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitCost:
    """What is paid for devices while serving, by what is served [USD].

    Attributes
    ----------
    hour_usd
        Of all devices, spares included; on average over the run where an autoscaler adds and removes some.
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
    meets_peak, meets
        Whether the fleet met the objective at peak plus headroom, if it was sized by simulation; and in the run, too.
    stressed_s
        Its tail latency at peak plus headroom [s]; infinite where it did not keep up.
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
    meets_peak: bool = False
    meets: bool = False
    stressed_s: float = math.nan
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A fleet at one rate.

    Attributes
    ----------
    rate
        Requests per second of the whole fleet.
    tail_s, tail_error_s
        Latency at the objective's percentile and its standard error [s].
    """

    rate: float
    share_of_capacity: float
    p50_s: float
    tail_s: float
    tail_error_s: float
    goodput_per_s: float
    state: str


def band_s(option: Serving, name: str) -> Mapping[str, float]:
    """Return a latency's quantile of the run and of both ends of the step times' band: value, low, high [s]."""
    runs = {"value": option.result, "low": option.fast, "high": option.slow}
    known = {end: run.end_to_end for end, run in runs.items() if run is not None}
    return {end: latency.quantiles[name].value for end, latency in known.items() if latency.count}
