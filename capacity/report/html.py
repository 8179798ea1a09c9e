"""A plan as one HTML file that needs no network: sentence, tables, and charts drawn by a plotly.js inside it."""

from __future__ import annotations

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from capacity.plan import Option, Plan
from capacity.report import figures, sentence
from capacity.report.table import detail_tables, options_table


def render(plan: Plan, charts: bool = True) -> str:
    """Return a plan as an HTML page.

    Parameters
    ----------
    charts
        Whether to draw the cost of the options, and latency and memory of the first; adds about 5 MB of plotly.js.
    """
    first = plan.options[0] if plan.options else None
    return _template().render(
        plan=plan,
        pieces=sentence.pieces(plan),
        caveats=sentence.caveats(plan),
        options=options_table(plan),
        energy=sentence.energy,
        details=[(option, _state(option), detail_tables(option)) for option in plan.options],
        charts=_charts(plan, first) if charts and first else (),
    )


def _state(option: Option) -> str:
    return figures.month_text(option) if option.feasible else figures.INFEASIBLE


def _charts(plan: Plan, first: Option) -> list[Markup]:
    from capacity import charts  # noqa: PLC0415  (plotly takes a second to import)

    drawn = [charts.cost_bars(plan)] if any(map(figures.priced, plan.options)) else []
    drawn += [charts.latency_bars(first, plan.objective_latency_s)] if first.stages else []
    drawn += [charts.memory_bars(first)] if first.pools or first.jobs else []
    return [Markup(fragment) for fragment in charts.fragments(drawn)]  # plotly escapes <, > and / in its data


@lru_cache(maxsize=1)
def _template() -> Template:
    """Return the page's template: every text in it is escaped, an unknown name is an error."""
    loader = PackageLoader("capacity.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")
