"""Figures from plan records. Axes name their units; colors suit color-blind eyes.

With `charts_accuracy` the only file that imports plotly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
from numpy.typing import ArrayLike, NDArray

from capacity.plan import Option, Plan, StagePlan
from capacity.report import figures
from capacity.report.cells import Missing
from capacity.report.table import memory_table
from capacity.units import text, usd

Figure = Any  # plotly is untyped
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#7F7F7F")
"""Okabe and Ito 2008, Color Universal Design: told apart with every common color blindness; gray in place of black."""
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")
GROUP_COLORS = dict(zip(("devices", "energy", "storage", "network", "people"), PALETTE, strict=False))
PART_COLORS = {"forming": PALETTE[4], "queue": PALETTE[1], "service": PALETTE[0]}
VERDICT_SYMBOLS = {"pass": "circle", "fail": "x", "inconclusive": "circle-open", "calibrate": "diamond"}
INK = "#222222"
LIGHT_INK = "#EDEBE8"
"""Ink of figures on a dark ground."""
CLEAR = "rgba(0, 0, 0, 0)"
CONFIG = {"displaylogo": False, "responsive": True}
BYTES_PER_GB = 1e9
MS_PER_S = 1e3
NEAR = 2.0
"""An objective farther than this many times the latency would squeeze the bars."""
MANY = 2000
"""Points from which the graphics card draws them: a browser stalls on as many shapes."""


_WHITE = pio.templates["plotly_white"].to_plotly_json()
TEMPLATE = go.layout.Template(
    layout=_WHITE["layout"], data={kind: _WHITE["data"][kind] for kind in ("bar", "scatter", "scattergl")}
)
"""plotly_white without the kinds of traces that nobody draws here: every figure validates and carries a copy."""


def cost_bars(plan: Plan) -> Figure:
    """Return USD per month stacked by group for each option, with P10–P90 bars; options without a price say so."""
    figure = go.Figure()
    names = _names(plan.options)
    pairs = list(zip(names, plan.options, strict=True))
    bills = {name: figures.groups(o.cost) for name, o in pairs if o.cost and figures.priced(o)}
    colors = _colors(dict.fromkeys(group for bill in bills.values() for group in bill), GROUP_COLORS)
    for group, color in colors.items():
        amounts = [bill.get(group, 0.0) for bill in bills.values()]
        shown = [None if isinstance(amount, Missing) else amount for amount in amounts]
        texts = [amount.reason if isinstance(amount, Missing) else f"{usd(amount)} a month" for amount in amounts]
        figure.add_bar(
            name=group, x=list(bills), y=shown, hovertext=texts, hovertemplate="%{x}: %{hovertext}", marker_color=color
        )
    _add_cost_range(figure, pairs)
    for name, option in pairs:
        if name not in bills:
            reason = figures.NO_PRICE if option.feasible else figures.INFEASIBLE
            figure.add_annotation(x=name, y=0, yanchor="bottom", text=reason, showarrow=False)
    figure.update_layout(barmode="stack")
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, range=[-0.5, len(names) - 0.5])
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, "What it costs a month", "", "Cost [USD/month], bar: P10 to P90")


def _add_cost_range(figure: Figure, pairs: Sequence[tuple[str, Option]]) -> None:
    """Add the P10–P90 of every priced option as an error bar about its middle."""
    ranges = {name: (o.cost.p10_usd, o.cost.p90_usd) for name, o in pairs if o.cost and figures.priced(o)}
    figure.add_scatter(
        name="P10 to P90",
        x=list(ranges),
        y=[(low + high) / 2 for low, high in ranges.values()],
        error_y={
            "type": "data",
            "array": [(high - low) / 2 for low, high in ranges.values()],
            "color": INK,
            "width": 8,
        },
        mode="markers",
        marker={"color": INK, "size": 1},
        hovertext=[f"P10 {usd(low)} to P90 {usd(high)}" for low, high in ranges.values()],
        hovertemplate="%{x}: %{hovertext}",
    )


def latency_bars(option: Option, objective_s: float | None = None) -> Figure:
    """Return where the time of a request goes: forming its batch, the queue at its p99, each stage's service.

    The p99 waits of several pools do not happen to one request, so their sum may exceed the expected percentile. The
    objective is drawn where it is near, and named in the title always.
    """
    figure, at = go.Figure(), 0.0
    for kind, label, value, band in _parts(option):
        low, high = band or (value, value)
        figure.add_bar(
            orientation="h", name=kind, legendgroup=kind, showlegend=kind not in {bar.name for bar in figure.data},
            base=[at * MS_PER_S], x=[value * MS_PER_S], y=[f"{label}: {text(value, 'seconds')}"],
            marker_color=PART_COLORS[kind], hovertemplate="%{y}",
            error_x={
                "type": "data", "array": [(high - value) * MS_PER_S], "arrayminus": [(value - low) * MS_PER_S],
                "color": INK, "visible": band is not None,
            },
        )  # fmt: skip
        at += value
    marks = {"expected": option.latency_quantile_s, "objective": objective_s}
    known = {name: place for name, place in marks.items() if place is not None}
    for name, place in known.items():
        if place <= NEAR * at:
            figure.add_vline(x=place * MS_PER_S, line_dash="dash", line_color=INK, annotation_text=name)
    figure.update_layout(barmode="overlay")
    figure.update_yaxes(autorange="reversed")
    named = ", ".join(f"{name} {text(place, 'seconds')}" for name, place in known.items())
    title = f"Where a request's time goes on {option.name}" + (f" ({named})" if named else "")
    return styled(figure, title, "Time since arrival [ms], bar: 90 % band", "")


def _parts(option: Option) -> list[tuple[str, str, float, tuple[float, float] | None]]:
    """Return kind, label, seconds and band of each part of a request's way, in order."""
    pools = {pool.name: pool for pool in option.pools}
    parts: list[tuple[str, str, float, tuple[float, float] | None]] = []
    for name in dict.fromkeys(stage.pool for stage in option.stages):
        pool = pools.get(name)
        if pool is not None:
            parts.append(("forming", f"forming a batch ({name})", float(pool.forming_s), None))
            parts.append(("queue", f"queue p99 ({name})", float(pool.wait_p99_s), None))
        parts += [_service(stage) for stage in option.stages if stage.pool == name]
    return [part for part in parts if np.isfinite(part[2])]


