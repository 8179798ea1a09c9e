from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # times are for benchmarks/
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write the golden files of the scenarios again")


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """Keep the main module: streamlit's AppTest puts the dashboard in its place, and spawned processes run it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main
