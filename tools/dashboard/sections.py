"""The sections of the page: what model.py found, as HTML."""

import re

from benchmarks import stats
from tools.dashboard import charts
from tools.dashboard import markup
from tools.dashboard import model
from tools.dashboard import units

_e = markup.element

_MET = {True: ("met", "✓ met"), False: ("missed", "✗ missed"),
        None: ("unknown", "– not measured")}
_STATES = {
    "regressed": ("missed", "▲ slower"), "improved": ("met", "▼ quicker"),
    "unchanged": ("unknown", "= unchanged"),
    "spread": ("unknown", "∴ in two heaps"),
    "learning": ("unknown", "… learning"),
}


def badge(kind, text):
    return _e("span", text, class_=f"badge {kind}")


def met_badge(row):
    if not row.goals:
        return badge("unknown", "no target")
    return badge(*_MET[row.met])


def state_badge(state):
    return badge(*_STATES.get(state, ("unknown", state)))


# ---- The verdict

def verdict(targets, run, rows, trends):
    judged = [row for row in rows if row.goals]
    met = sum(row.met is True for row in judged)
    missed = sum(row.met is False for row in judged)
    unknown = len(judged) - met - missed
    status = "missed" if missed else "unknown" if unknown or not met else "met"
    parts = [f"{missed} missed"] if missed else []
    if unknown:
        parts.append(f"{unknown} could not be measured")
    return _e(
        "div",
        _e("p", _e("strong", f"{met} of {len(judged)} targets met"),
           "; ".join([""] + parts) + ".", class_=f"verdict {status}"),
        _changes(trends),
        _facts(run),
        _e("p", "The newest run is older than a week: it may not show the "
           "present state.", id="stale", class_="warning", role="status",
           hidden=True),
    )


def _changes(trends):
    states = [trend.state for trend in trends if len(trend.points) > 1]
    if not states:
        return None
    counts = [f"{states.count(state)} {text}" for state, text in (
        ("regressed", "slower"), ("improved", "quicker"),
        ("unchanged", "unchanged"), ("spread", "in two heaps"),
        ("learning", "with too few runs to tell"),
    ) if states.count(state)]
    return _e("p", "Beside earlier runs: ", ", ".join(counts), ".")


def _facts(run):
    commit = model.commit(run)
    settings = run.mp.get("settings") or {}
    date = str(run.context.get("date") or "")
    facts = [
        ("Machine", model.fingerprint(run) or "not recorded"),
        ("Commit", [_e("code", model.short_commit(run)), " ",
                    commit.get("subject") or "",
                    " (with changes that are not committed)"
                    if commit.get("dirty") else None]),
        ("Date", [_e("time", date or "not recorded", datetime=date or None,
                     id="run-date"), " ", _e("span", id="run-age")]),
        ("Repetitions", _protocol(settings)),
    ]
    return _e("dl", [_e("div", _e("dt", name), _e("dd", value))
                     for name, value in facts], class_="facts")


def _protocol(settings):
    if not settings:
        return "not recorded"
    text = (f"{settings.get('rounds', '?')} rounds of at least "
            f"{settings.get('min_time', '?')} s, interleaved")
    return text + ("; a quick run, so noisier" if settings.get("quick") else "")


# ---- Where we lose

def losses(targets, run, rows, trends, gone):
    missed = [row for row in rows if row.met is False]
    behind = [(row, name, ratio) for row in rows for name, ratio
              in model.peers_ahead(targets, row).items()]
    behind.sort(key=lambda item: -item[2].median)
    unknown = [row for row in rows if row.goals and row.met is None]
    skipped = {}  # what is skipped for the same reason stands together
    for row in rows:
        for name, error in row.errors.items():
            skipped.setdefault((name, error), []).append(row.operation)
    return [
        _listing("Targets missed", "missed-targets",
                 [_missed(row) for row in missed], "No target is missed."),
        _listing("A peer is ahead", "peers-ahead",
                 [_behind(targets, *item) for item in behind],
                 "No peer is ahead in any operation."),
        _listing("Slower than in earlier runs", "slower",
                 [_slower(trend) for trend in trends
                  if trend.state == "regressed"], None),
        _listing("Targets that could not be measured", "unmeasured",
                 [_unmeasured(row) for row in unknown], None),
        _listing("Skipped", "skipped",
                 [[model.title(targets, name), ": ",
                   error.removeprefix("skipped: "), " (",
                   _operations(names), ")"]
                  for (name, error), names in skipped.items()], None),
        _listing("In earlier runs, but not in the newest", "gone",
                 [markup.name(operation) for operation in gone], None),
        _listing("Peers missing on this machine", "missing",
                 [_missing(targets, item)
                  for item in run.mp.get("missing") or []],
                 "No peer is reported missing."),
    ]


