"""Runs that nobody measured, for the dashboard's tests: the same seed gives the
same figures. As a program it writes files, to look at a page:

    tools/bazel run //tools/dashboard:fake_runs -- DIRECTORY
"""

import argparse
import datetime
import json
import os
import random

TARGETS = {
    "implementations": {
        "mp": {"title": "mp", "kind": "ours"},
        "fork": {"title": "mp, fork", "kind": "ours"},
        "floor": {"title": "floor", "kind": "floor", "about": "The least."},
        "pthread": {"title": "pthread", "kind": "peer", "about": "glibc's."},
        "boost": {"title": "Boost.Interprocess", "kind": "peer"},
        "socketpair": {"title": "socketpair", "kind": "peer"},
        "python": {"title": "Python multiprocessing", "kind": "peer"},
        "iceoryx": {"title": "iceoryx", "kind": "peer", "package": "iceoryx"},
        "tbb": {"title": "oneTBB", "kind": "yardstick"},
    },
    "sweeps": ["pipe_rtt", "queue_latency"],
    "rows": [
        {
            "operation": "lock_pair", "title": "Lock: acquire and release",
            "group": "sync", "why": "One compare-and-swap, one exchange.",
            "goals": [{"at_most": 1.25, "times": "lock_pair/floor"},
                      {"ahead_of": "peers"}],
        },
        {
            "operation": "lock_contended/procs:2", "group": "sync",
            "title": "Lock: 2 processes contend",
            "goals": [{"at_most": 1.1, "times": "best_peer"},
                      {"at_least": 0.1, "counter": "min_share"}],
        },
        {
            "operation": "event_set_clear", "title": "Event: set and clear",
            "group": "sync", "why": "Two exchanges.",
            "goals": [{"at_most": 1.5, "times": "event_set_clear/floor"}],
        },
        {
            "operation": "pipe_rtt/64", "title": "Pipe: there and back",
            "group": "ipc", "why": "Two rings in shared memory.",
            "goals": [{"at_most": 2.5, "times": "pipe_rtt/64/floor"}],
        },
        {
            "operation": "process_start_join/fork",
            "title": "Process by fork", "group": "process",
            "mp": "process_start_join/fork",
            "floor": "process_start_join/floor",
            "goals": [{"at_most": 1.15, "times": "process_start_join/floor"}],
        },
        {
            "operation": "pool_apply", "title": "Pool.Apply: there and back",
            "group": "pool", "why": "Two messages and a function.",
            "goals": [{"at_most": 1000, "unit": "ns"}],
        },
        {
            "operation": "pool_map_item", "title": "Pool.Map: per item",
            "group": "pool",
            "goals": [{"at_most": 8, "unit": "ns"}],
        },
    ],
}

# Nanoseconds. pool_map_item is missing, and so could not be measured.
_TIMES = {
    "lock_pair": {"mp": 4.8, "floor": 4.4, "pthread": 6.0, "boost": 6.3,
                  "python": 79},
    "lock_contended/procs:2": {"mp": 6.6, "pthread": 19, "boost": 19},
    "lock_contended/procs:4": {"mp": 6.6, "pthread": 20, "boost": 19},
    "lock_contended/procs:8": {"mp": 6.5, "pthread": 20, "boost": 19},
    # Nothing to compare with.
    "lock_pair_live/locks:1": {"mp": 4.8},
    "lock_pair_live/locks:1000000": {"mp": 4.8},
    # Missed: 1.9 times the floor.
    "event_set_clear": {"mp": 8.4, "floor": 4.4, "python": 1084},
    # No target; a peer is ahead.
    "condition_notify_nobody": {"mp": 10.7, "pthread": 8.3},
    "pipe_rtt/8": {"mp": 170, "floor": 75, "socketpair": 36e3},
    "pipe_rtt/64": {"mp": 174, "floor": 75, "socketpair": 36e3,
                    "python": 52e3},
    "pipe_rtt/512": {"mp": 240, "floor": 110, "socketpair": 37e3},
    "pipe_rtt/4KiB": {"mp": 900, "floor": 500, "socketpair": 40e3},
    "queue_latency": {"mp": 220, "boost": 480},
    "process_start_join": {"fork": 319e3, "floor": 299e3, "python": 2.3e6},
    "pool_apply": {"mp": 650, "python": 260e3, "tbb": 300},
}
_NAME = "{operation}/{implementation}/manual_time"


def machine(**changes):
    return {
        "cpu": "Fast Processor 3000", "processors": 2, "kernel": "6.1",
        "system": "Debian GNU/Linux 12 (bookworm)", "compiler": "g++ 12.2.0",
        "flags": "-O2 -DNDEBUG",
    } | changes


