"""Figures of simulated serving: latency against load, the course of a run, a request's way, batches and KV memory.

Each figure says in words what it shows (`alt`), for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from capacity.charts import INK, MS_PER_S, PALETTE, PART_COLORS, SYMBOLS, Figure, styled
from capacity.fleet.served import Point, PoolServing, Serving
from capacity.fleet.simulated import Simulated, Timeline
from capacity.report import serving_figures as figures
from capacity.spec.scenario import Objective
from capacity.units import text

STATE_SYMBOLS = {"stable": "circle", "backlogged": "diamond", "overloaded": "x"}
MOST_BARS = 64
"""Bars of a histogram of batch sizes; neighbors are taken together beyond."""
HOUR_S = 3600.0


def alt(figure: Figure) -> str:
    """Return in words what a figure shows."""
    return str(figure.layout.meta)


def _described(figure: Figure, words: str) -> Figure:
    figure.update_layout(meta=words)
    return figure


def latency_curve(points: Sequence[Point], objective: Objective, name: str) -> Figure:
    """Return median and tail latency over the rate, with the objective's line; crosses mark overload."""
    figure = go.Figure()
    rates = [point.rate for point in points]
    if min(point.p50_s for point in points) > figures.SHORTEST_S:  # else half of the answers are cached
        figure.add_scatter(
            name="p50", x=rates, y=[point.p50_s * MS_PER_S for point in points], mode="lines+markers",
            line={"color": PALETTE[4], "dash": "dot"}, marker={"symbol": "square"},
        )  # fmt: skip
    errors = np.nan_to_num([point.tail_error_s * MS_PER_S for point in points])
    figure.add_scatter(
        name=f"{objective.percentile}, bar: standard error", x=rates, y=[point.tail_s * MS_PER_S for point in points],
        mode="lines+markers", line={"color": PALETTE[0]},
        marker={"symbol": [STATE_SYMBOLS[point.state] for point in points], "size": 10},
        error_y={"type": "data", "array": errors.tolist()},
        hovertext=[f"{point.share_of_capacity:.0%} of capacity, {point.state}" for point in points],
        hovertemplate="%{x:.3g}/s: %{y:.3g} ms<br>%{hovertext}",
    )  # fmt: skip
    limit = text(objective.latency, "seconds")
    figure.add_scatter(
        name=f"objective {limit}", x=[rates[0], rates[-1]], y=[objective.latency * MS_PER_S] * 2, mode="lines",
        line={"color": INK, "dash": "dash"},
    )  # fmt: skip
    figure.update_yaxes(type="log")
    figure = styled(figure, f"Latency against load: {name} (✕ overloaded)", "Rate [requests/s]", "Latency [ms]")
    held = [point.rate for point in points if point.tail_s <= objective.latency and point.state != "overloaded"]
    most = f"up to {text(max(held), 'per second')}" if held else "at none of these rates"
    words = f"{objective.percentile} stays within {limit} {most}, of rates from {text(rates[0], 'per second')}"
    return _described(figure, f"{words} to {text(rates[-1], 'per second')}.")


def course(run: Simulated, objective: Objective, fleets: int, name: str) -> Figure:
    """Return requests per second, replicas up and latencies over the time of a run, one below the other."""
    line = run.timeline
    unit, scale = _clock(line)
    hours = line.start_s / scale
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.06)
    figure.add_scatter(
        name="requests", x=hours, y=line.arrivals_per_s * fleets, mode="lines", line={"color": PALETTE[0]}, row=1, col=1
    )
    for (node, up), color, dash in zip(
        line.replicas_up.items(), cycle(PALETTE[1:]), cycle(("solid", "dash", "dot", "dashdot")), strict=False
    ):
        figure.add_scatter(
            name=f"replicas of {node}", x=hours, y=up * fleets, mode="lines",
            line={"color": color, "dash": dash, "shape": "hv"}, row=2, col=1,
        )  # fmt: skip
    for label, values, dash in (("p99", line.p99_s, "solid"), ("p50", line.p50_s, "dot")):
        figure.add_scatter(
            name=label,
            x=hours,
            y=values * MS_PER_S,
            mode="lines",
            line={"color": PALETTE[2], "dash": dash},
            row=3,
            col=1,
        )
    figure.add_hline(y=objective.latency * MS_PER_S, line_dash="dash", line_color=INK, row=3, col=1)
    figure = styled(figure, f"The run of {name} (dashed: objective)", "", "")
    for row, title in enumerate(("Requests/s", "Replicas up", "Latency [ms]"), start=1):
        figure.update_yaxes(title=title, row=row, col=1, rangemode="tozero")
    figure.update_xaxes(title=f"Time [{unit}]", row=3, col=1)
    worst = np.nanmax(line.p99_s) if np.isfinite(line.p99_s).any() else 0.0
    most = text(float(line.arrivals_per_s.max() * fleets), "per second")
    return _described(
        figure, f"Requests come at up to {most}; p99 of a part of the run is at most {text(worst, 'seconds')}."
    )


def _clock(line: Timeline) -> tuple[str, float]:
    """Return the unit that suits the length of a run, and its seconds."""
    span_s = float(line.start_s[-1]) + line.width_s
    return ("h", HOUR_S) if span_s > 2 * HOUR_S else ("min", 60.0) if span_s > 300 else ("s", 1.0)


