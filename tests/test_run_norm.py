"""run_norm.py: every experiment end to end on small networks, what is paired, presets, and bad input."""
import warnings
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from absl import flags

import run_norm
from harness import command_line, grid, runner
from harness.runner import InvalidInput
from judging.decision import MIN_SEEDS
from models import validate

ROOT = Path(__file__).parents[1]
PRESETS = sorted(path for path in ROOT.glob("presets/*/norm_*.cfg"))
TINY = {"dataset": "gaussian", "train_size": 100, "test_size": 50, "batch_size": 25, "learning_rate": 0.05,
        "epochs": 20, "decay_epochs": ()}  # fmt: skip
MLP = {"model": "mlp", "width": 8, "depth": 1}
NOISE = {"depth": 1, "width": 128, "train_size": 100, "test_size": 200, "batch_size": 25, "learning_rate": 0.05}


def run(experiment, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_norm.run(experiment, out_dir=folder, quiet=True, **options)


def run_tiny(experiment, folder, **options):
    options = {"tuning_trials": 0, **options} if experiment == "norm_bias" else options
    return run(experiment, folder, **{**TINY, **options})


def figures_of(report):
    """Names of the figures in the folder; none of them is empty."""
    paths = sorted((report.folder / "figures").iterdir())
    assert all(path.stat().st_size > 10_000 for path in paths)
    return [path.stem for path in paths]


# -- norm_bias and norm_profile


@pytest.fixture(scope="module")
def bias(tmp_path_factory):
    given = {"decay_coefficient": 0.05, "bias_coefficient": 0.05, "norm_target": 80.0, "seed": [0, 1]}
    return run_tiny("norm_bias", tmp_path_factory.mktemp("bias"), **MLP, **given)


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """A small network with batch norm, as a person's own file: {model: its path}."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Dense(8, use_bias=False)(keras.layers.Flatten()(inputs))
    x = keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))
    path = str(tmp_path_factory.mktemp("model") / "normed.keras")
    keras.Model(inputs, keras.layers.Dense(10)(x)).save(path)
    return {"model": path}


@pytest.fixture(scope="module")
def profile(tmp_path_factory, normed):
    folder = tmp_path_factory.mktemp("profile")
    return run_tiny("norm_profile", folder, **normed, multiple=[0.5, 2.0], coefficient=0.1, seed=[0, 1])


def test_norm_bias_ends_at_its_target_and_weight_decay_below_none(bias):
    table = bias.results.table
    assert len(table) == 6 and table["diverged_epoch"].isna().all()
    targeted = bias.results.over(regularizer="norm_bias")
    assert (targeted["norm/all"] / 80 - 1).abs().max() < 0.02 and targeted["norm/settled"].all()
    finals = table.pivot(index="seed", columns="regularizer", values="norm/all")
    assert (finals["weight_decay"] < finals["none"]).all()
    np.testing.assert_allclose(table["gap/accuracy"], table["train/accuracy"] - table["test/accuracy"])
    assert "norm/scale_invariant" not in table
    assert bias.verdict.outcome == "undecided" and bias.verdict.advice == "A verdict needs 3 seeds or more."
    assert "(2 paired seeds)" in bias.verdict.reason and "Warning" not in bias.verdict.reason


def test_the_norms_of_the_table_are_those_at_the_end_of_the_history(bias):
    for _, row in bias.results.table.iterrows():
        history = bias.results.histories[row["config_id"]]
        np.testing.assert_allclose(history["norm/all"].iloc[-1], row["norm/all"], rtol=1e-12)
        assert history["norm/kernels"].iloc[-1] < row["norm/all"] and len(history) == 20


def test_a_seed_starts_at_the_same_weights_whatever_the_regularizer(bias):
    starts = bias.results.table.pivot(index="seed", columns="regularizer", values="norm/start")
    assert starts.nunique(axis=1).eq(1).all() and starts["none"].nunique() == 2


@pytest.mark.slow
def test_the_seed_fixes_start_and_order_whatever_the_regularizer(tmp_path):
    """Without coefficients all three regularizers train the same network to the bit; the seeds differ."""
    given = {"decay_coefficient": 0.0, "bias_coefficient": 0.0, "norm_target": 80.0, "seed": [0, 1], "epochs": 3}
    table = run_tiny("norm_bias", tmp_path, **MLP, **given).results.table
    for measure in ("train/loss", "test/loss", "norm/all"):
        finals = table.pivot(index="seed", columns="regularizer", values=measure)
        assert finals.nunique(axis=1).eq(1).all() and finals["none"].nunique() == 2


def test_a_target_out_of_reach_is_told_in_the_report(tmp_path):
    given = {"regularizer": "norm_bias", "bias_coefficient": 1e-4, "norm_target": 5000.0, "seed": 0, "epochs": 2}
    report = run_tiny("norm_bias", tmp_path, **MLP, **given)
    (row,) = report.results.over(regularizer="norm_bias").to_dict("records")
    assert row["norm/settled"] is False and row["norm/over_target"] < 0.1
    text = (report.folder / "report.md").read_text()
    assert "Warning: in 1 of 1 networks under norm_bias" in text and "did not settle within 2% of its target" in text


def check_report(report, names):
    text = (report.folder / "report.md").read_text()
    assert str(report.verdict) in text and report.verdict.test in text
    assert figures_of(report) == names
    assert len(pd.read_csv(report.folder / "results.csv")) == len(report.results.table)
    assert not list(report.folder.rglob("checkpoint"))


@pytest.mark.long
@pytest.mark.slow
def test_tuned_settings_are_told_and_repeat_to_the_bit(tmp_path):
    given = {**MLP, "decay_coefficient": 0.05, "bias_coefficient": 0.05, "norm_target": 80.0, "tuning_trials": 3}
    tables = [
        run_tiny("norm_bias", tmp_path / name, **given, seed=seeds).results.table.set_index("config_id")
        for name, seeds in (("a", [0, 1]), ("b", [1]))
    ]
    pd.testing.assert_frame_equal(
        tables[1].drop(columns="seconds"), tables[0].loc[tables[1].index].drop(columns="seconds")
    )
    table = tables[0]
    assert table["tuned/learning_rate"].between(0.05 / 3.2, 0.05 * 3.2).all() and table["tuned/accuracy"].notna().all()
    biased = table[table["regularizer"] == "norm_bias"]
    assert biased["tuned/norm_target"].between(40, 160).all()
    np.testing.assert_allclose(biased["norm/over_target"] * biased["tuned/norm_target"], biased["norm/all"])
    assert (table["norm/least_equivalent"] <= table["norm/all"] * 1.0001).all()


def test_the_report_of_norm_bias_is_complete(bias):
    check_report(bias, ["accuracy_by_regularizer", "norm_over_training"])


@pytest.mark.slow
def test_the_report_of_norm_profile_is_complete(profile):
    check_report(profile, ["accuracy_against_norm", "norm_over_training"])


@pytest.mark.slow
def test_targets_of_a_profile_are_multiples_of_where_its_seed_ends_without_a_regularizer(profile, normed, tmp_path):
    table = profile.results.table
    assert len(table) == 4 and table["diverged_epoch"].isna().all()
    np.testing.assert_allclose(table["norm/target"], table["multiple"] * table["none/norm"], rtol=1e-12)
    np.testing.assert_allclose(table["norm/all"], table["norm/target"], rtol=0.05)
    assert (table["norm/scale_invariant"] < table["norm/all"]).all()
    assert "scale-invariant weights" in profile.verdict.reason
    alone = run_tiny("norm_bias", tmp_path, **normed, regularizer="none", seed=[0, 1]).results.table.set_index("seed")
    for _, row in table.iterrows():
        same = alone.loc[row["seed"]]
        assert row["none/norm"] == same["norm/all"] and row["none/test/accuracy"] == same["test/accuracy"]
        assert row["norm/start"] == same["norm/start"]


@pytest.mark.slow
def test_training_without_a_regularizer_is_shared_by_the_multiples_of_a_seed(profile, normed, tmp_path):
    """In one call it is trained once for all multiples of a seed; a later call trains it again to the same bits."""
    stages = {name: set(history["stage"]) for name, history in profile.results.histories.items()}
    assert sum("none" in found for found in stages.values()) == 2
    assert all("norm_bias" in found for found in stages.values())
    again = run_tiny("norm_profile", tmp_path, **normed, multiple=2.0, coefficient=0.1, seed=1).results.table
    first = profile.results.over(multiple=2.0, seed=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), first.drop(columns="seconds"), check_exact=True)


@pytest.mark.slow
def test_a_model_saved_again_gets_a_reference_of_its_own(tmp_path):
    """Its config id and its unregularized training go by the file's content, not by its path."""
    path, norms = str(tmp_path / "saved.keras"), []
    for scale in (1.0, 2.0):
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)])
        model.set_weights([np.full(w.shape, 0.01 * scale) for w in model.get_weights()])
        model.save(path)
        options = {"model": path, "multiple": 1.0, "seed": 0, "epochs": 1}
        norms.append(run_tiny("norm_profile", tmp_path / "out", **options).results.table["none/norm"].item())
    assert norms[0] != norms[1]


