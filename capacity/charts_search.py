"""The figure of a search: cost against latency of the plans that no other one beats, and of the cheapest of each."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from capacity.charts import INK, PALETTE, Figure, styled
from capacity.fleet.searched import Candidate, Found
from capacity.report import search as report
from capacity.units import text, usd

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon", "pentagon")
"""Marks beside the colors, so that devices differ without them."""


def front(found: Found) -> Figure:
    """Return the front of cost and latency, a mark for each fleet, with the objective as a line."""
    figure = go.Figure()
    for place, device in enumerate(dict.fromkeys(item.variant.name for item in found.front)):
        items = [item for item in found.front if item.variant.name == device]
        figure.add_scatter(
            name=device, x=[item.latency_s * 1e3 for item in items],
            y=[item.usd for item in items], mode="markers", hovertemplate="%{hovertext}",
            hovertext=[_told(item) for item in items],
            marker={
                "color": PALETTE[place % len(PALETTE)], "symbol": SYMBOLS[place % len(SYMBOLS)], "size": 10,
                "line": {"width": 1, "color": INK},
            },
        )  # fmt: skip
    objective = found.scenario.objective
    figure.add_vline(
        x=objective.latency * 1e3, line_dash="dash", line_color=INK, annotation_text="objective",
        annotation_yanchor="bottom",
    )  # fmt: skip
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    title = "What no other plan beats in cost, latency, energy and room"
    return styled(figure, title, f"{objective.percentile} latency at the peak [ms]", "Cost [USD a month]")


def _told(item: Candidate) -> str:
    return (
        f"{item.devices} × {item.variant.name}, {report.choice(item)}<br>{report.fleet(item)}, {item.buying.told}<br>"
        f"{usd(item.usd)} a month, {text(item.latency_s, 'seconds')}, room {text(item.room, 'fraction')}"
    )


def front_words(found: Found) -> str:
    """Return what `front` shows, in words: its cheapest plan, its fastest, and how many there are."""
    items: Sequence[Candidate] = found.front
    cheap, fast = items[0], min(items, key=lambda item: item.latency_s)
    ends = [
        f"{item.variant.name} at {usd(item.usd)} a month and {text(item.latency_s, 'seconds')}"
        for item in (cheap, fast)
    ]
    return f"{len(items)} plans that no other one beats, from the cheapest, {ends[0]}, to the fastest, {ends[1]}."
