"""What the page says, computed from runs and targets: no HTML, no drawing."""

import dataclasses
import datetime
import re

from benchmarks import runs
from benchmarks import stats
from benchmarks import targets as targets_lib
from tools.dashboard import units

GROUPS = ("sync", "ipc", "process", "pool", "other")
# Where an operation belongs that no target mentions, by how its name begins.
_GROUP_OF_PREFIX = (
    ("lock", "sync"), ("rlock", "sync"), ("rwlock", "sync"),
    ("semaphore", "sync"), ("event", "sync"), ("condition", "sync"),
    ("barrier", "sync"), ("value", "sync"), ("queue", "ipc"), ("pipe", "ipc"),
    ("wait", "ipc"), ("process", "process"), ("pool", "pool"),
)
UNNAMED = ""  # the implementation in a name that has none


@dataclasses.dataclass
class Row:
    """One operation of one run: what everybody took, and what is asked."""

    operation: str
    title: str
    group: str
    why: str = ""
    ours: str | None = None  # an implementation
    floor: str | None = None
    best_peer: str | None = None
    results: dict = dataclasses.field(default_factory=dict)
    errors: dict = dataclasses.field(default_factory=dict)
    to_floor: stats.Ratio | None = None
    to_best_peer: stats.Ratio | None = None
    goals: list = dataclasses.field(default_factory=list)

    @property
    def mp(self):
        return self.results.get(self.ours)

    @property
    def met(self):
        """True, False, or None if it could not be measured or no target."""
        met = [goal.met for goal in self.goals]
        if not met or False in met:
            return False if met else None
        return None if None in met else True


def rows(targets, run):
    """Those with targets in the order of the file, then all others."""
    measured = _by_operation(targets, run)
    result = []
    covered = set()
    for verdict in targets_lib.evaluate(targets, run):
        row = _judged(targets, verdict, measured)
        covered.update(
            benchmark.name for benchmark in row.results.values())
        covered.update(
            benchmark.name
            for benchmark in measured.get(row.operation, {}).values())
        result.append(row)
    for operation, found in measured.items():
        if any(benchmark.name not in covered for benchmark in found.values()):
            result.append(_unjudged(targets, operation, found))
    return _in_families(result)


def _in_families(all_rows):
    """By group; families in the order in which they come, the numbers in each
    rising."""
    places = {}
    for row in all_rows:
        places.setdefault(row.operation.split("/")[0], len(places))

    def place(row):
        family, *parts = row.operation.split("/")
        axes = [axis_of(family, part) for part in parts]
        return (GROUPS.index(row.group), places[family],
                [axis[1] for axis in axes if axis])

    return sorted(all_rows, key=place)


def _by_operation(targets, run):
    """{operation: {implementation: benchmark}}"""
    measured = {}
    for name, benchmark in run.benchmarks.items():
        operation, implementation = targets.split(name)
        measured.setdefault(operation, {})[
            UNNAMED if implementation is None else implementation] = benchmark
    return measured


def _judged(targets, verdict, measured):
    group = verdict.group if verdict.group in GROUPS else "other"
    row = Row(verdict.operation, verdict.title, group, verdict.why,
              best_peer=verdict.best_peer, to_floor=verdict.to_floor,
              to_best_peer=verdict.to_best_peer, goals=list(verdict.goals))
    found = measured.get(row.operation)
    if found is None:  # its last part is an implementation
        operation, implementation = targets.split(row.operation)
        found = {
            name: benchmark
            for name, benchmark in measured.get(operation, {}).items()
            if name == implementation
        }
    _sort_out(row, found)
    row.results.update(verdict.peers)
    if verdict.mp is not None:
        row.ours = targets.split(verdict.mp.name)[1]
        row.results[row.ours] = verdict.mp
    if verdict.floor is not None:
        row.floor = targets.split(verdict.floor.name)[1]
        row.results[row.floor] = verdict.floor
    return row


