import os
import pathlib
import stat
import tempfile
import unittest

from benchmarks import runner
from benchmarks import runs

# A program that says what it was asked for. Its times count its calls.
_PROGRAM = """#!/usr/bin/env python3
import json, pathlib, re, sys
names = ["a/mp/real_time", "a/floor/real_time", "b+/mp"]
arguments = dict(each.lstrip("-").split("=", 1) if "=" in each
                 else (each.lstrip("-"), "") for each in sys.argv[1:])
if "benchmark_list_tests" in arguments:
    print("\\n".join(names))
    sys.exit()
counter = pathlib.Path(__file__ + ".calls")
calls = int(counter.read_text()) + 1 if counter.exists() else 1
counter.write_text(str(calls))
if calls == FAIL:
    sys.exit("out of luck")
chosen = [each for each in names
          if re.fullmatch(arguments["benchmark_filter"], each)]
pathlib.Path(arguments["benchmark_out"]).write_text(json.dumps({
    "context": {"num_cpus": 2, "call": calls},
    "benchmarks": [
        {"name": each, "run_name": each, "run_type": "iteration",
         "iterations": 1, "real_time": calls, "cpu_time": calls,
         "time_unit": "ns"} for each in chosen]}))
"""


class RunnerTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(directory.cleanup)
        self.root = pathlib.Path(directory.name)

    def program(self, name="x/some_benchmark", fail=0):
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(_PROGRAM.replace("FAIL", str(fail)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def test_finds_programs(self):
        self.program("x/some_benchmark")
        self.program("y/other_benchmark")
        (self.root / "x" / "text_benchmark").write_text("")
        (self.root / "x" / "some_test").write_text("")
        self.assertEqual(
            [program.name for program in runner.find_programs(self.root)],
            ["x:some_benchmark", "y:other_benchmark"])

    def test_knows_benchmarks_by_their_canonical_names(self):
        self.assertEqual(runner.Program(self.program()).names(),
                         ["a/mp", "a/floor", "b+/mp"])

    def test_measures_what_is_wanted_once_a_round(self):
        program = runner.Program(self.program())
        context, entries = runner.measure(
            [program], lambda name, index: name == "b+/mp" or index == 1,
            rounds=3, min_time=0.01)
        self.assertEqual(context["call"], 1)
        benchmarks = runs.from_entries(entries)
        self.assertEqual(benchmarks["b+/mp"].rounds, {0: 1, 1: 2, 2: 3})
        self.assertEqual(benchmarks["a/floor"].rounds, {1: 2})

    def test_every_program_runs_in_every_round(self):
        programs = [runner.Program(self.program(name)) for name in
                    ("x/some_benchmark", "y/other_benchmark")]
        calls = []
        runner.measure(programs, lambda name, index: True, rounds=6,
                       min_time=0.01, report=calls.append)
        rounds = [tuple(calls[index:index + 2]) for index in range(0, 12, 2)]
        self.assertEqual(
            [sorted(each) for each in rounds],
            [[f"round {index} of 6: x:some_benchmark",
              f"round {index} of 6: y:other_benchmark"]
             for index in range(1, 7)])
        orders = {each[0].split(": ")[1] for each in rounds}
        self.assertEqual(len(orders), 2, "always the same one first")

    def test_a_failed_round_is_told_and_the_others_count(self):
        program = runner.Program(self.program(fail=2))
        _, entries = runner.measure(
            [program], lambda name, index: name == "a/mp", rounds=3,
            min_time=0.01)
        failed = [entry for entry in entries if entry.get("error_occurred")]
        self.assertEqual(len(failed), 1)
        self.assertIn("out of luck", failed[0]["error_message"])
        self.assertEqual(runs.from_entries(entries)["a/mp"].rounds,
                         {0: 1, 2: 3})

    def test_a_program_that_cannot_start(self):
        path = self.root / "nothing"
        path.write_text("#!/nonexistent/interpreter\n")
        path.chmod(0o755)
        with self.assertRaises(runner.Failed):
            runner.Program(path)


if __name__ == "__main__":
    unittest.main()
