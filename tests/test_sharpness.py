"""analysis/sharpness.py and experiments/sharpness.py: closed forms, what is paired, the line, judge."""
import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import run_local_minima
from analysis.hessian import TrainingLoss
from analysis.parameters import get_parameters, set_parameters
from analysis.sharpness import sharpness
from experiments import sharpness as experiment
from experiments.options import flat
from experiments.runner import InvalidInput, Results
from models import NetworkConfig

pytestmark = pytest.mark.slow  # a run of the whole experiment, or many

TINY = {"train_size": 120, "test_size": 60, "width": 8, "depth": 1, "epochs": 3, "batch_size": 4, "subspace": 20,
        "hessian_products": 20}  # fmt: skip


def linear_problem(curvatures=(4.0, 1.0, 0.25), at=(1.0, -2.0, 0.5), rest=0.0):
    """A loss 1/2 sum_i c_i (w_i - w*_i)^2 + rest at its minimum w = w* = `at`, as a TrainingLoss of a linear model."""
    c, w = np.array(curvatures), np.array(at)
    p = len(c)
    model = keras.Sequential([keras.Input((p,), dtype="float64"), keras.layers.Dense(1, use_bias=False, dtype="float64")])
    x = np.concatenate([np.diag(np.sqrt(p * c)), np.zeros((p, p))]) * np.sqrt(2)  # mean over 2p rows of 1/2 (x (w - w*))^2
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


# -- the experiment


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run("sharpness", out_dir=folder, quiet=True, **options)


def test_a_small_run(tmp_path):
    report = run(tmp_path, **TINY, seed=[0, 1])
    table = report.results.table
    assert (table["small/batch_size"] == 4).all() and (table["large/batch_size"] == 12).all()
    names = [f"{batch}/{measure}" for batch in ("small", "large") for measure in ("sharpness", "subspace_sharpness")]
    assert (table[names] > 0).all().all()
    for _, row in table.iterrows():
        arrays = report.results.arrays[row["config_id"]]
        where = arrays["line/positions"]
        for position, name in ((0, "small"), (1, "large")):
            i = int(np.argmin(np.abs(where - position)))
            assert where[i] == pytest.approx(position, abs=1e-12)
            assert arrays["line/loss"][i] == pytest.approx(row[f"{name}/loss"], rel=1e-5)
            assert arrays["line/test_accuracy"][i] == row[f"{name}/test_accuracy"]
    history = report.results.histories[table["config_id"][0]]
    assert history.groupby("stage")["epoch"].max().to_dict() == {"small": 3, "large": 3}
    names = {path.stem for path in (report.folder / "figures").iterdir()}
    assert names == {"line_between_the_solutions", "small_against_large_batch"}
    assert "loss" in table and not [c for c in table if c.startswith("line/")]
    again = run(tmp_path / "again", **TINY, seed=1)
    assert again.verdict.outcome == "undecided"  # one seed
    for column in ("small/sharpness", "large/loss", "large/largest_eigenvalue"):
        assert again.results.table[column][0] == report.results.over(seed=1)[column].iloc[0]


def test_batch_norm_goes_along_the_line(tmp_path):
    options = {**TINY, "width": 2, "depth": 1, "epochs": 1, "batch_size": 8, "train_size": 100, "test_size": 20}
    report = run(tmp_path, **options, model="resnet", batch_norm=True, seed=0)
    row = report.results.table.iloc[0]
    arrays = report.results.arrays[row["config_id"]]
    i = [int(np.argmin(np.abs(arrays["line/positions"] - p))) for p in (0, 1)]
    np.testing.assert_allclose(arrays["line/loss"][i], [row["small/loss"], row["large/loss"]], rtol=1e-4)


def test_all_diverged_is_undecided(tmp_path):
    report = run(tmp_path, **TINY, seed=0, learning_rate=1e12)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"large_fraction": 0}, "large_fraction must lie in"),
        ({"batch_size": 12}, "the large batch must be larger than the small one"),
        ({"epsilon": 0}, "epsilon must be greater than 0"),
        ({"subspace": 100000}, "subspace must be at most the network's"),
        ({"large_epochs": -1}, "large_epochs must be 0"),
        ({"regularizer": "weight_decay", "coefficient": 0.1}, "regularizer must be none"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


# -- the judge, on tables made by hand


def rows(large_sharpness, large_accuracy, seeds=6):
    result = []
    for seed in range(seeds):
        noise = 0.01 * (-1) ** seed * np.ones(2)
        measures = {"small/sharpness": 1.0, "large/sharpness": large_sharpness * np.exp(noise[0]),
                    "small/test_accuracy": 0.9, "large/test_accuracy": large_accuracy + 0.1 * noise[1]}  # fmt: skip
        result.append({**flat(NetworkConfig()), "config_id": str(seed), "seed": seed, **measures})
    return result


def judged(table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return experiment.judge(Results(pd.DataFrame(table), {}, {}))


def test_judge():
    claim = judged(rows(5.0, 0.85))
    assert claim.outcome == "supported" and "6 paired seeds" in claim.reason and "accuracy 5 [" in claim.reason
    assert judged(rows(5.0, 0.9)).outcome == "undecided"  # sharper, but no worse
    assert judged(rows(5.0, 0.95)).outcome == "refuted"  # sharper and better
    assert judged(rows(0.2, 0.85)).outcome == "refuted"  # worse, but flatter
    assert judged(rows(5.0, 0.85, seeds=1)).outcome == "undecided"
    assert judged([{**flat(NetworkConfig()), "seed": 0, "diverged_epoch": 1}]).outcome == "undecided"
