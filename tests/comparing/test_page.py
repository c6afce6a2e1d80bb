"""comparison.html in a real Chromium: it sorts, filters, compares two runs, says nothing on the console, loads nothing.

Needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver); where CI or ANCHORLAB_BROWSER is
set, their absence is a failure.
"""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from anchorlab.comparing.comparison import Question, compare
from anchorlab.comparing.labels import shown
from anchorlab.comparing.page import as_page
from anchorlab.comparing.scores import read_runs
from anchorlab.comparing.statistics import Bootstrap
from anchorlab.plots.html import as_script
from anchorlab.runs.json import plain
from tests.browser import headless
from tests.comparing.material import config, write_run

CHARTS = ("forest", "by-budget", "by-iou", "importance", "slice", "heat", "parallel", "pareto", "by-size", "curves")
NAME = "<script>alert(1)</script>"


def page_of(runs: Path, path: Path, gallery: int = 6, **question) -> Path:
    found, problems = read_runs(str(runs))
    comparison = compare(found, Question(bootstrap=Bootstrap(resamples=300), **question), problems)
    path.write_text(as_page(comparison, gallery, path.parent), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(sweep, tmp_path_factory) -> Path:
    return page_of(sweep, tmp_path_factory.mktemp("page") / "comparison.html", baseline="ratios=[1]")


@pytest.fixture(scope="module")
def chromium() -> Iterator[webdriver.Chrome]:
    with headless() as browser:
        yield browser


@pytest.fixture
def browser(chromium, page) -> Iterator[webdriver.Chrome]:
    """The page, freshly opened; afterwards the console has to be empty."""
    chromium.get_log("browser")
    open_page(chromium, page)
    yield chromium
    assert chromium.get_log("browser") == []


def open_page(browser: webdriver.Chrome, path: Path) -> None:
    browser.get(path.as_uri())
    wait(browser, "return document.getElementById('answer')?.textContent.length > 0")  # a busy machine takes seconds


def rows(browser: webdriver.Chrome, column: str = "run") -> list[str]:
    """A column of the table, first lines of its cells."""
    heads = [button.get_attribute("data-key") for button in browser.find_elements(By.CSS_SELECTOR, "#table th button")]
    cells = browser.find_elements(By.CSS_SELECTOR, f"#table tbody tr > :nth-child({heads.index(column) + 3})")
    return [cell.text.splitlines()[0] for cell in cells]


def click(browser: webdriver.Chrome, selector: str) -> None:
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def traces(browser: webdriver.Chrome, chart: str) -> list[dict]:
    """What a chart shows, once it has come into view and is drawn."""
    browser.execute_script("document.getElementById(arguments[0]).scrollIntoView()", chart)
    wait(browser, f"return !stale.has('{chart}')")
    return json.loads(
        browser.execute_script("return JSON.stringify(document.getElementById(arguments[0]).data)", chart)
    )


def wait(browser: webdriver.Chrome, script: str) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.05).until(lambda _: browser.execute_script(script))


def filter_by(browser: webdriver.Chrome, text: str) -> None:
    browser.execute_script("byId('filter').value = arguments[0]; select(); drawCharts()", text)


# ------------------------------------------------------------------------------------------------------- table


def test_rows_stand_best_first_with_verdicts(browser):
    assert rows(browser)[0] == NAME
    assert rows(browser, "anchor.k") == ["12", "9", "6", "3", "3", "15"]
    assert rows(browser, "verdict") == ["better"] * 4 + ["baseline", "worse so far"]
    assert rows(browser, "rank") == ["1", "2", "3", "4", "5", "–"], "what runs has no rank"
    assert browser.find_element(By.ID, "answer").text.startswith("AR@100 is highest with ratios=[0.5,1,2], k=12")


