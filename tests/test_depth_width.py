"""analysis/dense_mlp.py, analysis/projection.py, experiments/depth_width.py: derivatives, the theorem, trends and verdicts."""
import itertools
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from absl import flags

import run_local_minima
from analysis.affine_minimum import embed, fit_affine
from analysis.dense_mlp import ACTIVATIONS, DenseMLP
from analysis.hessian import TrainingLoss
from analysis.ntk import empirical_ntk
from analysis.parameters import get_parameters
from analysis.projection import project_targets
from experiments import command_line, depth_width, options
from experiments.options import flat
from experiments.runner import InvalidInput, Results
from models import NetworkConfig, build, validate

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

PRESETS = [
    path
    for path in sorted((Path(__file__).parents[1] / "presets").glob("*/local_minima_*.cfg"))
    if path.stem.removeprefix("local_minima_") in ("depth_width", "elimination", "sharpness")
]
TINY = {"dataset": "gaussian", "train_size": 60, "test_size": 20, "batch_size": 20, "epochs": 3}


def random_problem(widths=(4, 3), n=7, k=2, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((n, k)), widths


# -- derivatives


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


def test_bad_arrays_are_refused():
    x, y, widths = random_problem()
    with pytest.raises(ValueError, match="activation must be one of"):
        DenseMLP(x, y, widths, "swish")
    with pytest.raises(ValueError, match="as many inputs as targets"):
        DenseMLP(x[1:], y, widths, "tanh")
    with pytest.raises(ValueError, match="expected a vector of"):
        DenseMLP(x, y, widths, "tanh").outputs(np.zeros(3))
    with pytest.raises(ValueError, match="do not fit"):
        project_targets(np.ones((3, 1)), [slice(0, 1)], np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="last layer must be linear"):
        project_targets(np.array([[1.0], [0.0]]), [slice(0, 1)], np.array([[0.0], [1.0]]), np.ones((2, 1)))


# -- the theorem


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


@pytest.mark.parametrize("widths", [(2,), (3,), (2, 2), (3, 2)])
def test_loss_equals_the_theorems_value_at_converged_smooth_minima(widths):
    """Noisy outputs of a teacher of the same widths: the minima are finite, where pure noise drives tanh units to steps."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 4))
    teacher = DenseMLP(x, np.zeros((200, 2)), widths, "tanh")
    y = teacher.outputs(rng.standard_normal(teacher.parameter_count)) + 0.1 * rng.standard_normal((200, 2))
    dense = DenseMLP(x, y, widths, "tanh")
    converged = 0
    for seed in range(3):
        start = 0.5 * np.random.default_rng([seed, 1]).standard_normal(dense.parameter_count)
        theta, counts = depth_width.stationary_point(dense, start, 1000, 60)
        loss = dense.value_and_gradient(theta)[0]
        found = project_targets(dense.jacobian(theta), dense.layers, dense.outputs(theta), y)
        assert counts["lbfgs/iterations"] > 0 and found.gap >= 0
        # loss - value is the gap at any point, converged or not: two ways of computing one number.
        assert loss - found.value == pytest.approx(found.gap, abs=1e-12)
        if found.gap <= 1e-8 * found.target:
            assert abs(loss - found.value) <= 1e-8 and np.linalg.eigvalsh(dense.hessian(theta))[0] > -1e-6
            converged += 1
    assert converged >= 1


# -- the experiment


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run("depth_width", out_dir=folder, quiet=True, **options)


def test_a_small_run(tmp_path):
    few = {**TINY, "activation": "tanh", "lbfgs_iterations": 200, "newton_iterations": 10}
    report = run(tmp_path, **few, width=[1, 2], depth=[1, 2], seed=[0, 1])
    table = report.results.table
    assert len(table) == 8 and (table["final/loss"] <= table["sgd/loss"] * (1 + 1e-12)).all()
    np.testing.assert_allclose(table["final/loss"] - table["theorem/value"], table["theorem/gap"], atol=1e-12)
    for _, row in table.iterrows():
        terms = report.results.arrays[row["config_id"]]["theorem/terms"]
        assert len(terms) == row["depth"] + 1
        assert terms.sum() == pytest.approx(row["theorem/target"] - row["theorem/value"], rel=1e-10)
    names = {path.stem for path in (report.folder / "figures").iterdir()}
    assert names == {"loss_over_width_and_depth", "gap_to_the_theorem", "terms_by_layer"}
    again = run(tmp_path / "again", **few, width=2, depth=2, seed=1)
    same = report.results.over(width=2, depth=2, seed=1)
    assert again.results.table["final/loss"][0] == same["final/loss"].iloc[0]
    assert again.verdict.outcome == "undecided"  # one seed, one width


def test_kinks_are_pre_activations_of_zero():
    dense = DenseMLP(np.array([[0.0], [1.0], [2.0]]), np.zeros((3, 1)), (2,), "relu")
    kernel, last = [1.0, -1.0], [0.3, 0.2, 0.0]
    assert depth_width.count_kinks(dense, np.array([*kernel, -1.0, 2.0, *last])) == 2  # z = x - 1 and z = 2 - x
    assert depth_width.count_kinks(dense, np.array([*kernel, -1.1, 2.5, *last])) == 0
    assert depth_width.count_kinks(dense, np.array([*kernel, -1.0 + 1e-7, 2.5, *last])) == 1


def test_a_relu_run_converges_or_is_marked(tmp_path):
    few = {**TINY, "activation": "relu", "lbfgs_iterations": 500, "newton_iterations": 10}
    report = run(tmp_path, **few, width=4, depth=[1, 3], seed=[0, 1])
    table = report.results.table
    converged = table["theorem/relative_gap"] <= depth_width.CONVERGED
    assert (converged == (table["final/converged"] == 1)).all() and converged.any()
    assert ((table["final/at_kink"] == 1) == ((table["final/kinks"] > 0) & ~converged)).all()


def test_all_diverged_is_undecided(tmp_path):
    report = run(tmp_path, **TINY, activation="relu", width=4, depth=2, seed=0, learning_rate=1e100)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "cross_entropy"}, "loss must be squared"),
        ({"dtype": "float32"}, "needs dtype=float64"),
        ({"regularizer": "weight_decay", "coefficient": 0.1}, "no regularizer"),
        ({"newton_iterations": -1}, "newton_iterations must be 0 or more"),
        ({"model": "convnet", "activation": "relu"}, "needs --model=mlp"),
        ({"width": 512}, "allowed are 8000 parameters"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "width": 2, "depth": 1, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_span_valid_grids_of_several_seeds(path):
    values = flags.FlagValues()
    command_line.define(run_local_minima.EXPERIMENTS, values)
    values(["run_local_minima.py", f"--flagfile={path}"])
    module = run_local_minima.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in options.leaves(module.Config) if values[name].value is not None}
    configs, _ = options.expand(module, given)
    assert len(PRESETS) == 6 and len({config.seed for config in configs}) >= 5
    for config in configs:
        shape = {"digits": (8, 8, 1), "gaussian": (8, 8, 1), "mnist": (28, 28, 1)}.get(config.data.dataset, (32, 32, 3))
        validate(config.network, shape, 10)
        if module is depth_width:  # its dense Hessian fits
            sizes = [int(np.prod(shape)), *depth_width.hidden_widths(config.network), 10]
            assert sum((i + 1) * o for i, o in itertools.pairwise(sizes)) <= depth_width.LARGEST


# -- the judge, on tables made by hand


def table(losses, seeds=range(4), noise=1e-3):
    """losses: {(width, depth): loss}."""
    rows = []
    for (width, depth), loss in losses.items():
        for seed in seeds:
            fields = {**flat(NetworkConfig(width=width, depth=depth, activation="tanh")), "dataset": "digits", "seed": seed}
            shift = noise * np.random.default_rng([seed, width, depth]).standard_normal()
            rows.append({**fields, "config_id": f"{width}-{depth}-{seed}", "final/loss": loss + shift, "final/converged": 1,
                         "final/at_kink": 0, "theorem/relative_gap": 1e-12})  # fmt: skip
    return rows


def judged(rows):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return depth_width.judge(Results(pd.DataFrame(rows), {}, {}))


def grid(function):
    return {(w, d): function(w, d) for w in (2, 4, 8) for d in (1, 2, 3)}


def test_judge():
    better = judged(table(grid(lambda w, d: 1 - 0.1 * np.log2(w) - 0.1 * d)))
    assert better.outcome == "supported" and "falls with width at 3 of 3 depths" in better.reason
    assert "36 of 36 runs converged" in better.reason
    worse = judged(table(grid(lambda w, d: 1 - 0.1 * np.log2(w) + 0.1 * d)))
    assert worse.outcome == "refuted" and "rises at 3" in worse.reason
    assert judged(table(grid(lambda w, d: 1 - 0.1 * np.log2(w)))).outcome == "undecided"  # depth does nothing
    assert judged(table(grid(lambda w, d: 1 - 0.1 * np.log2(w) - 0.1 * d), seeds=[0])).outcome == "undecided"
    one_width = {key: loss for key, loss in grid(lambda w, d: 1 - 0.1 * d).items() if key[0] == 2}
    assert judged(table(one_width)).outcome == "undecided"
    rows = table(grid(lambda w, d: 1 - 0.1 * np.log2(w) - 0.1 * d))
    for row in rows[:3]:
        row.update({"final/converged": 0, "final/at_kink": 1})
    assert "33 of 36" in judged(rows).reason and "3 stopped at a kink" in judged(rows).reason
    assert judged([{**flat(NetworkConfig()), "seed": 0, "diverged_epoch": 1}]).outcome == "undecided"
