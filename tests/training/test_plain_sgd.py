"""training/plain_sgd.py: steps against NumPy, the threshold of stability, order of the images, what is refused."""
import keras
import numpy as np
import pytest

from analysis.hessian import TrainingLoss
from analysis.parameters import get_parameters
from models import NetworkConfig, build
from training.plain_sgd import PlainSGD, batches_of

CURVATURES = np.array([4.0, 1.0, 0.25])


def quadratic():
    """1/2 sum_i c_i w_i^2 as the training loss of a linear model: x = diag(sqrt(3 c)), y = 0."""
    model = keras.Sequential(
        [keras.Input((3,), dtype="float64"), keras.layers.Dense(1, use_bias=False, dtype="float64")]
    )
    return model, PlainSGD(model, np.diag(np.sqrt(3 * CURVATURES)), np.zeros((3, 1)), "squared")


def test_full_batch_is_gradient_descent_in_closed_form():
    model, sgd = quadratic()
    start = np.array([1.0, -2.0, 0.5])
    found = sgd.walk(start, centre=np.zeros(3), rate=0.3, batch_size=3, steps=7, seed=0)
    path = [(1 - 0.3 * CURVATURES) ** step * start for step in range(1, 8)]
    np.testing.assert_allclose(found.moved, np.linalg.norm(path, axis=1), rtol=1e-12)
    np.testing.assert_allclose(get_parameters(model), path[-1], rtol=1e-12)
    assert found.farthest == pytest.approx(np.linalg.norm(path, axis=1).max())


def test_walks_on_other_data_of_a_shape_need_no_other_graph():
    model, sgd = quadratic()
    other = PlainSGD(model, np.eye(3), np.ones((3, 1)), "squared")
    for each in (sgd, other):
        each.walk(np.ones(3), centre=np.zeros(3), rate=0.1, batch_size=2, steps=4, seed=0)
    assert get_parameters(model).min() > 0.1  # drawn to 1, the targets of the second
    assert other._graph is sgd._graph and sgd._graph.experimental_get_tracing_count() == 1


@pytest.mark.parametrize(("multiple", "leaves"), [(0.9, False), (1.1, True)])
def test_gradient_descent_leaves_a_minimum_above_two_over_the_largest_eigenvalue(multiple, leaves):
    _, sgd = quadratic()
    found = sgd.walk(np.full(3, 1e-3), centre=np.zeros(3), rate=multiple * 2 / 4, batch_size=3, steps=100, seed=0)
    assert (found.farthest > 1) == leaves


def test_minibatches_against_numpy():
    """A linear network, so that NumPy is short; the images of every step are those of batches_of."""
    model = build(NetworkConfig(widths=(5,), activation="linear", dtype="float64"), (4,), 3, seed=0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((10, 4)), np.eye(3)[rng.integers(3, size=10)]
    start = get_parameters(model)
    w1, b1, w2, b2 = (v.numpy() for v in model.trainable_variables)
    for chosen in batches_of(10, 4, 5, seed=3):
        h = x[chosen] @ w1 + b1
        d = (h @ w2 + b2 - y[chosen]) / 4
        gradients = [x[chosen].T @ d @ w2.T, (d @ w2.T).sum(0), h.T @ d, d.sum(0)]
        w1, b1, w2, b2 = (value - 0.1 * g for value, g in zip((w1, b1, w2, b2), gradients))
    sgd = PlainSGD(model, x, y, "squared")
    found = sgd.walk(start, centre=start, rate=0.1, batch_size=4, steps=5, seed=3)
    expected = np.concatenate([part.ravel() for part in (w1, b1, w2, b2)])
    np.testing.assert_allclose(get_parameters(model), expected, rtol=1e-10)
    assert found.moved[-1] == pytest.approx(np.linalg.norm(expected - start))
    assert TrainingLoss(model, x, y, "squared").value() == pytest.approx(
        0.5 * np.mean(np.sum(((x @ w1 + b1) @ w2 + b2 - y) ** 2, axis=1))
    )


def test_an_order_has_every_image_once_a_pass_and_repeats_by_seed():
    rows = batches_of(10, 3, 6, seed=1)
    assert rows.shape == (6, 3)
    for a_pass in (rows[:3], rows[3:]):
        assert len(set(a_pass.ravel())) == 9
    assert not np.array_equal(rows[:3], rows[3:])
    np.testing.assert_array_equal(rows, batches_of(10, 3, 6, seed=1))
    assert not np.array_equal(rows, batches_of(10, 3, 6, seed=2))
    np.testing.assert_array_equal(batches_of(4, 4, 2, seed=0), [[0, 1, 2, 3]] * 2)


def test_a_walk_that_diverges_is_infinitely_far():
    _, sgd = quadratic()
    found = sgd.walk(np.ones(3), centre=np.zeros(3), rate=1e6, batch_size=3, steps=200, seed=0)
    assert found.farthest == np.inf and len(found.moved) == 200


@pytest.mark.parametrize("given", [{"rate": 0.0}, {"rate": np.inf}, {"steps": 0}, {"batch_size": 0}, {"batch_size": 4}])
def test_bad_values_are_refused(given):
    _, sgd = quadratic()
    with pytest.raises(ValueError, match="need a finite rate > 0"):
        sgd.walk(np.ones(3), centre=np.zeros(3), **{"rate": 0.1, "batch_size": 3, "steps": 1, "seed": 0, **given})
