"""A headless Chromium for tests of pages, and what they do with it.

Needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver); where CI or ANCHORLAB_BROWSER is
set, their absence is a failure.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait


@contextmanager
def headless() -> Iterator[webdriver.Chrome]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        reason = "no chromium or chromedriver: apt-get install chromium chromium-driver"
        if os.environ.get("CI") or os.environ.get("ANCHORLAB_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    for argument in (*quiet, "--disable-background-networking", "--window-size=1400,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


def wait(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: browser.execute_script(script))


def click(browser: webdriver.Chrome, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def asked_of_the_network(browser: webdriver.Chrome) -> list[str]:
    """Addresses that the browser asked for since its performance log was read."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]


def resize(browser: webdriver.Chrome, width: int, height: int = 800) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def write_page(html: str, path: Path) -> Path:
    path.write_text(html, encoding="utf-8")
    return path
