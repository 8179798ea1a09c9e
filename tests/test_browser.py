"""One smoke test in a real browser: `streamlit run dashboard.py`, Debian's Chromium, the sentence on the screen.

CAPACITY_SCREENSHOT=docs/images/dashboard.png keeps the picture of the first screen.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1750",
)
PATIENCE_S = 60.0
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason="Chromium is not installed: apt-get install chromium chromium-driver"
)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Return what `condition` finds, as soon as it is something."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"waited {PATIENCE_S:g} s for {what}")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Serve the dashboard on a free port of this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard.py"), "--server.port", str(port)]
    flags = ["--server.address", "127.0.0.1", "--server.headless", "true", "--browser.gatherUsageStats", "false"]
    environment = {name: value for name, value in os.environ.items() if name != "CAPACITY_SCENARIO"}
    log = tmp_path / "server.log"
    with log.open("w") as output:
        server = subprocess.Popen([*command, *flags], cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        until(lambda: healthy(server, port, log), "the server")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def healthy(server: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert server.poll() is None, log.read_text()
    try:
        with urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def body(browser: Any) -> str:
    return str(browser.execute_script("return document.body.innerText"))


def settled(browser: Any, text: str) -> bool:
    """Return whether `text` and the last button of the sidebar stand on a page that has stopped running."""
    script = """return document.querySelector('[data-testid="stApp"]')?.getAttribute('data-test-script-state')"""
    shown = body(browser)
    return text in shown and "Scenario YAML" in shown and browser.execute_script(script) in {"notRunning", None}


def unharmed(browser: Any) -> None:
    assert "Traceback" not in body(browser)
    assert not browser.find_elements("css selector", '[data-testid="stException"]')
    assert not browser.find_elements("css selector", '[data-testid="stAlertContentError"]')


def test_the_answer_is_on_the_first_screen_and_every_page_keeps_the_view(address, browser, tmp_path):
    browser.get(f"{address}/?set=traffic.peak_rate%3D100%2Fs")
    until(lambda: settled(browser, "Options compared"), "the plan")
    assert "for 100 requests/s at peak" in body(browser)
    unharmed(browser)
    for title, landmark in (
        ("Hardware", "devices compared"),
        ("Scenario", "The scenario in full"),
        ("How sure is this", "Formulas"),
    ):
        browser.find_element("link text", title).click()
        until(lambda landmark=landmark: settled(browser, landmark), title)
        assert "peak_rate%3D100%2Fs" in browser.current_url
        unharmed(browser)
    browser.get(address)
    until(lambda: settled(browser, "Options compared"), "the plan")
    until(lambda: browser.find_elements("css selector", ".js-plotly-plot .main-svg"), "the charts")
    picture = (
        ROOT / os.environ["CAPACITY_SCREENSHOT"] if "CAPACITY_SCREENSHOT" in os.environ else tmp_path / "screen.png"
    )
    picture.parent.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000
