"""One HTML file, which needs no network, from runs of the scorecard.

    tools/bazel run //tools/dashboard -- --out page.html run.json...
"""

import argparse
import json
import os
import string
import sys

from benchmarks import runs
from benchmarks import targets as targets_lib
from tools.dashboard import charts
from tools.dashboard import markup
from tools.dashboard import model
from tools.dashboard import sections

_HERE = os.path.dirname(os.path.abspath(__file__))
# Where Debian's libjs-chart.js puts it.
CHART_JS = "/usr/share/javascript/chart.js/chart.min.js"
TARGETS = os.path.join(_HERE, "..", "..", "benchmarks", "targets.json")


def render(targets, all_runs, chart_js):
    """The page. `chart_js` is the charting library's source."""
    ordered = model.in_order(all_runs)
    rows_of_runs = [model.rows(targets, run) for run in ordered]
    newest, rows = ordered[-1], rows_of_runs[-1]
    trends = model.trends(ordered, rows_of_runs)
    labels = [model.short_commit(run) for run in ordered]
    found = []  # every chart's data

    def keep(chart):
        found.append(chart.spec)
        return chart

    groups = []
    for group in model.GROUPS:
        members = [row for row in rows if row.group == group]
        if members:
            chart = keep(charts.comparison(targets, group, members)) if any(
                row.results for row in members) else None
            groups.append(sections.comparison(targets, group, members, chart))
    processors = model.processors(newest)
    sweeps = [(sweep.name, keep(charts.sweep(targets, sweep, processors)))
              for sweep in model.sweeps(rows)]
    latencies = [(row.operation, keep(chart)) for row in rows
                 if (chart := charts.latency(targets, row))]
    cards = [(trend, keep(charts.trend(targets, trend, labels)))
             for trend in trends] if len(ordered) > 1 else []
    none = markup.element("p", "The newest run has none.")
    data = {
        "date": newest.context.get("date"),
        "runs": [{"commit": label,
                  "subject": str(model.commit(run).get("subject") or ""),
                  "date": run.context.get("date")}
                 for label, run in zip(labels, ordered)],
        "styles": charts.styles(targets),
        "charts": found,
    }
    return _fill(
        title=markup.escape(f"mp scorecard: {model.short_commit(newest)}"),
        css=markup.Markup(_read("page.css")),
        verdict=sections.verdict(targets, newest, rows, trends),
        losses=markup.join(filter(None, sections.losses(
            targets, newest, rows, trends,
            model.gone(rows_of_runs))), "\n"),
        groups=markup.join(groups, "\n"),
        sweeps=sections.grid(sweeps) if sweeps else none,
        latencies=sections.grid(latencies) if latencies else none,
        trends=markup.join(sections.trend_groups(cards), "\n") if cards else
        markup.element("p", "A trend needs two runs or more."),
        costs=sections.costs(ordered),
        method=markup.join(sections.method(targets, ordered, rows), "\n"),
        data=markup.json_text(json.dumps(
            data, ensure_ascii=False, separators=(",", ":"))),
        library=markup.script_text(chart_js),
        script=markup.script_text(_read("page.js")),
    )


def _fill(**parts):
    return string.Template(_read("page.html")).substitute(parts)


def _read(name):
    with open(os.path.join(_HERE, name), encoding="utf-8") as file:
        return file.read()


def _parse(arguments):
    parser = argparse.ArgumentParser(
        prog="dashboard", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN.json",
                        help="Google Benchmark's JSON, in any order")
    parser.add_argument("--out", required=True, metavar="FILE.html")
    parser.add_argument("--chart-js", default=CHART_JS, metavar="FILE",
                        help="Chart.js 3, as one script (default: Debian's)")
    parser.add_argument("--targets", default=TARGETS, metavar="FILE.json",
                        help="default: the repository's")
    return parser.parse_args(arguments)


def _from_here(path):
    """Bazel starts programs elsewhere, and says where the user is."""
    return os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), path)


def main(arguments=None):
    options = _parse(arguments)
    try:
        with open(_from_here(options.chart_js), encoding="utf-8") as file:
            chart_js = file.read()
    except OSError as error:
        hint = ("install libjs-chart.js (tools/setup dashboard), or name "
                "Chart.js's file with --chart-js")
        print(f"dashboard: {error.filename}: {error.strerror}: {hint}",
              file=sys.stderr)
        return 2
    try:
        targets = targets_lib.load(_from_here(options.targets))
        all_runs = [runs.load(_from_here(path)) for path in options.runs]
    except (OSError, runs.BadRun, targets_lib.BadTargets) as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 2
    page = render(targets, all_runs, chart_js)
    try:
        with open(_from_here(options.out), "w", encoding="utf-8") as file:
            file.write(page)
    except OSError as error:
        print(f"dashboard: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
