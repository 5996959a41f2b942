"""Runs of benchmarks: files in Google Benchmark's JSON format.

A canonical name is a benchmark's name without what Google Benchmark appends
(`manual_time`, `iterations:20`). One of its parts names the implementation; the
others, in their order, are the operation:

    queue_1p1c/64/mp/manual_time       operation queue_1p1c/64, of mp
    barrier_cycle/mp/procs:2/...       operation barrier_cycle/procs:2, of mp
"""

import dataclasses
import json

from benchmarks import stats

_MODIFIERS = ("manual_time", "real_time", "process_time")
_MODIFIER_PREFIXES = (
    "iterations:",
    "repeats:",
    "min_time:",
    "min_warmup_time:",
    "threads:",
)
_NANOS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}
# What an entry has besides the counters.
_FIELDS = frozenset((
    "family_index", "per_family_instance_index", "repetitions",
    "repetition_index", "threads", "iterations", "real_time", "cpu_time",
))


class BadRun(Exception):
    """A file that is no run of benchmarks."""


def canonical(name):
    return "/".join(
        part
        for part in name.split("/")
        if part not in _MODIFIERS and not part.startswith(_MODIFIER_PREFIXES)
    )


def split(name, implementations):
    """(operation, implementation) of a canonical name. The implementation is
    the last part that is one; None if there is none."""
    parts = name.split("/")
    for index in reversed(range(1, len(parts))):
        if parts[index] in implementations:
            return "/".join(parts[:index] + parts[index + 1:]), parts[index]
    return name, None


@dataclasses.dataclass
class Benchmark:
    """What one benchmark took, in nanoseconds, round by round."""

    name: str
    rounds: dict = dataclasses.field(default_factory=dict)  # number: time
    counters: dict = dataclasses.field(default_factory=dict)
    error: str | None = None  # why it has no times

    @property
    def times(self):
        return list(self.rounds.values())

    @property
    def median(self):
        return stats.median(self.times)

    @property
    def quartiles(self):
        return stats.quartiles(self.times)

    def counter(self, name):
        """The median of a counter; None if there is none."""
        values = self.counters.get(name)
        return stats.median(values) if values else None


@dataclasses.dataclass
class Run:
    context: dict = dataclasses.field(default_factory=dict)
    benchmarks: dict = dataclasses.field(default_factory=dict)

    @property
    def mp(self):
        """What the scorecard adds to the context; {} in others' files."""
        return self.context.get("mp", {})


def from_entries(entries):
    """The benchmarks of Google Benchmark's entries: of repetitions, not of
    aggregates, which this computes itself. A round in which one of them could
    not run has no time of it; its `error` stays only if no round has any."""
    benchmarks = {}
    for entry in sorted(
        entries, key=lambda entry: entry.get("repetition_index", 0)
    ):
        if entry.get("run_type", "iteration") != "iteration":
            continue
        name = canonical(entry.get("run_name", entry["name"]))
        benchmark = benchmarks.setdefault(name, Benchmark(name))
        if entry.get("error_occurred") or entry.get("skipped"):
            benchmark.error = (
                entry.get("error_message") or entry.get("skip_message")
                or "failed"
            )
            continue
        nanos = _NANOS[entry.get("time_unit", "ns")]
        index = entry.get("repetition_index", len(benchmark.rounds))
        benchmark.rounds[index] = entry["real_time"] * nanos
        for key, value in entry.items():
            if key not in _FIELDS and isinstance(value, (int, float)):
                benchmark.counters.setdefault(key, []).append(value)
    for benchmark in benchmarks.values():
        if benchmark.rounds:
            benchmark.error = None
    return benchmarks


def load(path):
    """Raises BadRun if that is no run, OSError if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        return Run(data["context"], from_entries(data["benchmarks"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadRun(
            f"{path}: not Google Benchmark's JSON: {error!r}"
        ) from error
