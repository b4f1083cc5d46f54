"""How sure is a measured mean, difference or trend?  Student t intervals and tests over seeds (SciPy).

Values that are not finite stand for diverged runs: they are left out and counted in `dropped`, never averaged. A
direction is "undecided" when the interval holds both answers; one seed or one level never makes a direction.
"""
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats
from scipy.spatial.distance import cdist


@dataclass(frozen=True)
class Interval:
    mean: float
    low: float              # nan with fewer than two values
    high: float
    std: float              # sample standard deviation (n - 1)
    n: int                  # finite values used
    dropped: int = 0


@dataclass(frozen=True)
class PairedDifference:
    mean: float             # of a - b
    low: float
    high: float
    n: int
    p_value: float          # two-sided paired t-test
    direction: str          # of a against b: "greater", "less" or "undecided"
    dropped: int = 0
    std: float = np.nan     # sample standard deviation of the differences (n - 1)


@dataclass(frozen=True)
class Trend:
    slope: Interval         # per block: least-squares slope of the value against log2(level)
    direction: str          # "increasing", "decreasing" or "undecided"
    blocks: int             # used
    dropped: int            # blocks with a missing value


@dataclass(frozen=True)
class RankCorrelation:
    correlation: float      # nan for constant data
    low: float
    high: float
    p_value: float
    n: int
    dropped: int = 0


def _check_level(level):
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Student's interval for the mean of values [n]; low and high are nan with fewer than two finite values."""
    _check_level(level)
    values = np.asarray(values, float).ravel()
    finite = values[np.isfinite(values)]
    n, dropped = len(finite), len(values) - len(finite)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, np.nan, 0, dropped)
    mean = float(finite.mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, np.nan, 1, dropped)
    std = 0.0 if np.ptp(finite) == 0 else float(finite.std(ddof=1))
    half = float(special.stdtrit(n - 1, (1 + level) / 2)) * std / np.sqrt(n)
    return Interval(mean, mean - half, mean + half, std, n, dropped)


def mean_correlation(correlations: ArrayLike, level: float = 0.95) -> Interval:
    """t_interval of the mean of correlations [n], cut to [-1, 1], where every such mean lies."""
    found = t_interval(correlations, level)
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0)) if found.n > 1 else found


def one_sided_p(estimate: Interval | PairedDifference, bound: float = 0.0, *, above: bool = True) -> float:
    """p-value of Student's one-sided test that the mean over n values lies above (or below) a bound; nan for n < 2.

    estimate: anything with mean, std and n, such as Interval and PairedDifference.
    Values without any spread have no t statistic; n equal values, all on the right side, have the p-value of the
    sign-flip test, 2^-n: that is as much as so few values can say (ties are common among accuracies).
    """
    if estimate.n < 2:
        return np.nan
    distance = (estimate.mean - bound) * (1 if above else -1)
    if not estimate.std > 1e-12 * max(abs(estimate.mean), abs(bound)):
        return 2.0**-estimate.n if distance > 0 else 1.0
    return float(special.stdtr(estimate.n - 1, -distance / (estimate.std / np.sqrt(estimate.n))))


def _pairs(a, b):
    a, b = np.asarray(a, float).ravel(), np.asarray(b, float).ravel()
    if a.shape != b.shape:
        raise ValueError(f"a and b must be paired, got {len(a)} and {len(b)} values")
    finite = np.isfinite(a) & np.isfinite(b)
    return a[finite], b[finite], int((~finite).sum())


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> PairedDifference:
    """Is a, paired with b by seed, greater?  a, b [n]."""
    a, b, dropped = _pairs(a, b)
    difference = a - b
    interval = t_interval(difference, level)
    n, p_value, direction = len(difference), np.nan, "undecided"
    if n >= 2:
        if interval.std > 0:
            p_value = float(2 * special.stdtr(n - 1, -abs(interval.mean) / (interval.std / np.sqrt(n))))
        else:
            p_value = 1.0 if interval.mean == 0 else 0.0
        direction = "greater" if interval.low > 0 else "less" if interval.high < 0 else "undecided"
    return PairedDifference(interval.mean, interval.low, interval.high, n, p_value, direction, dropped, interval.std)


