"""A run of the scorecard for who reads: the table, what is missing, and Google
Benchmark's aggregates."""

import math

from benchmarks import stats

_COLUMNS = ("operation", "mp", "floor", "best peer", "/ floor", "/ peer",
            "target", "verdict")


def time_text(nanos):
    """In the unit that suits: 4.36 ns, 51.9 µs, 1.92 ms."""
    for limit, unit, factor in ((1e3, "ns", 1), (1e6, "\u00b5s", 1e3),
                                (1e9, "ms", 1e6), (math.inf, "s", 1e9)):
        if nanos < limit * 0.9995:
            break
    return f"{nanos / factor:.3g} {unit}"


def ratio_text(ratio):
    if not ratio:
        return "\u2013"
    return "< 0.01" if ratio.median < 0.005 else f"{ratio.median:.2f}"


def met_text(met):
    return {True: "met", False: "MISSED", None: "not measured"}[met]


def _time(benchmark):
    return time_text(benchmark.median) if benchmark else "\u2013"


def _goal_text(goal):
    value = "not measured" if goal.value is None else f"{goal.value:.4g}"
    return f"{goal.text}: {value}"


def _row(verdict, targets):
    peer = "\u2013"
    if verdict.best_peer:
        title = targets.implementations[verdict.best_peer].title
        peer = f"{_time(verdict.peers[verdict.best_peer])} {title}"
    return (
        verdict.operation,
        _time(verdict.mp),
        _time(verdict.floor),
        peer,
        ratio_text(verdict.to_floor),
        ratio_text(verdict.to_best_peer),
        "; ".join(goal.text for goal in verdict.goals),
        met_text(verdict.met),
    )


def table(verdicts, targets, markdown=False):
    """Lines of text."""
    rows = [_COLUMNS] + [_row(verdict, targets) for verdict in verdicts]
    if markdown:
        lines = [f"| `{first}` | " + " | ".join(rest) + " |"
                 for first, *rest in rows]
        lines.insert(1, "| " + " | ".join(["---"] * len(_COLUMNS)) + " |")
        return lines
    widths = [max(len(row[column]) for row in rows)
              for column in range(len(_COLUMNS))]
    right = {1, 2, 4, 5}
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def show(verdicts, run, targets, markdown=False, out=print):
    """What is missed comes first."""
    met = sum(verdict.met is True for verdict in verdicts)
    out(f"{met} of {len(verdicts)} targets met.")
    for verdict in verdicts:
        for goal in verdict.goals:
            if goal.met is False:
                out(f"MISSED  {verdict.operation}: {_goal_text(goal)}")
    for verdict in verdicts:
        if verdict.mp is None:
            out(f"NOT MEASURED  {verdict.operation}")
    out("")
    for line in table(verdicts, targets, markdown):
        out(line)
    out("")
    for cost in run.mp.get("costs", []):
        out(f"{cost['title']}: {cost['value']:,.4g} {cost['unit']}")
    if run.mp.get("costs"):
        out("")
    for peer in run.mp.get("missing", []):
        title = targets.implementations[peer["implementation"]].title
        out(f"Missing: {title} ({peer['why']})")
    for name, benchmark in sorted(run.benchmarks.items()):
        if benchmark.error and not benchmark.error.startswith("skipped:"):
            out(f"Failed: {name}: {benchmark.error}")


def missing(benchmarks, targets, whole=True):
    """The implementations that could run nowhere, and why. If that is not a
    whole run, only those that were tried."""
    why = {}
    present = set()
    for name, benchmark in benchmarks.items():
        implementation = targets.split(name)[1]
        if implementation is None:
            continue
        if benchmark.error is None:
            present.add(implementation)
        else:
            why.setdefault(implementation, benchmark.error)
    absent = [
        {"implementation": name,
         "why": why.get(name, "not in this build").removeprefix("skipped: ")}
        for name, implementation in targets.implementations.items()
        if implementation.package and name not in present
        and (whole or name in why)
    ]
    return absent


def with_aggregates(entries):
    """The entries, each benchmark's followed by its mean, median, standard
    deviation and coefficient of variation, as Google Benchmark has them."""
    by_name = {}
    for entry in entries:
        by_name.setdefault(entry["run_name"], []).append(entry)
    result = []
    for family, (name, group) in enumerate(by_name.items()):
        for entry in group:
            entry["family_index"] = family
            entry["per_family_instance_index"] = 0
            entry["threads"] = entry.get("threads", 1)
        result += group
        good = [entry for entry in group if not entry.get("error_occurred")]
        if len(good) < 2:
            continue
        for aggregate, unit, compute in (
            ("mean", "time", _mean),
            ("median", "time", stats.median),
            ("stddev", "time", _deviation),
            ("cv", "percentage",
             lambda values: _deviation(values) / (_mean(values) or 1)),
        ):
            result.append({
                "name": f"{name}_{aggregate}",
                "family_index": family,
                "per_family_instance_index": 0,
                "run_name": name,
                "run_type": "aggregate",
                "repetitions": len(good),
                "threads": good[0]["threads"],
                "aggregate_name": aggregate,
                "aggregate_unit": unit,
                "iterations": len(good),
                "real_time": compute([each["real_time"] for each in good]),
                "cpu_time": compute([each["cpu_time"] for each in good]),
                "time_unit": good[0]["time_unit"],
            })
    return result


def _mean(values):
    return sum(values) / len(values)


def _deviation(values):
    mean = _mean(values)
    return math.sqrt(
        sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    )
