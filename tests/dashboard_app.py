"""The dashboard opened at a page by AppTest, and what a person reads there."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).resolve().parent.parent


def opened(page: str, **query: str | list[str]) -> AppTest:
    """Return the dashboard opened at a page with URL parameters."""
    app = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=120)
    for name, value in query.items():
        app.query_params[name] = value
    return healthy(app.run().switch_page(f"capacity/pages/{page}.py").run())


def healthy(app: AppTest) -> AppTest:
    assert not app.exception, [error.value for error in app.exception]
    return app


def text(app: AppTest) -> str:
    """Return everything that pages draw as HTML, without its style."""
    parts = (part.value for part in app.html if "<style>" not in part.value)
    return " ".join(" ".join(unescape(re.sub(r"<[^>]+>", " ", part)) for part in parts).split())


def headline(app: AppTest) -> str:
    found = next(part.value for part in app.html if 'class="cap-answer' in part.value)
    return unescape(re.sub(r"<[^>]+>", "", found))


def errors(app: AppTest) -> str:
    return "\n".join(error.value.replace("\\", "") for error in app.error)


def captions(app: AppTest) -> str:
    return "\n".join(caption.value.replace("\\", "") for caption in app.caption)


def query(app: AppTest) -> dict[str, list[str]]:
    return {name: value if isinstance(value, list) else [value] for name, value in app.query_params.items()}
