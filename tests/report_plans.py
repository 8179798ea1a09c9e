"""Plans for the tests of reports and charts, made by the real planner on a fixed day, and parsers of the output."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import replace
from datetime import date
from functools import lru_cache
from html.parser import HTMLParser

from capacity import catalogue, planner
from capacity.plan import Plan, Violation

TODAY = date(2026, 11, 22)
BOTH = ("t4", "a100-sxm-80gb")


@lru_cache
def plan(hardware: tuple[str, ...] = BOTH, settings: tuple[str, ...] = ()) -> Plan:
    scenario = catalogue.scenario("cross-encoder-rerank", settings=settings)
    return planner.plan(scenario, planner.inputs(scenario, today=TODAY), hardware=hardware, changes=settings)


def titled(title: str) -> Plan:
    return replace(plan(), title=title)


def infeasible() -> Plan:
    return plan(BOTH, ("objective.latency=1ms",))


def refused() -> Plan:
    """A plan with an option that could not be computed at all: its violation has no numbers."""
    nothing = Violation(where="x", constraint="x has no rate", needed=math.nan, allowed=math.nan, dimension="count")
    first = infeasible().options[0]
    return replace(infeasible(), options=(replace(first, stages=(), jobs=(), violations=(nothing,)),))


def unpriced() -> Plan:
    """A plan on hardware that stands in no price table."""
    return plan(("a100-pcie-40gb",))


def nothing() -> Plan:
    return replace(plan(), options=())


class Page(HTMLParser):
    """Tables by title as lists of rows, texts, and everything that could load something."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.loads: list[str] = []
        self.scripts = 0
        self.styles: list[str] = []
        self._tag = ""
        self._rows: list[list[str]] = []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self._tag = tag
        found = dict(attrs)
        self.loads += [found[name] for name in ("src", "href", "srcset", "data", "action", "poster") if name in found]
        self.scripts += tag == "script"
        if tag == "table":
            self._rows = self.tables.setdefault(found["data-title"], [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"td", "th"}:
            self._rows[-1].append("")

    def handle_endtag(self, tag):
        self._tag = ""

    def handle_data(self, data):
        if self._tag in {"td", "th"}:
            self._rows[-1][-1] += data
        elif self._tag == "style":
            self.styles.append(data)


def markdown_tables(source: str) -> list[list[list[str]]]:
    """Return every Markdown table as rows of plain texts."""
    tables: list[list[list[str]]] = [[]]
    for line in source.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables[-1].append([re.sub(r"\\(.)", r"\1", cell.strip()) for cell in cells])
        elif tables[-1]:
            tables.append([])
    return [found for found in tables if found]


def records(source: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(source, newline="")))
