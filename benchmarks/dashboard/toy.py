"""The yardstick: the least Streamlit app that could be a planner, with one slider and three plotly charts."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import streamlit as st

st.title("Toy")
rate = st.slider("Rate", 1, 1_000_000, 1000, key="rate")
steps = np.linspace(1.0, 10.0, 50)
left, middle, right = st.columns(3)
left.plotly_chart(go.Figure(go.Bar(x=steps, y=rate * steps)), key="bars")
middle.plotly_chart(go.Figure(go.Scatter(x=steps, y=np.sqrt(rate * steps))), key="line")
right.plotly_chart(go.Figure(go.Scatter(x=steps, y=rate / steps, mode="markers")), key="points")
