"""x."""

import streamlit as st

from capacity.pages import session


def page() -> None:
    """X."""
    st.write("x")


if __name__ == "__main__":
    with session.errors_shown():
        page()
