"""analysis/hessian.py against closed forms, dense Hessians and known spectra."""
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.sparse.linalg import LinearOperator, aslinearoperator

from analysis.hessian import (
    TrainingLoss,
    extreme_eigenvalues,
    gradient_norm,
    hessian_operator,
    largest_eigenvalue,
    loss_and_gradient,
    losses_along,
)
from analysis.losses import LOSSES
from analysis.parameters import get_parameters, parameters_kept, set_parameters

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(23, 5)), np.eye(3)[RNG.integers(0, 3, 23)]


def network(dtype="float64"):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((5,), dtype=dtype), keras.layers.Dense(6, activation="tanh", dtype=dtype),
                             keras.layers.Dense(3, dtype=dtype)])


def dense(operator):
    return np.stack([operator.matvec(e) for e in np.eye(operator.shape[0])], axis=1)


def diagonal(values):
    return LinearOperator((len(values),) * 2, matvec=lambda v: values * v.ravel(), dtype=float)


def test_linear_model_has_the_closed_form_hessian():
    model = keras.Sequential(
        [keras.Input((5,), dtype="float64"), keras.layers.Dense(3, use_bias=False, dtype="float64")]
    )
    expected = np.kron(X.T @ X / len(X), np.eye(3))         # kernel [in, out], flattened row by row
    np.testing.assert_allclose(dense(hessian_operator(model, X, Y, "squared", batch_size=7)), expected, atol=1e-14)


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
def test_dense_hessian_and_gradient(loss):
    model = network()
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            value = tf.reduce_mean(LOSSES[loss](Y, model(X)))
        gradients = inner.gradient(value, model.trainable_variables)
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)
    blocks = outer.jacobian(flat, model.trainable_variables)
    expected = np.concatenate([b.numpy().reshape(len(flat), -1) for b in blocks], axis=1)
    np.testing.assert_allclose(dense(hessian_operator(model, X, Y, loss, batch_size=10)), expected, atol=1e-13)
    got_value, got = loss_and_gradient(model, X, Y, loss, batch_size=10)
    assert got.dtype == np.float64 and got_value == pytest.approx(float(value), rel=1e-13)
    np.testing.assert_allclose(got, flat.numpy(), atol=1e-14)


def test_float32_model_agrees_with_its_float64_twin():
    single, double = network("float32"), network()
    double.set_weights(single.get_weights())
    v = RNG.normal(size=57)
    expected = hessian_operator(double, X, Y, "cross_entropy").matvec(v)
    np.testing.assert_allclose(hessian_operator(single, X, Y, "cross_entropy", batch_size=5).matvec(v), expected,
                               atol=1e-5 * np.abs(expected).max())


def test_micro_batches_do_not_matter_and_nothing_is_retraced():
    model, v = network(), RNG.normal(size=57)
    whole, parts = TrainingLoss(model, X, Y, "squared"), TrainingLoss(model, X, Y, "squared", batch_size=4)
    for _ in range(3):
        set_parameters(model, RNG.normal(size=57))
        assert whole.value() == pytest.approx(parts.value(), rel=1e-14)
        np.testing.assert_allclose(whole.value_and_gradient()[1], parts.value_and_gradient()[1], atol=1e-13)
        np.testing.assert_allclose(whole.product(v), parts.product(v), atol=1e-12)
    again = TrainingLoss(model, X + 1, Y[::-1], "squared", batch_size=4)  # another training set of the same shape
    assert again.value() != parts.value()
    assert again.value() == pytest.approx(TrainingLoss(model, X + 1, Y[::-1], "squared").value(), rel=1e-14)
    graphs = parts._graphs
    for graph in (graphs.value_graph, graphs.gradient_graph, graphs.product_graph):
        assert graph.experimental_get_tracing_count() == 1


def test_an_edited_model_is_traced_anew():
    model = network()
    before = TrainingLoss(model, X, Y, "squared").value()
    model.layers[0].activation = keras.activations.linear
    after = TrainingLoss(model, X, Y, "squared").value()
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    assert after == pytest.approx(TrainingLoss(twin, X, Y, "squared").value(), rel=1e-14) and after != before