def _listing(title, name, items, empty):
    """Nothing if there is nothing to say."""
    if not items and empty is None:
        return None
    body = _e("ul", [_e("li", item) for item in items]) if items else _e(
        "p", empty)
    return _e("div", _e("h3", title, f" ({len(items)})" if items else None),
              body, id=name, class_="listing")


def _operations(names):
    return markup.join([markup.name(name) for name in names], ", ")


def _missed(row):
    goals = [goal for goal in row.goals if goal.met is False]
    return [badge("missed", "✗ missed"), " ", row.title, " ",
            markup.name(row.operation), ": ",
            "; ".join(f"{_measured(goal)}, target {goal.text}"
                      for goal in goals)]


def _measured(goal):
    if goal.value is None:
        return "not measured"
    if goal.text.endswith(" ns"):  # a time, not a ratio
        return units.duration(goal.value)
    if "\u2265" in goal.text:
        return units.digits(goal.value)
    if goal.text.startswith("ahead"):
        return f"{units.ratio(goal.value)} the time of the best peer"
    return units.ratio(goal.value)


def _behind(targets, row, name, ratio):
    peer = row.results[name]
    doubt = ""
    if len(peer.rounds) == 1:
        doubt = "; measured once"
    elif ratio.q1 <= 1 <= ratio.q3:
        doubt = "; within the spread of this run"
    return [
        markup.name(row.operation), ": ", model.title(targets, name), " takes ",
        units.duration(peer.median), ", mp ", units.duration(row.mp.median),
        f", {units.ratio(ratio.median)} as much{doubt}",
    ]


def _slower(trend):
    newest = trend.points[-1]
    values = newest.ratios if trend.base else newest.times
    before = [stats.median(point.ratios if trend.base else point.times)
              for point in trend.points[:-1]
              if point.segment == newest.segment
              and (point.ratios or not trend.base)]
    change = stats.median(values) / stats.median(before) - 1
    return [markup.name(trend.row.operation), f": {change:+.0%}"]


def _unmeasured(row):
    goals = [goal for goal in row.goals if goal.met is None]
    why = "; ".join(row.errors.values()) or "not in this run"
    return [row.title, " ", markup.name(row.operation), ": ",
            "; ".join(goal.text for goal in goals), f" ({why})"]


def _missing(targets, item):
    name = str(item.get("implementation", "?"))
    known = targets.implementations.get(name)
    return [known.title if known else name, ": ",
            item.get("why") or "no reason"]


# ---- Against peers

def comparison(targets, group, rows, chart):
    return _e(
        "section", _e("h3", group, id=f"group-{group}"),
        figure(chart, len(chart.spec["labels"])) if chart else None,
        _comparison_table(targets, group, rows),
        class_="group", aria_labelledby=f"group-{group}")


def _comparison_table(targets, group, rows):
    heads = ["Operation", "Verdict", "mp", "Floor", "To floor", "Best peer",
             "To best peer", "Target: measured"]
    body = [[
        _operation(row),
        met_badge(row),
        _ours(row),
        charts.cell(row.results.get(row.floor)),
        charts.ratio_cell(row.to_floor),
        _best(targets, row),
        charts.ratio_cell(row.to_best_peer),
        _goals(row),
    ] for row in rows]
    return markup.table(
        f"{group}: times of the newest run, lower is better", heads, body,
        (2, 3, 4, 5, 6), [row.why for row in rows])


def _operation(row):
    name = markup.name(row.operation)
    return name if row.title == row.operation else [row.title, " ", name]


def _ours(row):
    if row.mp is None and row.errors:
        return _e("em", "; ".join(row.errors.values()))
    return charts.cell(row.mp)


def _best(targets, row):
    if row.best_peer is None:
        return "–"
    return [_e("span", model.title(targets, row.best_peer), class_="who"), " ",
            charts.cell(row.results[row.best_peer])]


def _goals(row):
    return _e("ul", [_e("li", goal.text, ": ", _measured(goal))
                     for goal in row.goals], class_="goals") if row.goals else (
        "–")


# ---- Charts in a page

def figure(chart, height=None, heading=None):
    """`height` is a number of rows, for a chart that has rows."""
    spec = chart.spec
    style = f"--rows: {height}" if height else None
    return _e(
        "figure", heading,
        _e("div", _e("canvas", "This chart needs JavaScript.", id=spec["id"],
                     role="img", aria_label=chart.label),
           class_=f"chart {spec['kind']}", style=style),
        _e("details", _e("summary", "Figures as a table"), chart.table))


