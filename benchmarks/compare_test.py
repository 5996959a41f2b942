"""Google Benchmark's own compare.py reads what the scorecard writes. Needs the
packages of `tools/setup compare`, and fails without them."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

_SCORECARD = pathlib.Path(__file__).parent / "scorecard.py"
_COMPARE = "/usr/share/benchmark/compare.py"


class CompareTest(unittest.TestCase):

    def test_compares_two_runs(self):
        directory = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(directory.cleanup)
        runs = [pathlib.Path(directory.name, name)
                for name in ("old.json", "new.json")]
        for run in runs:
            subprocess.run(
                [sys.executable, "-B", _SCORECARD, "--quick", "--rounds", "3",
                 "--filter", "^rlock_pair_nested$", "--json", run],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
        output = subprocess.run(
            [sys.executable, "-B", _COMPARE, "--no-color", "benchmarks", *runs],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
            check=True).stdout
        medians = [
            entry["real_time"]
            for run in runs
            for entry in json.loads(run.read_text())["benchmarks"]
            if entry["name"] == "rlock_pair_nested/mp_median"
        ]
        self.assertEqual(len(medians), 2)
        self.assertIn("U Test, Repetitions: 3 vs 3", output)
        line = next(line for line in output.splitlines()
                    if line.startswith("rlock_pair_nested/mp_median"))
        change = float(line.split()[1])
        self.assertAlmostEqual(
            change, medians[1] / medians[0] - 1, delta=0.01)


if __name__ == "__main__":
    unittest.main()