def run(number=0, *, factors=None, date=None, subject=None, skipped=None,
        targets_machine=None, rounds=9):
    """A run file's content, the `number`th of a series. `factors` are by
    canonical name, `skipped` are messages by canonical name."""
    random_ = random.Random(number)
    factors, skipped = factors or {}, skipped or {}
    if date is None:
        date = datetime.datetime(
            2026, 11, 1, 12, tzinfo=datetime.timezone.utc
        ) + datetime.timedelta(days=number)
    benchmarks = []
    for index in range(rounds):
        mood = random_.choice((1.0, 1.0, 1.0, 1.1))  # the whole round's
        for operation, times in _TIMES.items():
            for implementation, time in times.items():
                name = f"{operation}/{implementation}"
                benchmarks.append(_entry(
                    name, index, rounds,
                    time * mood * factors.get(name, 1)
                    * random_.lognormvariate(0, 0.015),
                    skipped.get(name)))
    return {
        "context": {
            "date": date.isoformat(), "num_cpus": 2, "mhz_per_cpu": 2600,
            "host_name": "not-to-be-shown", "library_build_type": "release",
            "mp": {
                "schema": 1,
                "commit": {
                    "id": f"{random_.getrandbits(160):040x}",
                    "subject": subject or f"change {number}",
                    "date": date.isoformat(), "dirty": False,
                },
                "machine": targets_machine or machine(),
                "settings": {"rounds": rounds, "min_time": 0.1,
                             "quick": False},
                "missing": [{"implementation": "iceoryx",
                             "why": "not installed: iceoryx"}],
                "costs": [
                    {"name": "bytes/Lock", "title": "A Lock: shared memory",
                     "value": 64, "unit": "bytes"},
                    {"name": "calls/lock_pair",
                     "title": "A free lock: system calls", "value": 0,
                     "unit": "calls"},
                    {"name": "rss/worker",
                     "title": "A worker of a pool: resident memory",
                     "value": 1_500_000 + 1000 * number, "unit": "bytes"},
                ],
            },
        },
        "benchmarks": benchmarks,
    }


def _entry(name, index, rounds, time, skipped):
    operation, implementation = name.rsplit("/", 1)
    full = _NAME.format(operation=operation, implementation=implementation)
    entry = {
        "name": full, "run_name": full, "run_type": "iteration",
        "repetitions": rounds, "repetition_index": index, "threads": 1,
    }
    if skipped is not None:
        return entry | {"error_occurred": True, "error_message": skipped}
    entry |= {"iterations": 1000, "real_time": time, "cpu_time": time,
              "time_unit": "ns"}
    if operation.startswith("lock_contended"):
        entry["min_share"] = 0.8
    if operation == "queue_latency":
        entry |= {"p50_ns": time, "p99_ns": 3 * time, "p999_ns": 40 * time,
                  "max_ns": 900 * time}
    return entry


# Google Benchmark 1.7.1's own output, without anything of the scorecard's.
FOREIGN = {
    "context": {
        "date": "2026-11-02T10:00:00+00:00", "host_name": "not-to-be-shown",
        "executable": "./a.out", "num_cpus": 4, "mhz_per_cpu": 3000,
        "cpu_scaling_enabled": False, "caches": [], "load_avg": [0.1],
        "library_build_type": "debug",
    },
    "benchmarks": [
        {
            "name": "BM_Copy/64", "family_index": 0,
            "per_family_instance_index": 0, "run_name": "BM_Copy/64",
            "run_type": "iteration", "repetitions": 1, "repetition_index": 0,
            "threads": 1, "iterations": 1000, "real_time": 1.5,
            "cpu_time": 1.5, "time_unit": "us",
        },
        {
            "name": "lock_pair/pthread", "family_index": 1,
            "per_family_instance_index": 0, "run_name": "lock_pair/pthread",
            "run_type": "iteration", "repetitions": 1, "repetition_index": 0,
            "threads": 1, "iterations": 1000, "real_time": 6.0,
            "cpu_time": 6.0, "time_unit": "ns",
        },
    ],
}


def series(count=12):
    """Runs with everything that a trend can show: one slower for good from the
    tenth on, one quicker, a change of the machine after the first two."""
    result = []
    for number in range(count):
        factors = {}
        if number >= 10:
            factors["pipe_rtt/64/mp"] = 1.3
            factors["process_start_join/fork"] = 0.9
        result.append(run(
            number, factors=factors,
            targets_machine=machine(kernel="5.10") if number < 2 else None,
            skipped={"pool_apply/tbb": "skipped: not built"}))
    return result


def write(directory, contents, name="run{}.json"):
    """The paths of one file for each."""
    paths = []
    for number, content in enumerate(contents):
        path = os.path.join(directory, name.format(number))
        with open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)
        paths.append(path)
    return paths


def write_targets(directory):
    path = os.path.join(directory, "targets.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(TARGETS, file)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory")
    directory = parser.parse_args().directory
    # Bazel starts programs elsewhere.
    directory = os.path.join(
        os.environ.get("BUILD_WORKING_DIRECTORY", ""), directory)
    os.makedirs(directory, exist_ok=True)
    for path in [write_targets(directory)] + write(directory, series()):
        print(path)


if __name__ == "__main__":
    main()
