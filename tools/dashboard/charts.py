"""What the charts show, as data for page.js and as tables of the same figures.

A chart is a dict that goes into the page as JSON. Its series have points
{"x": number, "t": [median, q1, q3], "r": the same as ratios, "n": repetitions};
t is in nanoseconds, and either may be absent.
"""

import dataclasses

from benchmarks import stats
from tools.dashboard import markup
from tools.dashboard import model
from tools.dashboard import units

TARGET = "target"  # a series of its own among the implementations
_PEER_COLOURS = 6
_PEER_SHAPES = ("triangle", "rect", "crossRot", "star", "rectRot")
_OUR_SHAPES = ("circle", "rectRounded", "triangle", "rectRot", "rect")
_FLOOR_SHAPES = ("line", "cross", "star")
_DASHES = ([], [6, 3], [2, 3], [8, 3, 2, 3], [12, 4])


@dataclasses.dataclass
class Chart:
    spec: dict
    label: str  # for who cannot see it
    table: markup.Markup


def styles(targets):
    """How each implementation is drawn, the same in all charts: no two have
    the same colour and shape. Colours are names of page.css."""
    result, counts = {}, {}
    names = list(targets.implementations) + [model.UNNAMED]
    for name in names:
        kind = model.kind(targets, name)
        index = counts.get(kind, 0)
        counts[kind] = index + 1
        if kind == "ours":
            style = ("ours", _OUR_SHAPES[index % len(_OUR_SHAPES)])
        elif kind == "floor":
            style = ("floor", _FLOOR_SHAPES[index % len(_FLOOR_SHAPES)])
        else:
            index = counts.get("others", 0)
            counts["others"] = index + 1
            # Six and five have no common divisor: thirty pairs.
            style = (f"peer{index % _PEER_COLOURS}",
                     _PEER_SHAPES[index % len(_PEER_SHAPES)])
            index = 1 + index % (len(_DASHES) - 1)
        result[name] = {
            "title": model.title(targets, name), "kind": kind,
            "color": style[0], "shape": style[1],
            "dash": [2, 2] if kind == "floor" else _DASHES[
                index % len(_DASHES)],
        }
    result[TARGET] = {"title": "target", "kind": TARGET, "color": "target",
                      "shape": "rectRot", "dash": []}
    return result


def order(targets, names):
    """Ours first, then as in the file of targets."""
    known = list(targets.implementations)
    return sorted(names, key=lambda name: (
        model.kind(targets, name) != "ours",
        known.index(name) if name in known else len(known)))


def _short(value):
    return float(f"{value:.5g}")


def _triple(median, q1, q3):
    return [_short(median), _short(q1), _short(q3)]


def _point(x, benchmark, base):
    point = {"x": x, "n": len(benchmark.rounds),
             "t": _triple(benchmark.median, *benchmark.quartiles)}
    ratio = model.ratio(benchmark, base)
    if ratio is not None:
        point["r"] = _triple(ratio.median, ratio.q1, ratio.q3)
    return point


def _tightest(row):
    """The least time that a target allows, by ours; None without such a target.
    Goals of times and ratios are proportional to ours, shares are not."""
    reaches = [goal.limit / goal.value for goal in row.goals
               if goal.value and goal.limit and "\u2265" not in goal.text]
    return min(reaches, default=None)


def _series(targets, points):
    """{implementation: points} as a list of what has points."""
    names = order(targets, (name for name in points if name != TARGET))
    if TARGET in points:
        names.append(TARGET)
    return [{"impl": name, "points": points[name]}
            for name in names if points[name]]


# ---- Tables

def cell(benchmark):
    """A time with its spread."""
    if benchmark is None:
        return "–"
    return _with_spread(units.duration(benchmark.median),
                        units.span(*benchmark.quartiles),
                        len(benchmark.rounds))


def _with_spread(value, spread, count):
    note = f"{spread}, n = {count}" if count > 1 else "n = 1"
    return markup.join([value, markup.element("small", note)], " ")


def ratio_cell(ratio):
    if ratio is None:
        return "–"
    spread = [units.digits(value) for value in (ratio.q1, ratio.q3)]
    return markup.join([
        units.ratio(ratio.median),
        markup.element("small", " to ".join(spread))
        if ratio.q1 != ratio.q3 else "",
    ], " ")


def _table_of_rows(targets, caption, head, labelled_rows):
    """One column for each implementation that any row has."""
    names = order(targets, {name for _, row in labelled_rows
                            for name in list(row.results) + list(row.errors)})
    body = []
    for label, row in labelled_rows:
        cells = [label]
        for name in names:
            if name in row.errors:
                cells.append(markup.element("em", row.errors[name]))
            else:
                cells.append(cell(row.results.get(name)))
        body.append(cells)
    heads = [head] + [model.title(targets, name) for name in names]
    return markup.table(caption, heads, body, range(1, len(heads)))


# ---- The kinds of charts

