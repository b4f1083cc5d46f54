"""analysis/statistics.py against SciPy's own tests, closed forms and degenerate data."""
import warnings

import numpy as np
import pytest
from scipy import stats

from analysis.statistics import (
    leave_one_out_error,
    mean_correlation,
    monotone_trend,
    one_sided_p,
    paired_difference,
    rank_correlation,
    t_interval,
)


@pytest.fixture(autouse=True)
def warnings_fail():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_t_interval_matches_scipy_and_drops_nan():
    values = [1.0, 2.0, 4.0, 8.0]
    got = t_interval([*values, np.nan])
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([got.low, got.high], [low, high], rtol=1e-12)
    assert (got.n, got.dropped) == (4, 1)


def test_a_mean_of_correlations_lies_between_minus_one_and_one():
    whole, cut = t_interval([-0.9, -1.0, -0.7]), mean_correlation([-0.9, -1.0, -0.7])
    assert whole.low < -1 and (cut.low, cut.high) == (-1, whole.high)
    assert (cut.mean, cut.std, cut.n) == (whole.mean, whole.std, whole.n)  # what tests use stays
    assert mean_correlation([0.9, 1.0, 0.7]).high == 1 and mean_correlation([0.1, 0.2]) == t_interval([0.1, 0.2], 0.95)
    assert np.isnan(mean_correlation([0.5]).low) and mean_correlation([]).n == 0


def test_t_interval_of_few_or_constant_values():
    one = t_interval([3.0])
    assert one.mean == 3.0 and np.isnan(one.low) and np.isnan(one.high)
    assert t_interval([np.nan]).n == 0
    constant = t_interval([0.1, 0.1, 0.1])
    assert (constant.low, constant.high, constant.std) == (constant.mean, constant.mean, 0.0)
    with pytest.raises(ValueError, match="level"):
        t_interval([1, 2], level=95)


def test_paired_difference_matches_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 1, 8), rng.normal(0, 1, 8)
    got = paired_difference(a, b)
    assert got.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10)
    assert got.std == pytest.approx((a - b).std(ddof=1))


def test_one_sided_p_matches_scipy_and_the_sign_flip_test_of_ties():
    values = np.random.default_rng(0).normal(0.5, 1, 7)
    for bound in (0.0, 0.8):
        want = stats.ttest_1samp(values, bound, alternative="greater").pvalue
        assert one_sided_p(t_interval(values), bound) == pytest.approx(want, rel=1e-10)
        assert one_sided_p(t_interval(values), bound, above=False) == pytest.approx(1 - want, rel=1e-10)
    assert one_sided_p(t_interval([0.1] * 5)) == 2**-5
    assert one_sided_p(t_interval([0.1] * 5), 0.1) == 1.0
    assert one_sided_p(t_interval([0.1 + 1e-16, 0.1, 0.1])) == 2**-3  # rounding is no spread
    assert np.isnan(one_sided_p(t_interval([1.0])))


def test_paired_direction():
    base = np.arange(6.0)
    assert paired_difference(base + [1, 1.1, 0.9, 1, 1.2, 0.8], base).direction == "greater"
    assert paired_difference(base, base + [1, 1.1, 0.9, 1, 1.2, 0.8]).direction == "less"
    assert paired_difference(base, base).direction == "undecided"
    assert paired_difference(base, base).p_value == 1.0
    assert paired_difference([1.0], [0.0]).direction == "undecided"
    assert paired_difference([1, 2, np.nan], [0, 0.5, 1]).dropped == 1
    with pytest.raises(ValueError, match="paired"):
        paired_difference([1, 2], [1])


def grid(table, levels=(16, 32, 64, 128)):
    table = np.asarray(table, float)
    row, column = np.indices(table.shape)
    return np.asarray(levels)[column.ravel()], table.ravel(), row.ravel()


def test_trend_slope_and_direction():
    rng = np.random.default_rng(1)
    table = 3 * np.arange(4) + rng.normal(0, 0.1, (5, 4))
    up = monotone_trend(*grid(table))
    assert up.direction == "increasing" and up.slope.low < 3 < up.slope.high
    slopes = [stats.linregress(np.arange(4), block).slope for block in table]
    assert up.slope.mean == pytest.approx(np.mean(slopes)) and up.slope.std == pytest.approx(np.std(slopes, ddof=1))
    assert monotone_trend(*grid(-table)).direction == "decreasing"
    assert monotone_trend(*grid(rng.normal(size=(5, 4)))).direction == "undecided"


def test_trend_drops_blocks_and_refuses_little_data():
    table = np.arange(4) + np.array([[0.0], [0.1], [0.2]]) + np.arange(12).reshape(3, 4) % 3 * 0.01
    table[1, 2] = np.nan
    assert (monotone_trend(*grid(table)).dropped, monotone_trend(*grid(table)).blocks) == (1, 2)
    assert monotone_trend(*grid(table[:1])).direction == "undecided"
    assert monotone_trend([8, 8], [1.0, 2.0], [0, 1]).direction == "undecided"
    constant = monotone_trend(*grid(np.ones((3, 4))))
    assert constant.direction == "undecided" and constant.slope.mean == 0
    two = monotone_trend([8, 16] * 3, [1, 2, 1, 2.1, 1, 1.9], [0, 0, 1, 1, 2, 2])
    assert two.direction == "increasing"
    with pytest.raises(ValueError, match="at most once"):
        monotone_trend([8, 8], [1, 2], [0, 0])
    with pytest.raises(ValueError, match="> 0"):
        monotone_trend([0, 8], [1, 2], [0, 0])


def test_rank_correlation():
    rng = np.random.default_rng(0)
    a = rng.normal(size=40)
    b = a + rng.normal(size=40)
    got, reference = rank_correlation(a, b), stats.spearmanr(a, b)
    assert got.correlation == pytest.approx(reference.statistic) and got.p_value == pytest.approx(reference.pvalue)
    assert got.low < got.correlation < got.high
    perfect = rank_correlation(np.arange(6), np.arange(6) ** 3)
    assert perfect.correlation == 1 and 0 < perfect.low < 1 and perfect.high == 1
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5)).correlation)
    assert np.isnan(rank_correlation([1, 2, 3], [1, 3, 2]).low)


def test_leave_one_out_errors():
    x = np.arange(10.0)
    assert leave_one_out_error(x, np.full(10, 0.3)) == pytest.approx(0)
    assert leave_one_out_error(x, x, neighbours=2) == pytest.approx((8 * 0 + 2 * 1.5) / 10)  # only the ends err
    assert leave_one_out_error(np.exp(x), x, neighbours=2) == leave_one_out_error(x, x, neighbours=2)  # ranks
    y = np.array([0.0, 1.0, 2.0, 5.0])
    assert leave_one_out_error(np.zeros(4), y) == pytest.approx(np.mean(np.abs((y.sum() - y) / 3 - y)))  # all are near
    assert leave_one_out_error(x, np.where(x == 9, np.nan, x), 2) == leave_one_out_error(x[:9], x[:9], 2)
    assert np.isnan(leave_one_out_error(x[:3], x[:3]))
    both = np.stack([x, -x], axis=1)
    assert leave_one_out_error(both, x, 2) == leave_one_out_error(x, x, 2)
