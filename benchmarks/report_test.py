import unittest

from benchmarks import report
from benchmarks import runs
from benchmarks import stats
from benchmarks import targets


def verdict(operation, ours, met, peer=None):
    return targets.Verdict(
        operation=operation, title=operation, group="sync", why="",
        mp=runs.Benchmark("mp", {0: ours}) if ours else None,
        floor=None,
        peers={"boost": runs.Benchmark("boost", {0: peer})} if peer else {},
        best_peer="boost" if peer else None,
        to_floor=None, to_best_peer=None,
        goals=[targets.Goal("\u2264 2 ns", ours, 2, met)],
    )


_TARGETS = targets.Targets([], {
    "mp": targets.Implementation("mp", "ours"),
    "boost": targets.Implementation(
        "Boost.Interprocess", "peer", "libboost-dev"),
    "iceoryx": targets.Implementation("iceoryx", "peer", "iceoryx"),
    "pipe": targets.Implementation("pipe", "peer"),  # always there
}, [])


class TimeTest(unittest.TestCase):

    def test_units(self):
        for nanos, text in ((0.314, "0.314 ns"), (4.361, "4.36 ns"),
                            (51_900, "51.9 \u00b5s"), (999.7, "1 \u00b5s"),
                            (1.92e6, "1.92 ms"), (3e9, "3 s")):
            self.assertEqual(report.time_text(nanos), text)


class RatioTest(unittest.TestCase):

    def test_none_of_them_is_nothing(self):
        for median, text in ((1.234, "1.23"), (0.005, "0.01"),
                             (0.0049, "< 0.01")):
            self.assertEqual(
                report.ratio_text(stats.Ratio(median, median, median)), text)
        self.assertEqual(report.ratio_text(None), "\u2013")


class ShowTest(unittest.TestCase):

    def show(self, verdicts, run=runs.Run()):
        lines = []
        report.show(verdicts, run, _TARGETS, out=lines.append)
        return lines

    def test_what_is_missed_comes_first(self):
        lines = self.show([verdict("good", 1, True), verdict("bad", 3, False),
                           verdict("absent", None, None)])
        self.assertEqual(lines[0], "1 of 3 targets met.")
        self.assertEqual(lines[1], "MISSED  bad: \u2264 2 ns: 3")
        self.assertEqual(lines[2], "NOT MEASURED  absent")

    def test_every_operation_has_a_line(self):
        lines = self.show([verdict("good", 1, True, peer=5),
                           verdict("bad", 3, False)])
        good = next(line for line in lines if line.startswith("good"))
        self.assertIn("1 ns", good)
        self.assertIn("5 ns Boost.Interprocess", good)
        self.assertTrue(good.endswith(" met"))
        bad = next(line for line in lines if line.startswith("bad"))
        self.assertTrue(bad.endswith("MISSED"))

    def test_markdown(self):
        lines = report.table([verdict("good", 1, True, peer=5)], _TARGETS,
                             markdown=True)
        self.assertEqual(len(lines), 3)
        self.assertEqual([line.count("|") for line in lines], [9, 9, 9])
        self.assertTrue(lines[2].startswith("| `good` | 1 ns | "))

    def test_missing_peers_and_failures_are_named(self):
        run = runs.Run(
            {"mp": {"missing": [{"implementation": "iceoryx",
                                 "why": "not installed"}]}},
            {"x/mp": runs.Benchmark("x/mp", error="it hung"),
             "x/boost": runs.Benchmark("x/boost", error="skipped: no Boost")})
        lines = self.show([], run)
        self.assertIn("Missing: iceoryx (not installed)", lines)
        self.assertIn("Failed: x/mp: it hung", lines)
        self.assertFalse(any("no Boost" in line for line in lines))


class MissingTest(unittest.TestCase):

    def test_only_what_ran_nowhere(self):
        benchmarks = {
            "a/boost": runs.Benchmark("a/boost", {0: 1}),
            "b/boost": runs.Benchmark("b/boost", error="skipped: too large"),
            "a/iceoryx": runs.Benchmark(
                "a/iceoryx", error="skipped: not installed: iceoryx"),
        }
        self.assertEqual(
            report.missing(benchmarks, _TARGETS),
            [{"implementation": "iceoryx", "why": "not installed: iceoryx"}])
        self.assertEqual(
            report.missing({}, _TARGETS)[0],
            {"implementation": "boost", "why": "not in this build"})

    def test_what_was_not_asked_for_is_not_missing(self):
        benchmarks = {"a/iceoryx": runs.Benchmark(
            "a/iceoryx", error="skipped: not installed: iceoryx")}
        self.assertEqual(
            [each["implementation"] for each in
             report.missing(benchmarks, _TARGETS, whole=False)], ["iceoryx"])


class AggregatesTest(unittest.TestCase):

    def test_as_google_benchmark_computes_them(self):
        entries = [
            {"name": "a/mp", "run_name": "a/mp", "run_type": "iteration",
             "iterations": 1, "real_time": time, "cpu_time": 2 * time,
             "time_unit": "us"}
            for time in (1.0, 2.0, 6.0)
        ]
        result = report.with_aggregates(entries)
        self.assertEqual(
            [entry["name"] for entry in result],
            ["a/mp"] * 3 + ["a/mp_mean", "a/mp_median", "a/mp_stddev",
                            "a/mp_cv"])
        mean, median, stddev, cv = result[3:]
        self.assertEqual((mean["real_time"], mean["cpu_time"]), (3, 6))
        self.assertEqual(median["real_time"], 2)
        self.assertAlmostEqual(stddev["real_time"], 7 ** 0.5)
        self.assertAlmostEqual(cv["real_time"], 7 ** 0.5 / 3)
        self.assertEqual(mean["time_unit"], "us")

    def test_not_of_failures(self):
        entries = [{"name": "a", "run_name": "a", "run_type": "iteration",
                    "error_occurred": True, "error_message": "no"}] * 2
        self.assertEqual(len(report.with_aggregates(entries)), 2)


if __name__ == "__main__":
    unittest.main()
