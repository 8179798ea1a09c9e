"""Simulated serving as files: CSV of the options, Markdown for pull requests, HTML with charts that loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from capacity.fleet.served import Serving
from capacity.report import csv_report, serving, serving_sentence
from capacity.report import markdown as marked
from capacity.report.cells import Column, Row
from capacity.report.serving import Answer

_WIDE = ("rank", "hardware", "latency_median_s", "latency_quantile_error_s", "closed_form_s", "against_best_fraction")
"""Columns of the options table that would not fit a comment."""
_ASKED = (
    Column("scenario", "Scenario"),
    Column("date", "Date"),
    Column("seed", "Seed", "whole"),
    Column("peak_rate_per_s", "Peak rate", "per second"),
    Column("objective_percentile", "Percentile"),
    Column("objective_latency_s", "Objective", "seconds"),
)


def csv(found: Answer) -> str:
    """Return one record for each option, best first."""
    scenario = found.scenario
    asked: Row = {
        "scenario": scenario.id, "date": found.date, "seed": float(found.question.seed),
        "peak_rate_per_s": scenario.traffic.peak_rate, "objective_percentile": scenario.objective.percentile,
        "objective_latency_s": scenario.objective.latency,
    }  # fmt: skip
    return csv_report.dumps(serving.options_table(found).before(_ASKED, asked))


def markdown(found: Answer) -> str:
    """Return the sentence, the options, and the details of each option folded."""
    return "\n\n".join(_blocks(found)) + "\n"


def _blocks(found: Answer) -> Iterator[str]:
    yield f"## {marked.escaped(found.scenario.title)}"
    yield "".join(
        f"**{marked.escaped(piece.text)}**" if piece.strong else marked.escaped(piece.text)
        for piece in serving_sentence.pieces(found)
    )
    if found.changes:
        yield f"Changed: {', '.join(map(marked.escaped, found.changes))}"
    yield marked.table(serving.options_table(found).without(*_WIDE))
    for option in found.options:
        if option.result is not None:
            yield _folded(found, option)
    yield f"Scenario {marked.escaped(found.scenario.id)}, seed {found.question.seed}, prices as of {found.date}."


def _folded(found: Answer, option: Serving) -> str:
    summary = f"{marked.escaped(option.name)}: {marked.escaped(serving.verdict(option))}"
    blocks = [f"<details><summary>{summary}</summary>"]
    for part in serving.detail_tables(option):
        narrow = serving.with_errors(part) if part.title == "Latency" else part
        blocks += [f"**{narrow.title}**", marked.table(narrow)]
    said = (serving_sentence.kept_up(option), *serving_sentence.caveats(found, option))
    blocks.append("\n".join(f"- {marked.escaped(line)}" for line in said))
    return "\n\n".join([*blocks, "</details>"])


def html(found: Answer) -> str:
    """Return the sentence, charts and tables of the first option that ran, as a page that loads nothing."""
    shown = next((option for option in found.options if option.result is not None), None)
    return _template().render(
        answer=found,
        pieces=serving_sentence.pieces(found),
        options=serving.options_table(found),
        option=shown,
        tables=list(serving.detail_tables(shown)) if shown else [],
        said=(serving_sentence.kept_up(shown), *serving_sentence.caveats(found, shown)) if shown else (),
        charts=_charts(found, shown) if shown else [],
    )


def _charts(found: Answer, option: Serving) -> list[tuple[str, Markup]]:
    """Return each chart with what it shows in words."""
    from capacity import charts, charts_serving  # noqa: PLC0415  (plotly takes a second to import)

    drawn = charts_serving.drawn(option, found.scenario.objective)
    parts = zip(drawn, charts.fragments(drawn), strict=True)
    return [
        (charts_serving.alt(figure), Markup(part)) for figure, part in parts
    ]  # plotly escapes <, > and / in its data


@lru_cache(maxsize=1)
def _template() -> Template:
    """Return the page's template: every text in it is escaped, an unknown name is an error."""
    loader = PackageLoader("capacity.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("serving.html.j2")
