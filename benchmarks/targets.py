"""What mp must reach (targets.json), and whether a run does.

The file has `implementations`, what the last parts of benchmarks' names mean,
and `rows`, in the order of the table. A row is an operation with its goals:

    {"at_most": 1.25, "times": "lock_pair/floor"}
        our time by that of another benchmark, a ratio of pairs. Instead of a
        benchmark: "best_peer", the quickest peer of the operation
    {"ahead_of": "peers"}           quicker than each of them
    {"at_most": 1000, "unit": "ns"}    a time
    {"at_least": 0.1, "counter": "min_share"}    a counter of our benchmark

A row's benchmarks are those of its operation, unless it names others as `mp`,
`floor` or `peers`. A row with "geometric_mean_of" is about several operations
at once: its times are their geometric means.
"""

import dataclasses
import json

from benchmarks import runs
from benchmarks import stats


class BadTargets(Exception):
    """A file that says nothing that can be checked."""


@dataclasses.dataclass(frozen=True)
class Implementation:
    """What is measured: kind is "ours", "floor" (the least the machine can
    do), "peer" (what one would use instead) or "yardstick" (what is not for
    the same purpose, such as threads)."""

    title: str
    kind: str
    package: str = ""  # Debian's; none if it is always there
    about: str = ""


@dataclasses.dataclass(frozen=True)
class Goal:
    """What was measured, and what it may be. `met` is None, and `value` too,
    if it could not be measured."""

    text: str
    value: float | None
    limit: float
    met: bool | None


@dataclasses.dataclass
class Verdict:
    operation: str
    title: str
    group: str
    why: str
    mp: runs.Benchmark | None
    floor: runs.Benchmark | None
    peers: dict  # implementation: benchmark
    best_peer: str | None  # an implementation
    to_floor: stats.Ratio | None
    to_best_peer: stats.Ratio | None
    goals: list

    @property
    def met(self):
        """None if nothing is missed, but not everything could be measured."""
        met = [goal.met for goal in self.goals]
        if False in met:
            return False
        return None if None in met else True


@dataclasses.dataclass
class Targets:
    rows: list  # as in the file
    implementations: dict  # name: Implementation
    sweeps: list  # families that are measured for charts, not for goals

    def split(self, name):
        """(operation, implementation) of a canonical name."""
        return runs.split(name, self.implementations)

    def operations(self):
        """All that the rows need, references included."""
        wanted = set()
        for row in self.rows:
            wanted.update(row.get("geometric_mean_of", [row["operation"]]))
            for name in _references(row):
                wanted.add(self.split(name)[0])
        return wanted


def _references(row):
    """The benchmarks that a row names."""
    names = [row[key] for key in ("mp", "floor") if key in row]
    names += row.get("peers", [])
    for goal in row["goals"]:
        if goal.get("times", "best_peer") != "best_peer":
            names.append(goal["times"])
    return names


