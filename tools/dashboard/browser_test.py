"""The page in a browser: headless Chromium, driven by Selenium, both as Debian
has them (tools/setup dashboard browser). Fails where they are missing."""

import json
import os
import tempfile
import time
import unittest

from selenium import webdriver
from selenium.webdriver.chrome import service
from selenium.webdriver.common import by
from selenium.webdriver.common import keys
from selenium.webdriver.support import ui

from tools.dashboard import dashboard
from tools.dashboard import fake_runs

_WAIT = 30  # seconds, for what takes a fraction of one

# What Chart.js says that it has drawn, or null.
_DRAWN = """
const chart = Chart.getChart(arguments[0]);
if (!chart) return null;
const {width, height} = chart.canvas;
const copy = document.createElement("canvas");
Object.assign(copy, {width, height});
const context = copy.getContext("2d", {willReadFrequently: true});
context.drawImage(chart.canvas, 0, 0);
const pixels = context.getImageData(0, 0, width, height).data;
return {
  sets: chart.data.datasets.map((set, index) => ({
    impl: set.impl, band: Boolean(set.band),
    visible: chart.isDatasetVisible(index),
    values: set.data.map(({x, y}) => [x, y]),
    color: set.borderColor,
  })),
  scales: Object.fromEntries(Object.entries(chart.scales).map(
      ([name, {type, options}]) => [name, {
        type, title: [options.title.text].flat().join(" "),
        named: options.title.display}])),
  painted: pixels.some((value) => value !== 0),
};
"""


