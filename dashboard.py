"""The dashboard: `streamlit run dashboard.py`, or `capacity dashboard`. Page setup, the sidebar, and one page."""

from __future__ import annotations

import gc
from pathlib import Path

import streamlit as st

gc.set_threshold(50_000)  # before the imports: the usual 700 walks all modules and calibrations again and again

from capacity import pages  # noqa: E402
from capacity.pages import door, session, show, sidebar  # noqa: E402

FOLDER = Path(pages.__file__).parent
PAGES = {
    "plan": "Plan", "compare": "Compare", "serving": "Serving", "training": "Training and batch", "levers": "Levers",
    "search": "Search", "budget": "Budget and risk", "hardware": "Hardware", "scenario": "Scenario",
    "accuracy": "Calibration and accuracy", "method": "How sure is this",
}  # fmt: skip

st.set_page_config(page_title="Capacity planner", page_icon=show.ICON, layout="wide")
show.style()
pages_shown = [
    st.Page(FOLDER / f"{name}.py", title=title, url_path=name, default=name == "plan") for name, title in PAGES.items()
]
page = st.navigation(pages_shown, position="hidden")  # the sidebar draws links that carry the view
if not door.opened():
    st.stop()
with session.errors_shown():
    sidebar.show(session.current(), pages_shown, page)
show.unseen("h1", page.title)
session.show_problems()
page.run()