def load(path):
    """Raises BadTargets, or OSError if it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        targets = Targets(
            data["rows"],
            {
                name: Implementation(**fields)
                for name, fields in data["implementations"].items()
            },
            data.get("sweeps", []),
        )
        for row in targets.rows:
            _check(row, targets)
        return targets
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadTargets(f"{path}: {error!r}") from error


def _check(row, targets):
    for key in ("operation", "title", "group"):
        if not isinstance(row[key], str):
            raise ValueError(f"{key} of {row} is no text")
    if not row["goals"]:
        raise ValueError(f"{row['operation']} has no goal")
    for goal in row["goals"]:
        kinds = [kind for kind in ("times", "unit", "counter", "ahead_of")
                 if kind in goal]
        if len(kinds) != 1:
            raise ValueError(f"{row['operation']}: no goal: {goal}")
        if kinds != ["ahead_of"]:
            float(goal["at_least" if kinds == ["counter"] else "at_most"])
    for name in _references(row):
        if targets.split(name)[1] is None:
            raise ValueError(f"{row['operation']}: no implementation in {name}")


def _mean_of(benchmarks, name):
    """Their geometric mean, round by round; None if one has no times."""
    if not all(benchmark and benchmark.rounds for benchmark in benchmarks):
        return None
    rounds = set.intersection(*(set(each.rounds) for each in benchmarks))
    return runs.Benchmark(
        name,
        {
            index: stats.geometric_mean(
                [each.rounds[index] for each in benchmarks]
            )
            for index in sorted(rounds)
        },
    )


class _Measured:
    """The benchmarks of a run by operation."""

    def __init__(self, run, targets):
        self._targets = targets
        self._by_operation = {}
        for name, benchmark in run.benchmarks.items():
            operation, implementation = targets.split(name)
            self._by_operation.setdefault(operation, {})[
                implementation] = benchmark

    def get(self, name):
        """By operation and implementation, wherever the latter stands."""
        operation, implementation = self._targets.split(name)
        benchmark = self._by_operation.get(operation, {}).get(implementation)
        return benchmark if benchmark and benchmark.rounds else None

    def of_kind(self, row, kind):
        """{implementation: benchmark}, with times."""
        if "geometric_mean_of" not in row:
            found = self._by_operation.get(row["operation"], {})
        else:
            parts = [self._by_operation.get(operation, {})
                     for operation in row["geometric_mean_of"]]
            common = set.intersection(*(set(part) for part in parts))
            found = {
                name: _mean_of([part[name] for part in parts],
                               f"{row['operation']}/{name}")
                for name in sorted(common - {None})
            }
        named = {row.get("mp"), row.get("floor")}
        return {
            name: benchmark
            for name, benchmark in found.items()
            if name in self._targets.implementations
            and self._targets.implementations[name].kind == kind
            and benchmark and benchmark.rounds and benchmark.name not in named
        }


def _first(benchmarks):
    return next(iter(benchmarks.values()), None)


def _ratio(ours, theirs):
    if ours is None or theirs is None:
        return None
    return stats.paired_ratio(ours.rounds, theirs.rounds)


def _best(peers):
    """The quickest one's name."""
    return min(peers, key=lambda name: peers[name].median, default=None)


def _number(value):
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _judge(goal, ours, peers, measured):
    if "ahead_of" in goal:
        ratios = [_ratio(ours, peer) for peer in peers.values()]
        worst = max((each.median for each in ratios if each), default=None)
        text, limit, value = "ahead of every peer", 1.0, worst
        met = None if worst is None else worst < 1
        return Goal(text, value, limit, met)
    if "times" in goal:
        name = goal["times"]
        other = measured.get(name)
        if name == "best_peer":
            other = peers.get(_best(peers))
        ratio = _ratio(ours, other)
        value = ratio.median if ratio else None
        text = f"\u2264 {_number(goal['at_most'])} \u00d7 " + (
            "the best peer" if name == "best_peer" else name
        )
    elif "unit" in goal:
        value = ours.median if ours else None
        text = f"\u2264 {_number(goal['at_most'])} {goal['unit']}"
    else:
        value = ours.counter(goal["counter"]) if ours else None
        text = f"{goal['counter']} \u2265 {_number(goal['at_least'])}"
        limit = goal["at_least"]
        return Goal(text, value, limit, None if value is None
                    else value >= limit)
    limit = goal["at_most"]
    return Goal(text, value, limit, None if value is None else value <= limit)


def evaluate(targets, run):
    """A Verdict for each row, in their order."""
    measured = _Measured(run, targets)
    verdicts = []
    for row in targets.rows:
        if "mp" in row:
            ours = measured.get(row["mp"])
        else:
            ours = _first(measured.of_kind(row, "ours"))
        if "floor" in row:
            floor = measured.get(row["floor"])
        else:
            floor = _first(measured.of_kind(row, "floor"))
        if "peers" in row:
            named = {targets.split(name)[1]: measured.get(name)
                     for name in row["peers"]}
            peers = {key: peer for key, peer in named.items() if peer}
        else:
            peers = measured.of_kind(row, "peer")
        best = _best(peers)
        verdicts.append(
            Verdict(
                operation=row["operation"],
                title=row["title"],
                group=row["group"],
                why=row.get("why", ""),
                mp=ours,
                floor=floor,
                peers=peers,
                best_peer=best,
                to_floor=_ratio(ours, floor),
                to_best_peer=_ratio(ours, peers.get(best)),
                goals=[_judge(goal, ours, peers, measured)
                       for goal in row["goals"]],
            )
        )
    return verdicts