def _unjudged(targets, operation, found):
    row = Row(operation, operation, group_of(targets, operation))
    _sort_out(row, found)
    row.ours = _first_of_kind(targets, row.results, "ours")
    row.floor = _first_of_kind(targets, row.results, "floor")
    row.best_peer = min(
        (name for name in row.results if kind(targets, name) == "peer"),
        key=lambda name: row.results[name].median, default=None)
    row.to_floor = ratio(row.mp, row.results.get(row.floor))
    row.to_best_peer = ratio(row.mp, row.results.get(row.best_peer))
    return row


def _sort_out(row, found):
    for name, benchmark in found.items():
        if benchmark.rounds:
            row.results[name] = benchmark
        else:
            row.errors[name] = benchmark.error or "no repetitions"


def _first_of_kind(targets, results, wanted):
    """In the order of the file, in which what counts most comes first."""
    return next((name for name in targets.implementations
                 if name in results and kind(targets, name) == wanted), None)


def operations(targets, row):
    """What must run to measure a row: its own, and what it is compared with."""
    spec = next((spec for spec in targets.rows
                 if spec["operation"] == row.operation), None)
    if spec is None:
        return [row.operation]
    names = [spec[key] for key in ("mp", "floor") if key in spec]
    names += spec.get("peers", [])
    names += [goal["times"] for goal in spec["goals"]
              if goal.get("times", "best_peer") != "best_peer"]
    own = spec.get("geometric_mean_of", [targets.split(row.operation)[0]])
    return list(dict.fromkeys(
        own + [targets.split(name)[0] for name in names]))


def peers_ahead(targets, row):
    """{implementation: ratio of ours to it}, the quickest first."""
    found = {
        name: ratio(row.mp, benchmark)
        for name, benchmark in row.results.items()
        if kind(targets, name) == "peer"
    }
    ahead = {name: one for name, one in found.items() if one and one.median > 1}
    return dict(sorted(ahead.items(), key=lambda item: -item[1].median))


def gone(rows_of_runs):
    """Operations that an earlier run has, and the newest has not."""
    earlier = dict.fromkeys(
        row.operation for found in rows_of_runs[:-1] for row in found
        if row.results or row.errors)
    newest = {row.operation for row in rows_of_runs[-1]
              if row.results or row.errors}
    return [operation for operation in earlier if operation not in newest]


def kind(targets, implementation):
    known = targets.implementations.get(implementation)
    return known.kind if known else "unnamed"


def title(targets, implementation):
    known = targets.implementations.get(implementation)
    return known.title if known else "unnamed"


def group_of(targets, operation):
    family = operation.split("/")[0]
    for row in targets.rows:
        if (row["operation"].split("/")[0] == family
                and row["group"] in GROUPS):
            return row["group"]
    for prefix, group in _GROUP_OF_PREFIX:
        if family.startswith(prefix):
            return group
    return "other"


def ratio(ours, theirs):
    if ours is None or theirs is None:
        return None
    return stats.paired_ratio(ours.rounds, theirs.rounds)


# ---- Runs

def in_order(all_runs):
    """The oldest first. What has no date comes before everything."""
    return sorted(
        all_runs,
        key=lambda run: units.moment(run.context.get("date"))
        or datetime.datetime.min.replace(tzinfo=datetime.timezone.utc))


_MACHINE = (
    ("cpu", "{}"), ("processors", "{} processors"), ("mhz", "{} MHz"),
    ("kernel", "Linux {}"), ("system", "{}"), ("compiler", "{}"),
    ("flags", "{}"),
)


def fingerprint(run):
    """What must be equal for times to be comparable. No host's name."""
    machine = run.mp.get("machine") or {}
    if not machine:
        machine = {"processors": run.context.get("num_cpus"),
                   "mhz": run.context.get("mhz_per_cpu")}
    return ", ".join(
        text.format(machine[key]) for key, text in _MACHINE
        if machine.get(key) not in (None, ""))


def processors(run):
    machine = run.mp.get("machine") or {}
    return machine.get("processors") or run.context.get("num_cpus")


def commit(run):
    return run.mp.get("commit") or {}


def short_commit(run):
    found = commit(run)
    name = str(found.get("id") or "")[:8] or "no commit"
    return name + ("+" if found.get("dirty") else "")


# ---- Sweeps and ladders

