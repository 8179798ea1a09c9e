"""Figures of money over time and of plans side by side: months, ranges, what moves a total, bills by group."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from capacity.charts import GROUP_COLORS, INK, PALETTE, Figure, styled
from capacity.money.risk import Outcome, Prospects
from capacity.report.cells import Missing
from capacity.report.variants import Variant, bill
from capacity.units import text, usd

SHADE = "rgba(0, 114, 178, 0.22)"
PATTERNS = ("", "/", "x", ".", "-", "|", "\\", "+")
"""Patterns beside the colors, so that groups differ without them."""
PER_BAR, AROUND, LEGEND_BELOW = 36, 150, 55
"""Height of a figure of horizontal bars: of each bar, of all around them, and from them to the legend [pixel]."""


def name(item: Outcome) -> str:
    """Return what an option is called in figures: its hardware and how it is bought."""
    return f"{item.option.name}, {item.option.buying}"


def months(item: Outcome, budget: float | None) -> Figure:
    """Return what each month of an option accrues with its P10–P90, what is paid in it, and the budget's line."""
    figure = go.Figure()
    numbers = [month.number for month in item.option.months]
    figure.add_bar(
        name="cash", x=numbers, y=[month.cash_usd for month in item.option.months], marker_color=PALETTE[4],
        marker_pattern_shape="/", hovertemplate="month %{x}: paid $%{y:,.0f}",
    )  # fmt: skip
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(name="P90", x=numbers, y=[band.p90 for band in item.risk.months], showlegend=False, **edge)
    figure.add_scatter(
        name="accrues, P10 to P90", x=numbers, y=[band.p10 for band in item.risk.months], fill="tonexty",
        fillcolor=SHADE, **edge,
    )  # fmt: skip
    figure.add_scatter(
        name="accrues, as expected", x=numbers, y=[month.accrued_usd for month in item.option.months],
        mode="lines+markers", line={"color": PALETTE[0]}, hovertemplate="month %{x}: accrues $%{y:,.0f}",
    )  # fmt: skip
    if budget is not None:
        figure.add_scatter(
            name=f"budget {usd(budget)}", x=[numbers[0], numbers[-1]], y=[budget, budget], mode="lines",
            line={"color": INK, "dash": "dash"}, hoverinfo="skip",
        )  # fmt: skip
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, f"Month by month: {name(item)}", "Month", "USD a month")


def months_words(item: Outcome, budget: float | None) -> str:
    """Return what `months` shows, in words."""
    found, last = item.option.months, item.risk.months[-1]
    most = max(found, key=lambda month: month.cash_usd)
    words = (
        f"{name(item)} accrues {usd(found[0].accrued_usd)} in month 1 and {usd(found[-1].accrued_usd)} in month "
        f"{found[-1].number} (P10 {usd(last.p10)} – P90 {usd(last.p90)}); most cash is paid in month {most.number}, "
        f"{usd(most.cash_usd)}"
    )
    if budget is None:
        return words
    over = [month.number for month in found if month.accrued_usd > budget]
    return words + (
        f"; over the budget as expected from month {over[0]}" if over else "; within the budget as expected"
    )


def tornado(item: Outcome) -> Figure:
    """Return the total of an option with each input at its P10 (circle) and at its P90 (diamond), widest on top."""
    figure, swings = go.Figure(), item.risk.swings
    names = [swing.name for swing in swings]
    lows, highs = [swing.at_p10 for swing in swings], [swing.at_p90 for swing in swings]
    figure.add_bar(
        orientation="h", y=names, base=lows, x=[high - low for low, high in zip(lows, highs, strict=True)],
        marker_color=PALETTE[0], opacity=0.45, showlegend=False, hoverinfo="skip",
    )  # fmt: skip
    for label, ends, symbol, color in (
        ("input at its P10", lows, "circle", PALETTE[1]),
        ("input at its P90", highs, "diamond", PALETTE[2]),
    ):
        figure.add_scatter(
            name=label, y=names, x=ends, mode="markers", marker={"symbol": symbol, "size": 12, "color": color},
            hovertext=[usd(end) for end in ends], hovertemplate="%{y}: %{hovertext}",
        )  # fmt: skip
    figure.add_vline(
        x=item.risk.total.p50, line_dash="dash", line_color=INK, annotation_text="P50", annotation_yanchor="bottom"
    )
    return _rows(styled(figure, f"What moves the total: {name(item)}", "All months [USD]", ""), len(names))


def _rows(figure: Figure, count: int) -> Figure:
    """Return a figure of horizontal bars, the first on top, as high as it has bars, its legend clear of the axis."""
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(height=AROUND + PER_BAR * count, legend_y=-LEGEND_BELOW / (PER_BAR * count))
    return figure


def tornado_words(item: Outcome) -> str:
    """Return what `tornado` shows, in words."""
    told = (
        f"{swing.name} {usd(swing.at_p10)} at its P10, {usd(swing.at_p90)} at its P90" for swing in item.risk.swings
    )
    return f"Total with one input moved, the others at their medians: {'; '.join(told)}"