def test_kernels_only(tmp_path):
    given = {"regularizer": "norm_bias", "bias_coefficient": 0.05, "norm_target": 60.0, "regularize_all": False}
    (row,) = run_tiny("norm_bias", tmp_path, **MLP, **given, seed=0).results.table.to_dict("records")
    assert abs(row["norm/kernels"] / 60 - 1) < 0.02 and row["norm/settled"] and row["norm/all"] > row["norm/kernels"]


@pytest.mark.parametrize("experiment", ["norm_bias", "norm_profile", "randomization"])
def test_all_diverged_is_undecided_and_the_report_is_written(experiment, tmp_path):
    narrow = {
        "norm_bias": {"norm_target": 80.0},
        "norm_profile": {"multiple": [0.5, 2.0]},
        "randomization": {"label_noise": 1.0, "pixel_noise": "none", "explicit_regularizer": "none"},
    }
    report = run_tiny(experiment, tmp_path, **MLP, **narrow[experiment], learning_rate=1e6, seed=0, epochs=9)
    assert report.verdict.outcome == "undecided" and report.results.table["diverged_epoch"].notna().all()
    assert "## Diverged" in (report.folder / "report.md").read_text() and " configs diverged." in report.verdict.reason


# -- randomization


@pytest.fixture(scope="module")
def randomized(tmp_path_factory):
    given = {"label_noise": [0.0, 0.5, 1.0], "pixel_noise": ["none", "random"], "explicit_regularizer": "none"}
    return run("randomization", tmp_path_factory.mktemp("randomization"), **NOISE, **given)


