"""What the page will say, without the page."""

import tempfile
import unittest

from benchmarks import runs
from benchmarks import targets as targets_lib
from tools.dashboard import fake_runs
from tools.dashboard import model


def load(contents):
    """(targets, runs) of what fake_runs makes."""
    with tempfile.TemporaryDirectory() as directory:
        targets = targets_lib.load(fake_runs.write_targets(directory))
        return targets, [runs.load(path)
                         for path in fake_runs.write(directory, contents)]


def rows_of(content):
    targets, (run,) = load([content])
    return {row.operation: row for row in model.rows(targets, run)}


class RowsTest(unittest.TestCase):

    def test_every_benchmark_is_in_a_row(self):
        content = fake_runs.run()
        found = {benchmark.name
                 for row in rows_of(content).values()
                 for benchmark in row.results.values()}
        self.assertEqual(found, {
            runs.canonical(entry["name"]) for entry in content["benchmarks"]})

    def test_targets(self):
        rows = rows_of(fake_runs.run())
        self.assertIs(rows["lock_pair"].met, True)
        self.assertIs(rows["event_set_clear"].met, False)
        self.assertIsNone(rows["pool_map_item"].met)
        self.assertIsNone(rows["pool_map_item"].mp)
        self.assertIsNone(rows["condition_notify_nobody"].met)
        self.assertEqual(rows["lock_pair"].floor, "floor")
        self.assertEqual(rows["lock_pair"].best_peer, "pthread")

    def test_what_has_no_target_is_compared_too(self):
        row = rows_of(fake_runs.run())["condition_notify_nobody"]
        self.assertEqual((row.group, row.ours, row.best_peer),
                         ("sync", "mp", "pthread"))
        self.assertAlmostEqual(row.to_best_peer.median, 10.7 / 8.3, delta=0.05)

    def test_all_peers_that_are_ahead_are_named_the_quickest_first(self):
        targets, (run,) = load([fake_runs.run(factors={
            "lock_pair/pthread": 0.7, "lock_pair/boost": 0.5})])
        rows = {row.operation: row for row in model.rows(targets, run)}
        self.assertEqual(
            list(model.peers_ahead(targets, rows["lock_pair"])),
            ["boost", "pthread"])
        self.assertEqual(model.peers_ahead(targets, rows["pipe_rtt/8"]), {})
        self.assertEqual(
            model.peers_ahead(targets, rows["pool_map_item"]), {})

    def test_what_the_newest_run_has_no_longer(self):
        contents = [fake_runs.FOREIGN, fake_runs.run(5)]
        targets, ordered = load(contents)
        self.assertEqual(
            model.gone([model.rows(targets, run) for run in ordered]),
            ["BM_Copy/64"])

    def test_a_row_named_by_its_implementation(self):
        row = rows_of(fake_runs.run())["process_start_join/fork"]
        self.assertEqual((row.ours, row.floor), ("fork", "floor"))
        self.assertEqual(sorted(row.results), ["floor", "fork"])

    def test_what_was_skipped_keeps_its_reason(self):
        rows = rows_of(fake_runs.run(
            skipped={"pool_apply/mp": "skipped: no room",
                     "lock_pair/boost": "skipped: no Boost"}))
        self.assertEqual(rows["pool_apply"].errors, {"mp": "skipped: no room"})
        self.assertIsNone(rows["pool_apply"].met)
        self.assertEqual(rows["lock_pair"].errors,
                         {"boost": "skipped: no Boost"})
        self.assertIs(rows["lock_pair"].met, True)

    def test_families_stay_together_and_numbers_rise(self):
        names = list(rows_of(fake_runs.run()))
        pipes = [name for name in names if name.startswith("pipe_rtt")]
        self.assertEqual(pipes, ["pipe_rtt/8", "pipe_rtt/64", "pipe_rtt/512",
                                 "pipe_rtt/4KiB"])
        first = names.index("pipe_rtt/8")
        self.assertEqual(names[first:first + 4], pipes)

    def test_a_group_that_the_page_does_not_know(self):
        targets, (run,) = load([fake_runs.run()])
        for row in targets.rows:
            row["group"] = "new"
        self.assertEqual({row.operation: row.group
                          for row in model.rows(targets, run)
                          if row.goals}["lock_pair"], "other")

    def test_what_must_run_for_a_row(self):
        targets, (run,) = load([fake_runs.run()])
        rows = {row.operation: row for row in model.rows(targets, run)}
        self.assertEqual(model.operations(targets, rows["lock_pair"]),
                         ["lock_pair"])
        self.assertEqual(
            model.operations(targets, rows["process_start_join/fork"]),
            ["process_start_join"])
        self.assertEqual(model.operations(targets, rows["pipe_rtt/8"]),
                         ["pipe_rtt/8"])

    def test_names_without_an_implementation(self):
        row = rows_of(fake_runs.FOREIGN)["BM_Copy/64"]
        self.assertEqual(row.group, "other")
        self.assertEqual(row.results[model.UNNAMED].times, [1500.0])