def _service(stage: StagePlan) -> tuple[str, str, float, tuple[float, float]]:
    return "service", stage.name, float(stage.time.value), (float(stage.time.low), float(stage.time.high))


def memory_bars(option: Option) -> Figure:
    """Return the memory of one device by component for each pool and job, up to what is available."""
    figure = go.Figure()
    rows = [row for row in memory_table(option).rows if row["component"] not in {"free", "lacking"}]
    for component, color in _colors(dict.fromkeys(str(row["component"]) for row in rows), {}).items():
        mine = [(row["where"], row["size_bytes"]) for row in rows if row["component"] == component]
        sizes = [(where, size) for where, size in mine if not isinstance(size, str | Missing)]
        figure.add_bar(
            orientation="h", name=component, y=[where for where, _ in sizes],
            x=[size / BYTES_PER_GB for _, size in sizes], marker_color=color,
            hovertext=[text(size, "bytes") for _, size in sizes], hovertemplate="%{y}: %{hovertext}",
        )  # fmt: skip
    _add_available(figure, option)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(autorange="reversed")
    return styled(figure, f"Memory of one {option.name}", "Memory of one device [GB]", "")


def _add_available(figure: Figure, option: Option) -> None:
    limits = {f"pool {pool.name}": pool.memory_available_bytes for pool in option.pools}
    limits |= {f"job {job.name}": job.memory_available_bytes for job in option.jobs}
    known = {where: size for where, size in limits.items() if size is not None}
    figure.add_scatter(
        name="available", y=list(known), x=[size / BYTES_PER_GB for size in known.values()], mode="markers",
        marker={"symbol": "line-ns-open", "size": 28, "color": INK, "line": {"width": 3}},
        hovertext=[text(size, "bytes") for size in known.values()], hovertemplate="%{y}: %{hovertext}",
    )  # fmt: skip


def predicted_measured(frame: Mapping[str, ArrayLike], unit: str = "s") -> Figure:
    """Return predictions over measurements on two logarithmic axes with the line where they agree.

    Parameters
    ----------
    frame
        Columns of one length: measured, predicted, low, high [`unit`], and hardware.
    unit
        Unit of the numbers, for the axes.

    Notes
    -----
    A row without a positive pair cannot stand on such axes; the title counts those left out.
    """
    measured, predicted, low, high = (
        np.asarray(frame[name], float) for name in ("measured", "predicted", "low", "high")
    )
    hardware = np.asarray(frame["hardware"], str)
    usable = np.isfinite(measured) & np.isfinite(predicted) & (measured > 0) & (predicted > 0)
    figure = go.Figure()
    add = figure.add_scattergl if usable.sum() > MANY else figure.add_scatter
    for name, color, symbol in zip(
        dict.fromkeys(hardware[usable].tolist()), cycle(PALETTE), cycle(SYMBOLS), strict=False
    ):
        mine = usable & (hardware == name)
        add(
            name=name, x=measured[mine].tolist(), y=predicted[mine].tolist(), mode="markers",
            marker={"color": color, "symbol": symbol}, error_y=_band(predicted[mine], low[mine], high[mine], color),
            hovertemplate=f"measured %{{x:.3g}} {unit}, predicted %{{y:.3g}} {unit}",
        )  # fmt: skip
    _add_agreement(add, np.concatenate([measured[usable], predicted[usable]]))
    figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    left = int(len(measured) - usable.sum())
    title = f"Predicted against measured: {text(int(usable.sum()), 'count')} rows"
    title += f", {text(left, 'count')} left out without a positive pair" if left else ""
    return styled(figure, title, f"Measured [{unit}]", f"Predicted [{unit}], bar: 90 % band")


