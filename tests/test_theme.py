"""Light and dark: texts stand out by 4.5 : 1 on their grounds in both, and charts have ink of the theme."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from report_plans import plan

from capacity import charts
from capacity.pages import show

ROOT = Path(__file__).resolve().parent.parent
PAIRS = dict(re.findall(r"--cap-([a-z-]+): light-dark\((#[0-9a-f]{6}, #[0-9a-f]{6})\)", show.STYLE))
TEXTS = (
    ("ink", "page"), ("ink", "answer"), ("accent", "answer"), ("ink", "missed"), ("alarm", "missed"),
    ("doubt-ink", "doubts"), ("head-ink", "head"), ("ink", "best"), ("missing", "page"), ("missing", "best"),
    ("below", "page"), ("below", "sidebar"),
)  # fmt: skip
"""Ink and ground of every text that the dashboard's own style colors."""
PAIRS["sidebar"] = "#f8f8f7, #21201d"  # Streamlit 1.67's own
PAIRS["white"] = "#ffffff, #ffffff"
LEAST = 4.5
"""WCAG 2.2, success criterion 1.4.3."""


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_on_white_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("ink", "ground"), [*TEXTS, ("white", "chip")])
def test_texts_stand_out(ink, ground, theme):
    assert contrast(PAIRS[ink].split(", ")[theme], PAIRS[ground].split(", ")[theme]) >= LEAST


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_words_of_code_stand_out(theme):
    inks = re.findall(r'\[data-testid="stCode"\] .*light-dark\((#\w+), (#\w+)\)', show.STYLE)
    assert len(inks) == 3
    ground = ("#f4f4f3", "#22211e")[theme]  # Streamlit 1.67's code blocks in the sidebar, the hardest of its grounds
    assert all(contrast(pair[theme], ground) >= LEAST for pair in inks)


def test_every_color_of_the_style_has_both_themes():
    """A color outside a pair would be that of one theme only."""
    bare = re.sub(r"light-dark\([^)]*\)", "", show.STYLE)
    assert not re.findall(r"#[0-9a-f]{3,8}\b", bare)
    used = set(re.findall(r"var\(--cap-([a-z-]+)\)", show.STYLE))
    assert used <= set(PAIRS)


def test_streamlit_is_given_both_themes():
    found = tomllib.loads((ROOT / ".streamlit/config.toml").read_text(encoding="utf-8"))
    assert set(found["theme"]) == {"light", "dark"}  # a base would fix one of them
    light, dark = (found["theme"][name]["primaryColor"] for name in ("light", "dark"))
    assert contrast(light, PAIRS["page"].split(", ")[0]) >= LEAST
    assert contrast(dark, PAIRS["page"].split(", ")[1]) >= LEAST


def test_charts_take_the_ink_of_the_theme():
    figure = charts.cost_bars(plan())
    light, dark = charts.themed(figure, dark=False), charts.themed(figure, dark=True)
    for found in (light, dark):
        assert found.layout.paper_bgcolor == found.layout.plot_bgcolor == charts.CLEAR
    assert light.layout.font.color == charts.INK
    assert dark.layout.font.color == charts.LIGHT_INK
    assert figure.layout.font.color == charts.INK
    ranges = [found.data[-1].error_y.color for found in (figure, light, dark)]
    assert ranges == [charts.INK, charts.INK, charts.LIGHT_INK]
    assert contrast(charts.LIGHT_INK, PAIRS["page"].split(", ")[1]) >= LEAST


def test_a_change_of_theme_recolors_the_inks_of_charts():
    """A browser writes colors as rgb(…): the style names both inks in that form."""
    for ink in (charts.INK, charts.LIGHT_INK):
        red, green, blue = (int(ink[place : place + 2], 16) for place in (1, 3, 5))
        assert show.STYLE.count(f"rgb({red}, {green}, {blue})") == 2
