"""Simulated serving as tables: options, pools of replicas, latency by stage with standard errors, and outcomes.

As in `table`, numbers stay SI floats with the unit in their column's name; what does not exist says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from capacity.fleet.flow import Outcome
from capacity.fleet.served import Question, Serving
from capacity.fleet.simulated import QUANTILES, Latency, Simulated
from capacity.report import serving_figures as figures
from capacity.report.cells import Cell, Column, Missing, Row, Table, finite, shown
from capacity.spec.scenario import Scenario
from capacity.units import text

NOT_MEASURED = "not sampled"
SMALLEST_ERROR = 1e-4
"""Standard error ÷ figure below which it is rounding [1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What was asked, and each candidate simulated, best first.

    Attributes
    ----------
    changes
        Overrides and settings of the scenario.
    date
        At which prices are judged, YYYY-MM-DD.
    """

    scenario: Scenario
    question: Question
    options: tuple[Serving, ...]
    changes: tuple[str, ...] = ()
    date: str

    @property
    def best(self) -> Serving | None:
        """The first option, if it holds the objective."""
        return next((option for option in self.options[:1] if option.meets), None)


def options_table(answer: Answer) -> Table:
    """Return every option, best first, with what it costs and what it misses."""
    percentile = answer.scenario.objective.percentile
    columns = (
        Column("rank", "Rank", "whole"),
        Column("hardware", "Profile"),
        Column("name", "Hardware"),
        Column("devices", "Devices", "whole"),
        Column("replicas", "Replicas"),
        Column("latency_median_s", "p50", "seconds"),
        Column("latency_quantile_s", percentile, "seconds"),
        Column("latency_quantile_error_s", "± (standard error)", "seconds"),
        Column("latency_quantile_low_s", "Fast steps", "seconds"),
        Column("latency_quantile_high_s", "Slow steps", "seconds"),
        Column("closed_form_s", f"{percentile}, closed form", "seconds"),
        Column("without_spare_s", "One fewer", "seconds"),
        Column("usd_per_hour", "USD/h", "usd"),
        Column("usd_per_thousand_recommendations", "USD per 1,000", "usd"),
        Column("against_best_fraction", "Cost against the best [%]", "fraction", signed=True),
        Column("bound", "Bound by"),
        Column("basis", "Basis"),
        Column("verdict", "Verdict"),
    )
    rows = tuple(_option(answer, place, option) for place, option in enumerate(answer.options, start=1))
    return Table("Options", columns, rows)


def _option(answer: Answer, place: int, option: Serving) -> Row:
    percentile = answer.scenario.objective.percentile
    low, high = figures.band_s(option, percentile)
    none = Missing(figures.NO_RUN)
    run = option.result
    tail = figures.tail_s(run, percentile)
    return {
        "rank": float(place), "hardware": option.hardware, "name": option.name,
        "devices": float(option.devices) if option.pools else none, "replicas": replicas_text(option),
        "latency_median_s": figures.tail_s(run, "p50"), "latency_quantile_s": tail,
        "latency_quantile_error_s": figures.error_of(run.end_to_end.quantiles[percentile]) if run else none,
        "latency_quantile_low_s": low, "latency_quantile_high_s": high,
        "closed_form_s": finite(option.closed_form_s, "no fleet"),
        "without_spare_s": figures.without_spare_s(option) if option.pools else none,
        "usd_per_hour": figures.usd(option, "hour_usd") if option.pools else none,
        "usd_per_thousand_recommendations": figures.usd(option, "thousand_usd") if option.pools else none,
        "against_best_fraction": figures.against_best(answer.best, option) if option.pools else none,
        "bound": option.bound, "basis": option.basis, "verdict": verdict(option),
    }  # fmt: skip


def verdict(option: Serving) -> str:
    """Return in a few words whether an option holds the objective, and whether its run kept up."""
    if option.refused:
        return option.refused
    held = "holds" if option.meets else "misses"
    state = figures.run_of(option).saturation.state
    return held if state == "stable" else f"{held}, {state}"


def replicas_text(option: Serving) -> str:
    """Return the replicas of each pool with its spares.

    Examples
    --------
    >>> from capacity.fleet.served import PoolServing
    >>> pool = PoolServing(
    ...     name="rank", node="rank", replicas=6, spare=1, closed_form=5, floor=2.0, devices_per_replica=1,
    ...     utilization=0.5, batch=8, paid=6.0,
    ... )
    >>> replicas_text(Serving(hardware="a", name="A", basis="assumed", origin="", pools=(pool,)))
    '6 + 1 spare'
    """
    counts = [f"{text(pool.replicas, 'whole')} + {text(pool.spare, 'whole')} spare" for pool in option.pools]
    if len(counts) == 1:
        return counts[0]
    return "; ".join(f"{pool.name} {count}" for pool, count in zip(option.pools, counts, strict=True))


_POOL = (
    Column("name", "Pool"),
    Column("replicas", "Replicas", "whole"),
    Column("spare_replicas", "Spare", "whole"),
    Column("closed_form_replicas", "Closed form", "whole"),
    Column("paid_replicas", "Paid on average", "count"),
    Column("floor_replicas", "Autoscaler's floor", "count"),
    Column("devices_per_replica", "Devices a replica", "count"),
    Column("devices", "Devices", "whole"),
    Column("utilization_fraction", "Load at peak [%]", "fraction"),
    Column("busy_fraction", "Busy [%]", "fraction"),
    Column("largest_batch_requests", "Largest batch", "whole"),
    Column("mean_batch", "Mean batch", "count"),
    Column("kv_mean_fraction", "KV mean [%]", "fraction"),
    Column("kv_most_fraction", "KV most [%]", "fraction"),
)


def pool_table(option: Serving) -> Table:
    """Return the replicas of each pool: how many, how busy, in what batches, and how full their KV memory is."""
    run = figures.run_of(option)
    rows: list[Row] = []
    for pool in option.pools:
        node = run.nodes[pool.node]
        kv = figures.kv_use(node, pool)
        none = Missing("no KV cache")
        rows.append({
            "name": pool.name, "replicas": float(pool.replicas), "spare_replicas": float(pool.spare),
            "closed_form_replicas": float(pool.closed_form), "paid_replicas": pool.paid,
            "floor_replicas": pool.floor,
            "devices_per_replica": float(pool.devices_per_replica), "devices": float(pool.devices),
            "utilization_fraction": finite(pool.utilization, "unknown"), "busy_fraction": figures.busy(node),
            "largest_batch_requests": Missing("as many as fit") if pool.kv_blocks else float(pool.batch),
            "mean_batch": figures.mean_batch(node),
            "kv_mean_fraction": float(kv[0].mean()) if kv else none,
            "kv_most_fraction": float(kv[1].max()) if kv else none,
        })  # fmt: skip
    return Table("Pools of replicas", _POOL, tuple(rows))


def latencies(run: Simulated) -> dict[str, Latency]:
    """Return the latencies of a run by what they are of: everything, each node, first token, time per further token."""
    found = {"end to end": run.end_to_end, **{name: node.latency for name, node in run.nodes.items()}}
    texts = {"TTFT": run.ttft, "TPOT": run.tpot}
    return found | {name: latency for name, latency in texts.items() if latency.count}


def latency_table(option: Serving) -> Table:
    """Return mean and quantiles of every latency, each with its standard error from the Monte Carlo."""
    run = figures.run_of(option)
    columns = [Column("name", "Latency"), Column("requests", "Requests", "whole")]
    for name in ("mean", *QUANTILES):
        key = name.replace(".", "_")
        columns += [Column(f"{key}_s", name, "seconds"), Column(f"{key}_error_s", f"± {name}", "seconds")]
    rows = [_latency(name, latency) for name, latency in latencies(run).items()]
    for name, node in run.nodes.items():
        gaps_s = figures.between_tokens_s(node, QUANTILES)
        if gaps_s:
            rows.append(
                _gaps(
                    "ITL" if len(run.nodes) == 1 else f"ITL of {name}",
                    gaps_s,
                    float(figures.numbers(node, "gaps").sum()),
                )
            )
    return Table("Latency", tuple(columns), tuple(rows))


def _latency(name: str, latency: Latency) -> Row:
    cells: dict[str, Cell] = {"name": name, "requests": float(latency.count)}
    for label, sampled in {"mean": latency.mean, **latency.quantiles}.items():
        key = label.replace(".", "_")
        cells[f"{key}_s"] = finite(sampled.value, figures.TOO_FEW)
        cells[f"{key}_error_s"] = figures.error_of(sampled)
    return cells


def _gaps(name: str, gaps_s: Mapping[str, float], count: float) -> Row:
    cells: dict[str, Cell] = {"name": name, "requests": count}
    for label, value_s in gaps_s.items():
        key = label.replace(".", "_")
        cells |= {f"{key}_s": value_s, f"{key}_error_s": Missing(NOT_MEASURED)}
    return cells


def with_errors(table: Table) -> Table:
    """Return a latency table for narrow places: each figure and its standard error, as a share of it, in one cell."""
    pairs = [column for column in table.columns if column.dimension == "seconds" and "_error" not in column.key]
    columns = (table.columns[0], *(Column(column.key, column.label) for column in pairs))
    rows = tuple(
        {table.columns[0].key: row[table.columns[0].key], **{column.key: _joined(row, column.key) for column in pairs}}
        for row in table.rows
    )
    return Table(f"{table.title} (± standard error, % of it)", columns, rows)


def _joined(row: Row, key: str) -> str:
    value, error = row[key], row[f"{key.removesuffix('_s')}_error_s"]
    if not isinstance(value, Missing | str) and value < figures.SHORTEST_S:
        return "0 (cached)"
    told = shown(value, "seconds")
    if isinstance(error, Missing | str) or isinstance(value, Missing | str) or value <= 0:
        return told
    share = error / value
    return f"{told} ±{shown(share if share > SMALLEST_ERROR else 0.0, 'fraction', digits=2).replace(' ', '')}"


def told(table: Table) -> Table:
    """Return a table without columns that hold nothing but zeros and reasons."""
    empty = [
        column.key
        for column in table.columns
        if all(isinstance(row[column.key], Missing) or row[column.key] == 0.0 for row in table.rows)
    ]
    return table.without(*empty) if table.rows else table


def outcome_table(option: Serving) -> Table:
    """Return how the measured requests left the pipeline and each node, as shares."""
    run = figures.run_of(option)
    kinds = {kind: kind.name.capitalize().replace("_", " ") for kind in Outcome}
    columns = (
        Column("where", "Where"), Column("requests", "Requests", "whole"),
        *(Column(f"{_key(kind)}_fraction", f"{name} [%]", "fraction") for kind, name in kinds.items()),
    )  # fmt: skip
    places: dict[str, Mapping[Outcome, int]] = {"whole pipeline": run.outcomes}
    places |= {name: node.outcomes for name, node in run.nodes.items()}
    return Table("Outcomes", columns, tuple(_outcomes(where, counts) for where, counts in places.items()))


def _key(kind: Outcome) -> str:
    return kind.name.lower()


def _outcomes(where: str, counts: Mapping[Outcome, int]) -> Row:
    whole = sum(counts.values())
    shares = {f"{_key(kind)}_fraction": counts.get(kind, 0) / whole if whole else 0.0 for kind in Outcome}
    return {"where": where, "requests": float(whole), **shares}


_RUN = (
    Column("requests", "Requests simulated", "whole"),
    Column("measured_requests", "After the warm-up", "whole"),
    Column("share_of_fleet", "Share of the fleet"),
    Column("offered_per_s", "Offered", "per second"),
    Column("throughput_per_s", "Answered", "per second"),
    Column("goodput_fraction", "Goodput [%]", "fraction"),
    Column("goodput_error_fraction", "± (standard error)", "fraction"),
    Column("goodput_per_s", "Goodput", "per second"),
    Column("state", "Verdict"),
    Column("reason", "Because"),
)


def run_table(option: Serving) -> Table:
    """Return what was run, what it served within the objective, and whether it kept up; rates of the whole fleet."""
    run, fleets = figures.run_of(option), option.share
    good = run.goodput_share
    row: Row = {
        "requests": float(run.requests), "measured_requests": float(run.measured),
        "share_of_fleet": "all" if fleets == 1 else f"1 in {fleets}",
        "offered_per_s": finite(run.offered_per_s * fleets, figures.TOO_FEW),
        "throughput_per_s": finite(run.throughput_per_s * fleets, figures.TOO_FEW),
        "goodput_fraction": finite(good.value, figures.TOO_FEW), "goodput_error_fraction": figures.error_of(good),
        "goodput_per_s": finite(run.goodput_per_s.value * fleets, figures.TOO_FEW),
        "state": run.saturation.state, "reason": run.saturation.reason,
    }  # fmt: skip
    return Table("The run", _RUN, (row,))


def detail_tables(option: Serving) -> Iterator[Table]:
    """Yield the tables of one simulated option."""
    if option.result is not None:
        yield from (run_table(option), latency_table(option), pool_table(option), outcome_table(option))