@pytest.mark.slow
def test_noise_is_fitted_by_the_recipe_of_true_labels_and_tests_at_chance(randomized):
    table = randomized.results.table
    assert len(table) == 4 * 3 and table["fitted_epoch"].notna().all() and (table["train/accuracy"] > 0.97).all()
    noise = table[(table["label_noise"] == 1) | (table["pixel_noise"] == "random")]
    true = table[(table["label_noise"] == 0) & (table["pixel_noise"] == "none")]
    assert noise["test/accuracy"].between(0, 0.2).all() and true["test/accuracy"].min() > 0.7
    assert noise["fitted_epoch"].mean() > true["fitted_epoch"].mean()
    assert randomized.verdict.outcome != "supported"  # three seeds are few to show that accuracy is at chance
    assert "random labels fitted in 3 of 3 runs" in randomized.verdict.reason
    assert figures_of(randomized) == ["label_corruption", "regularizers", "training_curves"]


@pytest.mark.slow
def test_training_ends_a_few_epochs_after_the_first_fit(randomized):
    table = randomized.results.table
    np.testing.assert_array_equal(table["trained_epochs"], table["fitted_epoch"] + 5)
    for _, row in table.iterrows():
        assert len(randomized.results.histories[row["config_id"]]) == row["trained_epochs"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"model": "inception", "batch_norm": [True, False]}, {"model": "alexnet"}])
def test_small_convolutional_networks_run_with_all_regularizers(options, tmp_path):
    given = {"width": 8, "depth": None, "explicit_regularizer": "all", "label_noise": 1.0, "pixel_noise": "none"}
    report = run("randomization", tmp_path, **{**NOISE, **given, "epochs": 2, "seed": 0, **options})
    assert report.verdict.outcome == "undecided" and report.results.table["train/accuracy"].notna().all()


