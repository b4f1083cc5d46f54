"""experiments/local_minima/depth_width.py: runs to stationary points, what is refused, judge and figures."""
import dataclasses
import re
import warnings

import numpy as np
import pandas as pd
import pytest

import run_local_minima
from experiments.local_minima.depth_width import CONVERGED, EXPERIMENT, principal_components
from harness import runner
from harness.runner import InvalidInput
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results
from training.data import DataConfig, load

TINY = {"dataset": "gaussian", "train_size": 30, "test_size": 20, "batch_size": 10, "epochs": 2}
BEFORE = {"inputs": 0, "hold_kinks": False, "bfgs_iterations": 0, "starts": 1}  # as in earlier versions
FEW = {**TINY, **BEFORE, "lbfgs_iterations": 200, "newton_iterations": 6}


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run("depth_width", out_dir=folder, quiet=True, **options)


# -- the experiment


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    options = {**FEW, "activation": ["tanh", "relu"], "width": 3, "depth": [1, 2], "seed": 0}
    return run(tmp_path_factory.mktemp("depth_width"), **options)


def test_the_gap_is_the_loss_above_the_theorems_value(report):
    table = report.results.table
    assert len(table) == 4 and (table["final/loss"] <= table["sgd/loss"] * (1 + 1e-12)).all()
    np.testing.assert_allclose(table["final/loss"] - table["theorem/value"], table["theorem/gap"], atol=1e-12)
    np.testing.assert_allclose(table["theorem/relative_gap"], table["theorem/gap"] / 0.5, rtol=1e-12)
    np.testing.assert_allclose(table["theorem/target"], 0.5, rtol=1e-12)  # ||Y||^2 / 2n of one-hot targets
    assert (table["theorem/outputs"] == 300).all() and (table["theorem/rank"] <= table["parameters"]).all()


def test_terms_by_layer_add_up(report):
    for _, row in report.results.table.iterrows():
        terms = report.results.arrays[row["config_id"]]["theorem/terms"]
        assert len(terms) == row["depth"] + 1
        assert terms.sum() == pytest.approx(row["theorem/target"] - row["theorem/value"], rel=1e-10)


def test_a_run_has_converged_or_is_at_a_kink_or_neither(report):
    table = report.results.table
    converged = table["theorem/relative_gap"] <= CONVERGED
    assert table["final/converged"].dtype == bool and (converged == table["final/converged"]).all() and converged.any()
    assert ((table["final/at_kink"] == 1) == ((table["final/kinks"] > 0) & ~converged)).all()
    assert (table["final/kinks"][table["activation"] == "tanh"] == 0).all()
    assert f"{converged.sum()} of 4 runs converged" in report.verdict.reason


def test_figures_and_a_verdict_for_each_activation(report):
    names = {path.stem for path in (report.folder / "figures").iterdir()}
    assert names == {"loss_over_width_and_depth", "gap_to_the_theorem", "terms_by_layer"}
    assert report.verdict.outcome == "undecided" and report.verdict.reason.count("no trend with width") == 2
    for name in ("mlp, tanh", "mlp"):
        assert re.search(rf"{name} \(undecided\): \d of 2 runs at a stationary point, no trend", report.verdict.reason)


def test_one_config_alone_measures_the_same_and_decides_nothing(report, tmp_path):
    again = run(tmp_path, **FEW, activation="tanh", width=3, depth=2, seed=0)
    same = report.results.over(activation="tanh", depth=2)
    assert again.results.table["final/loss"][0] == same["final/loss"].iloc[0]
    assert again.verdict.outcome == "undecided" and "no trend with depth" in again.verdict.reason


@pytest.mark.slow
def test_piecewise_linear_networks_get_to_stationary_points_at_kinks(tmp_path):
    options = {**TINY, "train_size": 60, "inputs": 2, "width": 2, "depth": 1, "newton_iterations": 20, "seed": [0, 1]}
    found = run(tmp_path, **options, activation=["relu", "leaky_relu"]).results.table
    assert found["final/converged"].sum() >= 3 and found["starts/taken"].between(1, 4).all()
    reached = found[found["final/converged"]]
    assert (reached["theorem/relative_gap"] <= CONVERGED).all() and (reached["final/at_kink"] == 0).all()
    assert (reached[["final/ridges", "final/outside"]] == 0).all(axis=None) and (found["parameters"] == 36).all()


