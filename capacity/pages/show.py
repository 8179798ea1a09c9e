"""What several pages draw: a report's table, the sentence, a number with its caption. Every text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd
import streamlit as st

from capacity.plan import Plan
from capacity.report import sentence
from capacity.report.cells import Cell, Column, Missing, Row, Table
from capacity.report.markdown import escaped

__all__ = ["NOTHING", "answer", "bullets", "card", "doubts", "escaped", "sortable", "style", "table", "unseen"]

MANY, MOST_PIXELS = 15, 560
"""Rows from which a sortable table scrolls, and its height then."""
NOTHING = "–"
"""Stands where there is no number."""

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="#2f5d8a" d="M1 9h4v6H1z"/>'
    '<path fill="#5b8cbd" d="M6 5h4v10H6z"/><path fill="#e69f00" d="M11 1h4v14h-4z"/></svg>'
)
"""Icon of the browser tab; drawn here so that no page asks the network for one."""
FINE = ("none", "within")
"""Reasons for a missing number that nobody has to worry about."""
# Colors come in pairs, light and dark. Those of charts are here too: a change of theme draws no chart anew.
STYLE = """
<style>
:root {
  --cap-ink: light-dark(#2f2d2b, #edebe8); --cap-page: light-dark(#ffffff, #171614);
  --cap-answer: light-dark(#f2f6fa, #17222d); --cap-accent: light-dark(#17446f, #9ecbf5);
  --cap-edge: light-dark(#2f5d8a, #6ea6dc);
  --cap-missed: light-dark(#fdf3ee, #2e1a12); --cap-alarm: light-dark(#a53c0c, #ffb08a);
  --cap-alarm-edge: light-dark(#c4501b, #e07b4a);
  --cap-doubts: light-dark(#fbf7ea, #2b2617); --cap-doubt-ink: light-dark(#5b4a1e, #ead9a4);
  --cap-head: light-dark(#f7f8fa, #23272c); --cap-head-ink: light-dark(#44505c, #c9d2db);
  --cap-best: light-dark(#eef6f0, #16281c); --cap-missing: light-dark(#8a5a00, #f0c36a);
  --cap-below: light-dark(#5f6973, #a9b3bd);
  --cap-frame: light-dark(#e3e6ea, #3d434a); --cap-rule: light-dark(#eceff2, #353a40);
  --cap-total: light-dark(#c9d0d7, #5a636c); --cap-chip: light-dark(#2f5d8a, #35618d);
}
[data-testid="stMultiSelect"] :is([data-tag], [data-baseweb="tag"]) { background: var(--cap-chip) !important; }
[data-testid="stCaptionContainer"] { opacity: 1 !important; }
[data-testid="stCaptionContainer"] :is(p, li, code) { color: var(--cap-below) !important; opacity: 1 !important; }
[data-testid="stCode"] :is(.comment, .punctuation, .linenumber) { color: var(--cap-below) !important; }
[data-testid="stCode"] .token:is(.number, .boolean, .string) { color: light-dark(#0b6b5c, #5fd6c4) !important; }
[data-testid="stCode"] .token:is(.variable, .atrule, .key) { color: light-dark(#00658a, #5fd0ff) !important; }
[data-testid="stCode"] .token:is(.operator, .keyword, .function) { color: light-dark(#a34600, #ffa65c) !important; }
[data-testid="stPlotlyChart"] :is([style*="fill: rgb(34, 34, 34)"], [style*="fill: rgb(237, 235, 232)"]) {
  fill: var(--cap-ink) !important; }
[data-testid="stPlotlyChart"] :is([style*="stroke: rgb(34, 34, 34)"], [style*="stroke: rgb(237, 235, 232)"]) {
  stroke: var(--cap-ink) !important; }
[data-testid="stPlotlyChart"] :is(.gridlayer, .zerolinelayer) path { stroke: var(--cap-rule) !important; }
.block-container { padding: 4rem 2.5rem 3rem; max-width: 1500px; }
.block-container h2, .block-container h3 { font-size: 1.25rem; padding-top: 1.1rem; }
.block-container h1 { font-size: 1.5rem; }
[data-testid="stSidebar"] hr { margin: .3rem 0 .6rem; }
[data-testid="stMetricValue"] { font-size: 1.7rem; }
.cap-answer { font-size: 1.2rem; line-height: 1.55; background: var(--cap-answer); color: var(--cap-ink);
  border-left: 5px solid var(--cap-edge);
  border-radius: 4px; padding: .9rem 1.2rem; max-height: 21rem; overflow: auto; }
.cap-answer.missed { background: var(--cap-missed); border-left-color: var(--cap-alarm-edge); }
.cap-answer strong { color: var(--cap-accent); }
.cap-answer.missed strong { color: var(--cap-alarm); }
.cap-doubts { font-size: .88rem; line-height: 1.5; color: var(--cap-doubt-ink); background: var(--cap-doubts);
  border-radius: 4px; padding: .6rem 1.2rem; }
.cap-doubts ul { margin: .2rem 0 0; padding-left: 1.1rem; }
.cap-scroll { overflow: auto; border: 1px solid var(--cap-frame); border-radius: 6px; }
.cap-table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; width: 100%; }
.cap-table th { text-align: left; font-weight: 600; color: var(--cap-head-ink); background: var(--cap-head);
  vertical-align: bottom; }
.cap-table thead th { position: sticky; top: 0; }
.cap-table th, .cap-table td { padding: .4rem .6rem; border-top: 1px solid var(--cap-rule); vertical-align: top; }
.cap-table thead th { border-top: 0; vertical-align: bottom; }
.cap-table .number { text-align: right; font-variant-numeric: tabular-nums; }
.cap-table td.number, .cap-table .short { white-space: nowrap; }
.cap-table .missing { color: var(--cap-missing); }
.cap-table .long { min-width: 11rem; }
.cap-table tr.best > * { background: var(--cap-best); }
.cap-table tr.total > * { font-weight: 600; border-top: 2px solid var(--cap-total); }
.cap-table tr.below td { border-top: 0; padding-top: 0; color: var(--cap-below); font-size: .78rem; }
.cap-table tbody th { font-weight: inherit; color: inherit; background: inherit; }
.cap-table tbody tr.best th { font-weight: 600; }
.cap-scroll:focus-visible { outline: 2px solid currentcolor; }
.cap-unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.stElementContainer:has(.cap-unseen.alone) { position: absolute; }
.stApp [data-testid="stCaptionContainer"] { opacity: .85; }
.stApp [data-testid="stCode"] .token { color: inherit; }
.stApp [data-testid="stWidgetLabel"][disabled] { color: inherit; opacity: .85; }
.st-key-edit textarea { font-family: ui-monospace, monospace; font-size: .82rem; }
</style>
"""


def style() -> None:
    """Add the dashboard's own style to the page."""
    st.html(STYLE)


def unseen(tag: str, words: str) -> None:
    """Add an element of HTML that screen readers read and nobody sees."""
    st.html(f'<{tag} class="cap-unseen alone">{escape(words)}</{tag}>')


def answer(plan: Plan) -> None:
    """Draw the sentence; its strong parts stand out, and it changes color when nothing is feasible."""
    parts = (f"<strong>{escape(p.text)}</strong>" if p.strong else escape(p.text) for p in sentence.pieces(plan))
    st.html(f'<div class="cap-answer{"" if plan.best else " missed"}">{"".join(parts)}</div>')


def doubts(lines: Sequence[str], title: str) -> None:
    """Draw what an answer does not know, in a box of its own; nothing when there is nothing."""
    if lines:
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        st.html(f'<div class="cap-doubts"><strong>{escape(title)}</strong><ul>{items}</ul></div>')


def table(
    content: Table,
    *,
    keep: Sequence[str] = (),
    below: Sequence[str] = (),
    best: bool = False,
    height: int | None = None,
) -> None:
    """Draw a report's table: numbers to the right with their unit, a missing number as its reason.

    Parameters
    ----------
    keep
        Keys of the columns to show, in that order; all by default.
    below
        Keys of the columns whose texts stand in a line of their own below each row.
    best
        Whether the first row stands out.
    height
        Height at which it scrolls [pixel].
    """
    columns = [column for key in keep for column in content.columns if column.key == key] or list(content.columns)
    notes = [column for key in below for column in content.columns if column.key == key]
    heads = "".join(f'<th scope="col"{_marks(column)}>{escape(column.label)}</th>' for column in columns)
    body = [
        _row(row, columns, "best" if best and place == 0 else "") + _note(row, notes, len(columns))
        for place, row in enumerate(content.rows)
    ]
    if content.total is not None:
        body.append(_row(content.total, columns, "total"))
    limit = f' style="max-height:{height}px"' if height else ""
    st.html(
        f'<div class="cap-scroll" tabindex="0" role="group" aria-label="{escape(content.title)}"{limit}>'
        f'<table class="cap-table"><caption class="cap-unseen">{escape(content.title)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _row(row: Row, columns: Sequence[Column], mark: str) -> str:
    shown = [(column, row[column.key], column.shown(row[column.key])) for column in columns]
    drawn = "".join(_cell(*part, heads=part is shown[0] and part[2] != "") for part in shown)
    return f'<tr class="{mark}">{drawn}</tr>'


def _cell(column: Column, cell: Cell, text: str, *, heads: bool) -> str:
    tag, scope = ("th", ' scope="row"') if heads else ("td", "")
    return f"<{tag}{scope}{_marks(column, cell, text)}>{escape(text)}</{tag}>"


def _note(row: Row, columns: Sequence[Column], width: int) -> str:
    texts = [escape(f"{c.label}: {c.shown(row[c.key])}") for c in columns if row[c.key] != ""]
    return f'<tr class="below"><td colspan="{width}">{" · ".join(texts)}</td></tr>' if texts else ""


def _marks(column: Column, cell: Cell = "", text: str = "") -> str:
    missing = isinstance(cell, Missing) and cell.reason not in FINE
    number = column.dimension != "text" and not missing
    marks = {"number": number, "missing": missing, "long": len(text) > 40, "short": 0 < len(text) <= 24}
    names = " ".join(name for name, holds in marks.items() if holds)
    return f' class="{names}"' if names else ""


def sortable(content: Table, keep: Sequence[str] = ()) -> None:
    """Draw a table so that a click on a heading sorts it by the number, not by its text.

    Parameters
    ----------
    keep
        Keys of the columns to show, in that order; all by default.
    """
    columns = [column for key in keep for column in content.columns if column.key == key] or list(content.columns)
    frame = pd.DataFrame(
        {c.label: [None if isinstance(row[c.key], Missing) else row[c.key] for row in content.rows] for c in columns}
    )
    formats: dict[Any, Any] = {c.label: c.shown for c in columns if c.dimension != "text"}
    pinned = {columns[0].label: st.column_config.TextColumn(pinned=True)}
    shown = frame.style.format(formats, na_rep=NOTHING)
    if len(frame) > MANY:
        st.dataframe(shown, hide_index=True, column_config=pinned, placeholder=NOTHING, height=MOST_PIXELS)
    else:
        st.dataframe(shown, hide_index=True, column_config=pinned, placeholder=NOTHING)


def card(label: str, value: str, captions: Sequence[str], explanation: str) -> None:
    """Draw one number with its unit, its range and basis below it, and what it is on hover."""
    with st.container(border=True, height="stretch"):
        st.metric(label, escaped(value), help=escaped(explanation))
        for caption in captions:
            st.caption(escaped(caption))


def bullets(lines: Sequence[str]) -> None:
    """Draw texts as a list."""
    st.markdown("\n".join(f"- {escaped(line)}" for line in lines))
