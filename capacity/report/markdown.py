"""A plan, or the change between two, as Markdown for pull requests: delta and total on top, details folded."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from capacity.plan import Option, Plan
from capacity.report import comparison as compared
from capacity.report import figures, sentence
from capacity.report.cells import Missing, Table, shown
from capacity.report.table import detail_tables, options_table

_SPECIAL = re.compile(r"([\\`*_\[|~])")
_WIDE = (
    "hardware",
    "devices_p10",
    "devices_p90",
    "latency_median_s",
    "latency_quantile_at_p90_s",
    "over_limit_fraction",
)
"""Columns of the options table that stand in the other formats and would not fit a comment."""


def render(plan: Plan, details: int | None = None) -> str:
    """Return a plan as Markdown: the sentence, the options, the doubts about the best one, and folded details.

    Parameters
    ----------
    details
        Options that get their details, best first; all by default. GitHub takes 65,536 characters a comment.
    """
    return "\n\n".join(_blocks(plan, details)) + "\n"


def _blocks(plan: Plan, details: int | None) -> Iterator[str]:
    yield f"## {escaped(plan.title)}"
    yield _sentence(plan)
    if plan.changes:
        yield f"Changed: {', '.join(map(escaped, plan.changes))}"
    yield table(options_table(plan).without(*_WIDE))
    doubts = sentence.option_caveats(plan, plan.best) if plan.best else ()
    if doubts:
        yield "**What this plan does not know**"
        yield _bullets(doubts)
    detailed = plan.options[:details]
    for option in detailed:
        yield _details(plan, option)
    left = len(plan.options) - len(detailed)
    if left:
        yield f"Details of {shown(left, 'count')} more options stand in the JSON and HTML reports."
    yield f"Scenario {escaped(plan.scenario)}, prices as of {escaped(plan.date)}."


def _sentence(plan: Plan) -> str:
    return "".join(
        f"**{escaped(piece.text)}**" if piece.strong else escaped(piece.text) for piece in sentence.pieces(plan)
    )


def _details(plan: Plan, option: Option) -> str:
    state = figures.month_text(option) if option.feasible else figures.INFEASIBLE
    blocks = [f"<details><summary>{escaped(option.name)}: {escaped(state)}</summary>"]
    for part in detail_tables(option):
        blocks += [f"**{part.title}**", table(part)]
    blocks.append(escaped(sentence.energy(option)))
    doubts = sentence.option_caveats(plan, option)
    if doubts:
        blocks += ["**What is not known**", _bullets(doubts)]
    return "\n\n".join([*blocks, "</details>"])


def table(content: Table) -> str:
    """Return a table in GitHub's Markdown, numbers to the right."""
    heads = [column.label for column in content.columns]
    marks = ["---" if column.dimension == "text" else "---:" for column in content.columns]
    body = [[escaped(cell) for cell in line] for line in content.lines()]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, marks, *body))


def _bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def escaped(text: str) -> str:
    r"""Return text that Markdown shows as it is: on one line, no markup, no HTML, no end of a table cell.

    Examples
    --------
    >>> escaped("a|b <i>*c*")
    'a\\|b &lt;i&gt;\\*c\\*'
    """
    flat = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", flat)


def compare(old: Mapping[str, Any], new: Mapping[str, Any], verdict: str = "") -> str:
    """Return what changed between two JSON reports as Markdown: totals and deltas, both answers, details folded.

    Parameters
    ----------
    verdict
        What a gate on the cost says; it stands below the headline.

    Raises
    ------
    InputError
        When one is no report of the JSON schema.
    """
    return "\n\n".join(_compared(compared.compare(old, new), verdict)) + "\n"


def _compared(change: compared.Comparison, verdict: str) -> Iterator[str]:
    yield f"## {escaped(change.title)}"
    yield _headline(change.best)
    if verdict:
        yield escaped(verdict)
    groups = compared.best_table(change)
    if groups.rows:
        yield f"**{groups.title}**"
        yield table(groups)
    yield "**Every option**"
    yield table(compared.totals_table(change))
    yield from map(_folded, change.options)
    yield f"**Before** ({escaped(change.old_from)}). {escaped(change.old_answer)}"
    yield f"**Now** ({escaped(change.new_from)}). {escaped(change.new_answer)}"


def _headline(best: compared.Change) -> str:
    delta, fraction = best.delta, best.fraction
    name = escaped(best.name)
    if isinstance(delta, Missing):
        return f"**Best option ({name}): {escaped(shown(best.old, 'usd'))} → {escaped(shown(best.new, 'usd'))}**"
    money, share = shown(delta, "usd", signed=True), shown(fraction, "fraction", signed=True)
    return f"**Best option ({name}): {money} a month ({share}), now {shown(best.new, 'usd')} a month in total**"


def _folded(option: compared.OptionChange) -> str:
    total = option.total
    if isinstance(total.delta, Missing):
        text = f"{shown(total.old, 'usd')} → {shown(total.new, 'usd')}"
    else:
        text = f"{shown(total.delta, 'usd', signed=True)} a month" if total.delta else "no change"
    blocks = [f"<details><summary>{escaped(option.name)}: {escaped(text)}</summary>"]
    for part in (compared.groups_table(option), compared.lines_table(option)):
        if part.rows:
            blocks += [f"**{part.title}**", table(part)]
    return "\n\n".join([*blocks, "</details>"])
