"""experiments/local_minima/sharpness.py: what is paired, the line between both solutions, judge and figures."""
import warnings

import numpy as np
import pandas as pd
import pytest

import run_local_minima
from experiments.local_minima.sharpness import EXPERIMENT, SHARPNESS, TOLERANCE
from harness import runner
from harness.runner import InvalidInput
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results

TINY = {"train_size": 120, "test_size": 60, "width": 8, "depth": 1, "epochs": 3, "batch_size": 4, "subspace": 20,
        "hessian_products": 20}  # fmt: skip


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run("sharpness", out_dir=folder, quiet=True, **options)


# -- the experiment


ARMS = {"equal": ["epochs", "steps", "loss"], "target_loss": 0.03, "max_epochs": 500}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("sharpness"), **TINY, **ARMS, seed=1)


def test_both_batches_train_for_equal_epochs_equal_steps_or_to_an_equal_loss(report):
    table = report.results.table.set_index("equal")
    assert (table["small/batch_size"] == 4).all() and (table["large/batch_size"] == 12).all()
    np.testing.assert_allclose(table["distance_ratio"], table["small/distance"] / table["large/distance"])
    epochs = table[["small/epochs", "large/epochs"]].astype(int).T.to_dict("list")
    assert epochs["epochs"] == [3, 3] and epochs["steps"] == [3, 9]  # 90 steps, 30 or 10 of them an epoch
    for equal, identity in table["config_id"].items():
        history = report.results.histories[identity].groupby("stage")["epoch"].max()
        assert [history["small"], history["large"]] == epochs[equal]
    losses = table.loc["loss", ["small/train/loss", "large/train/loss"]].astype(float)
    assert 0.02 < losses["large/train/loss"] <= losses["small/train/loss"] <= 0.03
    assert losses["large/train/loss"] > losses["small/train/loss"] / TOLERANCE
    np.testing.assert_allclose(table["loss_ratio"], table["large/train/loss"] / table["small/train/loss"])
    assert table["loss_ratio"]["epochs"] > TOLERANCE


def test_networks_of_different_losses_are_shown_and_not_judged(report):
    reason = report.verdict.reason
    assert reason.startswith("mlp, depth 1, width 8 (undecided): equal epochs: not judged, as the training losses ")
    assert "differ by more than 1.1 times in 1 of 1 runs (training losses " in reason
    assert "equal loss: training losses " in reason and "adaptive sharpness " in reason
    assert "points (1 paired seeds)" in reason


@pytest.mark.long
@pytest.mark.slow
def test_learning_rates_are_chosen_for_each_batch_size_on_a_validation_set(tmp_path):
    """Of two rates the tiny one trains nothing in so few epochs: both take the other, and are trained on all images."""
    report = run(tmp_path, **TINY, equal="epochs", rates=[(1e-7, 0.05)], seed=0)
    row = report.results.table.iloc[0]
    assert row["small/learning_rate"] == row["large/learning_rate"] == 0.05
    assert 0.1 < row["small/validation_accuracy"] <= 1
    history = report.results.histories[row["config_id"]]
    assert set(history["stage"]) == {
        "small", "large", *(f"{batch}-rate={rate}" for batch in ("small", "large") for rate in ("1e-07", "0.05"))
    }  # fmt: skip
    assert set(history.loc[history["stage"] == "small", "learning_rate"].round(6)) == {0.05}
    lost = run(tmp_path / "lost", **TINY, equal="epochs", rates=[(1e12,)], seed=0)
    assert lost.verdict.outcome == "undecided" and lost.results.table["diverged_epoch"].notna().all()


def test_solutions_are_measured_in_both_spaces(report):
    table = report.results.table
    for batch in ("small", "large"):
        # A box in a subspace of 20 directions is no part of the one in the full space: both are only positive.
        assert (table[[f"{batch}/sharpness", f"{batch}/subspace_sharpness"]] > 0).all().all()
        assert (table[f"{batch}/largest_eigenvalue"] > 0).all() and (table[f"{batch}/gradient_norm"] > 0).all()
        assert (table[f"{batch}/adaptive_sharpness"] > 0).all()


