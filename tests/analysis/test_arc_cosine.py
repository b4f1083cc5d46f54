"""analysis/arc_cosine.py: closed forms, units drawn at random, and the rectified network of infinite width."""
import numpy as np
import pytest

from analysis.arc_cosine import ORDERS, arc_cosine_kernel
from analysis.infinite_width_kernels import limit_kernels

X = np.random.default_rng(0).standard_normal((5, 4))
Y = np.random.default_rng(1).standard_normal((3, 4))


@pytest.mark.parametrize("order", ORDERS)
def test_one_layer_is_the_mean_over_random_units(order):
    w = np.random.default_rng(2).standard_normal((4, 400_000))
    units = [np.where(z @ w > 0, z @ w, 0) ** order * (z @ w > 0) for z in (X, Y)]
    drawn = units[0] @ units[1].T / w.shape[1]
    factor = drawn.sum() / arc_cosine_kernel(X, Y, order=order, depth=1).sum()
    assert factor == pytest.approx({0: 0.5, 1: 0.5, 2: 1.5}[order], rel=0.03)  # E of u^2n over half of the units
    np.testing.assert_allclose(arc_cosine_kernel(X, Y, order=order, depth=1) * factor, drawn, atol=0.05 * drawn.max())


@pytest.mark.parametrize("depth", [1, 3])
def test_order_one_is_a_rectified_network_of_infinite_width(depth):
    options = {"architecture": "fcn", "activation": "relu", "weight_variance": 2.0, "bias_variance": 0.0}
    nngp, _ = limit_kernels(X, Y, depth=depth, **options)
    found = arc_cosine_kernel(X, Y, order=1, depth=depth)
    np.testing.assert_allclose(found / found[0, 0], nngp / nngp[0, 0], rtol=1e-7)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_it_is_a_kernel_and_inputs_of_norm_one_keep_it(order, depth):
    x = X / np.linalg.norm(X, axis=1, keepdims=True)
    kernel = arc_cosine_kernel(x, x, order=order, depth=depth)
    np.testing.assert_allclose(np.diag(kernel), 1, atol=1e-6)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-12)
    assert np.linalg.eigvalsh(kernel)[0] > -1e-7


def test_an_input_of_nothing_has_no_angle():
    assert np.isfinite(arc_cosine_kernel(np.zeros((1, 4)), Y, order=1, depth=2)).all()


@pytest.mark.parametrize(("order", "depth", "y"), [(3, 1, Y), (1, 0, Y), (1, 1, Y[:, :2])])
def test_refused(order, depth, y):
    with pytest.raises(ValueError, match=r"order must be one of|inputs must be"):
        arc_cosine_kernel(X, y, order=order, depth=depth)