def waterfall(option: Serving) -> Figure:
    """Return where the mean time of a request goes: each stage's queue, hatched, and its service."""
    run = figures.run_of(option)
    parts = way(run)
    figure = go.Figure()
    bars = {
        "queue": ("/", [part.from_s for part in parts], [part.queue_s for part in parts]),
        "service": ("", [part.from_s + part.queue_s for part in parts], [part.service_s for part in parts]),
    }
    for kind, (pattern, from_s, lasts_s) in bars.items():
        figure.add_bar(
            orientation="h", name=kind, y=[part.name for part in parts], base=[time_s * MS_PER_S for time_s in from_s],
            x=[time_s * MS_PER_S for time_s in lasts_s],
            marker={"color": PART_COLORS[kind], "pattern": {"shape": pattern}},
            hovertext=[text(time_s, "seconds") for time_s in lasts_s], hovertemplate="%{y}: %{hovertext}",
        )  # fmt: skip
    figure.update_layout(barmode="overlay", height=180 + 45 * len(parts))
    figure.update_yaxes(autorange="reversed")
    figure = styled(figure, f"A mean request on {option.name} (hatched: queue)", "Time since arrival [ms]", "")
    words = [
        f"{part.name} waits {text(part.queue_s, 'seconds')} and is served in {text(part.service_s, 'seconds')}"
        for part in parts
    ]
    return _described(figure, f"A mean request: {'; '.join(words)}.")


class Part(NamedTuple):
    """A stage on the way of a mean request: when it enters, how long it waits, how long it is served [s]."""

    name: str
    from_s: float
    queue_s: float
    service_s: float


def way(run: Simulated) -> list[Part]:
    """Return the stages on the way of a mean request.

    Where requests were recorded, their entries are used; else stages are taken one after the other.
    """
    found, at_s = list[Part](), 0.0
    for name, node in run.nodes.items():
        if not node.latency.count:
            continue
        wait_s = figures.queue_s(node, run.requests)
        if run.records is not None and len(run.records.requests):
            entered_s = run.records.entered_s[name] - run.records.requests.arrival_s
            at_s = float(np.nanmean(entered_s)) if np.isfinite(entered_s).any() else at_s
        found.append(Part(name, at_s, wait_s, node.latency.mean.value - wait_s))
        at_s += node.latency.mean.value
    return found


def batch_bars(option: Serving) -> Figure:
    """Return how often batches of each size were run, by stage; of an LLM, steps by sequences."""
    run, figure, told = figures.run_of(option), go.Figure(), []
    counted = [(pool, figures.batches(run.nodes[pool.node])) for pool in option.pools]
    counted = [(pool, counts) for pool, counts in counted if counts.sum()]
    for place, (pool, counts) in enumerate(counted):
        width = -(-len(counts) // MOST_BARS)
        sums = np.add.reduceat(counts, np.arange(0, len(counts), width))
        figure.add_bar(
            name=pool.name, x=np.arange(len(sums)) * width + (width - 1) / 2, y=100 * sums / counts.sum(),
            marker={"color": PALETTE[place % len(PALETTE)], "pattern": {"shape": ("", "/", "x", ".")[place % 4]}},
        )  # fmt: skip
        mean = figures.mean_batch(run.nodes[pool.node])
        told.append(f"{pool.name}: {text(mean, 'count')} on average" if isinstance(mean, float) else pool.name)
    figure = styled(figure, f"Sizes of batches on {option.name}", "Requests (LLM: sequences) in a batch", "Batches [%]")
    return _described(figure, f"Sizes of batches: {'; '.join(told) or 'no batches were run'}.")


def kv_bars(option: Serving) -> Figure | None:
    """Return how full the KV memory of each replica was, on average and at most; None where there is none."""
    run, figure = figures.run_of(option), go.Figure()
    told = []
    for pool, symbol in zip(option.pools, cycle(SYMBOLS), strict=False):
        use = figures.kv_use(run.nodes[pool.node], pool)
        if use is not None:
            _add_kv(figure, pool, use, symbol)
            told.append(f"{pool.name}: {use[0].mean():.0%} on average, {use[1].max():.0%} at most")
    if not told:
        return None
    figure = styled(figure, f"KV memory in use on {option.name}", "Replica", "Blocks in use [%]")
    return _described(figure, f"KV memory in use: {'; '.join(told)}.")


def _add_kv(figure: Figure, pool: PoolServing, use: tuple[figures.Array, figures.Array], symbol: str) -> None:
    numbers = np.arange(1, len(use[0]) + 1)
    figure.add_bar(name=f"{pool.name}, mean", x=numbers, y=100 * use[0], marker_color=PALETTE[0])
    figure.add_scatter(
        name=f"{pool.name}, most", x=numbers, y=100 * use[1], mode="markers",
        marker={"color": INK, "symbol": symbol, "size": 10},
    )  # fmt: skip


def drawn(option: Serving, objective: Objective) -> list[Figure]:
    """Return every figure of one run: its course, a request's way, batches, and KV memory where there is any."""
    run = figures.run_of(option)
    found = [course(run, objective, option.share, option.name), waterfall(option), batch_bars(option), kv_bars(option)]
    return [figure for figure in found if figure is not None]