def test_earlier_names_of_options_still_work(tmp_path):
    given = {"label_noise": 0.0, "pixel_noise": "none", "explicit": "none", "settle": 1, "epochs": 2, "seed": 0}
    table = run_tiny("randomization", tmp_path, **MLP, **given).results.table
    assert table["explicit_regularizer"].item() == "none" and table["epochs_after_fit"].item() == 1


# -- expressivity


@pytest.mark.slow
def test_the_trial_supports_the_theorem_on_digits(tmp_path):
    report = run("expressivity", tmp_path, width=[20, 500])
    table = report.results.table
    assert len(table) == 18 and report.verdict.outcome == "supported" and "18 of 18 networks" in report.verdict.reason
    assert (table["error/max"] < 1e-6).all() and (table["parameters"] == 2 * table["width"] + 64).all()
    assert table.loc[table["targets"] == "random_labels", "test/error"].between(0.8, 1).all()
    assert figures_of(report) == ["constructed_functions", "error_against_points"]
    for arrays in report.results.arrays.values():  # the curve in the figure passes through the points
        at = np.searchsorted(arrays["curve/z"], arrays["points/z"])
        np.testing.assert_allclose(arrays["curve/c"][at], arrays["points/y"], atol=1e-6)


def test_rounding_of_float32_is_undecided_not_refuted(tmp_path):
    report = run("expressivity", tmp_path, width=200, dtype="float32", targets="labels")
    assert report.verdict.outcome == "undecided" and (report.results.table["error/max"] > 1e-6).all()


# -- minimum_norm


@pytest.fixture(scope="module")
def interpolated(tmp_path_factory):
    given = {
        "kernel": ["linear", "gaussian", "ntk"], "bandwidth": [0.3, 3.0], "width": 16, "label_noise": [0.0, 1.0],
        "seed": [0, 1, 2], "train_size": 40, "test_size": 100,
    }  # fmt: skip
    return run("minimum_norm", tmp_path_factory.mktemp("minimum_norm"), **given)


@pytest.mark.slow
def test_every_kernel_fits_true_and_random_labels_and_random_ones_at_chance(interpolated):
    table = interpolated.results.table
    assert len(table) == 4 * 2 * 3 and table["interpolates"].all() and (table["train/error"] == 0).all()
    random = table[table["label_noise"] == 1]
    assert (random["test/error"].groupby(random["kernel"]).mean() > 0.8).all()
    assert table[(table["label_noise"] == 0) & (table["kernel"] == "ntk")]["test/error"].max() < 0.5
    assert "24 of 24 solutions are exact" in interpolated.verdict.reason
    assert figures_of(interpolated) == ["error_against_norm"]
    assert table.groupby("kernel").size().to_dict() == {"gaussian": 12, "linear": 6, "ntk": 6}


def test_a_kernel_of_too_low_rank_is_left_out_of_the_verdict(tmp_path):
    given = {"kernel": ["linear", "gaussian"], "bandwidth": 0.3, "label_noise": 0.0, "seed": 0, "train_size": 200}
    report = run("minimum_norm", tmp_path, **given, test_size=100)
    table = report.results.table.set_index("kernel")
    assert not table.loc["linear", "interpolates"] and table.loc["linear", "rank"] <= 64
    assert table.loc["gaussian", "interpolates"]
    assert report.verdict.outcome == "undecided" and "1 of 2 solutions are exact" in report.verdict.reason
    assert figures_of(report) == ["error_against_norm"]


# -- grids, presets, bad input


