"""models/relu_interpolant.py: exact on any points, the closed form for two, an ordinary mlp, what is refused."""
import keras
import numpy as np
import pytest

from models import NetworkConfig, build
from models.relu_interpolant import relu_interpolant


def outputs(model, x):
    return model(x, training=False).numpy()


def points(n, d, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal(n)


@pytest.mark.parametrize("d", [3, 20])
def test_500_points_are_fitted_with_2n_plus_d_weights(d):
    x, y = points(500, d)
    model = relu_interpolant(x, y)
    np.testing.assert_allclose(outputs(model, x)[:, 0], y, atol=1e-6)
    assert model.count_params() == 2 * 500 + d == sum(w.size for w in model.get_weights())
    order = np.random.default_rng(1).permutation(500)  # the order of the points is not part of the function
    np.testing.assert_allclose(outputs(relu_interpolant(x[order], y[order]), x)[:, 0], y, atol=1e-6)


def test_two_points_give_the_closed_form():
    """Thresholds z_1 - g and z_1 + g/10 with g = z_2 - z_1: w_1 = y_1 / g, w_2 = (y_2 - 2 g w_1) / (0.9 g)."""
    x, y = np.array([[1.0], [3.0]]), np.array([4.0, -2.0])
    direction, thresholds, weights = (w.ravel() for w in relu_interpolant(x, y).get_weights())
    z, values = np.sort(x[:, 0] * direction[0]), y if direction[0] > 0 else y[::-1]
    gap = z[1] - z[0]
    np.testing.assert_allclose(thresholds, [z[0] - gap, z[0] + 0.1 * gap], rtol=1e-12)
    first = values[0] / gap
    np.testing.assert_allclose(weights, [first, (values[1] - 2 * gap * first) / (0.9 * gap)], rtol=1e-12)


def test_it_is_an_ordinary_mlp_with_equal_kernel_columns(tmp_path):
    x, y = points(30, 5)
    model = relu_interpolant(x, y, seed=3)
    direction, thresholds, weights = model.get_weights()
    mlp = build(NetworkConfig(widths=(30,), dtype="float64"), (5,), 1, seed=0)
    mlp.set_weights([np.repeat(direction, 30, axis=1), -thresholds, weights, np.zeros(1)])
    elsewhere, _ = points(50, 5, seed=7)
    np.testing.assert_allclose(outputs(mlp, elsewhere), outputs(model, elsewhere), rtol=1e-9, atol=1e-9)
    model.save(tmp_path / "built.keras")
    loaded = keras.models.load_model(tmp_path / "built.keras")
    np.testing.assert_array_equal(outputs(loaded, elsewhere), outputs(model, elsewhere))


def test_knots_and_projections_interleave():
    x, y = points(40, 3)
    direction, thresholds, _ = relu_interpolant(x, y).get_weights()
    z = np.sort(x @ direction[:, 0])
    assert (thresholds < z).all() and (z[:-1] < thresholds[1:]).all()


def test_points_that_cannot_be_told_apart_are_refused():
    x, y = points(5, 3)
    with pytest.raises(ValueError, match="the 6 points must differ"):
        relu_interpolant(np.vstack([x, x[:1]]), np.arange(6.0))
    for bad_x, bad_y in ((x, y[:4]), (x[:1], y[:1]), (x, y * np.nan), (x[:, 0], y)):
        with pytest.raises(ValueError, match="must be finite with n of at least 2"):
            relu_interpolant(bad_x, bad_y)