def totals(found: Prospects) -> Figure:
    """Return the P10–P90 of every option's total, its P50, its present value, and the whole budget's line."""
    figure, items = go.Figure(), found.outcomes
    names = [name(item) for item in items]
    bands = [item.risk.total for item in items]
    figure.add_bar(
        name="P10 to P90", orientation="h", y=names, base=[band.p10 for band in bands],
        x=[band.p90 - band.p10 for band in bands], marker_color=PALETTE[0], opacity=0.45,
        hovertext=[f"P10 {usd(band.p10)} to P90 {usd(band.p90)}" for band in bands], hovertemplate="%{y}: %{hovertext}",
    )  # fmt: skip
    for label, values, symbol, color in (
        ("P50", [band.p50 for band in bands], "line-ns-open", INK),
        ("present value, as expected", [item.option.present_usd for item in items], "diamond", PALETTE[1]),
    ):
        figure.add_scatter(
            name=label, y=names, x=values, mode="markers",
            marker={"symbol": symbol, "size": 14, "color": color, "line": {"width": 3 if color == INK else 0}},
            hovertext=[usd(value) for value in values], hovertemplate="%{y}: %{hovertext}",
        )  # fmt: skip
    outlook = found.forecast.outlook
    if outlook.budget is not None:
        whole = outlook.budget * outlook.months
        figure.add_vline(
            x=whole, line_dash="dash", line_color=INK, annotation_text="budget", annotation_yanchor="bottom"
        )
    figure.update_xaxes(rangemode="tozero")
    figure = styled(figure, "All months together, least regret first", f"{outlook.months} months [USD]", "")
    return _rows(figure, len(names))


def totals_words(found: Prospects) -> str:
    """Return what `totals` shows, in words."""
    told = (
        f"{name(item)}: P10 {usd(item.risk.total.p10)} – P90 {usd(item.risk.total.p90)}, present value "
        f"{usd(item.option.present_usd)}"
        for item in found.outcomes
    )
    return "; ".join(told)


def over_budget(found: Prospects) -> Figure:
    """Return the probability of each month that it is over the budget, a line for each option."""
    figure = go.Figure()
    for place, item in enumerate(found.outcomes):
        shares = [100 * (band.over_budget or 0.0) for band in item.risk.months]
        figure.add_scatter(
            name=name(item), x=list(range(1, len(shares) + 1)), y=shares, mode="lines",
            line={"color": PALETTE[place % len(PALETTE)], "dash": DASHES[place % len(DASHES)]},
            hovertemplate="month %{x}: %{y:.0f} %",
        )  # fmt: skip
    figure.update_yaxes(range=[0, 103])
    return styled(figure, "How likely a month is over the budget", "Month", "Probability [%]")


DASHES = ("solid", "dash", "dot", "dashdot")
"""Dashes beside the colors, so that lines differ without them."""


def over_budget_words(found: Prospects) -> str:
    """Return what `over_budget` shows, in words."""
    told = (
        f"{name(item)}: some month over with {text(item.risk.any_over_budget or 0.0, 'fraction')}, the last one with "
        f"{text(item.risk.months[-1].over_budget or 0.0, 'fraction')}"
        for item in found.outcomes
    )
    return "; ".join(told)


def bills(variants: Sequence[Variant]) -> Figure:
    """Return the monthly cost of each variant stacked by group, with its P10–P90; what has no bill says why."""
    figure = go.Figure()
    found = {variant.name: bill(variant) for variant in variants}
    known = [groups for groups in found.values() if not isinstance(groups, Missing)]
    for place, group in enumerate(dict.fromkeys(group for groups in known for group in groups)):
        amounts = {name: groups.get(group, 0.0) for name, groups in found.items() if not isinstance(groups, Missing)}
        figure.add_bar(
            name=group, x=list(amounts), y=[None if isinstance(usd_, Missing) else usd_ for usd_ in amounts.values()],
            marker_color=GROUP_COLORS.get(group, PALETTE[5 + place % 3]),
            marker_pattern_shape=PATTERNS[place % len(PATTERNS)],
            hovertext=[x.reason if isinstance(x, Missing) else f"{group} {usd(x)}" for x in amounts.values()],
            hovertemplate="%{x}: %{hovertext}",
        )  # fmt: skip
    _add_range(figure, variants)
    for label, groups in found.items():
        if isinstance(groups, Missing):
            figure.add_annotation(x=label, y=0, yanchor="bottom", text=groups.reason, showarrow=False)
    figure.update_layout(barmode="stack")
    names = list(found)
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, range=[-0.5, len(names) - 0.5])
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, "Monthly cost by group", "", "Cost [USD/month], bar: P10 to P90")


def _add_range(figure: Figure, variants: Sequence[Variant]) -> None:
    costs = {variant.name: variant.option.cost for variant in variants if variant.option and variant.option.cost}
    ends = {label: (cost.p10_usd, cost.p90_usd) for label, cost in costs.items() if cost.complete}
    figure.add_scatter(
        name="P10 to P90", x=list(ends), y=[(low + high) / 2 for low, high in ends.values()], mode="markers",
        marker={"color": INK, "size": 1},
        error_y={
            "type": "data", "array": [(high - low) / 2 for low, high in ends.values()], "color": INK, "width": 8,
        },
        hovertext=[f"P10 {usd(low)} to P90 {usd(high)}" for low, high in ends.values()],
        hovertemplate="%{x}: %{hovertext}",
    )  # fmt: skip


def bills_words(variants: Sequence[Variant]) -> str:
    """Return what `bills` shows, in words."""
    told = []
    for variant in variants:
        groups = bill(variant)
        if isinstance(groups, Missing):
            told.append(f"{variant.name}: {groups.reason}")
        else:
            parts = (f"{group} {x.reason if isinstance(x, Missing) else usd(x)}" for group, x in groups.items())
            told.append(f"{variant.name}: {', '.join(parts)}")
    return "; ".join(told)