def test_the_line_goes_through_both_solutions(report):
    for _, row in report.results.table.iterrows():
        arrays = report.results.arrays[row["config_id"]]
        where = arrays["line/positions"]
        for position, name in ((0, "small"), (1, "large")):
            i = int(np.argmin(np.abs(where - position)))
            assert where[i] == pytest.approx(position, abs=1e-12)
            for column, measure in (("loss", "train/loss"), ("test_loss", "test/loss")):
                assert arrays[f"line/{column}"][i] == pytest.approx(row[f"{name}/{measure}"], rel=1e-5)
            for column, measure in (("accuracy", "train/accuracy"), ("test_accuracy", "test/accuracy")):
                assert arrays[f"line/{column}"][i] == row[f"{name}/{measure}"]


def test_figures_and_table_are_written(report):
    names = {path.stem for path in (report.folder / "figures").iterdir()}
    assert names == {"line_between_the_solutions", "small_against_large_batch"}
    assert not [column for column in report.results.table if column.startswith("line/")]
    text = (report.folder / "report.md").read_text()
    assert "| test accuracy, small batch | large | training loss, small batch | large batch | sharpness (%)" in text


@pytest.mark.long
@pytest.mark.slow
def test_one_seed_decides_nothing_and_repeats_to_the_bit(report, tmp_path):
    again = run(tmp_path, **TINY, **{**ARMS, "equal": "loss"}, seed=1)
    assert again.verdict.outcome == "undecided" and "nan" not in again.verdict.reason
    (before,) = report.results.over(equal="loss").to_dict("records")
    for column in again.results.table.columns.intersection(list(EXPERIMENT.columns)):
        assert again.results.table[column][0] == before[column]


@pytest.mark.slow
def test_batch_norm_goes_along_the_line(tmp_path):
    options = {**TINY, "width": 2, "depth": 1, "epochs": 1, "batch_size": 8, "train_size": 100, "test_size": 20}
    report = run(tmp_path, **options, model="resnet", batch_norm=True, equal="epochs", seed=0)
    row = report.results.table.iloc[0]
    arrays = report.results.arrays[row["config_id"]]
    i = [int(np.argmin(np.abs(arrays["line/positions"] - p))) for p in (0, 1)]
    np.testing.assert_allclose(arrays["line/loss"][i], [row["small/train/loss"], row["large/train/loss"]], rtol=1e-4)


