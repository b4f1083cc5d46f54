"""analysis/minimum_norm.py: against the pseudo-inverse, closed forms of ridge regression and leave-one-out by hand."""
import numpy as np
import pytest

from analysis.minimum_norm import minimum_norm_solution, ridge_solution


@pytest.fixture(params=[(8, 20), (20, 8)], ids=["wide", "narrow"])
def system(request):
    rng = np.random.default_rng(0)
    n, p = request.param
    return rng.standard_normal((n, p)), rng.standard_normal((n, 3))


def test_the_least_squares_solution_of_smallest_norm(system):
    features, targets = system
    weights, rank = minimum_norm_solution(features, targets)
    np.testing.assert_allclose(weights, np.linalg.pinv(features) @ targets, atol=1e-12)
    assert rank == 8


def test_repeated_features_share_their_weight_and_lower_the_rank():
    features = np.random.default_rng(1).standard_normal((10, 4))
    targets = features @ np.ones((4, 1))
    weights, rank = minimum_norm_solution(np.concatenate([features, features], axis=1), targets)
    np.testing.assert_allclose(weights, 0.5, atol=1e-12)
    assert rank == 4


def leave_one_out(features, targets, penalty):
    """Mean squared error on each example of a ridge regression on all others."""
    total = 0.0
    for i in range(len(features)):
        h, y = np.delete(features, i, axis=0), np.delete(targets, i, axis=0)
        w = np.linalg.solve(h.T @ h + penalty * np.eye(h.shape[1]), h.T @ y)
        total += np.sum((features[i] @ w - targets[i]) ** 2)
    return total


def test_ridge_takes_the_penalty_that_leave_one_out_prefers(system):
    features, targets = system
    penalties = np.logspace(-3, 3, 13)
    weights, penalty = ridge_solution(features, targets, penalties)
    assert penalty == penalties[np.argmin([leave_one_out(features, targets, value) for value in penalties])]
    exact = np.linalg.solve(features.T @ features + penalty * np.eye(features.shape[1]), features.T @ targets)
    np.testing.assert_allclose(weights, exact, atol=1e-10)


def test_one_output_is_a_column(system):
    features, targets = system
    weights, _ = ridge_solution(features, targets[:, :1], np.array([0.1, 1.0]))
    assert weights.shape == (features.shape[1], 1)