def grid(found):
    return _e("div", [figure(chart, heading=_e("h3", markup.name(name)))
                      for name, chart in found], class_="grid")


def trend_groups(found):
    """`found`: (trend, chart). What changed is open, the rest is a click away.
    """
    changed = [one for one in found
               if one[0].state in ("regressed", "improved")]
    parts = []
    if changed:
        parts += [_e("h3", "Changed in the newest run"), _cards(changed)]
    for group in model.GROUPS:
        members = [one for one in found
                   if one[0].row.group == group and one not in changed]
        if members:
            parts.append(_e(
                "details", _e("summary", _e(
                    "h3", f"{group} ({len(members)})")),
                _cards(members), class_="group",
                open=not changed and group == model.GROUPS[0]))
    return parts


def _cards(found):
    return _e("div", [
        figure(chart, heading=_e("h4", markup.name(trend.row.operation), " ",
                                 state_badge(trend.state)))
        for trend, chart in found], class_="grid")


# ---- Costs, method

def costs(ordered_runs):
    """Of the newest run, and how the one before differs."""
    newest = ordered_runs[-1].mp.get("costs") or []
    earlier = {}
    if len(ordered_runs) > 1:
        earlier = {cost.get("name"): cost.get("value")
                   for cost in ordered_runs[-2].mp.get("costs") or []}
    if not newest:
        return _e("p", "The newest run has none.")
    body = []
    for cost in newest:
        value, unit = cost.get("value"), cost.get("unit") or ""
        body.append([
            cost.get("title") or cost.get("name") or "?",
            "–" if value is None else units.quantity(value, unit),
            _difference(value, earlier.get(cost.get("name"))),
        ])
    return markup.table("Costs that are not time, lower is better",
                        ["What", "Cost", "Since the run before"], body, (1, 2))


def _difference(value, before):
    if not all(isinstance(number, (int, float)) for number in (value, before)):
        return "–"
    if value == before:
        return "the same"
    if not before:
        return f"{value - before:+,.4g}"
    return f"{(value - before) / before:+.1%}"


_SCORECARD = "tools/bazel run --config=bench //benchmarks:scorecard"


def method(targets, ordered_runs, rows):
    newest = ordered_runs[-1]
    settings = newest.mp.get("settings") or {}
    about = [(known.title, known.kind, known.about)
             for known in targets.implementations.values() if known.about]
    return [
        _e("p", "Only ratios inside one run count: a run executes ours, the "
           "floors (the least that the machine can do, written by hand) and "
           "the peers in turn, round by round. A ratio is the median of the "
           "ratios of pairs from the same round, so that a host that changes "
           "its speed changes both. Small figures are the quartiles; n is the "
           "number of rounds. Lower is better everywhere."),
        _e("p", "A run counts as slower or quicker than the earlier ones of "
           "its machine if its median lies three times the distance between "
           "their quartiles outside of these, differs by more than 5 %, and "
           "a Mann–Whitney test at 1 % agrees; before eight earlier runs the "
           "page is learning. Values that lie in two heaps are drawn one by "
           "one. A line ends where the machine changes."),
        _e("p", "Known noise: on a shared virtual machine the time that a "
           "cache line takes to the other processor changes by the second, "
           "and what sleeps depends on where the kernel lets it run."),
        _e("p", "This run: ", _protocol(settings), "; flags ",
           _e("code", (newest.mp.get("machine") or {}).get("flags")
              or "not recorded"), ". All of it again:"),
        _command(_SCORECARD + " -- --json run.json"),
        _e("details", _e("summary", "One row again"), markup.table(
            "The command for each operation", ["Operation", "Command"],
            [[markup.name(row.operation),
              _e("code", reproduce(targets, row))] for row in rows])),
        _e("details", _e("summary", "What is compared"), markup.table(
            "Implementations", ["Name", "Kind", "How"], about)),
        _e("details", _e("summary", f"Runs on this page ({len(ordered_runs)})"),
           markup.table(
               "The oldest first",
               ["Commit", "Subject", "Date", "Machine", "Benchmarks"],
               [[_e("code", model.short_commit(run)),
                 model.commit(run).get("subject") or "–",
                 run.context.get("date") or "–",
                 model.fingerprint(run) or "not recorded",
                 len(run.benchmarks)] for run in ordered_runs], (4,))),
    ]


def reproduce(targets, row):
    names = "|".join(map(re.escape, model.operations(targets, row)))
    return f"{_SCORECARD} -- --filter='^({names})$'"


def _command(text):
    return _e("pre", _e("code", text), tabindex="0", class_="scroll",
              role="region", aria_label="Command")