@dataclasses.dataclass
class Sweep:
    """Operations that differ in one part, a number, of their names."""

    name: str  # with the part replaced by its kind, as in pipe_rtt/{size}
    axis: str  # "size", "procs", "workers", ...
    group: str
    rows: dict = dataclasses.field(default_factory=dict)  # number: Row


_SIZE = re.compile(r"(\d+)(B|KiB|MiB|GiB)?")
_LADDER = re.compile(r"(procs|workers|connections|objects|locks):(\d+)")
_TASK = re.compile(r"task:(\d+)(ns|us|ms|s)")
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_NANOS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9}
# What runs at the same time: more of these than processors share them.
CONCURRENT = ("procs", "workers")


def axis_of(family, part):
    """(axis, number) of a part of a name; None if it is no number."""
    if match := _LADDER.fullmatch(part):
        return match[1], int(match[2])
    if match := _TASK.fullmatch(part):
        return "task", int(match[1]) * _NANOS[match[2]]
    if match := _SIZE.fullmatch(part):
        if match[2] is None and family.startswith("pool_"):
            return "workers", int(match[1])
        return "size", int(match[1]) * _BYTES[match[2]]
    return None


def sweeps(all_rows):
    """Those with at least two numbers at which something of ours ran."""
    found = {}
    for row in all_rows:
        parts = row.operation.split("/")
        for index, part in enumerate(parts[1:], start=1):
            place = axis_of(parts[0], part)
            if place is None or place[1] <= 0:
                continue
            axis, number = place
            name = "/".join(parts[:index] + [f"{{{axis}}}"] + parts[index + 1:])
            sweep = found.setdefault(name, Sweep(name, axis, row.group))
            sweep.rows[number] = row
    return [
        dataclasses.replace(sweep, rows=dict(sorted(sweep.rows.items())))
        for sweep in found.values()
        if sum(bool(row.results) for row in sweep.rows.values()) > 1
    ]


# ---- Latencies

PERCENTILES = (
    ("median", ("p50_ns",)),
    ("99 %", ("p99_ns",)),
    ("99.9 %", ("p999_ns", "p99.9_ns")),
    ("max", ("max_ns",)),
)


def latencies(benchmark):
    """A counter for each of PERCENTILES; None where there is none."""
    return [
        next((value for value in map(benchmark.counter, names)
              if value is not None), None)
        for _, names in PERCENTILES
    ]


# ---- Trends

@dataclasses.dataclass
class Point:
    """One run of a trend."""

    run: int  # its index
    segment: int  # changes where the machine does
    times: list
    ratios: list  # to the base; empty if there is none
    state: str  # of stats.classify


@dataclasses.dataclass
class Trend:
    row: Row  # of the newest run
    base: str | None  # the implementation that ratios are to
    points: list

    @property
    def state(self):
        """Of the newest run, which always has a point."""
        return self.points[-1].state


def trends(ordered_runs, rows_of_runs):
    """For each operation of ours in the newest run, what it took in all."""
    segments = _segments(ordered_runs)
    lookup = [{row.operation: row for row in found} for found in rows_of_runs]
    once = {}  # the same benchmark may stand in two rows
    for row in rows_of_runs[-1]:
        if row.mp is not None:
            once.setdefault(row.mp.name, row)
    return [_trend(row, lookup, segments) for row in once.values()]


def _segments(ordered_runs):
    segment, segments = 0, []
    for index, run in enumerate(ordered_runs):
        if index and fingerprint(run) != fingerprint(ordered_runs[index - 1]):
            segment += 1
        segments.append(segment)
    return segments


def _trend(newest, lookup, segments):
    base = newest.floor or newest.best_peer
    points = []
    for index, found in enumerate(lookup):
        row = found.get(newest.operation)
        ours = row.results.get(newest.ours) if row else None
        if ours is None:
            continue
        reference = row.results.get(base)
        points.append(Point(
            index, segments[index], ours.times,
            stats.paired_ratios(ours.rounds, reference.rounds)
            if reference else [], "learning"))
    for index, point in enumerate(points):
        # Ratios where there are any: the host's moods are in both.
        def series(one):
            return one.ratios if base else one.times
        history = [series(one) for one in points[:index]
                   if one.segment == point.segment and series(one)]
        point.state = stats.classify(history, series(point))
    return Trend(newest, base, points)
