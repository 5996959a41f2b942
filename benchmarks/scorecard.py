"""Measures mp beside the floors and its peers, and says what it reaches.

  tools/bazel run --config=bench //benchmarks:scorecard -- [--quick] [--check]
      [--json FILE] [--filter REGEX]

prints a table: our time for each operation, the floor's, the best peer's, the
ratios, and whether the targets (benchmarks/targets.json) are met. Ratios are
medians over rounds, of what ran in the same round.
"""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import re
import sys
import time

from benchmarks import costs
from benchmarks import machine
from benchmarks import report
from benchmarks import runner
from benchmarks import runs
from benchmarks import targets as targets_lib

_HERE = pathlib.Path(__file__).parent
_ROUNDS = 9
_SWEEP_ROUNDS = 3
_MIN_TIME = 0.1
_QUICK_PEER_ROUNDS = 1
_QUICK_MIN_TIME = 0.01


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="scorecard", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument(
        "--quick", action="store_true",
        help="two minutes: short repetitions, peers only once, no sweeps",
    )
    parser.add_argument(
        "--check", action="store_true",
        help="exit with 1 if a target is missed, or ours was not measured",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=pathlib.Path,
        help="write the run in Google Benchmark's format",
    )
    parser.add_argument(
        "--markdown", action="store_true",
        help="print the table for a document",
    )
    parser.add_argument(
        "--filter", metavar="REGEX", type=_regex, default=re.compile(""),
        help="only operations in which this is found",
    )
    parser.add_argument(
        "--rounds", metavar="N", type=_positive, default=_ROUNDS,
        help=f"repetitions (default: {_ROUNDS})",
    )
    parser.add_argument(
        "--targets", metavar="FILE", type=pathlib.Path,
        default=_HERE / "targets.json", help="instead of targets.json",
    )
    parser.add_argument(
        "--from", metavar="FILE", type=pathlib.Path, dest="from_file",
        help="judge a run that was measured before",
    )
    return parser.parse_args(arguments)


def _regex(text):
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from error


def _positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _from_user(path):
    """A path as the user meant it, whose directory `bazel run` has left."""
    return pathlib.Path(os.environ.get("BUILD_WORKING_DIRECTORY", "."), path)


def _measure(options, targets):
    """Google Benchmark's JSON, as a dict."""
    programs = runner.find_programs(_HERE.parent)
    if not programs:
        raise runner.Failed("no benchmark program is there")
    operations = targets.operations()

    def kind(name):
        implementation = targets.split(name)[1]
        found = targets.implementations.get(implementation)
        return found.kind if found else None

    def wanted(name, index):
        operation = targets.split(name)[0]
        if not options.filter.search(operation):
            return False
        if operation in operations:
            return not (options.quick and index >= _QUICK_PEER_ROUNDS
                        and kind(name) in ("peer", "yardstick"))
        return (not options.quick and index < _SWEEP_ROUNDS
                and operation.split("/")[0] in targets.sweeps)

    workspace = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
    commit = machine.commit(workspace or _HERE)  # before it may move on
    begin = time.monotonic()
    tty = sys.stderr.isatty()

    def say(text):
        line = f"{time.monotonic() - begin:5.0f} s  {text}"
        print(f"\r\033[K{line}" if tty else line, file=sys.stderr,
              end="" if tty else "\n", flush=True)

    min_time = _QUICK_MIN_TIME if options.quick else _MIN_TIME
    context, entries = runner.measure(
        programs, wanted, options.rounds, min_time, report=say
    )
    say("costs that are not time")
    found_costs = [] if options.quick else costs.measure(
        _HERE.parent, workspace)
    if tty:
        print("\r\033[K", end="", file=sys.stderr)
    if not entries:
        raise runner.Failed("no benchmark has such a name")
    context.pop("host_name", None)  # of no use to anybody else
    benchmarks = runs.from_entries(entries)
    context |= {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(
            timespec="seconds"),
        "executable": "//benchmarks:scorecard",
        "mp": {
            "schema": 1,
            "commit": commit,
            "machine": machine.describe(programs[0].path),
            "settings": {
                "rounds": options.rounds,
                "min_time": min_time,
                "quick": options.quick,
                "seconds": round(time.monotonic() - begin),
            },
            "missing": report.missing(
                benchmarks, targets, whole=not options.filter.pattern),
            "costs": found_costs,
        },
    }
    return {"context": context,
            "benchmarks": report.with_aggregates(entries)}


def main(arguments):
    options = _parse(arguments)
    try:
        targets = targets_lib.load(_from_user(options.targets))
        if options.from_file:
            run = runs.load(_from_user(options.from_file))
        else:
            if options.json:  # before anything is measured that would be lost
                _from_user(options.json).touch()
            data = _measure(options, targets)
            if options.json:
                path = _from_user(options.json)
                path.write_text(json.dumps(data, indent=1) + "\n",
                                encoding="utf-8")
            run = runs.Run(data["context"],
                           runs.from_entries(data["benchmarks"]))
    except (targets_lib.BadTargets, runs.BadRun, runner.Failed, OSError
            ) as error:
        print(f"scorecard: {error}", file=sys.stderr)
        return 2
    verdicts = [
        verdict for verdict in targets_lib.evaluate(targets, run)
        if options.filter.search(verdict.operation)
    ]
    report.show(verdicts, run, targets, options.markdown)
    failed = [verdict for verdict in verdicts
              if verdict.met is False or verdict.mp is None]
    return 1 if options.check and failed else 0


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main(sys.argv[1:]))
