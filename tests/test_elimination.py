"""experiments/elimination.py: the neurons, the objective's identities, escape and failure at a certified minimum, judge."""
import warnings

import numpy as np
import pandas as pd
import pytest

import run_local_minima
from analysis.parameters import get_parameters, set_parameters
from experiments import elimination
from experiments.elimination import Objective, descend, with_neurons
from experiments.options import flat
from experiments.runner import InvalidInput, Results
from models import NetworkConfig, build

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

TINY = {"dataset": "gaussian", "train_size": 150, "test_size": 20, "width": 10, "depth": 1, "iterations": 25}


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run("elimination", out_dir=folder, quiet=True, **options)


@pytest.fixture(scope="module")
def problem():
    """(network f, f with neurons, the neurons, objective, x, y, a point) with 2 outputs and 4 inputs."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 2))
    model = build(NetworkConfig(widths=(3,), activation="tanh", dtype="float64"), (4,), 2, seed=0)
    augmented, neurons = with_neurons(model, 0.5, seed=1)
    objective = Objective(augmented, neurons, x, y, "squared", penalty=0.3)
    theta = get_parameters(augmented)
    theta[objective.network.stop :] = 0.5 * rng.standard_normal(len(theta) - objective.network.stop)
    return model, augmented, neurons, objective, x, y, theta


def test_neurons_add_an_exponential_and_start_at_nothing(problem):
    model, augmented, neurons, objective, x, _, theta = problem
    set_parameters(augmented, np.where(np.arange(len(theta)) < objective.b.start, theta, 0.0))  # a = b = 0
    np.testing.assert_array_equal(augmented(x), model(x))
    set_parameters(augmented, theta)
    w, b, a = (v.numpy() for v in (neurons.w, neurons.b, neurons.a))
    np.testing.assert_allclose(augmented(x) - model(x), a * np.exp(x @ w + b), rtol=1e-12)
    np.testing.assert_array_equal(theta[objective.a], a)
    np.testing.assert_array_equal(theta[objective.b], b)
    np.testing.assert_array_equal(theta[objective.network], get_parameters(model))


def test_objective_gradient_and_product_are_differences(problem):
    _, augmented, _, objective, x, y, theta = problem
    value, gradient = objective(theta)
    outputs = augmented(x).numpy()
    a = theta[objective.a]
    assert value == pytest.approx(0.5 * np.sum((outputs - y) ** 2) / 9 + 0.3 * a @ a, rel=1e-12)
    rng, step = np.random.default_rng(3), 1e-5
    for _ in range(5):
        direction = rng.standard_normal(len(theta))
        (up, slope_up), (down, slope_down) = (objective(theta + s * step * direction) for s in (1, -1))
        assert gradient @ direction == pytest.approx((up - down) / (2 * step), rel=1e-6)
        difference = (slope_up - slope_down) / (2 * step)
        np.testing.assert_allclose(objective.product(theta, direction), difference, rtol=1e-5, atol=1e-5)


def test_a_finite_stationary_point_has_a_zero(problem):
    """The theorem's identity: a dL/da - dL/db = 2 penalty a^2 everywhere, so both derivatives vanish only at a = 0."""
    objective, theta = problem[3], problem[-1]
    for scale in (0.1, 1.0, 2.0):
        _, gradient = objective(scale * theta)
        a = scale * theta[objective.a]
        np.testing.assert_allclose(a * gradient[objective.a] - gradient[objective.b], 2 * 0.3 * a**2, rtol=1e-9, atol=1e-12)


def test_the_failure_path_goes_to_infinity(problem):
    """a -> 0 with a exp(b) held lowers the objective for ever, towards the loss of f + g, while f stays as it is."""
    objective, theta = problem[3], problem[-1].copy()
    values, losses = [], []
    for _ in range(12):
        value = objective(theta)[0]
        values.append(value)
        losses.append(value - 0.3 * np.sum(theta[objective.a] ** 2))
        theta[objective.a] /= 2
        theta[objective.b] += np.log(2)
    assert (np.diff(values) < 0).all()
    np.testing.assert_allclose(losses, losses[0], rtol=1e-9)
    assert values[-1] == pytest.approx(losses[0], rel=1e-6)