def test_headings_sort_both_ways_and_keep_the_focus(browser):
    scores = rows(browser, "AR_100")
    click(browser, '[data-key="anchor.k"]')
    assert rows(browser, "anchor.k") == ["15", "12", "9", "6", "3", "3"]
    click(browser, '[data-key="anchor.k"]')
    assert rows(browser, "anchor.k") == ["3", "3", "6", "9", "12", "15"]
    assert browser.switch_to.active_element.get_attribute("data-key") == "anchor.k"
    head = browser.find_element(By.CSS_SELECTOR, '#table th:has([data-key="anchor.k"])')
    assert head.get_attribute("aria-sort") == "ascending"
    click(browser, '[data-key="AR_100"]')
    assert rows(browser, "AR_100") == scores
    click(browser, '[data-key="difference"]')
    assert rows(browser, "verdict")[-1] == "baseline", "what is missing comes last"


FILTERS = {
    "k>=9": 3,
    "k >= 9": 3,
    "  k  >=6   k< 12 ": 2,
    "ratios = [0.5, 1, 2]": 5,
    'verdict = "cannot tell"': 0,
    "AR@100 > 0.4": 3,
    "k>=6 k<12": 2,
    "BETTER ratios": 4,
    "verdict=worse": 1,
    "AR@100>0.4 status=finished": 3,
    "anchor.ratios=[1]": 1,
    "k!=3": 4,
    NAME: 1,
}


def test_the_filter_takes_words_and_conditions_and_the_charts_follow(browser):
    for text, kept in FILTERS.items():
        filter_by(browser, text)
        assert browser.find_element(By.ID, "shown").text == f"{kept} of 6 rows", text
        assert len(browser.find_elements(By.CSS_SELECTOR, "#table tbody tr[data-row]")) == kept, text
    filter_by(browser, "k>=9")
    assert len(traces(browser, "by-budget")) == 3


def test_typing_filters_and_nothing_left_is_said(browser):
    browser.find_element(By.ID, "filter").send_keys("nothing")
    assert browser.find_element(By.CSS_SELECTOR, "#table tbody").text == "No row matches “nothing”."
    wait(browser, "return byId('forest').textContent.startsWith('Nothing to draw')")
    filter_by(browser, "anchors.k >= 3")
    assert "There is no column anchors.k" in browser.find_element(By.ID, "table").text


def test_columns_are_chosen_and_the_address_shows_another_person_the_same(browser, page):
    heads = [button.get_attribute("data-key") for button in browser.find_elements(By.CSS_SELECTOR, "#table th button")]
    assert heads[:5] == ["rank", "run", "anchor.k", "anchor.ratios", "AR_100"], "the settings that were swept first"
    for key in ("AR_s_100", "verdict"):
        click(browser, f'#columns input[value="{key}"]')
    filter_by(browser, "k >= 6")
    click(browser, '[data-key="anchor.k"]')
    click(browser, '#table tbody tr:nth-child(2) input[name="pick-b"]')
    click(browser, "#theme")
    there = (rows(browser, "anchor.k"), rows(browser, "AR_s_100"), browser.current_url)
    browser.get("about:blank")
    browser.get(there[2])
    wait(browser, "return document.getElementById('answer')?.textContent.length > 0")
    assert (rows(browser, "anchor.k"), rows(browser, "AR_s_100"), browser.current_url) == there
    assert browser.find_elements(By.CSS_SELECTOR, '[data-key="verdict"]') == []
    assert browser.find_element(By.CSS_SELECTOR, '#table tbody tr:nth-child(2) input[name="pick-b"]').is_selected()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    click(browser, "#theme")
    click(browser, 'nav a[href="#pair"]')
    wait(browser, "return location.hash.startsWith('#pair&filter=')")


def test_csv_holds_the_rows_that_are_shown(browser):
    filter_by(browser, "k>=6 status=finished")
    read = list(csv.DictReader(io.StringIO(browser.execute_script("return csv()"))))
    assert [row["anchor.k"] for row in read] == ["12", "9", "6"]
    assert float(read[1]["AR_100"]) > float(read[2]["AR_100"])
    assert [read[0]["AR_100_sd"], len(read[1]["folders"].split(" ; "))] == ["", 3]
    assert read[0]["run"] == NAME


