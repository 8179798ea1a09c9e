"""The figure of a search: cost against latency of the plans that no other one beats, and of the cheapest of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from capacity.charts import INK, PALETTE, Figure, styled
from capacity.fleet.searched import Candidate, Found
from capacity.report import search as report
from capacity.units import text, usd

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon", "pentagon")
"""Marks beside the colors, so that devices differ without them."""


def front(found: Found, names: Mapping[str, str]) -> Figure:
    """Return the front of cost and latency, a mark for each fleet, with the objective as a line.

    Parameters
    ----------
    names
        What a device is called, by its id.
    """
    figure = go.Figure()
    devices = list(dict.fromkeys(item.variant.hardware for item in found.front))
    for place, hardware in enumerate(devices):
        items = [item for item in found.front if item.variant.hardware == hardware]
        figure.add_scatter(
            name=names.get(hardware, hardware), x=[item.latency_s * 1e3 for item in items],
            y=[item.usd for item in items], mode="markers", hovertemplate="%{hovertext}",
            hovertext=[_told(item, names) for item in items],
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


def _told(item: Candidate, names: Mapping[str, str]) -> str:
    hardware = names.get(item.variant.hardware, item.variant.hardware)
    return (
        f"{item.devices} × {hardware}, {report.choice(item)}<br>{report.fleet(item)}, {item.buying.told}<br>"
        f"{usd(item.usd)} a month, {text(item.latency_s, 'seconds')}, room {text(item.room, 'fraction')}"
    )


def front_words(found: Found, names: Mapping[str, str]) -> str:
    """Return what `front` shows, in words: its cheapest plan, its fastest, and how many there are."""
    items: Sequence[Candidate] = found.front
    cheap, fast = items[0], min(items, key=lambda item: item.latency_s)
    ends = [
        f"{names.get(item.variant.hardware, item.variant.hardware)} at {usd(item.usd)} a month and "
        f"{text(item.latency_s, 'seconds')}"
        for item in (cheap, fast)
    ]
    return f"{len(items)} plans that no other one beats, from the cheapest, {ends[0]}, to the fastest, {ends[1]}."