def test_descend_changes_only_what_is_free_and_never_rises(problem):
    objective, theta = problem[3], problem[-1]
    seen = []
    free = slice(objective.network.stop, None)
    end, steps = descend(objective, theta, free, 10, lambda t: seen.append(objective(t)[0]))
    np.testing.assert_array_equal(end[objective.network], theta[objective.network])
    assert steps == len(seen) == 10 and (np.diff([objective(theta)[0], *seen]) <= 1e-12).all()
    assert objective(end)[0] < objective(theta)[0]


def test_a_run_from_a_certified_minimum(tmp_path):
    report = run(tmp_path, **TINY, penalty=0.1, seed=[0, 1])
    table = report.results.table
    assert len(table) == 4 and (table["certificate/radius"] > 0).all()
    np.testing.assert_allclose(table["start/loss"], table["certificate/floor"], rtol=1e-8)
    # With a = 0 the loss is the network's, but the certified minimum is no stationary point any more: it is left.
    assert (table["start/slope"] > 1e-5).all() and (table["final/objective"] < table["certificate/floor"]).all()
    held = table[table["trained"] == "neurons"]
    np.testing.assert_array_equal(held["moved"], 0)
    np.testing.assert_array_equal(held["final/network_loss"], held["start/loss"])
    assert (table[table["trained"] == "all"]["moved"] > 0).all()
    assert (table["reference/loss"] < table["certificate/floor"]).all()
    for arrays in report.results.arrays.values():
        assert arrays["path/iteration"][0] == 0 and arrays["path/a"][0] == 0
        assert (np.diff(arrays["path/objective"]) <= 1e-12).all()
    assert (report.folder / "figures" / "path_from_the_minimum.png").exists()
    again = run(tmp_path / "again", **TINY, penalty=0.1, trained="all", seed=0)
    same = report.results.over(trained="all", seed=0)
    assert again.results.table["final/objective"][0] == same["final/objective"].iloc[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trained": "none"}, "unknown trained 'none'"),
        ({"penalty": 0}, "penalty must be a finite number > 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"dtype": "float32"}, "needs dtype=float64"),
        ({"activation": "tanh"}, "needs --model=mlp with --activation=relu"),
        ({"width": 3}, "width"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


# -- the judge, on tables made by hand


def row(seed, network_loss, *, objective=0.5, trained="all", a=0.1, exponent=9.0, radius=0.1):
    return {
        **flat(NetworkConfig()), "trained": trained, "penalty": 0.1, "seed": seed, "config_id": f"{trained}-{seed}",
        "certificate/radius": radius, "certificate/floor": 1.0, "final/objective": objective,
        "final/network_loss": network_loss, "reference/loss": 0.01, "final/a": a, "peak/a": 1.0,
        "final/exponent": exponent, "peak/exponent": 3.0, "final/neurons": 1.0, "peak/neurons": 1.0,
    }  # fmt: skip


def judged(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return elimination.judge(Results(pd.DataFrame(rows), {}, {}))


def test_judge():
    bad = judged([row(i, 1.0 + 0.01 * i) for i in range(3)] + [row(i, 1.0, trained="neurons") for i in range(3)])
    assert bad.outcome == "refuted" and "below the certified floor in 3 of 3" in bad.reason
    assert "a vanishing with growing exponents in 3" in bad.reason and "neurons trained alone" in bad.reason
    assert "a vanishing with growing exponents in 0" in judged([row(i, 1.0, a=0.9) for i in range(3)]).reason
    good = judged([row(i, 0.0101) for i in range(3)])
    assert good.outcome == "supported" and "minimum eliminated in 3" in good.reason
    assert judged([row(0, 1.0), row(1, 0.01)]).outcome == "undecided"  # too far spread
    assert judged([row(0, 1.0)]).outcome == "undecided"  # one seed
    assert judged([row(i, 1.0, objective=1.0) for i in range(3)]).outcome == "undecided"  # nothing escaped
    assert judged([row(i, 1.0, radius=0.0) for i in range(3)]).outcome == "undecided"  # nothing certified
    assert judged([{**row(i, 1.0), "reference/loss": 0.95} for i in range(3)]).outcome == "undecided"  # nothing suboptimal
    assert judged([row(i, 1.0, trained="neurons") for i in range(3)]).outcome == "undecided"
