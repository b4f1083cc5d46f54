"""analysis/dense_mlp.py: derivatives against Keras and against differences, what is refused."""
import numpy as np
import pytest

from analysis.dense_mlp import ACTIVATIONS, DenseMLP
from analysis.hessian import TrainingLoss
from analysis.ntk import empirical_ntk
from analysis.parameters import get_parameters
from models import NetworkConfig, build


def random_problem(widths=(4, 3), n=7, k=2, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, k)), widths


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives_are_those_of_the_keras_network(activation):
    x, y, widths = random_problem()
    network = NetworkConfig(widths=widths, activation=activation, dtype="float64")
    model = build(network, (5,), 2, seed=3)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:  # biases too
        variable.assign(rng.standard_normal(variable.shape))
    theta, dense = get_parameters(model), DenseMLP(x, y, widths, activation)
    surface = TrainingLoss(model, x, y, "squared")
    value, gradient = surface.value_and_gradient()
    found = dense.value_and_gradient(theta)
    assert found[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(found[1], gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dense.outputs(theta), model(x).numpy(), rtol=1e-12, atol=1e-12)
    jacobian = dense.jacobian(theta)
    np.testing.assert_allclose(jacobian @ jacobian.T, empirical_ntk(model, x).reshape(14, 14), rtol=1e-9, atol=1e-10)
    hessian = dense.hessian(theta)
    products = np.stack([surface.product(e) for e in np.eye(len(theta))])
    np.testing.assert_allclose(hessian, products, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("activation", ["tanh", "erf", "leaky_relu"])
def test_derivatives_are_differences(activation):
    x, y, widths = random_problem(seed=4)
    dense = DenseMLP(x, y, widths, activation)
    theta = np.random.default_rng(5).standard_normal(dense.parameter_count)
    step = 1e-5
    ends = [(theta + step * e, theta - step * e) for e in np.eye(len(theta))]
    outputs = [(dense.outputs(a) - dense.outputs(b)).ravel() / (2 * step) for a, b in ends]
    np.testing.assert_allclose(dense.jacobian(theta), np.stack(outputs, axis=1), atol=1e-8)
    slopes = [(dense.value_and_gradient(a)[1] - dense.value_and_gradient(b)[1]) / (2 * step) for a, b in ends]
    np.testing.assert_allclose(dense.hessian(theta), np.stack(slopes), atol=1e-7)


def test_preactivations_are_what_the_activations_see():
    x, y, widths = random_problem()
    dense = DenseMLP(x, y, widths, "tanh")
    theta = np.random.default_rng(1).standard_normal(dense.parameter_count)
    first, second = dense.preactivations(theta)
    kernel, bias = theta[:20].reshape(5, 4), theta[20:24]
    np.testing.assert_allclose(first, x @ kernel + bias, rtol=1e-12)
    kernel, bias = theta[24:36].reshape(4, 3), theta[36:39]
    np.testing.assert_allclose(second, np.tanh(first) @ kernel + bias, rtol=1e-12)


def test_sensitivities_and_gradients_of_preactivations_are_differences():
    x, y, widths = random_problem(seed=4)
    dense = DenseMLP(x, y, widths, "tanh")
    theta = np.random.default_rng(5).standard_normal(dense.parameter_count)
    masks = [np.zeros((7, 4), bool), np.zeros((7, 3), bool)]
    masks[0][2, 1] = masks[1][5, 0] = masks[1][0, 2] = True

    def chosen(at):
        return np.concatenate([z[mask] for z, mask in zip(dense.preactivations(at), masks)])

    step = 1e-5
    differences = [(chosen(theta + step * e) - chosen(theta - step * e)) / (2 * step) for e in np.eye(len(theta))]
    np.testing.assert_allclose(dense.preactivation_gradients(theta, masks), np.stack(differences, axis=1), atol=1e-8)
    moved = []
    for sign in (1, -1):  # the output of one unit of the first layer for one example, moved by its activation
        shift = np.zeros((7, 4))
        shift[3, 2] = sign * step

        def nudged(z, shift=shift):
            value, slope, bend = ACTIVATIONS["tanh"](z)
            return value + shift, slope, bend

        moved.append(dense.with_activations([nudged, ACTIVATIONS["tanh"]]).value_and_gradient(theta)[0])
    assert dense.sensitivities(theta)[0][3, 2] == pytest.approx((moved[0] - moved[1]) / (2 * step), abs=1e-8)


def test_bad_arrays_are_refused():
    x, y, widths = random_problem()
    with pytest.raises(ValueError, match="activation must be one of"):
        DenseMLP(x, y, widths, "swish")
    with pytest.raises(ValueError, match="as many inputs as targets"):
        DenseMLP(x[1:], y, widths, "tanh")
    with pytest.raises(ValueError, match="expected a vector of"):
        DenseMLP(x, y, widths, "tanh").outputs(np.zeros(3))