class RunsTest(unittest.TestCase):

    def test_order_is_that_of_time_in_all_zones(self):
        def run(date):
            return runs.Run({"date": date})
        early, late = run("2026-11-29T13:00:00+02:00"), run(
            "2026-11-29T12:00:00Z")
        undated = run(None)
        self.assertEqual(model.in_order([late, early, undated]),
                         [undated, early, late])

    def test_fingerprint(self):
        _, (one, two, foreign) = load([
            fake_runs.run(0), fake_runs.run(
                1, targets_machine=fake_runs.machine(kernel="7.0")),
            fake_runs.FOREIGN])
        self.assertNotEqual(model.fingerprint(one), model.fingerprint(two))
        self.assertIn("2 processors", model.fingerprint(one))
        self.assertEqual(model.fingerprint(foreign),
                         "4 processors, 3000 MHz")
        self.assertEqual(model.fingerprint(runs.Run()), "")

    def test_commit(self):
        run = runs.Run({"mp": {"commit": {"id": "0123456789", "dirty": True}}})
        self.assertEqual(model.short_commit(run), "01234567+")
        self.assertEqual(model.short_commit(runs.Run()), "no commit")


class SweepsTest(unittest.TestCase):

    def test_axes(self):
        for family, part, axis in (
            ("pipe_rtt", "64", ("size", 64)),
            ("pipe_rtt", "4KiB", ("size", 4096)),
            ("lock_contended", "procs:8", ("procs", 8)),
            ("lock_pair_live", "locks:1000", ("locks", 1000)),
            ("pool_apply", "task:10us", ("task", 10_000)),
            ("pool_create_destroy", "2", ("workers", 2)),
            ("pool_imap", "chunk_1", None),
            ("process_start_join", "fork", None),
        ):
            self.assertEqual(model.axis_of(family, part), axis, part)

    def test_sweeps_and_ladders(self):
        found = {sweep.name: sweep for sweep in model.sweeps(
            rows_of(fake_runs.run()).values())}
        self.assertEqual(sorted(found),
                         ["lock_contended/{procs}", "lock_pair_live/{locks}",
                          "pipe_rtt/{size}"])
        self.assertEqual(list(found["pipe_rtt/{size}"].rows),
                         [8, 64, 512, 4096])
        self.assertEqual(found["lock_contended/{procs}"].axis, "procs")

    def test_one_number_is_no_sweep(self):
        row = rows_of(fake_runs.run())["pipe_rtt/64"]
        self.assertEqual(model.sweeps([row]), [])


class LatenciesTest(unittest.TestCase):

    def test_both_names_of_the_third_percentile(self):
        for name in ("p999_ns", "p99.9_ns"):
            benchmark = runs.Benchmark("x", {0: 1}, {
                "p50_ns": [1, 3, 2], name: [9]})
            self.assertEqual(model.latencies(benchmark), [2, None, 9, None])


class TrendsTest(unittest.TestCase):

    def trends(self, contents):
        targets, all_runs = load(contents)
        ordered = model.in_order(all_runs)
        return {trend.row.operation: trend for trend in model.trends(
            ordered, [model.rows(targets, run) for run in ordered])}

    def test_changes_are_found(self):
        found = self.trends(fake_runs.series())
        self.assertEqual(found["pipe_rtt/64"].state, "regressed")
        self.assertEqual(found["process_start_join/fork"].state, "improved")
        self.assertEqual(found["lock_pair"].state, "unchanged")

    def test_each_benchmark_has_one_trend(self):
        names = [trend.row.mp.name
                 for trend in self.trends(fake_runs.series()).values()]
        self.assertEqual(len(names), len(set(names)))

    def test_a_machine_is_compared_with_itself(self):
        contents = [fake_runs.run(number) for number in range(10)]
        contents.append(fake_runs.run(
            10, factors={"pipe_rtt/64/mp": 2},
            targets_machine=fake_runs.machine(cpu="another")))
        trend = self.trends(contents)["pipe_rtt/64"]
        self.assertEqual(trend.state, "learning")
        self.assertEqual([point.segment for point in trend.points],
                         [0] * 10 + [1])

    def test_a_run_without_the_benchmark_is_left_out(self):
        contents = [fake_runs.run(0), fake_runs.FOREIGN, fake_runs.run(2)]
        trend = self.trends(contents)["lock_pair"]
        self.assertEqual([point.run for point in trend.points], [0, 2])

    def test_ratios_are_to_the_floor_or_the_best_peer(self):
        found = self.trends([fake_runs.run(0), fake_runs.run(1)])
        self.assertEqual(found["lock_pair"].base, "floor")
        self.assertEqual(found["condition_notify_nobody"].base, "pthread")
        self.assertIsNone(found["lock_pair_live/locks:1"].base)
        self.assertAlmostEqual(found["lock_pair"].points[0].ratios[0],
                               4.8 / 4.4, delta=0.1)


if __name__ == "__main__":
    unittest.main()
