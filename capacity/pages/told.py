"""A figure in words, for whoever cannot see it: its title, its axes, and what each series says. No Streamlit here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

FEW = 8
"""Values of a series that are told one by one; of more, the first, the last and the range."""
MOST = 12
"""Series that are told; the rest is counted."""


def told(figure: Any) -> str:  # noqa: ANN401  (plotly is untyped)
    """Return what `figure` shows: what it is called, what its axes are, and the values of every series.

    Parameters
    ----------
    figure
        A plotly figure, or the mapping that one is made of.
    """
    said = figure if isinstance(figure, dict) else figure.to_dict()
    layout, data = said.get("layout", {}), said.get("data", ())
    axes = [f"{way}: {_title(layout.get(name, {}))}" for way, name in (("across", "xaxis"), ("up", "yaxis"))]
    head = [f"Chart: {_title(layout)}", *(axis for axis in axes if not axis.endswith(": "))]
    series = [_series(trace) for trace in data[:MOST]]
    more = [f"and {len(data) - MOST} more series"] if len(data) > MOST else []
    return "; ".join([*head, *(part for part in series if part), *more]) + "."


def _title(part: dict[str, Any]) -> str:
    title = part.get("title", {})
    words = title.get("text", "") if isinstance(title, dict) else title
    return re.sub(r"<[^>]+>", " ", str(words or ""))


def _series(trace: dict[str, Any]) -> str:
    """Return the name of a series with its values, as a list of points or, of many, as where they lie."""
    points = list(zip(_values(trace, "x"), _values(trace, "y"), strict=False))
    if not points:
        return ""
    shown = points if len(points) <= FEW else [points[0], points[-1]]
    values = ", ".join(f"{_shown(x)} → {_shown(y)}" for x, y in shown)
    return f"{trace.get('name') or 'values'}: {values}" + _range([y for _, y in points], len(shown))


def _range(values: Sequence[Any], shown: int) -> str:
    numbers = [value for value in values if isinstance(value, int | float)]
    if len(values) == shown or not numbers:
        return ""
    return f" (first and last of {len(values):,}, between {_shown(min(numbers))} and {_shown(max(numbers))})"


def _values(trace: dict[str, Any], name: str) -> list[Any]:
    found = trace.get(name)
    if found is None or isinstance(found, dict):
        return []
    return list(found.tolist() if hasattr(found, "tolist") else found)


def _shown(value: object) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else str(value)
