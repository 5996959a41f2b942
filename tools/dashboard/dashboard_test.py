"""The page as a file: its structure, and that nothing gets lost or in."""

import contextlib
import html.parser
import io
import json
import os
import re
import tempfile
import unittest

from tools.dashboard import dashboard
from tools.dashboard import fake_runs

_VOID = {"meta", "link", "input", "br", "hr", "img", "wbr"}


class Page(html.parser.HTMLParser):
    """Elements in their order, with the text of some; fails if they are not
    well nested."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements = []  # (tag, attributes, the tags around it)
        self.headings = []
        self.scripts = []
        self.texts = {}  # by id, all that is inside
        self._open = []
        self._ids = []
        self.feed(text)
        self.close()
        if self._open:
            raise AssertionError(f"not closed: {self._open}")

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.elements.append((tag, attributes, tuple(self._open)))
        if tag in _VOID:
            return
        self._open.append(tag)
        self._ids.append(attributes.get("id"))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append([int(tag[1]), ""])
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        if self._open.pop() != tag:
            raise AssertionError(f"</{tag}> closes another element")
        self._ids.pop()

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            self.scripts[-1] += data
            return
        if any(re.fullmatch("h[1-6]", tag) for tag in self._open):
            self.headings[-1][1] += data
        for name in filter(None, self._ids):
            self.texts[name] = self.texts.get(name, "") + data

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements
                if name == tag]

    @property
    def data(self):
        return json.loads(self.scripts[0])


class DashboardTest(unittest.TestCase):

    def setUp(self):
        self._directory = tempfile.TemporaryDirectory()
        self.addCleanup(self._directory.cleanup)
        self.directory = self._directory.name
        self.library = self.path("chart.js")
        with open(self.library, "w", encoding="utf-8") as file:
            file.write('/* "</script><script>library()" */')

    def path(self, name):
        return os.path.join(self.directory, name)

    def generate(self, contents, *options):
        """(exit code, what was printed)"""
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed):
            code = dashboard.main([
                "--out", self.path("page.html"), "--chart-js", self.library,
                "--targets", fake_runs.write_targets(self.directory),
                *options, *fake_runs.write(self.directory, contents)])
        return code, printed.getvalue()

    def text(self):
        with open(self.path("page.html"), encoding="utf-8") as file:
            return file.read()

    def page(self, contents):
        self.assertEqual(self.generate(contents), (0, ""))
        return Page(self.text())

    # ---- Structure

    def test_outline(self):
        page = self.page([fake_runs.run(0), fake_runs.run(1)])
        outline = [(level, text) for level, text in page.headings if level < 4]
        self.assertEqual(outline, [
            (1, "mp scorecard"),
            (2, "Where we lose"),
            (3, "Targets missed (1)"),
            (3, "A peer is ahead (1)"),
            (3, "Targets that could not be measured (1)"),
            (3, "Peers missing on this machine (1)"),
            (2, "Against peers"),
            (3, "sync"), (3, "ipc"), (3, "process"), (3, "pool"),
            (2, "Sizes and processes"),
            (3, "lock_contended/{procs}"), (3, "lock_pair_live/{locks}"),
            (3, "pipe_rtt/{size}"),
            (2, "Latency percentiles"),
            (3, "queue_latency"),
            (2, "Trends"),
            (3, "sync (8)"), (3, "ipc (5)"), (3, "process (1)"),
            (3, "pool (1)"),
            (2, "Costs that are not time"),
            (2, "Method"),
        ])

    def test_no_level_of_headings_is_left_out(self):
        page = self.page(fake_runs.series())
        before = 0
        for level, text in page.headings:
            self.assertLessEqual(level, before + 1, text)
            before = level

    def test_ids_are_unique_and_references_lead_somewhere(self):
        page = self.page(fake_runs.series())
        ids = [attributes["id"] for _, attributes, _ in page.elements
               if "id" in attributes]
        self.assertEqual(len(ids), len(set(ids)))
        for link in page.all("a"):
            self.assertIn(link["href"].removeprefix("#"), ids)
        for _, attributes, _ in page.elements:
            if "aria-labelledby" in attributes:
                self.assertIn(attributes["aria-labelledby"], ids)

    def test_landmarks(self):
        page = self.page([fake_runs.run()])
        for tag in ("header", "nav", "main"):
            self.assertEqual(len(page.all(tag)), 1, tag)
        self.assertEqual(page.all("html"), [{"lang": "en"}])
        self.assertEqual(page.all("a")[0],
                         {"class": "skip", "href": "#main"})

    def test_every_chart_has_a_name_and_a_table(self):
        page = self.page(fake_runs.series())
        canvases = page.all("canvas")
        self.assertEqual([canvas["id"] for canvas in canvases],
                         [one["id"] for one in self.in_page_order(page)])
        for canvas in canvases:
            self.assertEqual(canvas["role"], "img")
            self.assertIn("table", canvas["aria-label"])
        tables = [around for tag, _, around in page.elements
                  if tag == "table" and "figure" in around]
        self.assertEqual(len(tables), len(canvases))
        self.assertTrue(all("details" in around for around in tables))

    def in_page_order(self, page):
        order = [canvas["id"] for canvas in page.all("canvas")]
        return sorted(page.data["charts"],
                      key=lambda spec: order.index(spec["id"]))

    def test_tables_scroll_in_a_box_that_the_keyboard_reaches(self):
        page = self.page(fake_runs.series())
        boxes = [each for each in page.all("div")
                 if each.get("class") == "scroll"]
        self.assertEqual(len(boxes), len(page.all("table")))
        for box in boxes:
            self.assertEqual((box["role"], box["tabindex"]), ("region", "0"))
            self.assertTrue(box["aria-label"])

    def test_nothing_is_fetched(self):
        page = self.page(fake_runs.series())
        for tag, attributes, _ in page.elements:
            for name in ("src", "href"):
                if name in attributes:
                    self.assertRegex(attributes[name], "^(#|data:)", tag)
        policy = [meta["content"] for meta in page.all("meta")
                  if meta.get("http-equiv") == "Content-Security-Policy"]
        self.assertEqual(len(policy), 1)
        self.assertTrue(policy[0].startswith("default-src 'none'"))

    # ---- What it says

    def test_verdict(self):
        self.page([fake_runs.run()])
        self.assertIn("<strong>5 of 7 targets met</strong>; 1 missed; "
                      "1 could not be measured.", self.text())
        self.assertIn("Fast Processor 3000, 2 processors", self.text())

    def test_all_targets_met(self):
        page = self.page([fake_runs.run(factors={
            "event_set_clear/mp": 0.5, "condition_notify_nobody/mp": 0.5})])
        self.assertIn("No target is missed.", page.texts["missed-targets"])
        self.assertIn("No peer is ahead", page.texts["peers-ahead"])

    def test_losses_come_first_and_are_named(self):
        page = self.page([fake_runs.run()])
        text = self.text()
        self.assertLess(text.index('id="missed-targets"'),
                        text.index('id="peers"'))
        missed = page.texts["missed-targets"]
        self.assertIn("Event: set and clear", missed)
        self.assertIn("event_set_clear/floor", missed)
        self.assertNotIn("lock_pair", missed)
        self.assertRegex(missed, r"1\.[89]\d\s×")
        self.assertRegex(
            page.texts["peers-ahead"],
            r"condition_notify_nobody: pthread takes [89]\.\d+\sns, mp 1\d\.\d")
        self.assertIn("Pool.Map: per item", page.texts["unmeasured"])
        self.assertIn("iceoryx: not installed: iceoryx", page.texts["missing"])

    def test_what_is_skipped_does_not_vanish(self):
        page = self.page([fake_runs.run(skipped={
            "pool_apply/mp": "skipped: no room",
            "pool_apply/tbb": "skipped: not built"})])
        self.assertIn("mp: no room (pool_apply)", page.texts["skipped"])
        self.assertIn("oneTBB: not built (pool_apply)", page.texts["skipped"])
        self.assertIn("skipped: no room", page.texts["peers"])
        self.assertIn("pool_apply", page.texts["unmeasured"])

    def test_what_the_newest_run_lacks_does_not_vanish(self):
        page = self.page([fake_runs.run(5), fake_runs.FOREIGN])
        self.assertIn("BM_Copy/64", page.texts["gone"])

    def test_charts_have_the_figures(self):
        page = self.page([fake_runs.run()])
        charts = {spec["id"]: spec for spec in page.data["charts"]}
        sync = charts["chart-compare-sync"]
        index = sync["labels"].index("lock_pair")
        points = {
            series["impl"]: point
            for series in sync["series"] for point in series["points"]
            if point["x"] == index}
        self.assertEqual(sorted(points), ["boost", "floor", "mp", "pthread",
                                          "python", "target"])
        self.assertAlmostEqual(points["mp"]["t"][0], 4.8, delta=0.6)
        self.assertEqual(points["mp"]["r"], [1, 1, 1])
        self.assertEqual(points["mp"]["n"], 9)
        self.assertAlmostEqual(points["floor"]["r"][0], 4.4 / 4.8, delta=0.03)
        # 1.25 times the floor is stricter than the best peer.
        self.assertAlmostEqual(points["target"]["r"][0], 1.25 * 4.4 / 4.8,
                               delta=0.04)
        for series in sync["series"]:
            for point in series["points"]:
                self.assertLessEqual(point["t"][1], point["t"][0])
                self.assertLessEqual(point["t"][0], point["t"][2])

    def test_more_processes_than_processors_are_marked(self):
        page = self.page([fake_runs.run()])
        charts = {spec["id"]: spec for spec in page.data["charts"]}
        self.assertEqual(
            charts["chart-sweep-lock-contended--procs"]["processors"], 2)
        self.assertNotIn("processors", charts["chart-sweep-pipe-rtt--size"])
        self.assertIn("4 (oversubscribed)", page.texts["sweeps"])
        self.assertNotIn("2 (oversubscribed)", page.texts["sweeps"])

    def test_trends_mark_changes_and_break_at_another_machine(self):
        page = self.page(fake_runs.series())
        trend = next(spec for spec in page.data["charts"]
                     if spec["id"] == "chart-trend-pipe-rtt-64")
        self.assertEqual([len(series["points"]) for series in trend["series"]],
                         [2, 10])
        states = [point["state"] for point in trend["series"][1]["points"]]
        self.assertEqual(states[:8], ["learning"] * 8)
        self.assertEqual(states[8:], ["regressed"] * 2)
        self.assertRegex(page.texts["slower"],
                         r"^Slower than in earlier runs \(1\)"
                         r"pipe_rtt/64: \+(2[6-9]|3[0-4])%$")
        self.assertIn((3, "Changed in the newest run"),
                      [tuple(heading) for heading in page.headings])

    def test_values_in_two_heaps_are_drawn_one_by_one(self):
        contents = [fake_runs.run(number) for number in range(9)]
        for entry in contents[-1]["benchmarks"]:
            if (entry["name"].startswith("lock_pair/mp")
                    and entry["repetition_index"] % 2):
                entry["real_time"] *= 2
        page = self.page(contents)
        trend = next(spec for spec in page.data["charts"]
                     if spec["id"] == "chart-trend-lock-pair")
        newest = trend["series"][0]["points"][-1]
        self.assertEqual(newest["state"], "spread")
        self.assertEqual(len(newest["raw"]["t"]), 9)
        self.assertEqual(len(newest["raw"]["r"]), 9)

    def test_one_run_has_no_trend(self):
        page = self.page([fake_runs.run()])
        self.assertIn("A trend needs two runs", page.texts["trends"])

    def test_costs(self):
        page = self.page([fake_runs.run(0), fake_runs.run(1)])
        text = page.texts["costs"]
        self.assertRegex(text, r"A Lock: shared memory64\sbytesthe same")
        self.assertIn("A free lock: system calls", text)
        self.assertIn("+0.1%", text)

    def test_the_newest_run_is_the_one_that_is_judged(self):
        page = self.page([fake_runs.run(5), fake_runs.run(1)])
        self.assertEqual(page.data["date"], "2026-11-06T12:00:00+00:00")
        self.assertEqual([run["subject"] for run in page.data["runs"]],
                         ["change 1", "change 5"])

    def test_how_to_do_it_again(self):
        page = self.page([fake_runs.run()])
        self.assertIn("--filter='^(process_start_join)$'",
                      page.texts["method"])

    # ---- What comes from outside

    def test_text_of_runs_stays_text(self):
        evil = "</script><script>alert(1)</script><!-- <b>&amp;"
        content = fake_runs.run(1, subject=evil, skipped={
            "lock_pair/boost": evil})
        context = content["context"]["mp"]
        context["machine"]["cpu"] = evil
        context["missing"][0]["implementation"] = evil
        context["missing"][0]["why"] = evil
        context["costs"][0]["title"] = evil
        content["benchmarks"].append(
            dict(content["benchmarks"][0], name=f"{evil}/mp",
                 run_name=f"{evil}/mp"))
        page = self.page([content, fake_runs.run(0)])
        self.assertEqual(len(page.scripts), 3)
        self.assertEqual(page.data["runs"][-1]["subject"], evil)
        self.assertNotIn("<b>", self.text())
        self.assertNotIn("<script>alert", self.text())
        self.assertIn("&lt;script&gt;alert(1)", self.text())

    def test_the_library_may_name_a_script_element(self):
        page = self.page([fake_runs.run()])
        self.assertEqual(len(page.scripts), 3)
        self.assertIn("library()", page.scripts[1])

    def test_no_host_is_named(self):
        self.page([fake_runs.run(), fake_runs.FOREIGN])
        self.assertNotIn("not-to-be-shown", self.text())

    def test_foreign_files(self):
        page = self.page([fake_runs.FOREIGN])
        self.assertIn("BM_Copy/64", page.texts["peers"])
        self.assertIn("0 of 7 targets met", self.text())
        self.assertIn("4 processors, 3000 MHz", self.text())

    def test_missing_fields_are_tolerated(self):
        for content in (
            {"context": {}, "benchmarks": []},
            {"context": {"mp": {}}, "benchmarks": [
                {"name": "lock_pair/mp", "real_time": 4}]},
            {"context": {"date": "yesterday", "mp": {
                "commit": {}, "machine": {"processors": 2}, "settings": {},
                "missing": [{}], "costs": [{}, {"name": "a", "value": None}]}},
             "benchmarks": []},
        ):
            with self.subTest(content=content):
                page = self.page([content, fake_runs.FOREIGN])
                self.assertEqual(len(page.scripts), 3)
                self.page([content])

    def test_files_that_are_no_runs(self):
        code, printed = self.generate([{"benchmarks": 1}])
        self.assertEqual(code, 2)
        self.assertIn("run0.json", printed)
        self.assertEqual(printed.count("\n"), 1)
        self.assertFalse(os.path.exists(self.path("page.html")))

    def test_without_the_library_it_says_what_to_install(self):
        self.library = self.path("nowhere.js")
        code, printed = self.generate([fake_runs.run()])
        self.assertEqual(code, 2)
        self.assertEqual(printed.count("\n"), 1)
        self.assertIn("libjs-chart.js", printed)
        self.assertIn("tools/setup dashboard", printed)
        self.assertFalse(os.path.exists(self.path("page.html")))

    def test_the_repositorys_targets_are_the_default(self):
        code, _ = self.generate([fake_runs.run()], "--targets",
                                dashboard.TARGETS)
        self.assertEqual(code, 0)
        self.assertIn("Lock: contended, mean of 2, 4 and 8 processes",
                      self.text())


class ColoursTest(unittest.TestCase):
    """Contrast as WCAG 2 computes it, in both themes."""

    def themes(self):
        with open(os.path.join(os.path.dirname(dashboard.__file__),
                               "page.css"), encoding="utf-8") as file:
            blocks = re.findall(r":root[^{]*\{([^}]*)\}", file.read())
        self.assertEqual(len(blocks), 2)
        return [dict(re.findall(r"--(\w[\w-]*): #(\w{6});", block))
                for block in blocks]

    def luminance(self, colour):
        parts = [int(colour[at:at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045
                  else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip(
            (0.2126, 0.7152, 0.0722), linear))

    def contrast(self, one, other):
        dark, light = sorted(map(self.luminance, (one, other)))
        return (light + 0.05) / (dark + 0.05)

    def test_themes_have_the_same_names(self):
        light, dark = self.themes()
        self.assertEqual(sorted(light), sorted(dark))

    def test_text_is_readable(self):
        for theme in self.themes():
            for text, behind in (
                ("text", "page"), ("text", "panel"), ("text", "met-page"),
                ("text", "missed-page"), ("muted", "page"),
                ("muted", "panel"), ("link", "page"), ("link", "panel"),
                ("met", "page"), ("missed", "page"),
            ):
                with self.subTest(text=text, behind=behind):
                    self.assertGreaterEqual(
                        self.contrast(theme[text], theme[behind]), 4.5)

    def test_marks_are_visible(self):
        for theme in self.themes():
            for name in theme:
                if name.startswith("peer") or name in ("ours", "floor",
                                                       "target"):
                    for behind in ("page", "shade"):
                        with self.subTest(name=name, behind=behind):
                            self.assertGreaterEqual(self.contrast(
                                theme[name], theme[behind]), 3)


if __name__ == "__main__":
    unittest.main()
