"""judging/power.py: against SciPy, simulation and brute force."""
import math

import numpy as np
import pytest
from scipy import stats

from judging.power import MAX_SEEDS, POWER, power, seeds_needed


@pytest.mark.parametrize("n", [2, 3, 6, 30])
@pytest.mark.parametrize("level", [0.05, 0.025, 1e-4])
def test_power_is_of_the_noncentral_t_distribution(n, level):
    assert power(0.0, n, level) == pytest.approx(level, rel=1e-6)  # without an effect it is the level
    for effect in (0.3, 1.0, 2.5):
        expected = stats.nct.sf(stats.t.isf(level, n - 1), n - 1, effect * math.sqrt(n))
        assert power(effect, n, level) == pytest.approx(expected, abs=1e-8)


def test_power_by_simulation():
    rng = np.random.default_rng(0)
    values = 1.2 + rng.standard_normal((20_000, 5))
    found = stats.ttest_1samp(values, 0, axis=1, alternative="greater").pvalue <= 0.025
    assert power(1.2, 5, 0.025) == pytest.approx(found.mean(), abs=0.012)


def test_power_far_out():
    assert power(math.inf, 6, 0.025) == 1.0 and power(math.inf, 5, 0.025) == 0.0  # 2^-6 and 2^-5 are the p-values
    assert power(-math.inf, 100, 0.025) == 0.0
    for n in (3, 50):
        assert power(1e6, n, 0.025) == pytest.approx(1.0) and power(-1e6, n, 0.025) == pytest.approx(0.0)
        assert power(1.0, n, 0.0) == 0.0 and power(math.inf, n, 0.0) == 0.0  # nothing left of the error budget
        assert power(math.nan, n, 0.025) == 0.0
    assert power(1.0, 3, 1e-18) < 1e-6 and power(5.0, 1, 0.025) == 0.0
    grid = [power(effect, 4, 0.025) for effect in np.geomspace(0.01, 1e8, 60)]
    assert all(0 <= value <= 1 for value in grid) and np.all(np.diff(grid) >= -1e-9)


def brute_force(effects, level, at_least):
    enough = (n for n in range(at_least, MAX_SEEDS + 1) if math.prod(power(e, n, level) for e in effects) >= POWER)
    return next(enough, None)


@pytest.mark.parametrize("level", [0.025, 0.0225 / 12, 1e-5])
@pytest.mark.parametrize("at_least", [2, 3])
@pytest.mark.parametrize(
    "effects", [[5.0], [2.0], [1.0], [0.5], [0.21], [0.1], [1.0, 1.0], [0.4, 3.0, 0.7], [math.inf], [math.inf, 0.8]]
)
def test_seeds_needed_against_brute_force(effects, level, at_least):
    assert seeds_needed(iter(effects), level, at_least) == brute_force(effects, level, at_least)


def test_random_effects_against_brute_force():
    rng = np.random.default_rng(1)
    for _ in range(60):
        effects = list(np.exp(rng.uniform(-2, 2, rng.integers(1, 5))))
        level = 10 ** rng.uniform(-5, -1)
        assert seeds_needed(effects, level, 3) == brute_force(effects, level, 3), (effects, level)


def test_known_sizes():
    assert seeds_needed([1.0], 0.025) == 10  # the textbook's, of a paired t-test with 80 % power
    assert seeds_needed([0.5], 0.025) == 34
    assert seeds_needed([math.inf], 0.025, at_least=3) == 6


@pytest.mark.parametrize("effects", [[0.0], [-1.0], [math.nan], [2.0, 0.0], [-math.inf], [1e-12], [1e-200], [5e-324]])
def test_what_no_number_of_seeds_would_find(effects):
    assert seeds_needed(effects, 0.025) is None


def test_nothing_left_of_the_budget_decides_nothing():
    assert seeds_needed([3.0], 0.0) is None and seeds_needed([math.inf], 0.0) is None
