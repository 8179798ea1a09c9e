"""Fit what frameworks add to the operations of published recommenders, and print errors of rows left out.

    python -m benchmarks.fit_recommenders ../shared/data

For each framework and phase two numbers: seconds a call and bytes per second, with the least mean |ln error| (errors
beyond a factor of four count as that). Printed beside them: errors without them, as fitted, with each device left out,
and with each network left out where a framework ran several. The numbers go into `recommender_frameworks` of
hardware_profiles/calibrations/shared.yaml by hand; their log_sigma is that of devices left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from capacity import catalogue, validate
from capacity.errors import CapacityError
from capacity.timing.band import Z90
from capacity.validate import recommenders

WORST = float(np.log(4.0))
"""Larger log errors count as this one: some rows are misprints."""
STARTS = [(call_s, rate) for call_s in (1e-4, 1e-3, 1e-2) for rate in (1e8, 1e9, 1e10)]
NOTHING = (1e-12, 1e18)


def counted(frame: pd.DataFrame, context: validate.Context) -> pd.DataFrame:
    """Return the runs that can be counted: time of their operations, bytes sent, and the measured time of a call."""
    rows = []
    for _, row in frame[frame["category"].str.startswith("recsys")].iterrows():
        try:
            found = recommenders.run(row.to_dict(), row)
            step_s = float(found.step(context).value)
        except CapacityError:
            continue
        measured_s = found.batch * found.devices / float(row["value"])
        network = str(row["model"]).split()[0]
        rows.append((found.framework, found.phase, network, found.hardware, step_s, found.sent_bytes, measured_s))
    names = ["framework", "phase", "network", "hardware", "step_s", "sent_bytes", "measured_s"]
    return pd.DataFrame(rows, columns=names)


def log_error(added: tuple[float, float], rows: pd.DataFrame) -> np.ndarray:
    """Return ln(predicted / measured) of the rates."""
    predicted_s = rows["step_s"] + added[0] + rows["sent_bytes"] / added[1]
    return np.log(rows["measured_s"] / predicted_s).to_numpy()


def fitted(rows: pd.DataFrame) -> tuple[float, float]:
    """Return the seconds of a call and the bytes per second with the least mean |ln error|."""

    def loss(logs: np.ndarray) -> float:
        return float(np.minimum(np.abs(log_error(tuple(np.exp(logs)), rows)), WORST).mean())

    tries = [minimize(loss, np.log(start), method="Nelder-Mead", options={"xatol": 1e-3}) for start in STARTS]
    call_s, rate = np.exp(min(tries, key=lambda each: each.fun).x)
    return float(call_s), float(rate)


def held_out(rows: pd.DataFrame, by: str) -> np.ndarray:
    """Return the log error of each row with its device or network left out of the fit; nan where nothing is left."""
    errors = pd.Series(np.nan, index=rows.index)
    for left, part in rows.groupby(by):
        others = rows[rows[by] != left]
        if len(others):
            errors[part.index] = log_error(fitted(others), part)
    return errors.to_numpy()


def said(errors: np.ndarray) -> str:
    """Return median, mean and 90th percentile of errors as text."""
    known = np.abs(np.expm1(errors[np.isfinite(errors)]))
    if not len(known):
        return f"{'–':>20s}"
    return f"{np.median(known):6.1%}{known.mean():7.1%}{np.quantile(known, 0.9):7.1%}"


def main() -> None:
    """Read the table, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    table = pd.read_csv(parser.parse_args().data / "recommender_and_retrieval.csv", low_memory=False)
    context = validate.Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
    rows = counted(table, context)
    print(f"{len(rows)} runs counted; errors as median, mean, P90")
    print(f"{'framework':30s} {'phase':10s} rows {'unfitted':>20s} {'fitted':>20s} {'device left out':>20s} "
          f"{'network left out':>20s}  sigma  call_s  bytes_per_s")  # fmt: skip
    every: dict[str, list[np.ndarray]] = {"unfitted": [], "fitted": [], "device": [], "network": []}
    for (framework, phase), part in rows.groupby(["framework", "phase"]):
        added = fitted(part)
        told = [log_error(NOTHING, part), log_error(added, part), held_out(part, "hardware"), held_out(part, "network")]
        for name, errors in zip(every, told, strict=True):
            every[name].append(errors)
        print(
            f"{framework:30s} {phase:10s} {len(part):4d} {' '.join(map(said, told))} {sigma(told[2]):6.3f} "
            f"{added[0]:.2e} {added[1]:.2e}"
        )
    together = [np.concatenate(each) for each in every.values()]
    print(f"{'all':46s} {' '.join(map(said, together))} {sigma(together[2]):6.3f}")


def sigma(errors: np.ndarray) -> float:
    """Return the log standard deviation whose central 90 % holds nine in ten errors; nan without any."""
    known = np.abs(errors[np.isfinite(errors)])
    return float(np.quantile(known, 0.9)) / Z90 if len(known) else np.nan


if __name__ == "__main__":
    main()
