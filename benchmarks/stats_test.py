"""Synthetic series with known answers."""

import math
import random
import unittest

from benchmarks import stats


def runs(level, count=20, repetitions=9, noise=0.01, seed=1):
    source = random.Random(seed)
    return [
        [level * (1 + source.gauss(0, noise)) for _ in range(repetitions)]
        for _ in range(count)
    ]


class CentreTest(unittest.TestCase):

    def test_median(self):
        self.assertEqual(stats.median([3]), 3)
        self.assertEqual(stats.median([9, 1, 5]), 5)
        self.assertEqual(stats.median([4, 1, 3, 2]), 2.5)
        with self.assertRaises(ValueError):
            stats.median([])

    def test_an_outlier_does_not_move_the_median(self):
        self.assertEqual(stats.median([1, 1, 1, 1, 1e9]), 1)

    def test_quantiles(self):
        self.assertEqual(stats.quartiles([1, 2, 3, 4, 5]), (2, 4))
        self.assertEqual(stats.quantile([10, 20], 0.25), 12.5)
        self.assertEqual(stats.quantile([7], 0.99), 7)
        with self.assertRaises(ValueError):
            stats.quantile([], 0.5)

    def test_geometric_mean(self):
        self.assertAlmostEqual(stats.geometric_mean([1, 4, 16]), 4)

    def test_fences(self):
        self.assertEqual(stats.fences([1, 2, 3, 4, 5]), (2 - 6, 4 + 6))


class PairedRatioTest(unittest.TestCase):

    def test_a_slow_host_slows_both(self):
        # Ratio of medians: 300 / 100 = 3. Of what ran together, it is 2.
        ours = {0: 200, 1: 600, 2: 200, 3: 600, 4: 300}
        theirs = {0: 100, 1: 300, 2: 100, 3: 300, 4: 100}
        ratio = stats.paired_ratio(ours, theirs)
        self.assertEqual(ratio.median, 2)
        self.assertEqual((ratio.q1, ratio.q3), (2, 2))

    def test_pairs_only_what_is_in_both(self):
        ratio = stats.paired_ratio({0: 1, 2: 30, 3: 5}, {1: 7, 2: 10})
        self.assertEqual(ratio.median, 3)
        self.assertIsNone(stats.paired_ratio({0: 1}, {1: 1}))


class MannWhitneyTest(unittest.TestCase):

    def test_exact(self):
        # All three of one below all three of the other: 1 of 20 ways, and as
        # many on the other side.
        self.assertAlmostEqual(
            stats.mann_whitney([1, 2, 3], [4, 5, 6]), 2 / 20)
        self.assertAlmostEqual(
            stats.mann_whitney([4, 5, 6], [1, 2, 3]), 2 / 20)
        # U = 2: 1 + 1 + 2 of 20 ways are at most that.
        self.assertAlmostEqual(
            stats.mann_whitney([1, 2, 5], [3, 4, 6]), 2 * 4 / 20)
        # 9 and 9 without overlap: 1 of C(18, 9) ways.
        self.assertAlmostEqual(
            stats.mann_whitney(range(9), range(9, 18)),
            2 / math.comb(18, 9))

    def test_all_ways_to_mix_add_up(self):
        # At the middle of the distribution everything is as likely or less.
        self.assertEqual(stats.mann_whitney([1, 4], [2, 3]), 1)

    def test_approximation_with_ties(self):
        # The exact value for 30 and 30 with little overlap is tiny; that of
        # equal samples is 1.
        first = [1] * 15 + [2] * 15
        second = [2] * 15 + [3] * 15
        self.assertLess(stats.mann_whitney(first, second), 1e-6)
        self.assertGreater(stats.mann_whitney(first, list(first)), 0.99)
        self.assertEqual(stats.mann_whitney([5] * 9, [5] * 9), 1)

    def test_approximation_agrees_with_the_exact_one(self):
        source = random.Random(3)
        first = [source.gauss(0, 1) for _ in range(20)]
        second = [source.gauss(0.8, 1) for _ in range(20)]
        exact = stats.mann_whitney(first, second)
        # One pair more than is counted out.
        other = second + [stats.median(second)]
        self.assertAlmostEqual(
            stats.mann_whitney(first, other), exact, delta=0.4 * exact + 0.01)

    def test_false_alarms_are_as_rare_as_it_says(self):
        source = random.Random(5)
        alarms = sum(
            stats.mann_whitney([source.random() for _ in range(9)],
                               [source.random() for _ in range(9)]) < 0.05
            for _ in range(2000)
        )
        self.assertLess(alarms, 2000 * 0.07)
        self.assertGreater(alarms, 2000 * 0.02)

    def test_nothing_to_compare(self):
        self.assertEqual(stats.mann_whitney([], [1]), 1)


class BimodalTest(unittest.TestCase):

    def test_two_heaps(self):
        self.assertTrue(stats.is_bimodal([70, 72, 71, 220, 218, 221, 70]))

    def test_one_heap(self):
        self.assertFalse(stats.is_bimodal([70, 72, 71, 75, 69, 73, 74]))
        self.assertFalse(stats.is_bimodal([]))
        # One outlier is no heap; nor is what differs by little.
        self.assertFalse(stats.is_bimodal([70, 72, 71, 75, 69, 73, 400]))
        self.assertFalse(stats.is_bimodal([100, 100, 100, 101, 101, 101]))


class ClassifyTest(unittest.TestCase):

    def test_flat_noise_is_ignored(self):
        for seed in range(50):
            series = runs(100, seed=seed)
            self.assertIn(
                stats.classify(series[:-1], series[-1]),
                ("unchanged", "spread"), seed)

    def test_step(self):
        history = runs(100)
        self.assertEqual(
            stats.classify(history, runs(130, 1, seed=2)[0]), "regressed")
        self.assertEqual(
            stats.classify(history, runs(70, 1, seed=2)[0]), "improved")

    def test_spike_in_one_repetition_is_ignored(self):
        latest = runs(100, 1, seed=3)[0]
        latest[4] = 10_000
        self.assertEqual(stats.classify(runs(100), latest), "unchanged")

    def test_noisy_series_tolerates_more(self):
        history = [[100 * (1 + 0.2 * math.sin(index))] * 9
                   for index in range(20)]
        self.assertEqual(stats.classify(history, [125] * 9), "unchanged")

    def test_small_steps_are_below_the_floor(self):
        history = [[100.0] * 9] * 20
        self.assertEqual(stats.classify(history, [104.0] * 9), "unchanged")
        self.assertEqual(stats.classify(history, [104.0] * 9, floor=0.02),
                         "regressed")

    def test_two_heaps_are_shown_as_such(self):
        latest = [70, 71, 72, 70, 220, 221, 222, 219, 220]
        self.assertEqual(stats.classify(runs(70), latest), "spread")

    def test_needs_a_history(self):
        history = runs(100, stats.LEARNING_RUNS - 1)
        self.assertEqual(stats.classify(history, [500] * 9), "learning")
        self.assertEqual(stats.classify(runs(100), []), "learning")

    def test_drift_is_noticed_while_it_is_small(self):
        level = 100.0
        history = runs(level)
        while stats.classify(history[:-1], history[-1]) != "regressed":
            level *= 1.02
            self.assertLess(level, 120, "a fifth slower, and unnoticed")
            history.append(runs(level, 1, seed=int(level * 10))[0])


if __name__ == "__main__":
    unittest.main()