def test_principal_components_have_unit_size_and_take_the_test_set_along():
    data = load(DataConfig(dataset="digits", train_size=100, test_size=20), seed=0)
    few = principal_components(data, 3)
    assert few.x_train.shape == (100, 3) and few.x_test.shape == (20, 3) and principal_components(data, 0) is data
    second = few.x_train.T @ few.x_train / 100
    np.testing.assert_allclose(second, np.eye(3), atol=1e-4)
    every = principal_components(data, 60)  # and with nearly all of them distances are kept, each direction scaled
    swapped = principal_components(dataclasses.replace(data, x_test=data.x_train[:20]), 60)
    np.testing.assert_allclose(swapped.x_test, every.x_train[:20], rtol=1e-3, atol=1e-3)


def test_all_diverged_is_undecided(tmp_path):
    report = run(tmp_path, **TINY, activation="relu", width=4, depth=2, seed=0, learning_rate=1e100)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "cross_entropy"}, "loss must be squared, got 'cross_entropy'"),
        ({"dtype": "float32"}, "needs dtype=float64"),
        ({"regularizer": "weight_decay", "coefficient": 0.1}, "no regularizer"),
        ({"newton_iterations": -1}, "newton_iterations must be 0 or more"),
        ({"model": "convnet", "activation": "relu"}, "needs --model=mlp"),
        ({"width": 512}, "allowed are 8000 parameters, got 38410"),
        ({"bfgs_iterations": -1}, "bfgs_iterations must be 0 or more"),
        ({"starts": 0}, "starts must be at least 1"),
        ({"inputs": 31}, "these data have 30 principal components, got 31"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "inputs": 0, "width": 2, "depth": 1, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


def test_results_of_earlier_versions_are_found_and_read():
    identity = runner.config_id(EXPERIMENT, EXPERIMENT.config())
    assert identity == "mlp-3x64-leaky_relu-float64-digits-150-seed=0-c4e82df139"
    before = {"final/accuracy": 1, "final/test_accuracy": 2, "final/loss": 3, "final/converged": 1}
    now = {"train/accuracy": 1, "test/accuracy": 2, "final/loss": 3, "final/converged": 1}
    assert EXPERIMENT.modernize(before) == now


# -- the judge and the figures, on tables made by hand


def table(losses, seeds=range(4), **changes):
    """losses: {(width, depth): loss}."""
    rows = []
    for (width, depth), loss in losses.items():
        for seed in seeds:
            shift = 1e-3 * np.random.default_rng([seed, width or 64, depth]).standard_normal()
            rows.append({
                **NETWORK, "width": width, "depth": depth, "activation": "tanh", "dataset": "digits", "seed": seed,
                "config_id": f"{width}-{depth}-{seed}", "final/loss": loss + shift, "final/converged": True,
                "final/at_kink": 0, "theorem/relative_gap": 1e-12, **changes,
            })  # fmt: skip
    return rows


def shape_grid(function):
    return {(w, d): function(w, d) for w in (2, 4, 8) for d in (1, 2, 3)}


BETTER = shape_grid(lambda w, d: w**-0.3 * d**-0.3)
WORSE = shape_grid(lambda w, d: w**-0.3 * d**0.3)


def test_supported_where_the_loss_falls_along_both():
    verdict = judged(EXPERIMENT, table(BETTER))
    assert verdict.outcome == "supported"
    assert "mlp, tanh (supported: falls with width and depth everywhere): 36 of 36 runs at a" in verdict.reason
    assert "at a stationary point, falls with width at 3 of 3" in verdict.reason
    assert "(exponent at depth 1: -0.3 [-0.3, -0.3], 2: " in verdict.reason
    assert "36 of 36 runs converged to the theorem's value (largest relative gap 1e-12), 0 of them at" in verdict.reason


def test_refuted_where_it_rises_or_gains_less_than_the_margin():
    worse = judged(EXPERIMENT, table(WORSE))
    assert worse.outcome == "refuted" and "falls with depth at 0 of 3 widths and rises at 3" in worse.reason
    assert "(refuted: no gain with depth at width 2, no gain with depth at width 4, no gain with" in worse.reason
    assert judged(EXPERIMENT, table(shape_grid(lambda w, d: w**-0.3))).outcome == "refuted"  # no use of depth
    little = judged(EXPERIMENT, table(shape_grid(lambda w, d: w**-0.3 * d**-0.05)))
    assert little.outcome == "refuted" and "falls with depth at 3 of 3 widths (exponent" in little.reason
    at_one_width = {(w, d): loss if w < 8 else 0.3 for (w, d), loss in BETTER.items()}
    assert "(refuted: no gain with depth at width 8)" in judged(EXPERIMENT, table(at_one_width)).reason


@pytest.mark.parametrize(("factor", "outcome"), [(1.1, "supported"), (1.5, "refuted")])
def test_the_margin_is_a_factor_a_doubling(factor, outcome):
    results = EXPERIMENT.results(pd.DataFrame(table(BETTER)), margins={"margin_factor": factor})
    assert EXPERIMENT.judge(results).outcome == outcome


def test_what_cannot_be_told_is_undecided():
    one_seed = judged(EXPERIMENT, table(BETTER, seeds=[0]))
    assert one_seed.outcome == "undecided" and "nan" not in one_seed.reason and "needs 3 seeds" in one_seed.advice
    one_width = judged(EXPERIMENT, table({key: loss for key, loss in BETTER.items() if key[0] == 2}))
    assert one_width.outcome == "undecided" and "no trend with width" in one_width.reason
    flat_depth = {key: loss for key, loss in WORSE.items() if key[0] == 2}  # and what is measured still refutes
    assert judged(EXPERIMENT, table(flat_depth)).outcome == "refuted"
    assert judged(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 1}]).outcome == "undecided"
    rng = np.random.default_rng(0)
    spread = [{**row, "final/loss": row["final/loss"] * np.exp(rng.normal(0, 1))} for row in table(BETTER)]
    assert judged(EXPERIMENT, spread).outcome == "undecided"


