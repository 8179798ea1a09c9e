"""Figures of a calibration: a family's band and times, residuals of a user's table. Beside `charts`, imports plotly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike

from capacity.charts import INK, MANY, PALETTE, SYMBOLS, Figure, styled
from capacity.report.curves import Band, Curve
from capacity.report.residuals import Points

SHADE = "rgba(0, 114, 178, 0.18)"
PREDICTED, BOUND = PALETTE[0], PALETTE[1]
LINES = (
    ("5 %, 50 %, 95 % observed", "solid", ("low", "middle", "high")),
    ("90 % band", "dash", ("promised_low", "promised_high")),
)
"""Lines among the residuals: name, dash, and columns of `capacity.report.residuals.binned`."""
NEARLY = 1.001
"""Two factors closer than this look the same."""


def band(found: Band) -> Figure:
    """Return by which factor a kernel family's 90 % band reaches up and down, against the predicted time."""
    figure = go.Figure()
    hover = "predicted %{x:.3g} s: × or ÷ %{y:.2f}"
    figure.add_scatter(
        name="scatter of a launch", x=found.predicted_s.tolist(), y=found.measured.tolist(), mode="lines",
        line={"color": PREDICTED}, hovertemplate=hover,
    )  # fmt: skip
    if len(found.knots_s):
        figure.add_scatter(
            name="knots of the calibration", x=found.knots_s.tolist(), y=found.knots.tolist(), mode="markers",
            marker={"color": PREDICTED, "size": 8}, hovertemplate=hover,
        )  # fmt: skip
    if np.max(found.total / found.measured) > NEARLY:
        figure.add_scatter(
            name="with carrying over", x=found.predicted_s.tolist(), y=found.total.tolist(), mode="lines",
            line={"color": BOUND, "dash": "dash"}, hovertemplate=hover,
        )  # fmt: skip
    _logarithmic(figure, x=True, y=False)
    figure.update_yaxes(range=[1, 1.05 * float(np.max(found.total))])
    return styled(figure, f"90 % band: {found.title}", "Predicted time of a launch [s]", "Band [× or ÷]")


def curve(found: Curve) -> Figure:
    """Return the predicted time of a launch against its size, with its 90 % band and the datasheet's lower bound."""
    figure, size = go.Figure(), found.size.tolist()
    invisible = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(name="high", x=size, y=found.high.tolist(), showlegend=False, **invisible)
    figure.add_scatter(name="90 % band", x=size, y=found.low.tolist(), fill="tonexty", fillcolor=SHADE, **invisible)
    figure.add_scatter(
        name="predicted", x=size, y=found.seconds.tolist(), mode="lines", line={"color": PREDICTED},
        hovertemplate="%{x:,.0f}: %{y:.3g} s",
    )  # fmt: skip
    if found.bound_s is not None:
        figure.add_scatter(
            name="datasheet rate or bandwidth alone", x=size, y=found.bound_s.tolist(), mode="lines",
            line={"color": BOUND, "dash": "dot"}, hovertemplate="%{x:,.0f}: %{y:.3g} s",
        )  # fmt: skip
    _logarithmic(figure, x=True, y=True)
    return styled(figure, found.title, f"{found.label}; {found.fixed}", "Time of a launch [s]")


def residuals(found: Points, unit: str = "s") -> Figure:
    """Return ln(measured ÷ predicted) against the predicted time: its spread beside the band that was promised."""
    figure = go.Figure()
    many = len(found.drawn["measured"]) > MANY
    add = figure.add_scattergl if many else figure.add_scatter
    hardware = np.asarray(found.drawn["hardware"], str)
    logs = np.log(found.drawn["measured"] / found.drawn["predicted"])
    for name, color, symbol in zip(dict.fromkeys(hardware.tolist()), cycle(PALETTE), cycle(SYMBOLS), strict=False):
        mine = hardware == name
        add(
            name=name, x=found.drawn["predicted"][mine].tolist(), y=logs[mine].tolist(), mode="markers",
            marker={"color": color, "symbol": symbol, "opacity": 0.4 if many else 0.8, "size": 4 if many else 6},
            hovertemplate=f"predicted %{{x:.3g}} {unit}: ln ratio %{{y:.3f}}",
        )  # fmt: skip
    lines = found.residuals
    for name, dash, parts in LINES:
        _line(add, name, lines["predicted"], [lines[part] for part in parts], dash)
    figure.add_hline(y=0.0, line_color=INK, line_width=1)
    _logarithmic(figure, x=True, y=False)
    return styled(
        figure, "Residuals; above 0: slower than predicted", f"Predicted [{unit}]", "ln(measured ÷ predicted) [1]"
    )


def _line(add: Callable[..., Figure], name: str, x: ArrayLike, each: Sequence[ArrayLike], dash: str) -> None:
    """Add lines that share one entry of the legend; none where there are too few rows for any.

    They are drawn by what draws the points: WebGL lies above everything else.
    """
    for place, y in enumerate(each if np.size(x) else ()):
        add(
            name=name, legendgroup=name, showlegend=place == 0, x=np.asarray(x).tolist(), y=np.asarray(y).tolist(),
            mode="lines", line={"color": INK, "dash": dash}, hovertemplate="%{y:.3f}",
        )  # fmt: skip


def _logarithmic(figure: Figure, *, x: bool, y: bool) -> None:
    if x:
        figure.update_xaxes(type="log", exponentformat="power", dtick=1)
    if y:
        figure.update_yaxes(type="log", exponentformat="power", dtick=1)
