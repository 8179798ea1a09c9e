"""A figure on the page, in the colors of the theme, with what it shows in words below it."""

from __future__ import annotations

import streamlit as st

from capacity import charts
from capacity.pages.show import escaped


def draw(figure: charts.Figure, key: str, words: str = "") -> None:
    """Draw `figure`; `words` say what it shows."""
    dark = st.context.theme.type == "dark"
    st.plotly_chart(charts.themed(figure, dark=dark), config=charts.CONFIG, key=key, theme=None)
    if words:
        st.caption(escaped(words))
