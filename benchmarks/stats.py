"""Statistics of benchmark series: robust, small, and without dependencies.

Times on a shared machine have outliers on one side and change their level when
the host does. So centres are medians, spreads are quartiles, comparisons are
ratios of what ran in the same round, and a change counts only if it is outside
of what the series itself used to do and a rank test agrees.
"""

import dataclasses
import itertools
import math

# Whether two sets of repetitions differ: what is rarer than this by chance.
SIGNIFICANT = 0.01
# So many earlier runs are needed to know how noisy a series is.
LEARNING_RUNS = 8
# Outside of the quartiles by so many times the distance between them. (Tukey's
# "far out"; rustc-perf judges by the same fence.)
FENCE = 3.0


def median(values):
    """The middle one, or the mean of the two in the middle."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("the median of nothing")
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def quantile(values, fraction):
    """By linear interpolation between the two nearest values."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("a quantile of nothing")
    place = fraction * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def quartiles(values):
    return quantile(values, 0.25), quantile(values, 0.75)


def geometric_mean(values):
    logs = [math.log(value) for value in values]
    if not logs:
        raise ValueError("the mean of nothing")
    return math.exp(sum(logs) / len(logs))


def fences(values):
    """Between which nothing is unusual in a series that varies as this one."""
    low, high = quartiles(values)
    reach = FENCE * (high - low)
    return low - reach, high + reach


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Of two series, pair by pair: the median and the quartiles."""

    median: float
    q1: float
    q3: float


def paired_ratios(ours, theirs):
    """Of two dicts by round: each value by that of the same round, so that a
    host that changes its speed between rounds changes both."""
    return [
        ours[index] / theirs[index]
        for index in sorted(ours.keys() & theirs.keys())
        if theirs[index] > 0
    ]


def paired_ratio(ours, theirs):
    """What is usual among these. None if no round has both."""
    ratios = paired_ratios(ours, theirs)
    if not ratios:
        return None
    return Ratio(median(ratios), *quartiles(ratios))


def _ranks(values):
    """From 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    ranks = [0.0] * len(values)
    for _, group in itertools.groupby(
        enumerate(order, start=1), key=lambda item: values[item[1]]
    ):
        members = list(group)
        rank = sum(place for place, _ in members) / len(members)
        for _, index in members:
            ranks[index] = rank
    return ranks


# Up to so many pairs the distribution is counted out, beyond it is normal.
_EXACT_PAIRS = 400


def _exact_tail(first, second, statistic):
    """P(U <= statistic) without ties: of all ways to mix `first` and `second`
    values, how many have so few pairs in the wrong order. By the recursion over
    the largest value, as Mann and Whitney (1947) count them."""
    # ways[m][u]: of m values among the first and n among the second, for the n
    # of the outer loop.
    size = first * second + 1
    ways = [[0] * size for _ in range(first + 1)]
    for row in ways:
        row[0] = 1
    for n in range(1, second + 1):
        fresh = [[0] * size for _ in range(first + 1)]
        fresh[0][0] = 1
        for m in range(1, first + 1):
            for u in range(m * n + 1):
                from_first = fresh[m - 1][u - n] if u >= n else 0
                fresh[m][u] = from_first + ways[m][u]
        ways = fresh
    return sum(ways[first][: int(statistic) + 1]) / math.comb(
        first + second, first
    )


def mann_whitney(first, second):
    """The two-sided p-value of the Mann-Whitney U test: how likely two samples
    from one distribution would be at least as different in rank. 1 if either
    is empty. Exact for small samples without equal values; otherwise the normal
    approximation with corrections for ties and continuity."""
    m, n = len(first), len(second)
    if m == 0 or n == 0:
        return 1.0
    values = list(first) + list(second)
    u_first = sum(_ranks(values)[:m]) - m * (m + 1) / 2
    smaller = min(u_first, m * n - u_first)
    if len(set(values)) == m + n and m * n <= _EXACT_PAIRS:
        return min(1.0, 2 * _exact_tail(m, n, smaller))
    total = m + n
    ties = sum(
        count**3 - count
        for count in (len(list(same)) for _, same in
                      itertools.groupby(sorted(values)))
    )
    variance = m * n / 12 * (total + 1 - ties / (total * (total - 1)))
    if variance <= 0:
        return 1.0  # all are equal
    z = max(0.0, m * n / 2 - smaller - 0.5) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


def is_bimodal(values):
    """Whether the values lie in two heaps: then neither the median nor a band
    around it tells anything, and the points themselves should be shown. The
    widest gap between neighbours, with at least a fifth of the values on each
    side, is wider than both heaps are."""
    ordered = sorted(values)
    least = max(2, math.ceil(len(ordered) / 5))
    if len(ordered) < 2 * least:
        return False
    split = max(
        range(least, len(ordered) - least + 1),
        key=lambda index: ordered[index] - ordered[index - 1],
    )
    gap = ordered[split] - ordered[split - 1]
    left = ordered[split - 1] - ordered[0]
    right = ordered[-1] - ordered[split]
    return gap > max(left, right) and gap > 0.1 * median(ordered)


def classify(history, latest, floor=0.05):
    """What the latest run says of a series: each run, the earlier ones of
    `history` and `latest`, is a list of its repetitions (times or ratios;
    less is better). "learning" until there are LEARNING_RUNS earlier ones;
    "regressed" or "improved" if the median of the latest is outside of the
    fences of the earlier medians, off their median by more than `floor`, and
    the rank test agrees; "spread" if its values lie in two heaps; otherwise
    "unchanged"."""
    medians = [median(run) for run in history if run]
    if not latest or len(medians) < LEARNING_RUNS:
        return "learning"
    if is_bimodal(latest):
        return "spread"
    usual = median(medians)
    low, high = fences(medians)
    now = median(latest)
    slack = floor * usual
    if low - 1e-12 <= now <= high + 1e-12 or abs(now - usual) <= slack:
        return "unchanged"
    earlier = [value for run in history for value in run]
    if mann_whitney(earlier, latest) >= SIGNIFICANT:
        return "unchanged"
    return "regressed" if now > usual else "improved"