def test_names_lead_to_the_runs_folders(browser, sweep):
    links = [link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#table td.name a")]
    assert links[0] == (sweep / "12").as_uri() + "/"
    assert len(links) == 14, "every seed has one"


# ------------------------------------------------------------------------------------------------------ charts


def test_every_chart_is_drawn(browser):
    for chart in CHARTS:
        assert traces(browser, chart), chart
        assert browser.find_elements(By.CSS_SELECTOR, f"#{chart} svg")
        assert browser.find_element(By.ID, chart).get_attribute("aria-label")


def test_curves_are_those_of_the_runs(browser, sweep):
    comparison = compare(read_runs(str(sweep))[0], Question(bootstrap=Bootstrap(resamples=100)))
    leader = comparison.tables[0].entries[0]
    drawn = next(trace for trace in traces(browser, "by-budget") if trace["name"].startswith("A: "))
    by_budget = dict(zip(drawn["x"], drawn["y"], strict=True))
    assert by_budget[100] == pytest.approx(leader.metric("AR_100").mean, abs=1e-5)
    Select(browser.find_element(By.ID, "curve")).select_by_value("recall")
    drawn = next(trace for trace in traces(browser, "by-budget") if trace["name"].startswith("A: "))
    assert drawn["y"][-1] == pytest.approx(leader.metric("recall_1000").mean, abs=1e-5)


def test_differences_stand_with_their_intervals(browser, sweep):
    (table,) = compare(
        read_runs(str(sweep))[0], Question(baseline="ratios=[1]", bootstrap=Bootstrap(resamples=300))
    ).tables
    drawn = sorted(
        (x, x - low, x + high)
        for trace in traces(browser, "forest")
        for x, low, high in zip(trace["x"], trace["error_x"]["arrayminus"], trace["error_x"]["array"], strict=True)
    )
    expected = sorted((d.estimate, d.low, d.high) for entry in table.entries if (d := entry.difference))
    np.testing.assert_allclose(drawn, expected, atol=2e-5)


def test_the_pareto_front_rises_with_cost(browser):
    front = traces(browser, "pareto")[0]
    assert front["x"] == sorted(front["x"])
    assert front["y"] == sorted(front["y"])
    assert max(front["x"]) == 12000, "more anchors that find less are not on it"


def test_two_settings_make_a_map_of_the_metric(browser, sweep):
    """Rows of one seed a cell: the mean of the runs; what has not finished is in none."""
    (table,) = compare(read_runs(str(sweep))[0], Question(bootstrap=Bootstrap(resamples=100))).tables
    Select(browser.find_element(By.ID, "heat-x")).select_by_value("anchor.k")
    Select(browser.find_element(By.ID, "heat-y")).select_by_value("anchor.ratios")
    (drawn,) = traces(browser, "heat")
    cells = {
        (x, y): z
        for y, of_y in zip(browser_ticks(browser, "yaxis"), drawn["z"], strict=True)
        for x, z in zip(browser_ticks(browser, "xaxis"), of_y, strict=True)
    }
    finished = [entry for entry in table.entries if entry.status == "finished"]
    expected = {(shown(e.settings["anchor.k"]), shown(e.settings["anchor.ratios"])): e for e in finished}
    assert {place for place, z in cells.items() if z is not None} == set(expected)
    for place, entry in expected.items():
        assert cells[place] == pytest.approx(entry.metric("AR_100").mean, abs=1e-5)


def browser_ticks(browser: webdriver.Chrome, axis: str) -> list[str]:
    return browser.execute_script(f"return document.getElementById('heat').layout.{axis}.ticktext")


def test_importance_says_how_far_it_can_be_trusted(browser):
    (bars,) = traces(browser, "importance")
    assert set(bars["y"]) == {"anchor.k", "anchor.ratios"}
    caption = browser.find_element(By.ID, "importance-caption").text
    assert "on all 13 finished runs" in caption
    assert re.search(r"the trees explain \d+ %", caption)


def test_curves_go_over_epochs_or_steps(browser):
    ends = traces(browser, "curves")[-1]["x"]
    assert ends == [1, 2, 3]
    Select(browser.find_element(By.ID, "learning-axis")).select_by_value("step")
    assert traces(browser, "curves")[-1]["x"] == [4, 8, 12]


def test_themes_change_and_stay(browser):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = browser.execute_script(ground)
    click(browser, "#theme")
    dark = browser.execute_script(ground)
    assert light != dark
    browser.refresh()
    assert browser.execute_script(ground) == dark
    click(browser, "#theme")
    assert browser.execute_script(ground) == light


# ---------------------------------------------------------------------------------------------- A against B


def test_two_runs_are_picked_and_their_settings_stand_side_by_side(browser):
    click(browser, '#table tbody tr:nth-child(3) input[name="pick-a"]')
    Select(browser.find_element(By.ID, "b")).select_by_index(4)
    settings = browser.find_element(By.ID, "pair-settings").text
    assert re.search(r"anchor\.ratios \[0\.5,1,2\] \[1\]", settings)
    assert re.search(r"anchor\.k 6 3", settings)
    assert "logger" not in settings
    names = [trace["name"] for trace in traces(browser, "by-budget")]
    assert {"A: ratios=[0.5,1,2], k=6", "B: ratios=[1], k=3"} <= set(names)
    click(browser, "#swap")
    assert Select(browser.find_element(By.ID, "a")).first_selected_option.text == "5. ratios=[1], k=3"
    assert browser.find_element(By.CSS_SELECTOR, '#table tbody tr:nth-child(3) input[name="pick-b"]').is_selected()


def test_funnel_and_anchors_stand_side_by_side(browser):
    drawn = json.loads(browser.execute_script("return JSON.stringify(document.getElementById('funnel').data)"))
    assert [trace["name"] for trace in drawn] == ["A: AR", "A: IoU 0.5", "B: AR", "B: IoU 0.5"]
    assert drawn[1]["y"] == [1, 0.98, 0.95, 0.85]
    assert drawn[3]["y"][-1] == 0.75
    assert "NMS <i>" in browser.find_element(By.CSS_SELECTOR, "#funnel .xaxislayer-above").text
    tables = browser.find_elements(By.CSS_SELECTOR, "#shapes table")
    assert [len(table.find_elements(By.CSS_SELECTOR, "tbody tr")) for table in tables] == [12, 3]
    assert "12 × 20 stride 16, dead 33.3 % 33.3 % 0.0 % 0.100" in tables[1].text


def test_the_gallery_marks_what_was_missed(browser):
    shots = browser.find_elements(By.CSS_SELECTOR, "#gallery .shot")
    assert [shot.find_element(By.TAG_NAME, "h4").text for shot in shots] == ["picture 0", "picture 1", "picture 2"]
    for best in ("5", "100"):
        Select(browser.find_element(By.ID, "best")).select_by_visible_text(best)
        for picture in browser.find_elements(By.CSS_SELECTOR, "#gallery svg"):
            found, total = map(int, re.findall(r"(\d+) of (\d+) found", picture.get_attribute("aria-label"))[0])
            counts = {kind: len(picture.find_elements(By.CSS_SELECTOR, f"rect.{kind}")) for kind in ("found", "missed")}
            assert counts == {"found": found, "missed": total - found}
            assert len(picture.find_elements(By.CSS_SELECTOR, "rect.hit")) == found
    assert browser.execute_script(
        "return [...document.querySelectorAll('#gallery image')].every(i => i.getAttribute('href').startsWith('data:'))"
    )


def test_images_are_kept_where_one_run_found_what_the_other_missed(browser):
    counts = {}
    for kind in ("onlyA", "onlyB", "either", "neither"):
        Select(browser.find_element(By.ID, "shown-images")).select_by_value(kind)
        meant = [len(svg.find_elements(By.CSS_SELECTOR, "rect.meant")) for svg in shots(browser)]
        assert all(meant), "no image without such a box"
        counts[kind] = sum(meant) // 2  # in A's picture and in B's
        said = browser.find_element(By.ID, "gallery-count").text
        assert said.startswith(f"{counts[kind]} boxes in {len(meant) // 2} of 3 images")
    assert counts["either"] == counts["onlyA"] + counts["onlyB"] > 0


def shots(browser: webdriver.Chrome) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, "#gallery svg")


