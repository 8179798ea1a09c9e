"""Mixed fleets and commitments for a day's load as a mixed-integer linear program (HiGHS).

A pool's traffic may be split over several devices, each with replicas of its own. In every hour the replicas that are
committed (paid all day) and those bought by the hour carry the hour's peak rate. What n replicas carry within the
objective grows a little faster than n (larger fleets queue less), so a line from the first to the last count, lowered
until it lies nowhere above the truth, stands for it: a mix that the program allows holds the objective.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import lil_matrix

from capacity.errors import CapacityError

GAP = 2e-3
"""Part of its cost by which a mix may miss the optimum [1]."""
LIMIT_S = 10.0
"""Longest that the program is solved [s]."""
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Devices of one kind in one pool: what its replicas carry and cost.

    Attributes
    ----------
    rates
        Requests per second that 1, 2, … replicas carry within the objective, ascending [1/s].
    committed_usd_per_hour
        Of one replica paid all day, by term [USD/h].
    usd_per_hour
        Of one replica bought by the hour [USD/h]; None where it cannot be.
    spare
        Replicas beyond what is needed, while any runs.
    """

    name: str
    rates: Array
    committed_usd_per_hour: Mapping[str, float]
    usd_per_hour: float | None
    most: int
    spare: int = 0

    @property
    def chord(self) -> tuple[float, float]:
        """Slope and start of a line that lies nowhere above `rates`: rate ≥ slope × n − start [1/s]."""
        counts = np.arange(1, len(self.rates) + 1)
        carrying = np.flatnonzero(self.rates > 0)
        if not carrying.size:
            raise CapacityError(f"{self.name} carries nothing within the objective")
        first = int(carrying[0])
        slope = (self.rates[-1] - self.rates[first]) / max(counts[-1] - counts[first], 1)
        slope = slope or float(self.rates[-1])
        return float(slope), float((slope * counts - self.rates)[first:].max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """The cheapest mix.

    Attributes
    ----------
    committed
        Replicas by block and term.
    hourly
        Replicas bought by the hour, by block, in each hour of the day.
    usd_per_hour
        Mean over the day [USD/h].
    bound_usd_per_hour
        No mix costs less by this program [USD/h].
    """

    committed: Mapping[str, Mapping[str, int]]
    hourly: Mapping[str, tuple[int, ...]]
    usd_per_hour: float
    bound_usd_per_hour: float


def mix(blocks: Sequence[Block], rates: Sequence[float]) -> Mix | None:
    """Return the cheapest mix that carries `rates` in the hours of a day [1/s]; None where no mix does.

    Examples
    --------
    >>> block = Block(name="a", rates=np.array([10.0, 20.0, 30.0]), committed_usd_per_hour={"1-year": 0.6},
    ...               usd_per_hour=1.0, most=3)
    >>> found = mix([block], [30.0] * 6 + [10.0] * 18)
    >>> found.committed, found.hourly["a"][0], found.hourly["a"][-1], round(found.usd_per_hour, 6)
    ({'a': {'1-year': 1}}, 2, 0, 1.1)
    """
    program = _Program(blocks, rates)
    costs, most = program.objective()
    solved = milp(
        costs, constraints=program.constraint(), integrality=np.ones(len(costs)), bounds=Bounds(0, most),
        options={"mip_rel_gap": GAP, "time_limit": LIMIT_S},
    )  # fmt: skip
    if solved.x is None:
        return None
    found = np.round(solved.x).astype(int)
    terms = program.terms
    committed = {
        block.name: {
            term: int(found[terms[block.name, term]])
            for term in block.committed_usd_per_hour
            if found[terms[block.name, term]]
        }
        for block in blocks
    }
    hourly = {
        block.name: tuple(int(found[place]) for place in program.by_hour[block.name]) for block in blocks
    }  # fmt: skip
    return Mix(
        committed=committed, hourly=hourly, usd_per_hour=float(solved.fun),
        bound_usd_per_hour=float(solved.mip_dual_bound),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Program:
    """Variables: replicas by block and term, then by block and hour, then whether a block runs in an hour."""

    blocks: Sequence[Block]
    rates: Sequence[float]

    @property
    def terms(self) -> dict[tuple[str, str], int]:
        """Place of the committed replicas of a block and term."""
        names = [(block.name, term) for block in self.blocks for term in block.committed_usd_per_hour]
        return {name: place for place, name in enumerate(names)}

    @property
    def by_hour(self) -> dict[str, range]:
        """Places of the replicas that a block has by the hour."""
        start, hours = len(self.terms), len(self.rates)
        return {block.name: range(start + at * hours, start + (at + 1) * hours) for at, block in enumerate(self.blocks)}

    @property
    def runs(self) -> int:
        """Place of the first variable that says whether a block runs."""
        return len(self.terms) + len(self.blocks) * len(self.rates)

    def objective(self) -> tuple[Array, Array]:
        """Return what each variable costs [USD/h] and its largest value."""
        count = self.runs + len(self.blocks) * len(self.rates)
        costs, most = np.zeros(count), np.ones(count)
        for block in self.blocks:
            for term, usd in block.committed_usd_per_hour.items():
                costs[self.terms[block.name, term]], most[self.terms[block.name, term]] = usd, block.most
            places = list(self.by_hour[block.name])
            costs[places] = (block.usd_per_hour or 0.0) / len(self.rates)
            most[places] = block.most if block.usd_per_hour is not None else 0
        return costs, most

    def constraint(self) -> LinearConstraint:
        """Return that every hour's rate is carried, and that replicas are there only while their block runs."""
        hours = len(self.rates)
        rows = hours + 2 * len(self.blocks) * hours
        matrix, high = lil_matrix((rows, self.runs + len(self.blocks) * hours)), np.zeros(rows)
        high[:hours] = [-rate for rate in self.rates]
        row = hours
        for at, block in enumerate(self.blocks):
            slope, lost = block.chord
            held = [self.terms[block.name, term] for term in block.committed_usd_per_hour]
            for hour, place in enumerate(self.by_hour[block.name]):
                running = self.runs + at * hours + hour
                mine = [*held, place]
                matrix[hour, mine], matrix[hour, running] = -slope, lost + slope * block.spare
                matrix[row, mine], matrix[row, running] = 1, -block.most
                matrix[row + 1, mine], matrix[row + 1, running] = -1, block.spare + 1
                row += 2
        return LinearConstraint(matrix.tocsr(), -np.inf, high)
