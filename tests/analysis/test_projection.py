"""analysis/projection.py: least squares, a projection by SVD, and the theorem at a certified minimum."""
import numpy as np
import pytest

from analysis.affine_minimum import embed, fit_affine
from analysis.dense_mlp import DenseMLP
from analysis.parameters import get_parameters
from analysis.projection import project_targets
from models import NetworkConfig, build


def random_problem(widths=(4, 3), n=7, k=2, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, k)), widths


def test_a_linear_model_has_the_value_of_least_squares():
    x, y, _ = random_problem(n=30, d=4, k=3)
    dense = DenseMLP(x, y, (), "linear")
    design = np.concatenate([x, np.ones((30, 1))], axis=1)
    best = 0.5 * np.sum((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2) / 30
    theta = np.random.default_rng(0).standard_normal(dense.parameter_count)
    found = project_targets(dense.jacobian(theta), dense.layers, dense.outputs(theta), y)
    assert found.value == pytest.approx(best, rel=1e-12)
    loss = dense.value_and_gradient(theta)[0]
    assert found.gap == pytest.approx(loss - best, rel=1e-10)  # far from the optimum the gap is the excess loss
    assert found.target == pytest.approx(0.5 * np.sum(y**2) / 30) and found.ranks.tolist() == [15]


def test_terms_add_up_to_a_projection_by_svd_even_with_dependent_columns():
    x, y, widths = random_problem(n=20, widths=(3, 3))
    x[:, 1] = 0.0       # a dead pixel
    x[:, 2] = x[:, 0]   # and a copied one
    dense = DenseMLP(x, y, widths, "tanh")
    theta = np.random.default_rng(2).standard_normal(dense.parameter_count)
    jacobian, outputs = dense.jacobian(theta), dense.outputs(theta)
    found = project_targets(jacobian, dense.layers, outputs, y)
    u, s, _ = np.linalg.svd(jacobian, full_matrices=False)
    u = u[:, s > 1e-12 * s[0]]
    rest = y.ravel() - u @ (u.T @ y.ravel())
    assert found.value == pytest.approx(0.5 * rest @ rest / 20, rel=1e-9)
    assert found.terms.sum() == pytest.approx(found.target - found.value, rel=1e-12) and (found.terms >= 0).all()
    assert found.ranks.sum() == u.shape[1] < dense.parameter_count
    first = jacobian[:, dense.layers[0]]
    alone = 0.5 * np.sum((first @ np.linalg.lstsq(first, y.ravel(), rcond=1e-12)[0]) ** 2) / 20
    assert found.terms[0] == pytest.approx(alone, rel=1e-9)
    assert found.gap == pytest.approx(dense.value_and_gradient(theta)[0] - found.value, rel=1e-9)


def test_loss_equals_the_theorems_value_at_a_certified_minimum():
    """A ReLU network at its affine optimum: a differentiable local minimum that nobody had to train for."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 6)), rng.standard_normal((50, 3))
    affine = fit_affine(x, y)
    model = build(NetworkConfig(widths=(8, 8), dtype="float64"), (6,), 3, seed=0)
    embed(affine, model, x)
    dense, theta = DenseMLP(x, y, (8, 8), "relu"), get_parameters(model)
    found = project_targets(dense.jacobian(theta), dense.layers, dense.outputs(theta), y)
    assert found.value == pytest.approx(affine.loss, rel=1e-10) and found.gap < 1e-12 * found.target


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        project_targets(np.ones((3, 1)), [slice(0, 1)], np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="last layer must be linear"):
        project_targets(np.array([[1.0], [0.0]]), [slice(0, 1)], np.array([[0.0], [1.0]]), np.ones((2, 1)))