def test_the_page_works_by_keyboard_alone(browser):
    reached: list[str] = []
    for _ in range(100):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        active = browser.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("data-key") or active.tag_name)
    assert {"theme", "filter", "csv", "run", "AR_100", "curve", "budget"} <= set(reached)
    browser.find_element(By.CSS_SELECTOR, '[data-key="anchor.k"]').send_keys(Keys.ENTER)
    assert rows(browser, "anchor.k")[0] == "15"


# ------------------------------------------------------------------------------------------- safety and layout


def test_what_runs_say_is_text(browser, page):
    assert NAME in browser.find_element(By.ID, "table").text
    assert "<img src=x onerror=alert(2)>" in browser.find_element(By.ID, "notes").text
    assert browser.find_elements(By.CSS_SELECTOR, "main script, main img") == []
    source = page.read_text(encoding="utf-8")
    assert NAME not in source
    assert "onerror=alert(2)>" not in source


def test_nothing_is_asked_of_any_network(browser):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked, "the page itself"
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
    assert browser.execute_script("return Plotly.newPlot && document.querySelector('[data-title*=loud]')") is None


@pytest.mark.parametrize("width", [400, 768, 1400])
def test_the_page_is_no_wider_than_the_window(browser, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    page = "document.documentElement"
    wide, inner = browser.execute_script(f"return [{page}.scrollWidth, {page}.clientWidth]")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert wide <= inner <= width


def test_text_can_be_told_from_its_ground(browser):
    """WCAG AA in both themes: 4.5 to 1 for every colour that text has."""
    script = """
      const value = (c) => { const [r, g, b] = c.match(/\\d+/g).slice(0, 3).map((v) => { v /= 255;
        return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const paper = value(getComputedStyle(document.body).backgroundColor);
      return ['body', '.hint', '.better', '.worse', '.a', '.b', 'nav a', '#about'].map((s) => {
        const example = document.body.appendChild(document.createElement('b'));
        example.className = s.slice(1);
        const ink = value(getComputedStyle(document.querySelector(s) ?? example).color);
        return [s, (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)]; });
    """
    for _ in range(2):
        assert [pair for pair in browser.execute_script(script) if pair[1] < 4.5] == []
        click(browser, "#theme")


def test_a_page_without_scores_says_so(chromium, tmp_path, sweep):
    path = page_of(sweep / "14", tmp_path / "comparison.html")
    open_page(chromium, path)
    assert chromium.find_element(By.ID, "answer").text == "No run has scores yet."
    assert "anchor.k=99 leaves no memory" in chromium.find_element(By.ID, "notes").text
    assert chromium.get_log("browser") == []


def test_two_data_sets_are_switched_between_never_mixed(chromium, tmp_path):
    for number, (data, k) in enumerate([(0, 3), (0, 6), (1, 3)]):
        write_run(tmp_path / "runs" / str(number), config(anchor__k=k), data=data, images=8)
    open_page(chromium, page_of(tmp_path / "runs", tmp_path / "comparison.html", gallery=0))
    assert len(rows(chromium)) == 2
    Select(chromium.find_element(By.ID, "data")).select_by_index(1)
    assert len(rows(chromium)) == 1
    assert chromium.find_elements(By.CSS_SELECTOR, "#gallery svg") == []
    assert chromium.get_log("browser") == []


def test_no_text_ends_the_script_element():
    packed = as_script(plain({"</script><b>": ["<!--", float("nan"), "\u2028&"]}))
    assert not set("<>&") & set(packed)
    assert json.loads(packed) == {"</script><b>": ["<!--", None, "\u2028&"]}