def monotone_trend(levels: ArrayLike, values: ArrayLike, blocks: ArrayLike, level: float = 0.95) -> Trend:
    """Does a measure rise or fall with the level (a width, say)?  levels, values, blocks: [m], one entry per run.

    A direction needs at least two levels and two complete blocks (seeds), and a t-interval of the per-block slopes that
    excludes 0. A block with a missing or non-finite value is dropped. Raises ValueError for unequal lengths, a level
    that is not above 0, or a block with a level twice.
    """
    _check_level(level)
    levels, values, blocks = np.asarray(levels, float), np.asarray(values, float), np.asarray(blocks)
    if not levels.shape == values.shape == blocks.shape or levels.ndim != 1:
        raise ValueError(f"levels, values and blocks must be [m], got {levels.shape}, {values.shape}, {blocks.shape}")
    if len(levels) and not (np.isfinite(levels).all() and levels.min() > 0):
        raise ValueError(f"levels must be finite and > 0 (slopes are against log2), got {levels.min()}")
    columns, column = np.unique(levels, return_inverse=True)
    names, row = np.unique(blocks, return_inverse=True)
    if len(set(zip(row.tolist(), column.tolist(), strict=True))) < len(levels):
        raise ValueError("each block must hold each level at most once")
    table = np.full((len(names), len(columns)), np.nan)
    table[row, column] = values
    complete = table[np.isfinite(table).all(axis=1)]                                    # [blocks, levels]
    dropped, undecided = len(table) - len(complete), "undecided"
    if len(columns) < 2 or len(complete) == 0:
        return Trend(t_interval([], level), undecided, len(complete), dropped)
    log_levels = np.log2(columns) - np.log2(columns).mean()
    # Differences from the first level keep a constant block at a slope of exactly 0.
    slopes = t_interval((complete - complete[:, :1]) @ log_levels / np.sum(log_levels**2), level)
    # nan limits (one block) decide nothing
    direction = "increasing" if slopes.low > 0 else "decreasing" if slopes.high < 0 else undecided
    return Trend(slopes, direction, len(complete), dropped)


def rank_correlation(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> RankCorrelation:
    """Spearman's correlation of a, b [n] with Fisher's interval, standard error sqrt((1 + r^2/2) / (n - 3)) (Bonett &
    Wright 2000); nan limits with n < 4. A perfect correlation takes the limits of the nearest imperfect one, one swap
    away, and closes the interval at +-1, as Fisher's own would have no width."""
    _check_level(level)
    a, b, dropped = _pairs(a, b)
    n = len(a)
    if n < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return RankCorrelation(np.nan, np.nan, np.nan, np.nan, n, dropped)
    r = float(np.clip(np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1], -1, 1))
    if n < 4:
        return RankCorrelation(r, np.nan, np.nan, np.nan, n, dropped)
    nearest = 1 - 12 / (n * (n**2 - 1))
    inside = float(np.clip(r, -nearest, nearest))
    half = float(special.ndtri((1 + level) / 2)) * np.sqrt((1 + inside**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(inside) - half), np.tanh(np.arctanh(inside) + half)
    if abs(r) > nearest:
        low, high = (low, 1.0) if r > 0 else (-1.0, high)
    return RankCorrelation(r, float(low), float(high), 2 * spearman_p(abs(r), n), n, dropped)


def spearman_p(correlation: float, n: int) -> float:
    """p-value of the test that Spearman's correlation of n pairs lies above 0: Student's t, as in scipy's spearmanr.

    Of minus the correlation it is that of the test that it lies below 0.
    """
    with np.errstate(divide="ignore"):
        t = correlation * np.sqrt(np.divide(n - 2, (1 + correlation) * (1 - correlation)))
    return float(special.stdtr(n - 2, -t))


def leave_one_out_error(features: ArrayLike, values: ArrayLike, neighbours: int = 3) -> float:
    """Mean absolute error of predicting each of values [n] by its nearest neighbours among the others.

    features [n] or [n, d], each replaced by its ranks over n, so that no monotone transform changes anything; equally
    near ones beyond the number of neighbours all count. Values that are not finite are left out; nan where too few are
    left to have neighbours.
    """
    features, values = np.asarray(features, float), np.asarray(values, float)
    features = features.reshape(len(values), -1)[np.isfinite(values)]
    values = values[np.isfinite(values)]
    if len(values) <= neighbours:
        return np.nan
    ranks = stats.rankdata(features, axis=0) / len(values)
    distances = cdist(ranks, ranks)
    np.fill_diagonal(distances, np.inf)
    reach = np.sort(distances, axis=1)[:, [neighbours - 1]]
    near = distances <= reach + 1e-9
    return float(np.mean(np.abs(near @ values / near.sum(axis=1) - values)))
