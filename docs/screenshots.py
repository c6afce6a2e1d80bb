"""Pictures of a comparison.html for a README: python docs/screenshots.py comparison.html <folder>

light.png and dark.png at 1400 px, narrow.png at 400 px, each of the whole page. Needs chromium, chromedriver, selenium.
"""

import base64
import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

VIEWS = {"light": (1400, False), "dark": (1400, True), "narrow": (400, False)}


def main(page: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    # Without the driver's path selenium asks the network for one.
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        for name, (width, dark) in VIEWS.items():
            (folder / f"{name}.png").write_bytes(picture(browser, page, width, dark))
    finally:
        browser.quit()


def picture(browser: webdriver.Chrome, page: Path, width: int, dark: bool) -> bytes:
    """PNG of the page as a window of `width` shows it, from top to bottom."""
    resize(browser, width, 900)
    browser.get(page.resolve().as_uri())
    browser.execute_script("setTheme(arguments[0])", "dark" if dark else "light")
    browser.execute_script("drawCharts(); Object.keys(CHARTS).forEach(refresh)")
    resize(browser, width, browser.execute_script("return document.documentElement.scrollHeight"))
    WebDriverWait(browser, 60).until(lambda _: browser.execute_script("return stale.size === 0"))
    return base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"])


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
