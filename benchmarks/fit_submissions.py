"""Fit what MLPerf's Server scenario costs, and how tuned submissions compare with the step model.

    python -m benchmarks.fit_submissions ../shared/data

Pairs are results of one round, submitter, system and benchmark in both scenarios (submitter and system as the source's
path names them). Printed errors are of chips left out, and of rounds left out, beside those of a constant per benchmark
on the same pairs. The numbers go into `submissions` of calibrations/shared.yaml by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import minimize

from capacity import catalogue, validate
from capacity.spec import names
from capacity.spec.steps import ServerLimit
from capacity.timing import server_rule
from capacity.validate import submissions

SYSTEM = r"/([^/]+)/results/([^/]+)/"
PAIR = ["round", "submitter_path", "system", "benchmark", "hardware", "devices"]
FREE = {
    "bert": ("level", "batch", "feed"), "dlrm": ("level", "cards_feed"), "dlrm-v2": ("level", "feed"),
}  # fmt: skip
"""What is fitted beside the level of all others."""
RULES = catalogue.shared().engine_steps[0].submissions.server
WORST = 0.5
"""Larger errors count as this one: some systems were not tuned at all."""
Share = Callable[[str, pd.DataFrame, pd.DataFrame], np.ndarray]


def predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of both scenarios with their predictions, in samples or tokens per second and device."""
    context = validate.Context(calibrations=catalogue.calibrations(), shared=catalogue.shared())
    rows = frame[frame["scenario"].isin(["Offline", "Server"])].reset_index(drop=True)
    checked = validate.checked(rows.drop(columns="source"), "mlperf_inference", "table")
    found = validate.predictions(checked, "mlperf_inference", context)
    path = rows["source"].str.extract(SYSTEM)
    return rows.assign(submitter_path=path[0], system=path[1], predicted=found["predicted"], reason=found["reason"])


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a pair: measured and predicted Server / Offline, in samples."""
    offline, server = (rows[rows["scenario"] == name] for name in ("Offline", "Server"))
    both = offline.merge(server, on=PAIR, suffixes=("", "_server"))
    family = pd.Series([submissions.name(row) for row in both.to_dict("records")])
    tokens = np.array([getattr(submissions.TASKS.get(name), "output", 0.0) or 1.0 for name in family])
    tokens = np.where(both["metric_unit"] == "tokens/s", tokens, 1.0)
    queries = (both["metric_unit_server"] == "queries/s") & (both["metric_unit"] == "tokens/s")
    scale = np.where(queries, tokens, 1.0)
    profiles = {name: catalogue.hardware(names.hardware_id(name)) for name in both["hardware"].unique()}
    boards = [profiles[name] for name in both["hardware"]]
    systems = [server_rule.devices(both.iloc[[place]], board)[0] for place, board in enumerate(boards)]
    return both.assign(
        family=family, ratio=both["value_server"] * scale / both["value"], systems=systems,
        cards=[server_rule.cards(board) for board in boards], rate=both["predicted"] / tokens,
        predicted_ratio=both["predicted_server"] * scale / both["predicted"],
    )  # fmt: skip


def shares(rule: ServerLimit, pairs: pd.DataFrame) -> np.ndarray:
    """Return the share that a rule gives each pair [1]."""
    rate, systems, hung = (pairs[name].to_numpy() for name in ("rate", "systems", "cards"))
    alone, shared = (server_rule.share(rule, rate, systems, hung=hangs) for hangs in (False, True))
    return np.where(hung.astype(bool), shared, alone)


def fitted(family: str, pairs: pd.DataFrame) -> ServerLimit:
    """Return the rule of a benchmark whose share has the least mean |ln error|."""
    start = RULES[family]
    free = FREE.get(family, ("level",))
    if free == ("level",):
        return start.model_copy(update={"level": float(pairs["ratio"].median())})

    def rule(logs: np.ndarray) -> ServerLimit:
        return start.model_copy(update=dict(zip(free, np.exp(logs).tolist(), strict=True)))

    def loss(logs: np.ndarray) -> float:
        errors = np.abs(np.log(shares(rule(logs), pairs) / pairs["ratio"].to_numpy()))
        return float(np.minimum(errors, WORST).mean())

    guess = np.log([getattr(start, name) for name in free])
    return rule(minimize(loss, guess, method="Nelder-Mead", options={"xatol": 1e-3, "fatol": 1e-6}).x)


def by_rule(family: str, others: pd.DataFrame, part: pd.DataFrame) -> np.ndarray:
    """Return the share of `part` by the rule fitted on `others` [1]."""
    return shares(fitted(family, others), part)


def by_constant(_: str, others: pd.DataFrame, part: pd.DataFrame) -> np.ndarray:
    """Return the median share of `others` [1]."""
    return np.full(len(part), others["ratio"].median())


def held_out(pairs: pd.DataFrame, by: str, among: str, share: Share) -> pd.Series:
    """Return the error of each pair's ratio with its chip or round left out; blank where nothing else is `among`."""
    errors = pd.Series(np.nan, index=pairs.index)
    for key, rows in pairs.groupby(among):
        for left, part in rows.groupby(by):
            others = rows[rows[by] != left]
            if len(others):
                errors[part.index] = share(str(key), others, part) / part["ratio"] - 1
    return errors


