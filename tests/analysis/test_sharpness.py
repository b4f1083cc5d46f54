"""analysis/sharpness.py: closed forms for quadratics, random corners of the box, what is refused."""
import keras
import numpy as np
import pytest

from analysis.evaluation import predict
from analysis.hessian import TrainingLoss, largest_eigenvalue
from analysis.parameters import get_parameters, set_parameters
from analysis.rescaling import rescale_layers
from analysis.sharpness import adaptive_sharpness, sharpness
from models import NetworkConfig, build


def linear_problem(curvatures=(4.0, 1.0, 0.25), at=(1.0, -2.0, 0.5), rest=0.0):
    """A loss 1/2 sum_i c_i (w_i - w*_i)^2 + rest at its minimum w = w* = `at`, as a TrainingLoss of a linear model."""
    c, w = np.array(curvatures), np.array(at)
    p = len(c)
    model = keras.Sequential(
        [keras.Input((p,), dtype="float64"), keras.layers.Dense(1, use_bias=False, dtype="float64")]
    )
    x = np.concatenate([np.diag(np.sqrt(p * c)), np.zeros((p, p))]) * np.sqrt(
        2
    )  # mean over 2p rows of 1/2 (x (w - w*))^2
    y = x @ w[:, None]
    y[p:] += np.sqrt(4 * rest)  # rows of zeros: a constant loss
    set_parameters(model, w)
    return TrainingLoss(model, x, y, "squared"), c, w


def test_full_space_has_its_closed_form_at_the_minimum_of_a_quadratic():
    surface, c, w = linear_problem(rest=0.7)
    sides = 0.1 * (np.abs(w) + 1)
    found = sharpness(surface, epsilon=0.1)
    assert found.loss == pytest.approx(0.7) and surface.value() == pytest.approx(0.7)
    rise = 0.5 * np.sum(c * sides**2)  # the maximum of a separable convex function is at a corner of the box
    assert found.value == pytest.approx(100 * rise / 1.7, rel=1e-9)
    assert found.largest == pytest.approx(0.7 + rise, rel=1e-9) and found.evaluations <= 30


def test_subspace_has_its_closed_form_in_one_dimension():
    surface, c, w = linear_problem()
    found = sharpness(surface, epsilon=0.1, dimension=1, seed=5)
    a = np.random.default_rng([5, 31]).standard_normal((3, 1))[:, 0]
    side = 0.1 * (abs(a @ w / (a @ a)) + 1)
    assert found.value == pytest.approx(100 * 0.5 * np.sum(c * a**2) * side**2, rel=1e-9)


def test_sharpness_grows_with_curvature_and_box_and_leaves_the_model_alone():
    flat_surface, sharp_surface = linear_problem()[0], linear_problem(curvatures=(40.0, 10.0, 2.5))[0]
    before = get_parameters(sharp_surface.model)
    base = sharpness(flat_surface, epsilon=0.1).value
    assert sharpness(sharp_surface, epsilon=0.1).value == pytest.approx(10 * base, rel=1e-6)
    assert sharpness(flat_surface, epsilon=0.2).value == pytest.approx(4 * base, rel=1e-6)
    np.testing.assert_array_equal(get_parameters(sharp_surface.model), before)
    first, second = (sharpness(sharp_surface, epsilon=0.1, dimension=2, seed=1) for _ in range(2))
    assert first == second


def test_the_search_beats_random_corners():
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((5,), dtype="float64"), keras.layers.Dense(6, "tanh", dtype="float64"),
                              keras.layers.Dense(3, dtype="float64")])  # fmt: skip
    x, y = rng.standard_normal((40, 5)), np.eye(3)[rng.integers(3, size=40)]
    surface = TrainingLoss(model, x, y, "cross_entropy")
    theta = get_parameters(model)
    found = sharpness(surface, epsilon=0.05)
    sides = 0.05 * (np.abs(theta) + 1)
    corners = surface.values_at(theta + sides * rng.choice([-1, 1], size=(300, len(theta))))
    assert found.largest > corners.max() > found.loss


