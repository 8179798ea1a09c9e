"""What several pages draw: a report's table, the sentence, a number with its caption. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import streamlit as st

from capacity.plan import Plan
from capacity.report import sentence
from capacity.report.cells import Missing, Table
from capacity.report.markdown import escaped

__all__ = ["answer", "bullets", "card", "escaped", "style", "table"]

STYLE = """
<style>
.block-container { padding-top: 3rem; max-width: 1500px; }
.cap-answer { font-size: 1.2rem; line-height: 1.55; background: #f2f6fa; border-left: 5px solid #2f5d8a;
  border-radius: 4px; padding: .9rem 1.2rem; }
.cap-answer.missed { background: #fdf3ee; border-left-color: #c4501b; }
.cap-answer strong { color: #17446f; } .cap-answer.missed strong { color: #a53c0c; }
.cap-scroll { overflow: auto; border: 1px solid #e3e6ea; border-radius: 6px; }
.cap-table { border-collapse: collapse; font-size: .84rem; width: 100%; }
.cap-table th { text-align: left; font-weight: 600; color: #44505c; background: #f7f8fa; vertical-align: bottom; }
.cap-table thead th { position: sticky; top: 0; }
.cap-table th, .cap-table td { padding: .4rem .65rem; border-bottom: 1px solid #eceff2; }
.cap-table td { vertical-align: top; } .cap-table tr:last-child td { border-bottom: 0; }
.cap-table .number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.cap-table .long { min-width: 16rem; } .cap-table .missing { color: #8a5a00; }
.cap-table tr.best td { background: #eef6f0; }
.cap-table tr.total td { font-weight: 600; border-top: 2px solid #c9d0d7; }
</style>
"""


def style() -> None:
    """Add the dashboard's own style to the page."""
    st.html(STYLE)


def answer(plan: Plan) -> None:
    """Draw the sentence; its strong parts stand out, and it changes color when nothing is feasible."""
    parts = (f"<strong>{escape(p.text)}</strong>" if p.strong else escape(p.text) for p in sentence.pieces(plan))
    st.html(f'<div class="cap-answer{"" if plan.best else " missed"}">{"".join(parts)}</div>')


def table(content: Table, *, keep: Sequence[str] = (), best: bool = False, height: int | None = None) -> None:
    """Draw a report's table: numbers to the right with their unit, a missing number as its reason.

    Parameters
    ----------
    keep
        Keys of the columns to show, in that order; all by default.
    best
        Whether the first row stands out.
    height
        Height at which it scrolls [pixel].
    """
    columns = [column for key in keep for column in content.columns if column.key == key] or list(content.columns)
    heads = "".join(f"<th{_kind(column.dimension != 'text')}>{escape(column.label)}</th>" for column in columns)
    body = []
    for place, row in enumerate((*content.rows, *([content.total] if content.total else []))):
        mark = "total" if place == len(content.rows) else "best" if best and place == 0 else ""
        cells = []
        for column in columns:
            cell, text = row[column.key], column.shown(row[column.key])
            missing = isinstance(cell, Missing) and cell.reason != "within"
            cells.append(
                f"<td{_kind(column.dimension != 'text', long=len(text) > 40, missing=missing)}>{escape(text)}</td>"
            )
        body.append(f'<tr class="{mark}">{"".join(cells)}</tr>')
    limit = f' style="max-height:{height}px"' if height else ""
    st.html(
        f'<div class="cap-scroll"{limit}><table class="cap-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _kind(number: bool, *, long: bool = False, missing: bool = False) -> str:
    marks = {"number": number and not missing, "long": long, "missing": missing}
    names = " ".join(name for name, holds in marks.items() if holds)
    return f' class="{names}"' if names else ""


def card(label: str, value: str, captions: Sequence[str], explanation: str) -> None:
    """Draw one number with its unit, its range and basis below it, and what it is on hover."""
    with st.container(border=True):
        st.metric(label, escaped(value), help=escaped(explanation))
        for caption in captions:
            st.caption(escaped(caption))


def bullets(lines: Sequence[str]) -> None:
    """Draw texts as a list."""
    st.markdown("\n".join(f"- {escaped(line)}" for line in lines))
