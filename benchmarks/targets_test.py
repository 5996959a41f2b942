import copy
import json
import os
import pathlib
import tempfile
import unittest

from benchmarks import runs
from benchmarks import targets

_OURS = pathlib.Path(__file__).parent / "targets.json"
_IMPLEMENTATIONS = {
    "mp": {"title": "mp", "kind": "ours"},
    "floor": {"title": "floor", "kind": "floor"},
    "boost": {"title": "Boost", "kind": "peer"},
    "pipe": {"title": "pipe", "kind": "peer"},
    "tbb": {"title": "oneTBB", "kind": "yardstick"},
}


def row(*goals, **fields):
    return {"operation": "op/64", "title": "An operation", "group": "sync",
            "goals": list(goals), **fields}


def run(**times):
    """Of operation op/64, each with two equal rounds."""
    return runs.Run({}, {
        f"op/64/{name}": runs.Benchmark(f"op/64/{name}", {0: time, 1: time})
        for name, time in times.items()
    })


class TargetsTest(unittest.TestCase):

    def setUp(self):
        directory = tempfile.TemporaryDirectory(
            dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(directory.cleanup)
        self.path = pathlib.Path(directory.name) / "targets.json"

    def load(self, *rows):
        self.path.write_text(json.dumps(
            {"implementations": _IMPLEMENTATIONS, "rows": rows}))
        return targets.load(self.path)

    def judge(self, goal, measured, **fields):
        return targets.evaluate(self.load(row(goal, **fields)), measured)[0]

    def test_times_another(self):
        goal = {"at_most": 1.25, "times": "op/64/floor"}
        for ours, met in ((5.0, True), (5.01, False)):
            verdict = self.judge(goal, run(mp=ours, floor=4))
            self.assertEqual(verdict.met, met)
            self.assertAlmostEqual(verdict.goals[0].value, ours / 4)
        verdict = self.judge(goal, run(mp=5))
        self.assertIsNone(verdict.met)
        self.assertIsNone(verdict.goals[0].value)
        self.assertIsNone(verdict.to_floor)

    def test_ahead_of_peers(self):
        goal = {"ahead_of": "peers"}
        verdict = self.judge(goal, run(mp=5, boost=6, pipe=7))
        self.assertTrue(verdict.met)
        self.assertEqual(verdict.best_peer, "boost")
        self.assertFalse(self.judge(goal, run(mp=5, boost=6, pipe=4)).met)
        self.assertFalse(self.judge(goal, run(mp=5, boost=5)).met)
        self.assertIsNone(self.judge(goal, run(mp=5)).met)

    def test_a_yardstick_is_no_peer(self):
        verdict = self.judge({"ahead_of": "peers"}, run(mp=5, boost=6, tbb=1))
        self.assertTrue(verdict.met)
        self.assertEqual(list(verdict.peers), ["boost"])

    def test_times_the_best_peer(self):
        goal = {"at_most": 1.1, "times": "best_peer"}
        self.assertTrue(self.judge(goal, run(mp=11, boost=10, pipe=20)).met)
        self.assertFalse(self.judge(goal, run(mp=11.1, boost=10)).met)
        self.assertIsNone(self.judge(goal, run(mp=11)).met)

    def test_a_time(self):
        goal = {"at_most": 1000, "unit": "ns"}
        self.assertTrue(self.judge(goal, run(mp=1000)).met)
        self.assertFalse(self.judge(goal, run(mp=1001)).met)
        self.assertIsNone(self.judge(goal, run(boost=1)).met)

    def test_a_counter(self):
        goal = {"at_least": 0.1, "counter": "min_share"}
        for share, met in ((0.1, True), (0.09, False)):
            measured = run(mp=5)
            measured.benchmarks["op/64/mp"].counters["min_share"] = [share]
            self.assertEqual(self.judge(goal, measured).met, met)
        self.assertIsNone(self.judge(goal, run(mp=5)).met)

    def test_geometric_mean(self):
        targets_ = self.load({
            "operation": "op", "title": "Both", "group": "sync",
            "geometric_mean_of": ["op/2", "op/4"],
            "goals": [{"ahead_of": "peers"}]})
        names = {"op/2/mp": 1, "op/4/mp": 16, "op/2/boost": 3, "op/4/boost": 3,
                 "op/2/pipe": 1}
        measured = runs.Run({}, {
            name: runs.Benchmark(name, {0: time})
            for name, time in names.items()
        })
        verdict = targets.evaluate(targets_, measured)[0]
        self.assertAlmostEqual(verdict.mp.median, 4)
        self.assertEqual(list(verdict.peers), ["boost"])
        self.assertFalse(verdict.met)

    def test_named_benchmarks(self):
        verdict = self.judge(
            {"at_most": 2, "times": "other/floor"},
            runs.Run({}, {
                name: runs.Benchmark(name, {0: time})
                for name, time in (("mine/mp", 8), ("other/floor", 4),
                                   ("foreign/boost", 9))
            }),
            mp="mine/mp", floor="other/floor", peers=["foreign/boost"])
        self.assertTrue(verdict.met)
        self.assertEqual(verdict.mp.median, 8)
        self.assertEqual(verdict.to_floor.median, 2)
        self.assertEqual(verdict.best_peer, "boost")

    def test_a_reference_is_found_wherever_its_implementation_stands(self):
        verdict = self.judge(
            {"at_most": 2, "times": "live/locks:1/mp"},
            runs.Run({}, {
                name: runs.Benchmark(name, {0: time})
                for name, time in (("op/64/mp", 8), ("live/mp/locks:1", 4))
            }))
        self.assertEqual(verdict.goals[0].value, 2)

    def test_every_goal_counts(self):
        both = ({"ahead_of": "peers"}, {"at_most": 5, "unit": "ns"})
        for ours, boost, met in ((5, 6, True), (5, 4, False), (7, 8, False)):
            verdict = targets.evaluate(
                self.load(row(*both)), run(mp=ours, boost=boost))[0]
            self.assertEqual(verdict.met, met)

    def test_bad_files(self):
        for bad in (
            row(),
            row({"at_most": 2}),
            row({"at_most": 2, "times": "op/64/nobody"}),
            row({"times": "op/64/floor"}),
            row({"at_most": "little", "unit": "ns"}),
            {"operation": "op"},
        ):
            with self.assertRaises(targets.BadTargets, msg=bad):
                self.load(bad)
        self.path.write_text("{}")
        with self.assertRaises(targets.BadTargets):
            targets.load(self.path)


class OurTargetsTest(unittest.TestCase):

    def setUp(self):
        self.targets = targets.load(_OURS)

    def test_operations_are_unique(self):
        operations = [row["operation"] for row in self.targets.rows]
        self.assertEqual(len(operations), len(set(operations)))

    def test_every_target_can_be_missed(self):
        # A run in which ours takes a thousand times as long as all others.
        names = set()
        for each in self.targets.rows:
            for operation in each.get("geometric_mean_of",
                                      [each["operation"]]):
                names |= {f"{operation}/{name}" for name in ("mp", "floor",
                                                             "boost")}
            for goal in each["goals"]:
                names.add(goal.get("times", "best_peer"))
        for each in self.targets.rows:
            slow = copy.deepcopy(each)
            ours = slow.get("mp", f"{slow['operation']}/mp")
            mine = {ours} | {
                f"{operation}/mp"
                for operation in slow.get("geometric_mean_of", [])}
            measured = runs.Run({}, {
                name: runs.Benchmark(
                    name, {0: 1e9 if name in mine else 1.0},
                    {"min_share": [0.01]})
                for name in names | mine
            })
            verdict = targets.evaluate(
                targets.Targets([slow], self.targets.implementations, []),
                measured)[0]
            for goal in verdict.goals:
                self.assertIs(goal.met, False, (each, goal))


if __name__ == "__main__":
    unittest.main()
