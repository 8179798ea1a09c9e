"""The yardstick: the least Streamlit app that could be a planner, with one slider and three plotly charts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.express as px
import streamlit as st

st.title("Toy")
rate = st.slider("Rate", 1, 1_000_000, 1000, key="rate")
load = np.linspace(1.0, 10.0, 50)
frame = pd.DataFrame({"load": load, "cost": rate * load, "latency": np.sqrt(rate * load), "share": rate / load})
left, middle, right = st.columns(3)
left.plotly_chart(px.bar(frame, x="load", y="cost"), key="cost")
middle.plotly_chart(px.line(frame, x="load", y="latency"), key="latency")
right.plotly_chart(px.scatter(frame, x="load", y="share"), key="share")
