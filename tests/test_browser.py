"""The dashboard in a real browser: `streamlit run dashboard.py`, Debian's Chromium, a walk through every page.

CAPACITY_SCREENSHOT=docs/images/dashboard.png keeps the picture of the first screen, and beside it one of each page.
Pages are held against the rules of axe-core (WCAG 2 A and AA, and its best practices): by default the release that
comes with axe-core-python (4.4.3), or the axe.min.js that CAPACITY_AXE names.
"""

from __future__ import annotations

import ast
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
from PIL import Image

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
PATIENCE_S = 150.0  # the first simulation on a machine compiles its event engine
TITLE = '[data-testid="stMain"] h1'
OF_STREAMLIT = {"presentation-role-conflict": "stFileUploaderDropzone"}
"""Rules of axe-core that Streamlit's own elements break, each with what stands in their HTML: nothing of ours."""
AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ['violations']}).then(found => done(found.violations.flatMap(rule => rule.nodes.map(
  node => [rule.id, node.html.slice(0, 300), node.failureSummary]))));
"""
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


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the dashboard on a free port of this machine, once for all tests."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(ROOT / "dashboard.py"), "--server.port", str(port)]
    flags = ["--server.address", "127.0.0.1", "--server.headless", "true", "--browser.gatherUsageStats", "false"]
    environment = {name: value for name, value in os.environ.items() if name != "CAPACITY_SCENARIO"}
    log = tmp_path_factory.mktemp("server") / "server.log"
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
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
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


def picture_at(folder: Path) -> Path:
    """Return where the picture of the first screen goes."""
    return ROOT / os.environ["CAPACITY_SCREENSHOT"] if "CAPACITY_SCREENSHOT" in os.environ else folder / "screen.png"


def pictured(browser: Any, picture: Path) -> None:
    picture.parent.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(picture))
    assert picture.stat().st_size > 20_000
    with Image.open(picture) as drawn:
        drawn.quantize(256).save(picture, optimize=True)  # a third of the size, and nobody sees it


def pages() -> dict[str, str]:
    """Return file and title of every page of the dashboard."""
    tree = ast.parse((ROOT / "dashboard.py").read_text(encoding="utf-8"))
    values = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "PAGES"
    )
    found = ast.literal_eval(next(values))
    assert len(found) >= 8
    return dict(found)


def walk(browser: Any, address: str) -> Iterator[str]:
    """Open every page by its link in the sidebar, and yield its name when it has stopped running."""
    browser.get(address)
    for name, title in pages().items():
        until(lambda title=title: browser.find_elements("link text", title), f"the link to {title}")
        browser.find_element("link text", title).click()
        until(lambda title=title: stands(browser, title), title)
        yield name


def stands(browser: Any, title: str) -> bool:
    """Return whether the page `title` has stopped running, charts drawn."""
    script = f"return document.querySelector('{TITLE}')?.textContent"
    bare = "return document.querySelectorAll('.stPlotlyChart:not(:has(.main-svg))').length"
    here = browser.execute_script(script) == title
    return here and settled(browser, "Scenario YAML") and not browser.execute_script(bare)


def test_every_page_opens_without_an_error(address, browser, tmp_path):
    browser.get_log("browser")
    for name in walk(browser, address):
        unharmed(browser)
        said = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not said, f"{name}: {said}"
        pictured(browser, picture_at(tmp_path).with_name(f"{name}.png"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(address, browser, scheme):
    rules = axe()
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.set_script_timeout(PATIENCE_S)
    wrong = []
    for name in walk(browser, address):
        opened = "document.querySelectorAll('details:not([open]) > summary').forEach(each => each.click())"
        browser.execute_script(opened)
        time.sleep(1.0)  # what opens is drawn by the browser alone: nothing says when it stands
        until(lambda name=name: stands(browser, pages()[name]), name)
        browser.execute_script(rules)
        found = browser.execute_async_script(AXE)
        wrong += [(name, *node) for node in found if OF_STREAMLIT.get(node[0], "no such element") not in node[1]]
    assert not wrong, "\n".join(map(str, wrong))


def axe() -> str:
    """Return the source of axe-core."""
    if "CAPACITY_AXE" in os.environ:
        return Path(os.environ["CAPACITY_AXE"]).read_text(encoding="utf-8")
    package = pytest.importorskip("axe_core_python")
    return (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


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
    pictured(browser, picture_at(tmp_path))
