"""Figures of training steps and of levers: where the time of a step goes, what each lever saves."""

from __future__ import annotations

from itertools import pairwise

import plotly.graph_objects as go

from capacity.charts import INK, PALETTE, Figure, styled
from capacity.fleet.levered import Levered
from capacity.plan import JobPlan, Option
from capacity.units import text, usd


def step_bars(option: Option) -> Figure:
    """Return where the time of each training step goes, one bar a job, its parts side by side."""
    figure, jobs = go.Figure(), _laid_out(option)
    parts = dict.fromkeys(part for job in jobs if job.training for part in job.training.parts_s)
    for number, part in enumerate(parts):
        found = [job.training.parts_s.get(part, 0.0) if job.training else 0.0 for job in jobs]
        figure.add_bar(
            name=part, orientation="h", y=[job.name for job in jobs], x=[1e3 * seconds for seconds in found],
            marker_color=PALETTE[number % len(PALETTE)], marker_pattern_shape=SHAPES[number % len(SHAPES)],
            hovertext=[f"{part}: {text(seconds, 'seconds')}" for seconds in found], hovertemplate="%{y}, %{hovertext}",
        )  # fmt: skip
    figure.update_layout(barmode="stack")
    return styled(figure, "Where a training step's time goes", "Time of a step [ms]", "")


SHAPES = ("", "/", "x", ".", "-", "|", "\\", "+")
"""Patterns beside the colors, so that parts differ without them."""


def step_words(option: Option) -> str:
    """Return what `step_bars` shows, in words."""
    told = []
    for job in _laid_out(option):
        parts = job.training.parts_s if job.training else {}
        whole = sum(parts.values())
        most = sorted(parts.items(), key=lambda item: -item[1])[:3]
        shares = ", ".join(f"{name} {seconds / whole:.0%}" for name, seconds in most)
        told.append(f"{job.name}: a step of {text(whole, 'seconds')}, of it {shares}")
    return "; ".join(told)


def _laid_out(option: Option) -> list[JobPlan]:
    return [job for job in option.jobs if job.training is not None and job.training.parts_s]


def waterfall(found: Levered) -> Figure:
    """Return the bill before, what each lever of the best combination takes off it, and the bill after."""
    costs = [found.before.usd or 0.0, *(step.after.usd or 0.0 for step in found.steps if step.after)]
    changes = [after - before for before, after in pairwise(costs)]
    names = ["today", *(step.id for step in found.steps), "together"]
    figure = go.Figure(
        go.Waterfall(
            x=names, y=[costs[0], *changes, costs[-1]], measure=["absolute", *["relative"] * len(changes), "total"],
            text=[usd(costs[0]), *(usd(change) for change in changes), usd(costs[-1])], textposition="outside",
            connector={"line": {"color": INK, "width": 1}}, decreasing={"marker": {"color": PALETTE[2]}},
            increasing={"marker": {"color": PALETTE[1]}}, totals={"marker": {"color": PALETTE[0]}},
            hovertemplate="%{x}: %{text}",
        )
    )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    return styled(
        figure, "What each lever takes off the bill, in the order in which it was added", "", "Cost [USD/month]"
    )


def waterfall_words(found: Levered) -> str:
    """Return what `waterfall` shows, in words."""
    told, before = [f"today {usd(found.before.usd or 0.0)} a month"], found.before.usd or 0.0
    for step in found.steps:
        after = step.after.usd or 0.0 if step.after else before
        told.append(f"with {step.id} {usd(after)}")
        before = after
    return "; ".join(told)