def test_weight_decay_enters_exactly_once():
    model, theta = network(), get_parameters(network())
    for layer in model.layers:
        layer.kernel_regularizer = keras.regularizers.L2(10.0)     # ignored
    plain, decayed = (TrainingLoss(model, X, Y, "squared", weight_decay=w, batch_size=6) for w in (0.0, 0.3))
    assert decayed.value() == pytest.approx(plain.value() + 0.15 * np.sum(theta**2), rel=1e-13)
    np.testing.assert_allclose(decayed.value_and_gradient()[1], plain.value_and_gradient()[1] + 0.3 * theta, atol=1e-13)
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(decayed.hessian())),
                               np.linalg.eigvalsh(dense(plain.hessian())) + 0.3, atol=1e-12)
    assert gradient_norm(model, X, Y, "squared", weight_decay=0.3) == pytest.approx(
        np.linalg.norm(decayed.value_and_gradient()[1]))


def test_batch_norm_and_dropout_stay_in_inference_mode():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4), keras.layers.BatchNormalization(),
                              keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    before = [v.numpy() for v in model.non_trainable_variables]
    first, second = (loss_and_gradient(model, X, Y, "squared") for _ in range(2))
    assert first[0] == second[0]
    for old, variable in zip(before, model.non_trainable_variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_parameters_round_trip_and_losses_along_leave_the_model():
    model = network()
    theta = get_parameters(model)
    points = [theta, 0 * theta, theta + 1]
    losses = losses_along(model, X, Y, "squared", points)
    np.testing.assert_array_equal(get_parameters(model), theta)
    assert losses[1] == pytest.approx(0.5)          # zero outputs against one-hot targets
    set_parameters(model, points[2])
    assert losses[2] == pytest.approx(TrainingLoss(model, X, Y, "squared").value(), rel=1e-14)
    with pytest.raises(ValueError, match="57"):
        losses_along(model, X, Y, "squared", [theta, theta[1:]])
    np.testing.assert_array_equal(get_parameters(model), points[2])


@pytest.mark.parametrize(("decay", "expected"), [(0.0, 0.5), (0.3, np.inf)])
def test_the_loss_at_a_point_far_away_is_that_of_the_model_there(decay, expected):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(3)])
    surface = TrainingLoss(model, X, Y, "squared", weight_decay=decay)
    point = np.zeros(surface.parameter_count)
    point[20] = -1e200  # the bias of a unit that is off
    with parameters_kept(model), np.errstate(over="ignore"):
        assert surface.value_at(point) == pytest.approx(expected, rel=1e-6)


def test_a_model_is_moved_to_a_point_and_back():
    model = network()
    theta = get_parameters(model)
    surface = TrainingLoss(model, X, Y, "squared", weight_decay=0.3, batch_size=6)
    with pytest.raises(KeyboardInterrupt), parameters_kept(model):
        value, gradient = surface.value_and_gradient_at(theta + 1)
        np.testing.assert_array_equal(get_parameters(model), theta + 1)
        assert surface.value_at(theta + 1) == value == surface.value()
        np.testing.assert_array_equal(surface.value_and_gradient()[1], gradient)
        with pytest.raises(ValueError, match=r"a point of 57 parameters, got shape \(56,\)"):
            surface.value_and_gradient_at(theta[1:])
        raise KeyboardInterrupt
    np.testing.assert_array_equal(get_parameters(model), theta)


