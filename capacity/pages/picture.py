"""A figure on the page in the theme's colors, and what it shows in words: below it, or for screen readers."""

from __future__ import annotations

import streamlit as st

from capacity import charts
from capacity.pages import show
from capacity.pages.told import told


def draw(figure: charts.Figure, key: str, words: str = "") -> None:
    """Draw `figure`; `words` say what it shows, by default its title, axes and values for screen readers."""
    dark = st.context.theme.type == "dark"
    st.plotly_chart(charts.themed(figure, dark=dark), config=charts.CONFIG, key=key, theme=None)
    if words:
        st.caption(show.escaped(words))
    else:
        show.unseen("p", told(figure))