def comparison(targets, group, rows):
    """A dot plot: a row for each operation, a dot for each implementation."""
    rows = [row for row in rows if row.results]
    points = {}
    for index, row in enumerate(rows):
        for name, benchmark in row.results.items():
            points.setdefault(name, []).append(
                _point(index, benchmark, row.mp))
        reach = _tightest(row)
        if reach is not None and row.mp is not None:
            points.setdefault(TARGET, []).append({
                "x": index, "r": [_short(reach)] * 3,
                "t": [_short(reach * row.mp.median)] * 3,
            })
    compared = [row for row in rows if row.to_best_peer is not None]
    ahead = sum(not model.peers_ahead(targets, row) for row in compared)
    label = (
        f"Dot plot, logarithmic: times of {len(rows)} operations of {group}. "
        f"mp is ahead of all peers in {ahead} of {len(compared)} that "
        "have any. The table that follows has the figures."
    )
    return Chart(
        {"id": f"chart-compare-{group}", "kind": "dots",
         "labels": [row.operation for row in rows],
         "series": _series(targets, points)},
        label,
        _table_of_rows(
            targets, f"Times of {group}: median, quartiles, repetitions",
            "Operation", [(row.operation, row) for row in rows]),
    )


_AXIS_TITLES = {
    "size": "Size of a message", "procs": "Processes", "workers": "Workers",
    "connections": "Connections", "objects": "Objects", "locks": "Locks",
    "task": "Length of a task",
}


def _number(axis, number):
    if axis == "size":
        return units.size(number)
    return units.duration(number) if axis == "task" else f"{number:,}"


def sweep(targets, found, processors):
    """Lines over a size or a number, both axes logarithmic."""
    points, labelled = {}, []
    limit = processors if found.axis in model.CONCURRENT else None
    for number, row in found.rows.items():
        for name, benchmark in row.results.items():
            points.setdefault(name, []).append(
                _point(number, benchmark, row.mp))
        text = _number(found.axis, number)
        if limit and number > limit:
            text += " (oversubscribed)"
        labelled.append((text, row))
    title = _AXIS_TITLES[found.axis]
    label = (
        f"Lines, both axes logarithmic: time of {found.name} by "
        f"{title.lower()}, {labelled[0][0]} to {labelled[-1][0]}. "
        "The table that follows has the figures."
    )
    spec = {
        "id": f"chart-sweep-{_slug(found.name)}", "kind": "lines",
        "axis": title, "ticks": {number: _number(found.axis, number)
                                 for number in found.rows},
        "series": _series(targets, points),
    }
    if limit:
        spec["processors"] = limit
    return Chart(spec, label, _table_of_rows(
        targets, f"{found.name}: median, quartiles, repetitions", title,
        labelled))


def latency(targets, row):
    """Percentiles, one line for each implementation; None without counters."""
    found = {
        name: model.latencies(benchmark)
        for name, benchmark in row.results.items()
    }
    found = {name: values for name, values in found.items() if any(values)}
    if not found:
        return None
    names = order(targets, found)
    base = found.get(row.ours)
    points = {}
    for name in names:
        for index, value in enumerate(found[name]):
            if not value:
                continue
            point = {"x": index, "t": _triple(value, value, value),
                     "n": len(row.results[name].rounds)}
            if base and base[index]:
                point["r"] = [_short(value / base[index])] * 3
            points.setdefault(name, []).append(point)
    labels = [name for name, _ in model.PERCENTILES]
    caption = f"Latency percentiles of {row.operation}, medians of the rounds"
    return Chart(
        {"id": f"chart-latency-{_slug(row.operation)}", "kind": "latency",
         "labels": labels, "series": _series(targets, points)},
        f"Lines, times logarithmic: latency percentiles of {row.operation} "
        f"for {len(names)} implementations. The table that follows has the "
        "figures.",
        markup.table(
            caption, ["Implementation"] + labels,
            [[model.title(targets, name)]
             + [units.duration(value) if value is not None else "–"
                for value in found[name]] for name in names],
            range(1, 1 + len(labels))),
    )


def trend(targets, found, run_labels):
    """Ours over the runs. A segment is what one machine did."""
    segments = {}
    body = []
    for point in found.points:
        entry = {"x": point.run, "n": len(point.times), "state": point.state,
                 "t": _triple(stats.median(point.times),
                              *stats.quartiles(point.times))}
        if point.ratios:
            entry["r"] = _triple(stats.median(point.ratios),
                                 *stats.quartiles(point.ratios))
        if point.state == "spread":  # then the values tell more than a median
            entry["raw"] = {"t": [_short(value) for value in point.times],
                            "r": [_short(value) for value in point.ratios]}
        segments.setdefault(point.segment, []).append(entry)
        body.append([
            run_labels[point.run],
            _with_spread(units.duration(entry["t"][0]),
                         units.span(*entry["t"][1:]), entry["n"]),
            ratio_cell(stats.Ratio(*entry["r"])) if "r" in entry else "–",
            point.state, f"machine {point.segment + 1}",
        ])
    base = model.title(targets, found.base) if found.base else None
    spec = {
        "id": f"chart-trend-{_slug(found.row.operation)}", "kind": "trend",
        "labels": run_labels,
        "series": [{"impl": found.row.ours, "points": points}
                   for points in segments.values()],
    }
    if base:
        spec["base"] = base
    return Chart(
        spec,
        f"Line over {len(found.points)} runs with a band between the "
        f"quartiles: {found.row.operation}, newest run {found.state}. The "
        "table that follows has the figures.",
        markup.table(
            f"{found.row.operation} by run",
            ["Run", "Time", f"Ratio to {base}" if base else "Ratio", "State",
             "Machine"], body, (1, 2)),
    )


def _slug(text):
    return "".join(c if c.isalnum() else "-" for c in text).strip("-")
