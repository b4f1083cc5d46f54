"""analysis/affine_minimum.py: normal equations, scikit-learn, and the certificate tried against itself."""
import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from analysis.affine_minimum import (
    SeparableDataError,
    certify,
    embed,
    fit_affine,
    relu_mlp_weights,
    worst_direction,
)
from analysis.hessian import TrainingLoss, extreme_eigenvalues
from analysis.parameters import get_parameters, set_parameters

DIGITS = load_digits()
X, LABELS = DIGITS.data[:1437] / 16, DIGITS.target[:1437]
Y = np.eye(10)[LABELS]


def mlp(widths, inputs=64, outputs=10, dtype="float64"):
    return keras.Sequential([keras.Input((inputs,), dtype=dtype),
                             *[keras.layers.Dense(w, activation="relu", dtype=dtype) for w in widths],
                             keras.layers.Dense(outputs, dtype=dtype)])


@pytest.fixture(scope="module")
def affine():
    return fit_affine(X, Y)


@pytest.fixture(scope="module")
def noisy():
    """Half the labels drawn anew: far from separable."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(len(X)) < 0.5, rng.integers(0, 10, len(X)), LABELS)


def patterns(model, x=X):
    h, signs = x, []
    for w, b in relu_mlp_weights(model)[:-1]:
        signs.append(h @ w + b > 0)
        h = np.maximum(h @ w + b, 0)
    return signs


# ---- the affine minimum

def test_squared_minimum_solves_the_normal_equations(affine):
    design = np.hstack([X, np.ones((len(X), 1))])           # constant pixels make it rank-deficient
    best = np.linalg.lstsq(design, Y, rcond=None)[0]
    assert affine.loss == pytest.approx(0.5 * np.mean(np.sum((design @ best - Y)**2, 1)), rel=1e-12)
    gradient = design.T @ (design @ np.vstack([affine.weight, affine.bias]) - Y) / len(X)
    assert np.linalg.norm(gradient) < 1e-13 and affine.gradient_norm < 1e-13
    assert affine.rank == 9 and affine.converged           # one-hot rows sum to 1, so the columns of A sum to 0


def test_images_are_flattened(affine):
    np.testing.assert_array_equal(fit_affine(X.reshape(-1, 8, 8, 1), Y).weight, affine.weight)


def test_reduced_rank_minimum_beats_random_maps_of_its_rank(affine):
    low = fit_affine(X, Y, rank=3)
    assert np.linalg.matrix_rank(low.weight) == 3 == low.rank and low.rank_constrained
    assert low.loss > affine.loss and low.gradient_norm < 1e-13
    v, s, ut = np.linalg.svd(affine.weight, full_matrices=False)
    rng = np.random.default_rng(0)
    for scale in (0, 1e-3, 1e-2):
        left, right = v[:, :3] * s[:3] + scale * rng.normal(size=(64, 3)), ut[:3] + scale * rng.normal(size=(3, 10))
        fitted = (X - X.mean(0)) @ left @ right + Y.mean(0)
        assert 0.5 * np.mean(np.sum((fitted - Y)**2, 1)) > low.loss
    assert not fit_affine(X, Y, rank=9).rank_constrained


@pytest.mark.parametrize("count", [200, 1437])
def test_separable_data_are_named(count):
    with pytest.raises(SeparableDataError, match="squared"):
        fit_affine(X[:count], Y[:count], loss="cross_entropy")


def test_missing_class_is_named():
    targets = np.eye(11)[LABELS]
    with pytest.raises(SeparableDataError, match="class 10"):
        fit_affine(X, targets, loss="cross_entropy")


@pytest.mark.slow
def test_cross_entropy_matches_scikit_learn(noisy):
    x = X[:, X.std(0) > 0.2]    # rarely inked pixels leave the peer short of the minimum after 5 000 iterations
    got = fit_affine(x, np.eye(10)[noisy], loss="cross_entropy")
    assert got.converged and got.gradient_norm <= 1e-6
    peer = LogisticRegression(C=np.inf, tol=1e-7, max_iter=2000).fit(x, noisy)
    log_p = peer.predict_log_proba(x)[np.arange(len(x)), noisy]
    assert got.loss == pytest.approx(-log_p.mean(), abs=1e-6)
    assert got.loss <= -log_p.mean() + 1e-9
    every_pixel = fit_affine(X, np.eye(10)[noisy], loss="cross_entropy")
    assert every_pixel.converged and every_pixel.gradient_norm <= 1e-6 and every_pixel.loss < got.loss


def test_soft_labels_have_a_minimum_on_separable_images():
    got = fit_affine(X, 0.9 * Y + 0.01, loss="cross_entropy")
    assert got.converged and got.loss > 0


def test_unusable_arrays_are_refused():
    for arguments, message in (((X, Y[:-1]), "same n"), ((X, LABELS), "same n"), ((X * np.nan, Y), "finite")):
        with pytest.raises(ValueError, match=message):
            fit_affine(*arguments)
    with pytest.raises(ValueError, match="loss must be"):
        fit_affine(X, Y, loss="hinge")
    with pytest.raises(ValueError, match="probabilities"):
        fit_affine(X, 2 * Y, loss="cross_entropy")
    with pytest.raises(ValueError, match="rank"):
        fit_affine(X, Y, loss="cross_entropy", rank=3)


# ---- the network

@pytest.mark.parametrize("spare", ["active", "inactive"])
def test_embedded_network_is_a_certified_local_minimum(affine, spare):
    model = mlp((32, 32, 32))
    embed(affine, model, X, spare=spare)
    outputs = model.predict(X, verbose=0)
    np.testing.assert_allclose(outputs, X @ affine.weight + affine.bias, atol=1e-10)
    training = TrainingLoss(model, X, Y, "squared", batch_size=500)
    assert np.linalg.norm(training.value_and_gradient()[1]) <= 1e-9
    certificate = certify(model, affine, X, Y, loss="squared")
    assert certificate.radius > 0.05 and min(certificate.unit_margin) > 0 and certificate.max_output_error < 1e-10
    assert certificate.loss == pytest.approx(training.value(), rel=1e-12)
    assert 0 <= certificate.gap < 1e-10 and certificate.gradient_norm < 1e-13
    signs = np.concatenate([s.ravel() for s in patterns(model)])
    assert signs.all() == (spare == "active")
    if spare == "active":
        ends = extreme_eigenvalues(training.hessian())
        assert ends.largest_converged and ends.smallest_converged and ends.products <= 50
        assert ends.smallest >= -1e-8
        assert max(ends.smallest_relative_residual, ends.largest_relative_residual) <= 1e-6


@pytest.mark.slow
def test_no_random_point_of_the_ball_is_lower(affine):
    model = mlp((32, 32, 32))
    embed(affine, model, X)
    certificate, theta = certify(model, affine, X, Y, loss="squared"), get_parameters(model)
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(1000, len(theta)))
    radii = certificate.radius * rng.random(1000) / np.linalg.norm(directions, axis=1)
    losses = TrainingLoss(model, X, Y, "squared", batch_size=1437).values_at(theta + radii[:, None] * directions)
    assert losses.min() >= certificate.loss_floor


def test_functional_model_with_separate_relu_layers(affine):
    inputs = keras.Input((8, 8, 1), dtype="float64")
    h = keras.layers.Flatten(dtype="float64")(inputs)
    h = keras.layers.ReLU(dtype="float64")(keras.layers.Dense(12, dtype="float64")(h))
    h = keras.layers.Activation("relu", dtype="float64")(keras.layers.Dense(11, dtype="float64")(h))
    model = keras.Model(inputs, keras.layers.Dense(10, dtype="float64")(h))
    embed(affine, model, X.reshape(-1, 8, 8, 1))
    assert [w.shape for w, _ in relu_mlp_weights(model)] == [(64, 12), (12, 11), (11, 10)]
    assert certify(model, affine, X.reshape(-1, 8, 8, 1), Y, loss="squared").max_output_error < 1e-10


def test_unfit_models_are_refused(affine):
    with pytest.raises(ValueError, match="width 8 is below the affine map's rank 9"):
        embed(affine, mlp((32, 8)), X)
    with pytest.raises(ValueError, match="features"):
        embed(affine, mlp((32,), inputs=63), X)
    D, inputs = keras.layers.Dense, keras.Input((64,))
    relu = D(9, activation="relu")
    for layers in ([D(9, activation="tanh"), D(10)], [D(9), D(10)], [D(10)],
                   [D(9, activation="relu", use_bias=False), D(10)], [relu, D(10, activation="relu")],
                   [keras.layers.Rescaling(2.0), relu, D(10)],
                   [D(9), keras.layers.LeakyReLU(), D(10)], [D(9), keras.layers.ReLU(max_value=6), D(10)]):
        with pytest.raises(ValueError, match="no ReLU mlp"):
            relu_mlp_weights(keras.Sequential([keras.Input((64,)), *layers]))
    h = D(64, activation="relu")(inputs)
    with pytest.raises(ValueError, match="no ReLU mlp"):
        relu_mlp_weights(keras.Model(inputs, D(10)(keras.layers.Add()([h, inputs]))))


# ---- the certificate against itself

def test_one_hidden_layer_is_tight(affine):
    model = mlp((16,))
    embed(affine, model, X, shift=1.0)
    certificate, theta = certify(model, affine, X, Y, loss="squared"), get_parameters(model)
    w, b = relu_mlp_weights(model)[0]
    distance = np.abs(X @ w + b) / np.sqrt(np.sum(X**2, 1) + 1)[:, None]       # to each unit's switching hyperplane
    example, unit = np.unravel_index(distance.argmin(), distance.shape)
    assert certificate.radius == pytest.approx(distance.min(), rel=1e-8) and certificate.radius <= distance.min()
    direction = worst_direction(model, X, 0, unit, example)
    assert np.linalg.norm(direction) == pytest.approx(1)
    set_parameters(model, theta + certificate.radius * direction)
    assert patterns(model)[0].all()
    set_parameters(model, theta + (1 + 1e-6) * certificate.radius * direction)
    assert not patterns(model)[0][example, unit]


def test_no_attack_on_the_sphere_switches_a_unit(affine):
    model = mlp((12, 12, 12))
    embed(affine, model, X, shift=1.0)
    radius, theta = certify(model, affine, X, Y, loss="squared").radius, get_parameters(model)
    h = X
    for layer, (w, b) in enumerate(relu_mlp_weights(model)[:-1]):
        z = h @ w + b
        example, unit = np.unravel_index((np.abs(z) / np.sqrt(np.sum(h**2, 1) + 1)[:, None]).argmin(), z.shape)
        point = theta
        for _ in range(5):          # projected gradient descent on |z| towards the sphere
            set_parameters(model, point)
            moved = point + radius * worst_direction(model, X, layer, unit, example) - theta
            point = theta + radius * moved / np.linalg.norm(moved)
        set_parameters(model, point)
        assert all(s.all() for s in patterns(model))
        set_parameters(model, theta + 30 * (point - theta))     # the attack does switch units once it may go further
        assert not all(s.all() for s in patterns(model))
        set_parameters(model, theta)
        h = np.maximum(z, 0)


def test_blocks_of_examples_do_not_change_the_radius(affine, monkeypatch):
    model = mlp((12, 12))
    embed(affine, model, X)
    whole = certify(model, affine, X, Y, loss="squared")
    monkeypatch.setattr("analysis.affine_minimum._BLOCK", 100)
    parts = certify(model, affine, X, Y, loss="squared")
    assert parts.radius == pytest.approx(whole.radius, rel=1e-8) and parts.unit_margin == whole.unit_margin


def test_units_that_switch_leave_nothing_certified(affine):
    keras.utils.set_random_seed(0)
    certificate = certify(mlp((16, 16)), affine, X, Y, loss="squared")
    assert certificate.radius == 0 and np.isnan(certificate.loss_floor) and 0 in certificate.unit_margin


@pytest.mark.slow
def test_inexact_minimum_lowers_the_floor_and_the_floor_holds(noisy):
    targets = np.eye(10)[noisy]
    rough = fit_affine(X, targets, loss="cross_entropy", tolerance=1e-2)
    exact = fit_affine(X, targets, loss="cross_entropy")
    model = mlp((16, 16))
    embed(rough, model, X)
    certificate = certify(model, rough, X, targets, loss="cross_entropy")
    assert rough.loss > exact.loss and certificate.loss_floor < rough.loss - 1e-6 and certificate.gap > 0
    training, theta = TrainingLoss(model, X, targets, "cross_entropy"), get_parameters(model)
    gradient = training.value_and_gradient()[1]
    steps = certificate.radius * np.geomspace(1e-6, 1, 7)[:, None] * gradient / np.linalg.norm(gradient)
    downhill = training.values_at(theta - steps).min()
    assert certificate.loss_floor <= downhill < certificate.loss


def test_map_motion_bounds_the_effective_map(affine):
    from analysis.affine_minimum import _map_motion
    model = mlp((12, 12))
    embed(affine, model, X, shift=2.0)
    theta, radius = get_parameters(model), certify(model, affine, X, Y, loss="squared").radius
    weights = relu_mlp_weights(model)
    bound = _map_motion(weights, [np.ones(12, bool)] * 2, affine, radius)
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(50):
        step = rng.normal(size=len(theta))
        set_parameters(model, theta + radius * step / np.linalg.norm(step))
        a, c = np.eye(64), np.zeros(64)
        for w, b in relu_mlp_weights(model):
            a, c = a @ w, c @ w + b
        worst = max(worst, np.hypot(np.linalg.norm(a - affine.weight), np.linalg.norm(c - affine.bias)))
    assert 0 < worst <= bound


@pytest.mark.slow
def test_rank_constrained_minimum_needs_a_narrow_network():
    low = fit_affine(X, Y, rank=4)
    model = mlp((16, 4))
    embed(low, model, X)
    certificate = certify(model, low, X, Y, loss="squared")
    assert certificate.radius > 0 and 0 <= certificate.gap < 1e-10
    training, theta = TrainingLoss(model, X, Y, "squared"), get_parameters(model)
    assert np.linalg.norm(training.value_and_gradient()[1]) < 1e-9
    steps = np.random.default_rng(0).normal(size=(100, len(theta)))
    steps *= certificate.radius / np.linalg.norm(steps, axis=1, keepdims=True)
    assert training.values_at(theta + steps).min() >= certificate.loss_floor
    wide = mlp((16, 5))
    embed(low, wide, X)
    with pytest.raises(ValueError, match="narrowest"):
        certify(wide, low, X, Y, loss="squared")


def test_float32_model_is_measured_as_stored(affine):
    model = mlp((32, 32), dtype="float32")
    embed(affine, model, X)
    certificate = certify(model, affine, X, Y, loss="squared")
    assert 1e-10 < certificate.max_output_error < 1e-4 and certificate.radius > 0.05
    assert certificate.loss_floor <= certificate.loss
