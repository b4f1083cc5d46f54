"""The last layer solved exactly: least squares of minimum norm, and ridge with its penalty chosen on the training set.

With features of fixed first layers these are the random-feature models of Belkin et al. 2019 ("Reconciling modern
machine-learning practice and the classical bias-variance trade-off", PNAS 116, 1812.11118, section 2).
"""
import numpy as np
from scipy.linalg import lstsq
from sklearn.linear_model import RidgeCV


def minimum_norm_solution(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, int]:
    """(weights [p, k], rank): of all least-squares solutions of features @ weights = targets the one of smallest norm.

    features [n, p], targets [n, k]; computed in float64. Singular values below rounding (max(n, p) epsilons of the
    largest one) count as zero.
    """
    features = np.asarray(features, np.float64)
    cut = max(features.shape) * np.finfo(np.float64).eps
    weights, _, rank, _ = lstsq(features, np.asarray(targets, np.float64), cond=cut, lapack_driver="gelsd")
    return weights, int(rank)


def ridge_solution(features: np.ndarray, targets: np.ndarray, penalties: np.ndarray) -> tuple[np.ndarray, float]:
    """(weights [p, k], penalty): ridge regression whose penalty has the smallest leave-one-out error on these examples.

    Minimizes ||features @ w - targets||^2 + penalty ||w||^2; the leave-one-out errors are exact (scikit-learn's
    RidgeCV). One penalty for all outputs.
    """
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    model = RidgeCV(penalties, fit_intercept=False).fit(features, targets)
    return np.atleast_2d(model.coef_).T, float(model.alpha_)