SPECTRA = {
    "positive": np.linspace(1, 9, 200),
    "smallest is zero": np.r_[np.zeros(150), np.linspace(1, 5, 100)],
    "negative dominates": np.r_[-50.0, np.linspace(-3, 2, 200)],
    "tie in magnitude": np.r_[-4.0, np.linspace(-1, 1, 200), 4.0],
    "negative semidefinite": np.r_[np.linspace(-7, -1, 100), np.zeros(100)],
    "zero": np.zeros(100),
    "multiple of the identity": np.full(100, 0.25),
    "few parameters": np.array([-1.0, 0.5, 3.0]),
    "one parameter": np.array([-2.0]),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra(name):
    values = RNG.permutation(SPECTRA[name])
    got, scale = extreme_eigenvalues(diagonal(values)), np.abs(values).max()
    assert got.largest_converged and got.smallest_converged
    assert got.largest == pytest.approx(values.max(), abs=1e-6 * scale)
    assert got.smallest == pytest.approx(values.min(), abs=1e-6 * scale)
    assert got.smallest >= values.min() - 1e-12 * scale         # a Ritz value bounds from above
    assert got.largest_residual <= 1e-6 * scale and got.smallest_residual <= 1e-6 * scale


def test_restarts_reach_a_hard_end_with_a_small_basis():
    values = np.r_[np.linspace(0, 1, 500), 1.02, -0.02]
    got = extreme_eigenvalues(diagonal(values), basis_size=16)
    assert got.products > 16 and got.largest_converged and got.smallest_converged
    np.testing.assert_allclose([got.largest, got.smallest], [1.02, -0.02], atol=1e-8)


def test_too_few_products_are_admitted():
    values = np.linspace(-1, 1, 2000)
    got = extreme_eigenvalues(diagonal(values), max_products=12)
    assert got.products == 12 and not got.largest_converged and not got.smallest_converged
    assert -1 <= got.smallest < -0.5 and 0.5 < got.largest <= 1     # partial pairs, within the spectrum
    distance = np.abs(values - got.smallest).min()
    assert distance <= got.smallest_residual and got.smallest_relative_residual > 1e-6


def test_deterministic_and_refuses_bad_input():
    operator = diagonal(np.linspace(-1, 2, 300))
    assert extreme_eigenvalues(operator, seed=3) == extreme_eigenvalues(operator, seed=3)
    with pytest.raises(ValueError, match="square"):
        extreme_eigenvalues(LinearOperator((2, 3), matvec=lambda v: v[:2], dtype=float))
    with pytest.raises(ValueError, match="loss must be one of"):
        TrainingLoss(network(), X, Y, "hinge")
    with pytest.raises(ValueError, match="batch_size"):
        TrainingLoss(network(), X, Y, "squared", batch_size=0)


def symmetric(size, seed=0):
    matrix = np.random.default_rng(seed).standard_normal((size, size))
    return matrix + matrix.T


@pytest.mark.parametrize("size", [1, 5, 60])
def test_largest_eigenvalue_of_a_matrix(size):
    matrix = symmetric(size)
    found = largest_eigenvalue(aslinearoperator(matrix), tolerance=1e-8)
    assert found.value == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-6)
    np.testing.assert_allclose(matrix @ found.vector, found.value * found.vector, atol=1e-3 * abs(found.value))
    assert found.relative_residual < 1e-3 and np.linalg.norm(found.vector) == pytest.approx(1)


def test_the_last_eigenvector_saves_products():
    matrix = symmetric(400)
    first = largest_eigenvalue(aslinearoperator(matrix))
    moved = matrix + 0.001 * symmetric(400, seed=1)
    warm = largest_eigenvalue(aslinearoperator(moved), start=first.vector)
    cold = largest_eigenvalue(aslinearoperator(moved))
    assert warm.products < cold.products and warm.products <= 20
    assert warm.value == pytest.approx(np.linalg.eigvalsh(moved)[-1], rel=1e-2)
    again = largest_eigenvalue(aslinearoperator(moved), start=first.vector)
    assert again.value == warm.value and np.array_equal(again.vector, warm.vector)


def test_an_eigenvalue_that_does_not_converge_says_so_by_its_residual():
    found = largest_eigenvalue(aslinearoperator(symmetric(400)), tolerance=1e-12, max_restarts=1)
    assert found.relative_residual > 1e-6 and np.isfinite(found.value)


def test_largest_eigenvalue_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="need a square operator"):
        largest_eigenvalue(aslinearoperator(np.ones((3, 4))))
    with pytest.raises(ValueError, match="a start of its size"):
        largest_eigenvalue(aslinearoperator(np.eye(3)), start=np.ones(4))
