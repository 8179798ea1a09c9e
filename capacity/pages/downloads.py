"""An answer to take away: as files, and as the command that gives the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

TYPES = {"json": "application/json", "csv": "text/csv"}


def draw(what: str, scenario: str, files: Mapping[str, Callable[[], str]], command: str) -> None:
    """Draw a button for each of `files`, by its ending, and `command`.

    Parameters
    ----------
    what
        What the answer is; the files are called `scenario`-`what`.
    """
    columns = st.columns([1, 1, 4])
    for column, (kind, content) in zip(columns, files.items(), strict=False):
        column.download_button(
            f"{what.capitalize()} {kind.upper()}", content, file_name=f"{scenario}-{what}.{kind}", mime=TYPES[kind],
            on_click="ignore", width="stretch", key=f"download:{what}-{kind}",
        )  # fmt: skip
    with st.expander("The same on the command line"):
        st.code(command, language="bash", wrap_lines=True)
