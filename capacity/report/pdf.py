"""A plan as PDF: the HTML report, which loads nothing, printed by a Chromium or Chrome of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from capacity.errors import CapacityError
from capacity.plan import Plan
from capacity.report import html

VARIABLE = "CAPACITY_BROWSER"
"""Environment variable that names a browser: a path, or a name on PATH."""
BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell",
    "microsoft-edge",
)  # fmt: skip
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--no-pdf-header-footer",
)  # fmt: skip
PATIENCE_S = 180.0
INSTALL = f"install Chromium (Debian: apt-get install chromium) or Chrome, or name one in ${VARIABLE}; or use html"


def render(plan: Plan) -> bytes:
    """Return the PDF. It holds the moment of printing, so its bytes differ from one to the next.

    Raises
    ------
    CapacityError
        When there is no browser, or it prints nothing within `PATIENCE_S`.
    """
    program = browser()
    with TemporaryDirectory(prefix="capacity-pdf-") as folder:
        page, target = Path(folder) / "plan.html", Path(folder) / "plan.pdf"
        page.write_text(html.render(plan), encoding="utf-8")
        _print(program, page, target)
        return target.read_bytes()


def browser() -> str:
    """Return the browser that prints: the one in `$CAPACITY_BROWSER`, else the first of `BROWSERS` on PATH."""
    named = os.environ.get(VARIABLE)
    if named:
        found = shutil.which(named)
        if found is None:
            raise CapacityError(f"${VARIABLE}: {named!r} is no program that can be run; {INSTALL}")
        return found
    known = next(filter(None, map(shutil.which, BROWSERS)), None)
    if known is None:
        raise CapacityError(f"a PDF is printed by a browser, and none of {', '.join(BROWSERS)} is on PATH; {INSTALL}")
    return known


def _print(program: str, page: Path, target: Path) -> None:
    command = [program, *FLAGS, f"--user-data-dir={page.parent / 'profile'}", f"--print-to-pdf={target}", page.as_uri()]
    log = page.with_suffix(".log")
    try:
        with log.open("wb") as output:  # a pipe would be held open by what the browser leaves behind
            code = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=PATIENCE_S, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        raise CapacityError(f"{program} printed no PDF within {PATIENCE_S:g} s; {INSTALL}") from None
    except OSError as error:
        raise CapacityError(f"{program} cannot be run: {error.strerror or error}; {INSTALL}") from None
    if not target.is_file() or not target.read_bytes().startswith(b"%PDF"):
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise CapacityError(f"{program} printed no PDF (exit {code}): {''.join(said)[:300] or 'it said nothing'}")
