"""The scorecard as its user runs it. What it measures here is not optimized;
what it says of that must be right all the same."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from benchmarks import runner
from benchmarks import targets as targets_lib

_SCORECARD = pathlib.Path(__file__).parent / "scorecard.py"
_OPERATION = "rlock_pair_nested"


class ScorecardTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        directory = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"))
        cls.addClassCleanup(directory.cleanup)
        cls.root = pathlib.Path(directory.name)
        # Two operations: the goal of the first is about the second.
        cls.measured = cls.run_scorecard(
            "--filter", "^r?lock_pair(_nested)?$", "--rounds", "2", "--quick",
            "--json", "run.json")

    @classmethod
    def run_scorecard(cls, *arguments):
        return subprocess.run(
            [sys.executable, "-B", _SCORECARD, *arguments],
            env={**os.environ, "BUILD_WORKING_DIRECTORY": str(cls.root)},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False)

    def targets(self, at_most):
        text = json.loads(
            (_SCORECARD.parent / "targets.json").read_text(encoding="utf-8"))
        text["rows"] = [row for row in text["rows"]
                        if row["operation"] == _OPERATION]
        text["rows"][0]["goals"][0]["at_most"] = at_most
        (self.root / "targets.json").write_text(json.dumps(text))
        return "targets.json"

    def test_measures_and_prints(self):
        self.assertEqual(self.measured.returncode, 0, self.measured.stderr)
        self.assertIn("of 3 targets met.", self.measured.stdout)
        line = next(line for line in self.measured.stdout.splitlines()
                    if line.startswith(_OPERATION))
        self.assertRegex(line, r"rlock_pair_nested +[\d.]+ ns +[\d.]+ ns ")

    def test_writes_google_benchmarks_format(self):
        run = json.loads((self.root / "run.json").read_text(encoding="utf-8"))
        names = [entry["name"] for entry in run["benchmarks"]]
        self.assertEqual(names.count(f"{_OPERATION}/mp"), 2)
        self.assertIn(f"{_OPERATION}/mp_median", names)
        self.assertNotIn("host_name", run["context"])
        self.assertEqual(run["context"]["mp"]["settings"]["rounds"], 2)
        self.assertIn("GCC" if "clang" not in str(run) else "clang",
                      run["context"]["mp"]["machine"]["compiler"])

    def test_check_fails_if_a_target_is_stricter_than_the_measurement(self):
        for at_most, code, text in ((1e-6, 1, "0 of 1 targets met"),
                                    (1e6, 0, "1 of 1 targets met")):
            result = self.run_scorecard(
                "--from", "run.json", "--check", "--filter", _OPERATION,
                "--targets", self.targets(at_most))
            self.assertEqual(result.returncode, code, result.stderr)
            self.assertIn(text, result.stdout)

    def test_check_fails_if_ours_was_not_measured(self):
        result = self.run_scorecard("--from", "run.json", "--check",
                                    "--filter", "^pool_apply$")
        self.assertEqual(result.returncode, 1, result.stderr)
        self.assertIn("NOT MEASURED  pool_apply", result.stdout)

    def test_every_benchmark_of_the_targets_exists(self):
        targets = targets_lib.load(_SCORECARD.parent / "targets.json")
        measured = {
            targets.split(name)
            for program in runner.find_programs(_SCORECARD.parent.parent)
            for name in program.names()
        }
        operations = {operation for operation, _ in measured}
        for row in targets.rows:
            # Of each operation ours, and all that a row names.
            for operation in row.get("geometric_mean_of", [row["operation"]]):
                if "mp" not in row:
                    self.assertIn((operation, "mp"), measured)
            for key in ("mp", "floor"):
                if key in row:
                    self.assertIn(targets.split(row[key]), measured)
            for goal in row["goals"]:
                if goal.get("times", "best_peer") != "best_peer":
                    self.assertIn(targets.split(goal["times"]), measured)
        families = {operation.split("/")[0] for operation in operations}
        self.assertLessEqual(set(targets.sweeps), families)

    def test_bad_input_is_an_error(self):
        (self.root / "bad.json").write_text("{}")
        for arguments in (["--from", "absent.json"], ["--from", "bad.json"],
                          ["--from", "run.json", "--targets", "bad.json"],
                          ["--filter", "no such operation"],
                          ["--json", "absent/run.json"],
                          ["--rounds", "0"], ["--filter", "("]):
            result = self.run_scorecard(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertNotIn("Traceback", result.stderr)
            self.assertIn("scorecard", result.stderr)


if __name__ == "__main__":
    unittest.main()