def processes_with(text):
    """Those whose command line has it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if text.encode() in file.read() and int(pid) != os.getpid():
                    found.append(pid)
        except OSError:
            pass  # it has ended
    return found


class BrowserTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"), ignore_cleanup_errors=True)
        cls.addClassCleanup(directory.cleanup)
        cls.profile = os.path.join(directory.name, "profile")
        cls.url = "file://" + os.path.join(directory.name, "page.html")
        code = dashboard.main([
            "--out", os.path.join(directory.name, "page.html"),
            "--targets", fake_runs.write_targets(directory.name),
            *fake_runs.write(directory.name, fake_runs.series())])
        if code != 0:
            raise AssertionError("no page")
        cls.driver = cls.start(directory.name)
        cls.addClassCleanup(cls.stop)

    @classmethod
    def start(cls, directory):
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (
            "--headless=new",
            # The sandbox of Bazel is one already, in which root is nobody.
            "--no-sandbox",
            "--disable-dev-shm-usage", "--disable-gpu",
            "--disable-background-networking", "--no-first-run",
            f"--user-data-dir={cls.profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs",
                               {"browser": "ALL", "performance": "ALL"})
        return webdriver.Chrome(
            options=options,
            service=service.Service(
                "/usr/bin/chromedriver",
                env=dict(os.environ, HOME=directory)))

    @classmethod
    def stop(cls):
        cls.driver.quit()
        deadline = time.monotonic() + _WAIT
        while left := processes_with(cls.profile):
            if time.monotonic() > deadline:
                raise AssertionError(f"still running: {left}")
            time.sleep(0.05)

    def setUp(self):
        self.show()
        self.assert_no_errors()  # or everything else would wait in vain

    def tearDown(self):
        self.assert_no_errors()
        urls = self.requested()
        self.assertIn(self.url, urls)
        for url in urls:
            self.assertRegex(url, "^(file|data):")

    def assert_no_errors(self):
        """Of the browser's, and nothing that the page itself has to say."""
        self.assertEqual([
            entry for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE" or entry["source"] == "console-api"
        ], [])

    def requested(self):
        """By the page; a new tab of Chromium's has requests of its own."""
        messages = [json.loads(entry["message"])["message"]
                    for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages
                if message["method"] == "Network.requestWillBeSent"
                and message["params"]["documentURL"].startswith(self.url)]

    def show(self, width=1280, height=900, scheme="light"):
        """A fresh page that remembers nothing."""
        self.command("Emulation.setDeviceMetricsOverride", width=width,
                     height=height, deviceScaleFactor=1, mobile=width < 500)
        self.prefer(scheme)
        self.driver.get(self.url)
        self.script("localStorage.clear()")
        self.driver.refresh()

    def prefer(self, scheme):
        """Without motion, so that a click meets what it is meant for."""
        self.command("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"}])

    def command(self, name, **parameters):
        self.driver.execute_cdp_cmd(name, parameters)

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def all(self, selector):
        return self.driver.find_elements(by.By.CSS_SELECTOR, selector)

    def one(self, selector):
        return self.driver.find_element(by.By.CSS_SELECTOR, selector)

    def wait(self, condition, message=""):
        return ui.WebDriverWait(self.driver, _WAIT, 0.05).until(
            lambda _: condition(), message)

    def open_everything(self):
        self.script("document.querySelectorAll('details').forEach("
                    "(one) => { one.open = true; })")

    def scroll_to(self, element):
        self.script("arguments[0].scrollIntoView({block: 'center', "
                    "behavior: 'instant'})", element)

    def click(self, element):
        self.scroll_to(element)  # away from the bar that covers the top
        element.click()

    def drawn(self, name):
        """A chart, once one has got there."""
        canvas = self.one(f"#{name}")
        self.scroll_to(canvas)
        return self.wait(lambda: self.script(_DRAWN, canvas), name)

    def data(self):
        return json.loads(self.script(
            "return document.getElementById('data').textContent"))

    # ---- Charts

    def assert_has_data(self, spec, mode):
        chart = self.drawn(spec["id"])
        self.assertTrue(chart["painted"], spec["id"])
        sets = [one for one in chart["sets"] if not one["band"]]
        self.assertEqual([one["impl"] for one in sets],
                         [series["impl"] for series in spec["series"]])
        across = spec["kind"] == "dots"
        for found, series in zip(sets, spec["series"]):
            self.assertTrue(found["visible"])
            self.assertTrue(found["values"])
            values = [value[0 if across else 1] for value in found["values"]]
            self.assertEqual(values, [point[mode][0]
                                      for point in series["points"]
                                      if mode in point])
        for name, scale in chart["scales"].items():
            if across and name == "y":
                continue  # its labels are names of operations
            self.assertTrue(scale["named"], (spec["id"], name))
            self.assertEqual(scale["type"] == "logarithmic",
                             "log scale" in scale["title"])
        if spec["kind"] == "lines":
            self.assertEqual(chart["scales"]["x"]["type"], "logarithmic")
        value = chart["scales"]["x" if across else "y"]
        self.assertIn("lower is better", value["title"])
        if spec["kind"] != "trend":
            self.assertEqual(value["type"], "logarithmic")

    def test_every_chart_has_its_data(self):
        self.open_everything()
        specs = self.data()["charts"]
        self.assertEqual(len(specs), len(self.all("figure canvas")))
        self.assertEqual({spec["kind"] for spec in specs},
                         {"dots", "lines", "latency", "trend"})
        alone = []  # of which there are no ratios
        modes = {"dots": "r", "trend": "r", "lines": "t", "latency": "t"}
        for spec in specs:
            mode = modes[spec["kind"]]
            if spec["kind"] == "trend" and "base" not in spec:
                alone.append(spec["id"])
                mode = "t"
            self.assert_has_data(spec, mode)
        self.assertEqual(alone, ["chart-trend-lock-pair-live-locks-1",
                                 "chart-trend-lock-pair-live-locks-1000000"])

    def test_trends_have_bands_and_breaks(self):
        chart = self.drawn("chart-trend-pipe-rtt-64")
        self.assertEqual([one["band"] for one in chart["sets"]],
                         [False, True, True] * 2)
        line, low, high = chart["sets"][3:]
        self.assertEqual(len(line["values"]), 10)
        for (_, q1), (_, median), (_, q3) in zip(
            low["values"], line["values"], high["values"]):
            self.assertLessEqual(q1, median)
            self.assertLessEqual(median, q3)

    def tooltip(self, name, implementation, index):
        """The lines that it shows for a point."""
        self.drawn(name)
        return self.script("""
            const chart = Chart.getChart(arguments[0]);
            const datasetIndex = chart.data.datasets.findIndex(
                (set) => set.impl === arguments[1]);
            chart.tooltip.setActiveElements(
                [{datasetIndex, index: arguments[2]}], {x: 1, y: 1});
            chart.update();
            const {title, body} = chart.tooltip;
            return [...title, ...body.flatMap(({lines}) => lines)];
            """, name, implementation, index)

    def test_tooltips_say_the_spread_the_count_and_the_commit(self):
        lines = self.tooltip("chart-compare-sync", "boost", 0)
        self.assertEqual(lines[0], "lock_pair")
        self.assertRegex(lines[1], r"^Boost.Interprocess: [\d.]+ × "
                         r"\([\d.]+ × to [\d.]+ ×, n = 9\)$")
        lines = self.tooltip("chart-compare-sync", "target", 0)
        self.assertRegex(lines[1], r"^target: [\d.]+ ×$")
        lines = self.tooltip("chart-sweep-pipe-rtt--size", "mp", 3)
        self.assertEqual(lines[0], "Size of a message: 4\u00a0KiB")
        self.assertRegex(lines[1], r"^mp: [\d.]+ ns \(.* to .*, n = 9\)$")
        lines = self.tooltip("chart-latency-queue-latency", "mp", 1)
        self.assertEqual(lines[0], "99 %")
        self.assertRegex(lines[1], r"^mp: [\d.]+ ns \(n = 9\)$")
        lines = self.tooltip("chart-trend-pipe-rtt-64", "mp", 0)
        self.assertRegex(lines[0], "^[0-9a-f]{8}$")
        self.assertEqual(lines[1], "change 0")
        self.assertIn(", learning", lines[-1])

    def test_canvases_have_a_name_and_a_table(self):
        self.open_everything()
        for canvas in self.all("figure canvas"):
            self.assertEqual(canvas.aria_role, "image")
            self.assertGreater(len(canvas.accessible_name), 40)
        for figure in self.all("figure"):
            rows = figure.find_elements(by.By.CSS_SELECTOR, "tbody tr")
            self.assertTrue(rows)
            self.assertTrue(rows[0].is_displayed())

    # ---- What one can click, and press

    def test_ratios_and_times(self):
        spec = next(spec for spec in self.data()["charts"]
                    if spec["id"] == "chart-compare-sync")
        self.assert_has_data(spec, "r")
        self.click(self.one("input[name=mode-peers][value=t]"))
        self.assert_has_data(spec, "t")
        # By keyboard: from one to the other.
        self.one("input[name=mode-peers][value=t]").send_keys(keys.Keys.LEFT)
        self.assert_has_data(spec, "r")

    def test_implementations_can_be_hidden(self):
        self.one("#implementations summary").send_keys(keys.Keys.ENTER)
        box = self.one("#implementations input[value=python]")
        self.wait(box.is_displayed)

        def visible():
            return {one["impl"]: one["visible"]
                    for one in self.drawn("chart-compare-sync")["sets"]}

        self.assertTrue(visible()["python"])
        self.click(box)
        self.assertFalse(visible()["python"])
        self.assertTrue(visible()["mp"])
        # What is drawn later is as the boxes are.
        self.assertFalse({one["impl"]: one["visible"] for one in self.drawn(
            "chart-compare-pool")["sets"]}["python"])
        box.send_keys(keys.Keys.SPACE)
        self.assertTrue(visible()["python"])

    def theme(self):
        return self.script("return document.documentElement.dataset.theme")

    def background(self):
        colour = self.script(
            "return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour[4:-1].split(",")[:3])

    def test_theme_follows_the_system_until_one_chooses(self):
        self.show(scheme="dark")
        self.assertEqual(self.theme(), "dark")
        self.assertLess(self.background(), 150)
        self.assertEqual(self.one("#theme").get_attribute("aria-pressed"),
                         "true")
        dark = self.drawn("chart-compare-sync")["sets"][0]["color"]
        self.prefer("light")
        self.wait(lambda: self.theme() == "light")
        self.assertGreater(self.background(), 700)
        light = self.drawn("chart-compare-sync")["sets"][0]["color"]
        self.assertNotEqual(dark, light)

    def test_theme_button(self):
        self.click(self.one("#theme"))
        self.assertEqual(self.theme(), "dark")
        self.driver.refresh()  # remembered
        self.assertEqual(self.theme(), "dark")
        self.one("#theme").send_keys(keys.Keys.SPACE)
        self.assertEqual(self.theme(), "light")
        self.assertEqual(self.one("#theme").get_attribute("aria-pressed"),
                         "false")

    def press(self, *pressed):
        webdriver.ActionChains(self.driver).send_keys(*pressed).perform()
        return self.driver.switch_to.active_element

    def test_keyboard_reaches_everything_and_shows_where_it_is(self):
        skip = self.press(keys.Keys.TAB)
        self.assertEqual(skip.get_attribute("class"), "skip")
        self.assertGreaterEqual(skip.rect["x"], 0)
        self.press(keys.Keys.ENTER)
        self.assertEqual(
            self.driver.switch_to.active_element.get_attribute("id"), "main")
        self.driver.get("about:blank")  # or the next page begins at #main
        self.show()
        seen = set()
        while (focused := self.press(keys.Keys.TAB)).tag_name != "body":
            self.assertLess(len(seen), 1000)
            seen.add(focused)
            self.assertNotEqual(
                focused.value_of_css_property("outline-style"), "none",
                focused.get_attribute("outerHTML")[:200])
        reachable = self.script(
            "return [...document.querySelectorAll("
            "'a, button, summary, .scroll, input:checked')]"
            ".filter((one) => one.checkVisibility())")
        self.assertEqual(seen, set(reachable))

    # ---- Layout

    def test_nothing_is_wider_than_the_window(self):
        for width, height in ((360, 740), (1280, 900)):
            for everything in (False, True):
                with self.subTest(width=width, everything=everything):
                    self.show(width, height)
                    if everything:
                        self.open_everything()
                    for spec in self.data()["charts"][:3]:
                        self.drawn(spec["id"])
                    self.assertEqual(self.script("return innerWidth"), width)
                    self.assertLessEqual(self.script(
                        "return document.documentElement.scrollWidth"), width)
                    wide = self.script(
                        "return [...document.querySelectorAll("
                        "'figure, canvas, .scroll, p, ul, h2, h3, h4, nav')]"
                        ".filter((one) => !one.closest('.scroll td, nav ul')"
                        "  && one.getBoundingClientRect().right > innerWidth)"
                        ".map((one) => one.outerHTML.slice(0, 100))")
                    self.assertEqual(wide, [])

    def test_age(self):
        # The runs are of a November that is long past.
        self.assertTrue(self.one("#stale").is_displayed())
        self.assertIn("days ago", self.one("#run-age").text)


if __name__ == "__main__":
    unittest.main()
