"""analysis/rank_agreement.py: taus of tables made by hand, by the papers' sums, and the bootstrap's coverage."""
import itertools

import numpy as np
import pytest
from scipy import stats

from analysis.rank_agreement import (
    agreement,
    bootstrap_granulated,
    granulated_by_block,
    granulated_tau,
    kendall_tau,
    sign_errors,
    single_changes,
)


def grid(seeds=1, **axes):
    """(cells, blocks) of a full grid."""
    rows = list(itertools.product(range(seeds), *axes.values()))
    return {axis: [row[1 + i] for row in rows] for i, axis in enumerate(axes)}, [row[0] for row in rows]


def test_kendalls_tau_is_scipys_where_nothing_is_tied():
    rng = np.random.default_rng(0)
    measures, gap = rng.standard_normal((9, 2)), rng.standard_normal(9)
    expected = [stats.kendalltau(measures[:, i], gap).statistic for i in range(2)]
    np.testing.assert_allclose(kendall_tau(measures, gap), expected)


def test_ties_count_as_zero():
    """Three networks, of which two have the same gap: of three pairs two are right."""
    assert kendall_tau(np.array([[1.0], [2.0], [3.0]]), [0.0, 0.0, 1.0])[0] == pytest.approx(2 / 3)


def test_granulated_tau_of_a_table_made_by_hand():
    """The measure follows the width, and the gap falls with depth: right along one axis, wrong along the other."""
    cells, blocks = grid(width=[1, 2], depth=[1, 2])
    pairs = single_changes(cells, blocks)
    width, depth = np.array(cells["width"]), np.array(cells["depth"])
    agrees = agreement(pairs, np.stack([width + 10 * depth, width - 10 * depth], axis=1), width - 10 * depth)
    psi, overall = granulated_tau(pairs, agrees)
    np.testing.assert_allclose(psi, [[1, 1], [-1, 1]])
    np.testing.assert_allclose(overall, [0, 1])
    np.testing.assert_allclose(sign_errors(pairs, agrees), [[0, 0], [1, 0]])
    assert pairs.environments == (("width", 1, 2), ("depth", 1, 2))


def test_granulated_tau_is_the_papers_sum_over_lines():
    rng = np.random.default_rng(1)
    cells, blocks = grid(a=[1, 2, 3], b=[1, 2], c=["x", "y", "z", "w"])
    n = len(blocks)
    measure, gap = rng.standard_normal((n, 1)), rng.standard_normal(n)
    pairs = single_changes(cells, blocks)
    psi, overall = granulated_tau(pairs, agreement(pairs, measure, gap))
    rows = list(zip(*cells.values()))
    expected = []
    for axis in range(3):
        lines = {}
        for position, row in enumerate(rows):
            lines.setdefault(row[:axis] + row[axis + 1 :], []).append(position)
        expected.append(np.mean([kendall_tau(measure[line], gap[line])[0] for line in lines.values()]))
    np.testing.assert_allclose(psi[:, 0], expected)
    assert overall[0] == pytest.approx(np.mean(expected))
    assert len(pairs.environments) == 3 + 1 + 6


def test_networks_of_other_seeds_are_not_compared():
    cells, blocks = grid(seeds=2, a=[1, 2])
    pairs = single_changes(cells, blocks)
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist())) == [(0, 1), (2, 3)]
    agrees = agreement(pairs, np.array([[1.0], [2], [1], [2]]), [1, 2, 2, 1])
    np.testing.assert_allclose(granulated_by_block(pairs, agrees), [[1], [-1]])


def test_a_seed_that_lacks_an_axis_has_no_tau():
    cells, blocks = grid(seeds=2, a=[1, 2], b=[1, 2])
    kept = [0, 1, 2, 3, 4, 5]  # the second seed has both values of b, and one of a
    cells, blocks = {axis: [values[i] for i in kept] for axis, values in cells.items()}, [blocks[i] for i in kept]
    pairs = single_changes(cells, blocks)
    by_seed = granulated_by_block(pairs, agreement(pairs, np.arange(6.0)[:, None], np.arange(6.0)))
    assert by_seed[0, 0] == 1 and np.isnan(by_seed[1, 0])


def test_a_setting_twice_is_refused():
    with pytest.raises(ValueError, match="the same setting twice"):
        single_changes({"a": [1, 1]}, [0, 0])


def test_nothing_to_compare_is_no_tau():
    pairs = single_changes({"a": [1, 1]}, [0, 1])
    agrees = agreement(pairs, np.zeros((2, 3)), np.zeros(2))
    assert np.isnan(granulated_tau(pairs, agrees)[1]).all() and np.isnan(granulated_by_block(pairs, agrees)).all()
    assert np.isnan(bootstrap_granulated(pairs, agrees, [0, 0])).all()


def test_the_bootstrap_covers_the_truth():
    """Seeds and settings have effects of their own on the gap; the expected tau of a measure of pure noise is 0."""
    rng = np.random.default_rng(2)
    cells, blocks = grid(seeds=6, a=[1, 2], b=[1, 2], c=[1, 2], d=[1, 2])
    pairs, cell = single_changes(cells, blocks), np.tile(np.arange(16), 6)
    covered = []
    for _ in range(60):
        gap = rng.standard_normal(16)[cell] + rng.standard_normal(96)
        measure = rng.standard_normal(16)[cell] + rng.standard_normal(96)
        low, high = bootstrap_granulated(pairs, agreement(pairs, measure[:, None], gap), cell, draws=200)[:, 0]
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.88
    perfect = agreement(pairs, np.arange(96.0)[:, None], np.arange(96.0))
    np.testing.assert_allclose(bootstrap_granulated(pairs, perfect, cell, draws=50), 1)


def test_limits_of_the_bootstrap_whose_thirds_cancel_are_zero():
    """Their rounding errors, of either sign, would be written into verdicts as limits."""
    ends = []
    for seed in range(60, 140):
        rng = np.random.default_rng(seed)
        cells, blocks = grid(seeds=6, a=[1, 2, 3], b=[1, 2])
        pairs, cell = single_changes(cells, blocks), np.tile(np.arange(6), 6)
        base = np.array(cells["a"]) + 0.7 * np.array(cells["b"])
        gap = np.round(0.03 * base + 0.02 * rng.standard_normal(36), 3)
        measure = base + 0.6 * rng.standard_normal(36)
        ends += list(bootstrap_granulated(pairs, agreement(pairs, measure[:, None], gap), cell, draws=400)[:, 0])
    ends = np.array(ends)
    assert (ends == 0).any() and not (np.abs(ends[ends != 0]) < 1e-9).any() and not np.signbit(ends[ends == 0]).any()
