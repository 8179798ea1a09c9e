"""Draws a second of a forecast's risk, and what straight lines between planned loads miss of every month planned.

python -m benchmarks.risk_draws [SCENARIO ...] [--draws N] [--levels N ...]. Months planned one by one are not among the
levels that the lines go through.
"""

from __future__ import annotations

import argparse
import time
from datetime import date
from itertools import pairwise

import numpy as np

from capacity import catalogue, outlook, planner
from capacity.errors import CapacityError
from capacity.money import course as courses
from capacity.money import forecast, risk
from capacity.money.course import NEUTRAL, Course
from capacity.spec.outlook import Outlook

SCENARIOS = ("gpt2-two-tower", "bert-content-classifier", "dlrm-dcnv2", "cascade", "cross-encoder-rerank")
TODAY = date(2026, 11, 22)
EXPECTED = Outlook.model_validate({"growth": {"traffic": 0.05}})


def main() -> None:
    """Print both for each scenario, on the first of its devices that will do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS)
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument("--levels", type=int, nargs="*", default=[4, 6, 10])
    asked = parser.parse_args()
    for name in asked.scenarios:
        scenario = catalogue.scenario(name)
        bench = outlook.Bench(scenario, planner.inputs(scenario, today=TODAY), EXPECTED, ())
        for device in scenario.hardware:
            try:
                planned = [bench.level(device, load, 0, "on-demand") for load in path()]
                usd_per_hour = bench.price(device, "on-demand").usd
            except CapacityError:
                continue
            break
        else:
            print(f"{name}: no device will do")
            continue
        truth = np.array([level.hours * usd_per_hour + level.other_usd for level in planned])
        for count in asked.levels:
            bench = outlook.Bench(scenario, bench.given, EXPECTED, forecast.levels(min(path()), max(path()), count))
            found = bench.course(device, outlook.Way("on-demand"))
            print(f"{name} on {device}, {count} levels: {missed(found, truth)}")
        print(f"{name}: {speed(found, asked.draws)}")


def path() -> list[float]:
    """Return the load of every month."""
    return [float(courses.load(EXPECTED, month, NEUTRAL.growth)[0]) for month in range(EXPECTED.months)]


def missed(found: Course, truth: np.ndarray) -> str:
    """Return how far the lines are off the planned bills, months at a level left out."""
    lines = np.array([month.accrued_usd for month in forecast.months(found)])
    at_level = np.isclose(np.array(path())[:, None], found.curve(0).load[None, :], rtol=1e-6).any(axis=1)
    error = np.abs(lines / truth - 1)[~at_level]
    whole = lines.sum() / truth.sum() - 1
    rising = all(after >= before for before, after in pairwise(truth))
    return (
        f"{error.size} months held out, median error {np.median(error):.1%}, most {error.max():.1%}, "
        f"total {whole:+.1%}; planned bills {'never fall' if rising else 'fall somewhere'} with the load"
    )


def speed(found: Course, draws: int) -> str:
    """Return the draws a second of all months with their bands."""
    risk.risk(found, risk.shocks(found, 1000, 0))
    started_s = time.perf_counter()
    risk.risk(found, risk.shocks(found, draws, 1))
    spent_s = time.perf_counter() - started_s
    return f"{draws / spent_s:,.0f} draws/s of {found.outlook.months} months ({draws:,} in {spent_s:.2f} s)"


if __name__ == "__main__":
    main()
