"""The application that commands join, and its version."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    name="capacity", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="Cost and hardware capacity planning for LLM recommenders: from measured kernels to dollars, with error bars.",
)  # fmt: skip


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("capacity-planner"))
        except PackageNotFoundError:
            print("unknown: run from a source tree that is not installed")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Cost and hardware capacity planning for LLM recommenders: from measured kernels to dollars, with error bars."""