def _band(
    value: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64], color: str
) -> dict[str, Any]:
    up, down = (np.nan_to_num(np.maximum(end, 0.0), posinf=0.0) for end in (high - value, value - low))
    style = {"type": "data", "symmetric": False, "thickness": 1, "color": color}
    return {**style, "array": up.tolist(), "arrayminus": down.tolist()}


def _add_agreement(add: Callable[..., Figure], numbers: NDArray[np.float64]) -> None:
    """Add the line of equal numbers by what drew the points: WebGL lies above everything else."""
    if numbers.size:
        ends = [float(numbers.min()), float(numbers.max())]
        add(name="1:1", x=ends, y=ends, mode="lines", line={"color": INK, "dash": "dash"}, hoverinfo="skip")


def history_lines(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Return how the time of each machine's cases changed since its first run; symbols tell the verdicts.

    Parameters
    ----------
    rows
        Those of `capacity.history.trend`. A class of operations is drawn when its name in the legend is clicked.
    """
    figure = go.Figure()
    lines = dict.fromkeys((row["machine"], row["part"]) for row in rows)
    for (machine, part), color in zip(lines, cycle(PALETTE), strict=False):
        mine = [row for row in rows if (row["machine"], row["part"]) == (machine, part)]
        figure.add_scatter(
            name=machine if part == "all" else f"{machine}: {part}", visible=True if part == "all" else "legendonly",
            x=[row["time"] for row in mine], y=[row["ratio"] for row in mine], mode="lines+markers",
            line={"color": color},
            marker={"size": 9, "symbol": [VERDICT_SYMBOLS[row["verdict"]] for row in mine]},
            hovertext=[f"{row['verdict']}, {row['cases']} cases<br>{row['note']}" for row in mine],
            hovertemplate="%{x}: ×%{y:.3f}<br>%{hovertext}",
        )  # fmt: skip
    figure.add_hline(y=1.0, line_dash="dash", line_color=INK)
    title = "Time of the kernels since the first run (● pass, × fail, ○ inconclusive, ◆ calibration)"
    return styled(figure, title, "Time of the run [UTC]", "Time over that of the first run [1]")


def _names(options: Sequence[Option]) -> list[str]:
    """Return a label for each option: its name, with its id where two share one."""
    names = [option.name for option in options]
    return [o.name if names.count(o.name) == 1 else f"{o.name} ({o.hardware})" for o in options]


def _colors(names: Mapping[str, None], known: Mapping[str, str]) -> dict[str, str]:
    spare = cycle(color for color in PALETTE if color not in known.values())
    return {name: known.get(name) or next(spare) for name in names}


def styled(figure: Figure, title: str, x: str, y: str) -> Figure:
    """Return the figure with its title, the names of its axes (units included) and the look of all figures."""
    figure.update_layout(
        title=title, template=TEMPLATE, font={"color": INK, "family": "system-ui, sans-serif"},
        margin={"l": 10, "r": 10, "t": 50, "b": 10}, legend={"orientation": "h", "y": -0.25, "traceorder": "normal"},
    )  # fmt: skip
    figure.update_xaxes(title=x, automargin=True)
    figure.update_yaxes(title=y, automargin=True)
    return figure


def themed(figure: Figure, *, dark: bool) -> Figure:
    """Return the figure without a ground of its own, its ink and grid for a light or a dark one."""
    found = go.Figure(_inked(figure.to_dict())) if dark else go.Figure(figure)
    found.update_layout(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, modebar_bgcolor=CLEAR)
    if dark:
        found.update_layout(template="plotly_dark")
    return found


def _inked(part: object) -> object:
    """Return a part of a figure with light ink wherever it has dark ink."""
    if isinstance(part, dict):
        return {key: value if key == "template" else _inked(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_inked(value) for value in part] if any(isinstance(value, dict) for value in part) else part
    return LIGHT_INK if isinstance(part, str) and part == INK else part


def fragments(drawn: Sequence[Figure]) -> list[str]:
    """Return figures as pieces of HTML; the first brings plotly.js along, so they work together and without network.

    The same figures give the same text: plotly's own ids are random.
    """
    return [
        pio.to_html(
            figure, config=CONFIG, include_plotlyjs=place == 0, full_html=False, default_height=420,
            div_id=f"chart-{place}",
        )
        for place, figure in enumerate(drawn)
    ]  # fmt: skip


def page(figure: Figure) -> str:
    """Return one figure as an HTML page that needs no network."""
    return str(pio.to_html(figure, config=CONFIG, include_plotlyjs=True, full_html=True, div_id="chart"))