def test_all_diverged_is_undecided(tmp_path):
    report = run(tmp_path, **TINY, seed=0, learning_rate=1e12, max_epochs=10)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()
    assert report.verdict.reason == "Every network diverged. 1 of 1 configs diverged."
    assert report.results.table["equal"].tolist() == ["loss"]  # the default


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"large_fraction": 0}, "large_fraction must lie in"),
        ({"batch_size": 12}, "the large batch must be larger than the small one"),
        ({"epsilon": 0}, "epsilon must be a finite number greater than 0"),
        ({"subspace": 100000}, "subspace must be at most the network's 610 parameters"),
        ({"large_epochs": -1, "equal": "epochs"}, "large_epochs must be 0"),
        ({"large_epochs": 5, "equal": "steps"}, "large_epochs 5 needs equal epochs, got equal steps"),
        ({"equal": "time"}, "unknown equal 'time': allowed are epochs, steps, loss"),
        ({"target_loss": 0}, "target_loss must be a finite number greater than 0"),
        ({"max_epochs": 0}, "max_epochs must be at least 1"),
        ({"adaptive_radius": 0}, "adaptive_radius must be a finite number greater than 0"),
        ({"rates": [(0.1, 0.0)]}, "rates must be finite numbers above 0"),
        ({"rates": [(0.1,)], "train_size": 4, "batch_size": 1, "large_fraction": 0.5}, "too few for one"),
        ({"hessian_products": 19}, "hessian_products must be at least 20"),
        ({"regularizer": "weight_decay", "coefficient": 0.1}, "regularizer must be none"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


def test_results_of_earlier_versions_are_found_and_read():
    assert runner.config_id(EXPERIMENT, EXPERIMENT.config()) == "mlp-3x64-digits-seed=0-030daea302"
    before = {"small/loss": 1, "small/accuracy": 2, "large/test_loss": 3, "large/test_accuracy": 4, "distance_ratio": 5}
    now = {"small/train/loss": 1, "small/train/accuracy": 2, "large/test/loss": 3, "large/test/accuracy": 4}
    assert EXPERIMENT.modernize(before) == {**now, "distance_ratio": 5}


# -- the judge and the figures, on tables made by hand


def rows(large_sharpness, large_accuracy, seeds=6, **fields):
    result = []
    for seed in range(seeds):
        noise = 0.01 * (-1) ** seed
        measures = {"small/sharpness": 1.0, "large/sharpness": large_sharpness * np.exp(noise),
                    "small/train/loss": 0.01, "large/train/loss": 0.01,
                    "small/test/accuracy": 0.9, "large/test/accuracy": large_accuracy + 0.1 * noise}  # fmt: skip
        result.append({**NETWORK, "equal": "loss", **measures, **fields, "seed": seed})
    return result


@pytest.mark.parametrize(("large", "outcome"), [(0.0109, "supported"), (0.0111, "undecided"), (0.0089, "undecided"),
                                                (np.nan, "undecided")])  # fmt: skip
def test_networks_are_judged_only_at_the_same_training_loss(large, outcome):
    """The review's example: on CIFAR-10 losses of 0.032 and 0.866 had been compared, at 40 epochs each."""
    assert judged(EXPERIMENT, rows(5.0, 0.85, **{"large/train/loss": large})).outcome == outcome
    table = rows(5.0, 0.85)
    table[3]["large/train/loss"] = large  # one run of six
    assert judged(EXPERIMENT, table).outcome == outcome
    refuting = rows(5.0, 0.95, **{"small/train/loss": 0.032, "large/train/loss": 0.866}, equal="epochs")
    verdict = judged(EXPERIMENT, refuting)
    assert verdict.outcome == "undecided" and verdict.advice == "More seeds alone would not decide."
    assert "not judged, as the training losses differ by more than 1.1 times in 6 of 6 runs" in verdict.reason
    assert "0.032 (small batch) and 0.866 (large)" in verdict.reason


def test_arms_of_one_setting_are_one_group_and_only_those_of_equal_loss_are_judged():
    other = rows(1.0, 0.95, equal="epochs", **{"large/train/loss": 0.5})
    verdict = judged(EXPERIMENT, rows(5.0, 0.85) + other)
    assert verdict.outcome == "supported" and len(verdict.groups) == 1
    assert "equal epochs: not judged" in verdict.reason
    as_low = rows(1.0, 0.85, equal="steps")  # it reached the same loss, and is not sharper
    both = judged(EXPERIMENT, rows(5.0, 0.85) + as_low)
    assert both.outcome == "refuted" and "(refuted: equal steps: not sharper by the margin)" in both.reason


def sweep(order):
    """Two learning rates and batch sizes, three seeds; order: +1 where sharper networks test better, -1 where worse."""
    table = []
    for i, (rate, batch) in enumerate([(0.1, 8), (0.1, 16), (0.2, 8), (0.2, 16)]):
        for seed in range(3):
            sharp = {"small": 1.0 + i, "large": 10.0 + i}
            measures = {f"{b}/{name}": sharp[b] for b in sharp for name in SHARPNESS}
            measures |= {f"{b}/test/accuracy": 0.9 + order * 0.001 * sharp[b] for b in sharp}
            measures |= {f"{b}/train/loss": 0.01 for b in sharp}
            field = {"learning_rate": rate, "batch_size": batch, "large_fraction": 0.1, "equal": "loss"}
            table.append({**NETWORK, "config_id": f"{i}-{seed}", **field, "seed": seed, **measures})
    return table


@pytest.mark.parametrize("order", [1, -1])
def test_a_sweep_tells_how_each_measure_ranks_the_networks(order):
    verdict = judged(EXPERIMENT, sweep(order))
    says = f"{order:+d} [{order}, {order}]"
    said = (
        "Rank correlation with test accuracy over 8 networks (mlp, depth 1, width 16, mean over 3 of the seeds, not "
        f"judged): sharpness {says}, largest Hessian eigenvalue {says}, adaptive sharpness {says}."
    )
    assert said in verdict.reason
    apart = sweep(order)
    for row in apart[:6]:
        row["large/train/loss"] = 1.0  # networks of another loss are left out
    assert "over 4 networks" in judged(EXPERIMENT, apart).reason
    assert "Rank correlation" not in judged(EXPERIMENT, sweep(order)[:3]).reason  # one setting is no sweep
    assert "Rank correlation" not in judged(EXPERIMENT, rows(5.0, 0.85)).reason


def test_a_sweep_has_a_figure_of_accuracy_against_each_measure():
    table = sweep(-1)
    curve = np.linspace(1, 2, 25)
    arrays = {row["config_id"]: {f"line/{name}": curve for name in ("loss", "accuracy", "test_loss", "test_accuracy")}
              for row in table}  # fmt: skip
    for row in table:
        row.update({f"{batch}/subspace_sharpness": 1.0 for batch in ("small", "large")})
    figure = EXPERIMENT.figures(results(EXPERIMENT, table, arrays))["sharpness_against_accuracy"]
    assert [axis.get_xlabel() for axis in figure.axes] == list(SHARPNESS.values())
    assert all(axis.get_title() == "rank correlation -1 [-1, -1]" for axis in figure.axes)


def test_judge():
    claim = judged(EXPERIMENT, rows(5.0, 0.85))
    assert claim.outcome == "supported" and "6 paired seeds" in claim.reason
    assert "sharpness of the large batch 5 [4.94, 5.06] times that of the small one" in claim.reason
    assert "accuracy of the small batch minus that of the large one +5 [4.9, 5.1] points" in claim.reason
    assert judged(EXPERIMENT, rows(5.0, 0.9)).outcome == "refuted"  # sharper, but no worse
    little = judged(EXPERIMENT, rows(5.0, 0.895))  # worse, but by half a point
    assert little.outcome == "refuted" and "(refuted: not worse by the margin)" in little.reason
    assert judged(EXPERIMENT, rows(1.05, 0.85)).outcome == "refuted"  # sharper, but not by a factor of 1.1
    neither = judged(EXPERIMENT, rows(1.0, 0.9))
    assert "(refuted: not sharper by the margin, not worse by the margin)" in neither.reason
    assert judged(EXPERIMENT, rows(5.0, 0.95)).outcome == "refuted"  # sharper and better
    wide = EXPERIMENT.results(pd.DataFrame(rows(5.0, 0.85)), margins={"margin": 0.1, "margin_factor": 1.1})
    assert EXPERIMENT.judge(wide).outcome == "refuted"  # five points do not matter there
    assert judged(EXPERIMENT, rows(0.2, 0.85)).outcome == "refuted"  # worse, but flatter
    assert judged(EXPERIMENT, rows(5.0, 0.85, seeds=1)).outcome == "undecided"
    diverged = {**NETWORK, "equal": "loss", "seed": 0, "diverged_epoch": 1}
    assert judged(EXPERIMENT, [diverged]).outcome == "undecided"


def test_two_settings_over_three_seeds_are_no_six_pairs():
    table = rows(5.0, 0.85, seeds=3, learning_rate=0.01) + rows(1.0, 0.9, seeds=3, learning_rate=0.1)
    verdict = judged(EXPERIMENT, table)
    assert verdict.outcome == "refuted"  # supported in one setting only
    first, second = verdict.reason.split("; ")
    assert "(3 paired seeds)" in first and "(3 paired seeds)" in second
    assert first.startswith("mlp, depth 1, width 16, learning rate 0.01 (supported: sharper and worse): ")
    assert second.startswith("mlp, depth 1, width 16, learning rate 0.1 (refuted: not sharper by the margin, ")
    assert judged(EXPERIMENT, table[:3]).reason == first.replace(", learning rate 0.01", "") + "."
    worse = rows(5.0, 0.85, seeds=3, dataset="digits") + rows(5.0, 0.95, seeds=3, dataset="gaussian")
    assert judged(EXPERIMENT, worse).outcome == "refuted"


def test_figures_have_a_row_or_a_mark_for_each_setting():
    table = rows(5.0, 0.85, seeds=2, learning_rate=0.01) + rows(1.0, 0.9, seeds=2, learning_rate=0.1)
    curve = np.linspace(1, 2, 25)
    arrays = {}
    for i, row in enumerate(table):
        more = {f"{b}/{name}": 1.0 for b in ("small", "large") for name in ("subspace_sharpness", "largest_eigenvalue")}
        row.update(more, config_id=str(i))
        arrays[str(i)] = {f"line/{name}": curve for name in ("loss", "accuracy", "test_loss", "test_accuracy")}
    figures = EXPERIMENT.figures(results(EXPERIMENT, table, arrays))
    line, pairs = figures["line_between_the_solutions"], figures["small_against_large_batch"]
    titles = [axis.get_title(loc="left") for axis in line.axes]
    assert titles == ["mlp, depth 1, width 16, learning rate 0.01", "", "mlp, depth 1, width 16, learning rate 0.1", ""]
    assert [text.get_text() for text in pairs.axes[0].get_legend().get_texts()] == titles[::2]
    assert EXPERIMENT.figures(results(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 1}])) == {}