def test_a_width_at_which_every_run_diverged_supports_nothing():
    lost = [{**row, "final/loss": np.nan} if row["width"] == 2 and row["seed"] % 2 else row for row in table(BETTER)]
    lost = [{**row, "final/loss": np.nan} if row["width"] == 4 and not row["seed"] % 2 else row for row in lost]
    verdict = judged(EXPERIMENT, lost)  # no seed has both widths
    assert verdict.outcome == "undecided" and "at depth 1: not measured" in verdict.reason


def test_losses_that_are_rounding_have_no_trend():
    """Interpolating networks end between 1e-31 and 0: that is no fall with width."""
    zero = {key: 0.0 for key in BETTER}
    rows = [{**row, "final/loss": 0.0 if row["width"] == 8 else 1e-33 * row["width"]} for row in table(zero)]
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and "falls with width at 0 of 3 depths" in verdict.reason


@pytest.mark.parametrize(("no", "yes"), [(False, True), (0, 1), (0, True)])
def test_runs_that_did_not_converge_are_counted_also_in_results_of_earlier_versions(no, yes):
    rows = [{**row, "final/converged": yes} for row in table(BETTER)]
    for row in rows[:3]:
        row.update({"final/converged": no, "final/at_kink": 1})
    rows[3]["final/converged"] = no
    reason = judged(EXPERIMENT, rows).reason
    assert "32 of 36 runs converged" in reason and "3 stopped at a kink, 1 did not converge, and these are" in reason


def lost(rows, *chosen):
    """The rows, of which those of the chosen (width, depth, seed) did not converge and have a loss of no meaning."""
    return [
        {**row, "final/converged": False, "final/loss": 99.0}
        if (row["width"], row["depth"], row["seed"]) in chosen else row
        for row in rows
    ]  # fmt: skip