def tuned(rows: pd.DataFrame) -> None:
    """Print the slowdown of each benchmark's Offline results, and the error of chips left out of it."""
    offline = rows[(rows["scenario"] == "Offline") & rows["predicted"].notna()]
    offline = offline.assign(family=[submissions.name(row) for row in offline.to_dict("records")])
    offline = offline.assign(gap=np.log(offline["predicted"] / offline["value_per_device"]))
    print(f"{'Offline':16s} rows chips factor  median  chips left out: median  sigma")
    for family, part in offline.groupby("family"):
        chips = part.groupby("hardware")["gap"].median()
        left = pd.concat([
            mine["gap"] - (chips.drop(name).median() if len(chips) > 1 else np.nan)
            for name, mine in part.groupby("hardware")
        ])  # fmt: skip
        plain = np.expm1(part["gap"].to_numpy())
        print(
            f"{family:16s} {len(part):4d} {len(chips):5d} {np.exp(chips.median()):6.3f} {np.median(np.abs(plain)):7.1%}"
            f" {np.expm1(left).abs().median():22.1%} {1.4826 * left.abs().median():6.3f}"
        )  # fmt: skip


def main() -> None:
    """Read the table, fit, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    rows = predicted(pd.read_csv(parser.parse_args().data / "mlperf_inference.csv"))
    pairs = paired(rows[rows["predicted"].notna()])
    print(f"{len(pairs)} pairs predicted of {len(rows[rows['scenario'] == 'Server'])} Server results")
    tuned(rows)
    for family, part in pairs.groupby("family"):
        print(family, fitted(str(family), part))
    error = pairs["predicted_ratio"] / pairs["ratio"] - 1
    print(f"as shipped, not held out: median {error.abs().median():.1%}")
    for by in ("hardware", "round"):
        ours, constant = held_out(pairs, by, "family", by_rule), held_out(pairs, by, "benchmark", by_constant)
        both = ours.notna() & constant.notna()
        print(f"{by} left out, {both.sum()} pairs:")
        for name, each in (("rule", ours[both].abs()), ("constant", constant[both].abs())):
            print(f"  {name}: median {each.median():.1%}, mean {each.mean():.1%}")
        for family, part in pairs[both].groupby("family"):
            one, other = (each[part.index].abs().median() for each in (ours, constant))
            spread = 1.4826 * np.log1p(ours[part.index]).abs().median()
            print(f"  {family:16s} {len(part):4d} pairs: rule {one:6.1%} constant {other:6.1%}  sigma {spread:.3f}")


if __name__ == "__main__":
    main()