def test_config_ids_are_those_of_the_first_versions():
    """The last config of every default grid, as its folder was called before fields were renamed."""
    found = {}
    were = {  # of grids whose default is another one today
        "norm_bias": {"norm_target": [300.0, 1000.0], "tuning_trials": 0, "seed": list(range(10))},
        "minimum_norm": {"kernel": ["linear", "gaussian", "ntk"], "bandwidth": [0.1, 0.3, 1.0, 3.0],
                         "label_noise": [0.0, 0.5, 1.0], "seed": [0, 1, 2, 3]},
    }  # fmt: skip
    for name, experiment in run_norm.EXPERIMENTS.items():
        configs, _ = grid.expand(experiment, were.get(name, {}))
        found[name] = (len(configs), runner.config_id(experiment, configs[-1]))
    assert found == {
        "norm_bias": (40, "mlp-3x64-digits-200-norm_bias-0.005-target=1000-seed=9-d47f56f8c1"),
        "norm_profile": (30, "mlp-3x64-digits-200-multiple=10-seed=5-a9a672c8fc"),
        "randomization": (72, "mlp-3x512-digits-500-label_noise=1.0-weight_decay-seed=2-9f7ba0575d"),
        "expressivity": (45, "mlp-1x1000-float64-digits-gaussian-seed=2-ec36a3c26e"),
        "minimum_norm": (144, "mlp-2x256-float64-digits-500-label_noise=1.0-ntk-seed=3-b3c4e2aff3"),
        "double_descent": (72, "mlp-1x3200-float64-digits-200-label_noise=0.2-seed=2-9338f84690"),
        "measures": (192, "mlp-3x128-digits-200-seed=5-623330803d"),
    }


def test_defaults_have_the_seeds_that_a_verdict_needs():
    assert all(len(experiment.grid["seed"]) >= MIN_SEEDS for experiment in run_norm.EXPERIMENTS.values())


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_span_valid_configs(path):
    values = flags.FlagValues()
    command_line.define(run_norm.EXPERIMENTS, values)
    values(["run_norm.py", f"--flagfile={path}"])
    experiment = run_norm.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in experiment.fields if values[name].value is not None}
    configs, _ = grid.expand(experiment, given)
    shapes = {"digits": (8, 8, 1), "mnist": (28, 28, 1), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}
    for config in configs:
        validate(config.network, shapes[config.data.dataset], 100 if config.data.dataset == "cifar100" else 10)
    assert len({config.seed for config in configs}) >= MIN_SEEDS


def test_there_is_a_preset_for_every_network_of_the_paper():
    found = {}
    for path in PRESETS:
        lines = [line for line in path.read_text().splitlines() if "=" in line and line[0] == "-"]
        values = dict(line.lstrip("-").split("=") for line in lines)
        if path.parent.name == "paper" and values["experiment"] == "norm_bias":
            found[values["model"]] = (float(values["norm_target"]), float(values["bias_coefficient"]))
    assert found == {
        "resnet": (2500, 0.005),
        "densenet": (2500, 0.005),
        "mobilenet_v2": (5000, 0.001),
        "resnet_fixup": (1000, 5e-4),
    }


def test_an_option_of_the_other_experiment_is_refused(tmp_path):
    for experiment, option in (("norm_bias", {"multiple": 1.0}), ("norm_profile", {"decay_coefficient": 0.1})):
        with pytest.raises(InvalidInput, match=f"unknown option '{next(iter(option))}'"):
            run_tiny(experiment, tmp_path / "out", **option)
    with pytest.raises(InvalidInput, match="unknown experiment 'norm'"):
        run_norm.run("norm")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        ("randomization", {"explicit_regularizer": "l1"}, "unknown explicit_regularizer 'l1'"),
        ("expressivity", {"width": 1800}, "a sample of 1800 images was asked of"),
        ("minimum_norm", {"dataset": "gaussian", "train_size": 20001}, "allowed are 20000"),
    ],
)
def test_what_cannot_be_run_leaves_no_folder(experiment, options, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(experiment, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_bad_input_is_one_line_and_leaves_no_folder(tmp_path):
    for argument, message in (
        ("--decay_coefficient=-1", "error: decay_coefficient must be a finite number >= 0, got -1.0"),
        ("--norm_target=-5", "error: norm_target must be a finite number >= 0, got -5.0"),
        ("--regularizer=l1", "error: unknown regularizer 'l1': allowed are none, weight_decay, norm_bias"),
    ):
        values = flags.FlagValues()
        command_line.define(run_norm.EXPERIMENTS, values)
        values(["run_norm.py", argument, f"--out_dir={tmp_path / 'out'}"])
        with pytest.raises(SystemExit) as end:
            command_line.call(run_norm.run, run_norm.EXPERIMENTS, values)
        assert end.value.code == message and not (tmp_path / "out").exists()