@pytest.mark.parametrize("given", [{"epsilon": 0}, {"epsilon": 0.1, "iterations": 0}, {"epsilon": 0.1, "dimension": 4}])
def test_bad_values_are_refused(given):
    with pytest.raises(ValueError, match="need epsilon > 0"):
        sharpness(linear_problem()[0], **given)


def test_adaptive_sharpness_has_its_closed_form_at_the_minimum_of_a_quadratic():
    """There f(w + |w| u) - f(w) = 1/2 sum c_i w_i^2 u_i^2, so that the largest c_i w_i^2 has all of u."""
    surface, c, w = linear_problem(rest=0.7)
    found = adaptive_sharpness(surface, radius=0.1, iterations=60)
    assert found.loss == pytest.approx(0.7)
    assert found.value == pytest.approx(0.5 * np.max(c * w**2) * 0.1**2, rel=1e-6) and np.ptp(c * w**2) > 1
    np.testing.assert_allclose(get_parameters(surface.model), w)
    assert adaptive_sharpness(surface, radius=0.2, iterations=60).value == pytest.approx(4 * found.value, rel=1e-6)


def test_adaptive_sharpness_beats_random_moves_and_asam_s_own_step():
    model = build(NetworkConfig(width=6, depth=1, activation="tanh", dtype="float64"), (5,), 3, seed=0)
    rng = np.random.default_rng(0)
    surface = TrainingLoss(model, rng.standard_normal((40, 5)), np.eye(3)[rng.integers(3, size=40)], "cross_entropy")
    theta = get_parameters(model)
    moves = rng.standard_normal((300, len(theta)))
    moves = np.abs(theta) * 0.3 * moves / np.linalg.norm(moves, axis=1, keepdims=True)
    ascent = np.abs(theta) * surface.value_and_gradient()[1]
    step = np.abs(theta) * 0.3 * ascent / np.linalg.norm(ascent)
    rises = surface.values_at(theta + np.concatenate([moves, step[None]])) - surface.value()
    found = adaptive_sharpness(surface, radius=0.3)
    assert found.value > rises.max() > 0 and found == adaptive_sharpness(surface, radius=0.3)


def test_rescaling_layers_changes_every_measure_but_the_adaptive_one():
    """The same function, by a ReLU network whose two hidden layers' activations are 20 and 5 times as large."""
    model = build(NetworkConfig(width=8, depth=2, dtype="float64"), (4,), 3, seed=3)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if variable.name == "bias":
            variable.assign(0.3 * rng.standard_normal(variable.shape))
    x = rng.standard_normal((60, 4))
    surface = TrainingLoss(model, x, np.eye(3)[rng.integers(3, size=60)], "cross_entropy")

    def measures():
        return {
            "keskar": sharpness(surface, epsilon=1e-3).value,
            "eigenvalue": largest_eigenvalue(surface.hessian(), tolerance=1e-6).value,
            "adaptive": adaptive_sharpness(surface, radius=0.5).value,
        }

    outputs, before = predict(model, x), measures()
    rescale_layers(model, (20.0, 5.0))
    np.testing.assert_allclose(predict(model, x), outputs, rtol=1e-9, atol=1e-12)
    after = measures()
    assert after["adaptive"] == pytest.approx(before["adaptive"], rel=1e-6)
    assert after["eigenvalue"] > 5 * before["eigenvalue"]
    assert after["keskar"] > 2 * before["keskar"]


@pytest.mark.parametrize("given", [{"radius": 0}, {"radius": np.nan}, {"radius": 0.1, "iterations": 0}])
def test_bad_values_of_the_adaptive_one_are_refused(given):
    with pytest.raises(ValueError, match="need radius > 0"):
        adaptive_sharpness(linear_problem()[0], **given)