def test_runs_that_did_not_converge_are_not_judged_and_too_few_decide_nothing():
    rows = table(BETTER, seeds=range(5))
    two = judged(EXPERIMENT, lost(rows, (2, 1, 0), (4, 3, 1)))
    assert two.outcome == "supported" and "43 of 45 runs at a stationary point" in two.reason
    # At depth 1, and at width 2: 4 of 15 did not, which is more than a fifth.
    four = judged(EXPERIMENT, lost(rows, *((2, 1, seed) for seed in range(4))))
    assert four.outcome == "undecided" and "(exponent at depth 1: not measured, 2: -0.3" in four.reason
    worse = judged(EXPERIMENT, lost(table(WORSE, seeds=range(5)), *((2, 1, seed) for seed in range(4))))
    assert worse.outcome == "refuted"  # by what did converge: no gain with depth at widths 4 and 8
    assert judged(EXPERIMENT, [{**row, "final/converged": False} for row in rows]).outcome == "undecided"


def test_a_second_axis_is_another_setting_and_not_more_seeds():
    halves = [table(losses, learning_rate=rate) for rate, losses in ((0.1, BETTER), (0.2, WORSE))]
    verdict = judged(EXPERIMENT, [*halves[0], *halves[1]])
    assert verdict.outcome == "refuted" and [outcome for _, outcome in verdict.groups] == ["supported", "refuted"]
    first, second = verdict.reason.removeprefix("Training loss: ").split(". ")[0].split("; ")
    alone = judged(EXPERIMENT, halves[0]).reason
    assert first.startswith("mlp, tanh, learning rate 0.1 (supported: falls with width and depth everywhere): 36 of ")
    assert second.startswith("mlp, tanh, learning rate 0.2 (refuted: no gain with depth at width 2, ")
    assert alone.startswith("Training loss: " + first.replace(", learning rate 0.1", ""))
    also = [*halves[0], *table(BETTER, learning_rate=0.2)]
    assert judged(EXPERIMENT, also).outcome == "supported"


def test_width_none_is_the_models_own_and_a_list_of_widths_has_no_trend():
    own = shape_grid(lambda w, d: w**-0.3)
    rows = table({**own, (64, 1): 0.4, (None, 1): 0.4})  # one network, given in two ways
    assert judged(EXPERIMENT, rows).reason == judged(EXPERIMENT, table({**own, (64, 1): 0.4})).reason.replace(
        "of 40 runs", "of 44 runs"
    ).replace("40 of", "44 of")
    lists = judged(EXPERIMENT, table({(None, 1): 0.5}, widths=(4, 3)) + table({(None, 1): 0.4}, widths=(8, 3)))
    assert lists.outcome == "undecided" and lists.reason.count("no trend with width") == 2
    assert "mlp, 4-3, tanh (undecided): " in lists.reason and lists.advice == "More seeds alone would not decide."


def test_figures_have_a_panel_for_each_setting():
    rows = table(BETTER, learning_rate=0.1) + table(BETTER, learning_rate=0.2)
    rows += table({(None, 1): 0.5}, widths=(4, 3), learning_rate=0.1)
    measures = {"theorem/value": 0.4, "theorem/target": 0.5, "affine/loss": 0.45, "final/gradient_norm": 1e-9}
    rows = [{**row, **measures, "config_id": str(i)} for i, row in enumerate(rows)]
    arrays = {row["config_id"]: {"theorem/terms": np.full(row["depth"] + 1, 0.05)} for row in rows}
    figures = EXPERIMENT.figures(results(EXPERIMENT, rows, arrays))
    losses, terms = (figures[name].axes for name in ("loss_over_width_and_depth", "terms_by_layer"))
    titles = ["mlp, tanh, learning rate 0.1", "mlp, tanh, learning rate 0.2"]
    assert [axis.get_title() for axis in losses] == titles  # the list of widths has no place on an axis of widths
    assert [axis.get_title() for axis in terms] == [*titles, "mlp, 4-3, tanh, learning rate 0.1"]
    labels = [text.get_text() for text in terms[0].get_xticklabels()]
    assert labels[:3] == ["2", "2-2", "2-2-2"] and len(labels) == 9
    assert [text.get_text() for text in terms[2].get_xticklabels()] == ["4-3"]
    heights = [bar.get_height() for bar in terms[0].containers[0]]
    np.testing.assert_allclose(heights, 0.1)
    only_lists = EXPERIMENT.figures(results(EXPERIMENT, rows[-4:], arrays))
    assert set(only_lists) == {"gap_to_the_theorem", "terms_by_layer"}
    assert EXPERIMENT.figures(results(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 1}])) == {}
