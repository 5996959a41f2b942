"""Runs Google Benchmark programs in rounds.

In each round every program runs once, in another order each time, so that what
is compared is measured side by side however the machine's speed drifts. Google
Benchmark repeats and interleaves within one program only.
"""

import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile

from benchmarks import runs

# A program that takes longer hangs.
_TIMEOUT_SECONDS = 600


class Failed(Exception):
    """A program that could not do its part."""


class Program:
    """A Google Benchmark program."""

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.name = f"{self.path.parent.name}:{self.path.name}"
        listing = self._run(["--benchmark_list_tests"])
        self._full_names = {
            runs.canonical(line): line for line in listing.split()
        }

    def names(self):
        """Canonical ones."""
        return list(self._full_names)

    def measure(self, names, min_time):
        """Runs these benchmarks once. Returns the output's (context, entries).
        """
        chosen = "|".join(re.escape(self._full_names[name]) for name in names)
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "out.json"
            self._run([
                f"--benchmark_filter=^({chosen})$",
                f"--benchmark_min_time={min_time}",
                f"--benchmark_out={path}",
                "--benchmark_out_format=json",
            ])
            try:
                data = json.loads(path.read_text(encoding="utf-8"))
                return data["context"], data["benchmarks"]
            except (OSError, ValueError, KeyError) as error:
                raise Failed(f"{self.name} wrote no results: {error!r}"
                             ) from error

    def _run(self, arguments):
        try:
            result = subprocess.run(
                [self.path, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Failed(
                f"{self.name} did not end in {_TIMEOUT_SECONDS} s"
            ) from error
        except OSError as error:
            raise Failed(f"{self.name}: {error}") from error
        if result.returncode != 0:
            raise Failed(
                f"{self.name} ended with {result.returncode}: "
                + (result.stderr or result.stdout)[-2000:]
            )
        return result.stdout


def find_programs(root):
    """All benchmark programs in the packages below `root`."""
    return [
        Program(path)
        for path in sorted(pathlib.Path(root).glob("*/*_benchmark"))
        if path.is_file() and os.access(path, os.X_OK)
    ]


def measure(programs, wanted, rounds, min_time, seed=1, report=None):
    """Measures so many rounds: a pair of the first context and Google
    Benchmark's entries, the repetitions. `wanted(name, index)` says which
    benchmarks take part in which round. A program that fails in a round is
    reported on standard error and as an error of its benchmarks."""
    context = {}
    entries = []
    order = random.Random(seed)
    for index in range(rounds):
        for program in order.sample(programs, len(programs)):
            names = [name for name in program.names() if wanted(name, index)]
            if not names:
                continue
            if report:
                report(f"round {index + 1} of {rounds}: {program.name}")
            try:
                its_context, measured = program.measure(names, min_time)
            except Failed as error:
                print(f"\n{error}", file=sys.stderr)
                entries += [_failure(name, index, str(error)) for name in names]
                continue
            context = context or its_context
            for entry in measured:
                entry["repetition_index"] = index
                entry["repetitions"] = rounds
                entries.append(entry)
    return context, entries


def _failure(name, index, why):
    return {
        "name": name,
        "run_name": name,
        "run_type": "iteration",
        "repetition_index": index,
        "error_occurred": True,
        "error_message": why,
    }
