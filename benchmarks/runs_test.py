import json
import os
import pathlib
import tempfile
import unittest

from benchmarks import runs


def entry(name, real_time, index=0, **fields):
    return {
        "name": name,
        "run_name": name,
        "run_type": "iteration",
        "repetitions": 9,
        "repetition_index": index,
        "threads": 1,
        "iterations": 100,
        "real_time": real_time,
        "cpu_time": 1.0,
        "time_unit": "ns",
        **fields,
    }


class NamesTest(unittest.TestCase):

    def test_canonical(self):
        for name, expected in (
            ("lock_pair/mp", "lock_pair/mp"),
            ("pipe_rtt/64/mp/manual_time", "pipe_rtt/64/mp"),
            ("barrier_cycle/mp/procs:2/iterations:5/manual_time",
             "barrier_cycle/mp/procs:2"),
            ("a/b/min_time:0.100/repeats:3/real_time/threads:2", "a/b"),
        ):
            self.assertEqual(runs.canonical(name), expected)

    def test_split(self):
        known = {"mp", "pipe", "floor"}
        self.assertEqual(runs.split("pipe_rtt/64/mp", known),
                         ("pipe_rtt/64", "mp"))
        self.assertEqual(runs.split("barrier/mp/procs:2", known),
                         ("barrier/procs:2", "mp"))
        self.assertEqual(runs.split("pipe/64/floor", known),
                         ("pipe/64", "floor"))
        # The first part is the operation's, whatever it is called.
        self.assertEqual(runs.split("pipe/64", known), ("pipe/64", None))


class EntriesTest(unittest.TestCase):

    def test_times_are_nanoseconds_in_the_order_of_rounds(self):
        benchmarks = runs.from_entries([
            entry("a/mp", 2, 1, time_unit="us"),
            entry("a/mp", 1, 0, time_unit="us"),
            entry("b/mp/real_time", 3, 0, time_unit="ms"),
        ])
        self.assertEqual(benchmarks["a/mp"].times, [1000, 2000])
        self.assertEqual(benchmarks["a/mp"].median, 1500)
        self.assertEqual(benchmarks["b/mp"].times, [3e6])

    def test_aggregates_are_not_repetitions(self):
        benchmarks = runs.from_entries([
            entry("a/mp", 5),
            {**entry("a/mp", 7), "name": "a/mp_mean",
             "run_type": "aggregate", "aggregate_name": "mean"},
        ])
        self.assertEqual(benchmarks["a/mp"].times, [5])

    def test_counters(self):
        benchmarks = runs.from_entries([
            entry("a/mp", 5, 0, min_share=0.5),
            entry("a/mp", 5, 1, min_share=0.7),
            entry("a/mp", 5, 2, min_share=0.6),
        ])
        self.assertEqual(benchmarks["a/mp"].counter("min_share"), 0.6)
        self.assertIsNone(benchmarks["a/mp"].counter("p99_ns"))
        self.assertEqual(set(benchmarks["a/mp"].counters), {"min_share"})

    def test_what_could_not_run_says_why(self):
        skipped = entry("a/boost", 0, error_occurred=True,
                        error_message="skipped: not installed")
        benchmark = runs.from_entries([skipped])["a/boost"]
        self.assertEqual(benchmark.times, [])
        self.assertEqual(benchmark.error, "skipped: not installed")

    def test_a_failed_round_has_no_time(self):
        benchmark = runs.from_entries([
            entry("a/mp", 5, 0),
            entry("a/mp", 0, 1, error_occurred=True, error_message="hung"),
            entry("a/mp", 6, 2),
        ])["a/mp"]
        self.assertEqual(benchmark.rounds, {0: 5, 2: 6})
        self.assertIsNone(benchmark.error)


class LoadTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(directory.cleanup)
        self.path = pathlib.Path(directory.name) / "run.json"

    def test_google_benchmarks_own_output(self):
        # As version 1.7.1 writes it: without our context, and without a
        # repetition_index if there was one repetition.
        plain = entry("BM_memcpy/8", 5)
        del plain["repetition_index"]
        self.path.write_text(json.dumps(
            {"context": {"num_cpus": 2}, "benchmarks": [plain]}))
        run = runs.load(self.path)
        self.assertEqual(run.mp, {})
        self.assertEqual(run.benchmarks["BM_memcpy/8"].times, [5])

    def test_anything_else_is_an_error(self):
        for text in ("", "[]", "{}", '{"context": {}, "benchmarks": 5}',
                     '{"context": {}, "benchmarks": [{}]}'):
            self.path.write_text(text)
            with self.assertRaises(runs.BadRun, msg=text):
                runs.load(self.path)
        with self.assertRaises(OSError):
            runs.load(self.path.with_name("absent.json"))


if __name__ == "__main__":
    unittest.main()
