"""run_rank.py: both experiments end to end on small networks, what edits do and runs share, presets, bad input."""
import re
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags

import run_rank
from analysis.evaluation import evaluate
from experiments.rank.layer_spectra import spectrum_measures
from harness import command_line, grid
from harness.runner import InvalidInput
from models import NetworkConfig, build, validate
from training.data import DataConfig, load

PRESETS = sorted((Path(run_rank.__file__).parent / "presets").glob("*/rank_*.cfg"))
TINY = {"dataset": "gaussian", "train_size": 100, "test_size": 30, "batch_size": 25, "learning_rate": 0.02, "epochs": 3,
        "finetune_epochs": 2, "edit_epochs": (1,)}  # fmt: skip
CONVNET = {"model": "convnet", "width": 2}
MLP = {"model": "mlp", "width": 4, "depth": 2}
ATTACKS = {"attack_steps": 2, "test_epsilons": (0.0, 8.0), "test_steps": 2}


def run(experiment, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_rank.run(experiment, out_dir=folder, quiet=True, **{**TINY, **options})


# -- robustness


@pytest.fixture(scope="module")
def robust(tmp_path_factory):
    options = {**CONVNET, **ATTACKS, "train_epsilon": [0.0, 8.0], "seed": [0, 1], "rank_cut": 0.8, "rank_cap": 1.2}
    return run("robustness", tmp_path_factory.mktemp("robust"), **options, check_size=20)


@pytest.mark.slow
def test_edits_lower_and_raise_the_rank_and_start_from_one_trained_network(robust):
    table = robust.results.table
    assert len(table) == 16
    for _, group in table.groupby(["train_epsilon", "seed"]):
        assert group["base/test/accuracy"].nunique() == 1 and group["base/test/loss"].nunique() == 1
        by_edit = group.set_index("edit")
        assert by_edit.loc["rank_min", "rank/relative"] < by_edit.loc["none", "rank/relative"]
        assert by_edit.loc["rank_max", "rank/relative"] > by_edit.loc["none", "rank/relative"]
    low, high = robust.results.over(edit="rank_min"), robust.results.over(edit="rank_max")
    assert (low["edit/rank_asked"] <= low["edit/rank_after"]).all()
    assert (low["edit/rank_after"] < low["edit/rank_before"]).all()
    assert (high["edit/rank_after"] > high["edit/rank_before"]).all()


@pytest.mark.slow
def test_a_random_edit_is_as_large_as_rank_mins(robust):
    low, random = robust.results.over(edit="rank_min"), robust.results.over(edit="random")
    np.testing.assert_allclose(random["edit/size"], low["edit/size"], rtol=1e-5)
    assert (random["edit/size"] > 0).all() and (random["edit/rank_after"] > low["edit/rank_after"].to_numpy()).all()
    high = robust.results.over(edit="rank_max")
    assert (high["edit/size"] != low["edit/size"].to_numpy()).all()


@pytest.mark.slow
def test_every_attack_is_checked_and_told(robust):
    table = robust.results.table
    assert (table["attack/accuracy_strong"] <= table["attack/accuracy"]).all()
    assert (table["attack/loss_strong"] >= table["attack/loss_clean"]).all()


@pytest.mark.slow
def test_robust_accuracy_without_an_attack_is_the_clean_one_and_never_above(robust):
    table = robust.results.table
    np.testing.assert_array_equal(table["robust/0"], table["test/accuracy"])
    assert (table["robust/8"] <= table["test/accuracy"]).all()
    np.testing.assert_allclose(table["robust/mean"], (table["robust/0"] + table["robust/8"]) / 2)
    for arrays in robust.results.arrays.values():
        moved = np.abs(arrays["examples/adversarial"] - arrays["examples/clean"])
        assert 0 < moved.max() <= 8 / 255 + 1e-6


@pytest.mark.long
@pytest.mark.slow
def test_figures_and_repetition(robust, tmp_path):
    assert {p.stem for p in (robust.folder / "figures").glob("*.png")} == {
        "robust_accuracy", "effective_rank", "spectra", "adversarial_examples"
    }  # fmt: skip
    row = robust.results.over(edit="rank_min", seed=1, train_epsilon=8.0).iloc[0]
    options = {**CONVNET, **ATTACKS, "train_epsilon": 8.0, "seed": 1, "edit": "rank_min", "rank_cut": 0.8,
               "check_size": 20}  # fmt: skip
    again = run("robustness", tmp_path, **options).results.table.iloc[0]
    assert again["config_id"] == row["config_id"]
    for name in ("test/loss", "rank/relative", "robust/8", "edit/rank_after"):
        assert again[name] == row[name]


# -- spectra


@pytest.fixture(scope="module")
def after_robustness(tmp_path_factory):
    """Both experiments in one process, robustness first, with equal settings."""
    folder = tmp_path_factory.mktemp("both")
    options = {**MLP, "train_epsilon": 0.0, "rank_cap": 1.2, "seed": 0}
    first = run("robustness", folder, **options, edit="none", test_epsilons=(8.0,), test_steps=1)
    return first, run("spectra", folder, **options, edit=["none", "rank_max"])


@pytest.mark.slow
def test_spectra_after_robustness_in_one_process_have_the_trained_rank(after_robustness):
    """Networks that robustness trains, with no probe, must not stand for those whose ranks spectra follow."""
    _, spectra = after_robustness
    assert (spectra.results.table["trained/rank"] != spectra.results.table["untrained/rank"]).all()
    for _, row in spectra.results.table.iterrows():
        arrays = spectra.results.arrays[row["config_id"]]
        assert arrays["course/epochs"].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(arrays["course/relative"][0], arrays["untrained/relative_rank"])
        assert row["trained/rank"] == pytest.approx(arrays["course/relative"][-1].mean())
        assert (row["edit"] == "none") == (row["rank/relative"] == pytest.approx(row["trained/rank"]))


def test_both_experiments_train_the_same_network(after_robustness):
    robustness, spectra = after_robustness
    base = robustness.results.over(edit="none")["base/test/accuracy"]
    np.testing.assert_array_equal(base, spectra.results.over(edit="none")["test/accuracy"])


def test_edits_share_one_training_and_figures_are_drawn(after_robustness):
    _, spectra = after_robustness
    stages = [stage for history in spectra.results.histories.values() for stage in history["stage"].unique()]
    assert sorted(stages) == ["base", "rank_max"]
    figures = {path.stem for path in (spectra.folder / "figures").glob("*.png")}
    assert figures == {"spectra_mlp", "effective_rank_mlp", "rank_over_training"}


@pytest.mark.long
@pytest.mark.slow
def test_untrained_ranks_are_those_of_the_network_of_the_seed(tmp_path):
    options = {**CONVNET, "train_epsilon": 8.0, "attack_steps": 1, "seed": [0, 1], "edit": ["none", "rank_max"]}
    report = run("spectra", tmp_path, **options)
    for _, row in report.results.table.iterrows():
        model = build(NetworkConfig(model="convnet", width=2), (8, 8, 1), 10, seed=int(row["seed"]))
        assert row["untrained/rank"] == pytest.approx(spectrum_measures(model, pad=True)[0]["rank/relative"])


# -- a person's own model


def own_model(path, scale=1.0):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.Dense(5, activation="relu")(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    model.layers[-1].kernel.assign(scale * model.layers[-1].kernel)
    model.save(path)
    return model


def test_spectra_of_a_persons_own_file_as_it_is(tmp_path):
    path = str(tmp_path / "mine.keras")
    model = own_model(path)
    options = {"train_epsilon": [0.0, 8.0], "edit": ["none", "rank_min"], "seed": [0]}
    report = run("spectra", tmp_path, model=path, train=False, **options)
    assert len(report.results.table) == 1  # neither attack nor edit without training
    (arrays,) = report.results.arrays.values()
    (name,) = [layer.name for layer in model.layers if layer.name == arrays["layers"][-1]]
    kernel = model.get_layer(name).kernel.numpy()
    np.testing.assert_allclose(arrays[f"spectrum/{name}"], np.linalg.svd(kernel, compute_uv=False), rtol=1e-5)
    assert report.verdict.outcome == "undecided" and "No trained network" in report.verdict.reason


@pytest.mark.slow
def test_a_file_that_was_saved_again_is_another_network(tmp_path):
    """Between two runs of one process: the networks that edits start from are known by the file's content."""
    path, options = str(tmp_path / "mine.keras"), {"edit": "none", "train_epsilon": 0.0, "seed": 0}
    losses = []
    for scale in (1.0, 3.0):
        model = own_model(path, scale)
        tiny = {"learning_rate": 0.0, "epochs": 1, "finetune_epochs": 1, "test_steps": 1, "test_epsilons": (8.0,)}
        report = run("robustness", tmp_path, model=path, **tiny, **options)
        data = load(DataConfig(dataset="gaussian", train_size=100, test_size=30, normalize=False), seed=0)
        expected, _ = evaluate(model, data.x_test, data.y_test, "cross_entropy")
        base = report.results.table["base/test/loss"]
        np.testing.assert_allclose(base, expected, rtol=1e-6)  # learning rate 0 leaves it as it is
        losses.append(expected)
    assert losses[0] != pytest.approx(losses[1])


# -- what else can happen


def test_a_run_that_diverges_is_told_and_judged(tmp_path):
    given = {**MLP, "learning_rate": 1e9, "train_epsilon": [0.0], "seed": [0], "edit": ["none", "rank_min"]}
    report = run_rank.run("robustness", out_dir=tmp_path, quiet=True, **{**TINY, **given})
    assert report.verdict.outcome == "undecided" and "Every network diverged" in report.verdict.reason
    assert (report.folder / "report.md").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_epsilon": -1.0}, "train_epsilon must be a finite number >= 0"),
        ({"epsilon": -1.0}, "train_epsilon must be a finite number >= 0"),  # its name in earlier versions
        ({"train_epsilon": 8.0, "attack_steps": 0}, "attack_steps must be at least 1"),
        ({"attack_steps": 0}, "attack_steps must be at least 1"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0"),
        ({"attack_norm": "l1"}, "l1"),
        ({"rank_cut": 0.0, "edit": "rank_min"}, "rank_cut must be a finite number > 0"),
        ({"rank_cap": -1.0, "edit": "rank_max"}, "rank_cap must be a finite number > 0"),
        ({"edit": "lower"}, "unknown edit"),
        ({"edit": "random", "rank_cut": None}, "random needs a rank_cut"),
        ({"check_size": -1}, "check_size must be a number of images"),
        ({"edit": "rank_min", "edit_epochs": (3,)}, "edit_epochs must be epochs of fine-tuning, 1 to 2"),
        ({"finetune_epochs": 0}, "finetune_epochs must be at least 1"),
        ({"test_epsilons": (8.0, 1.0)}, "test_epsilons must be increasing"),
        ({"test_epsilons": ()}, "test_epsilons must be increasing"),
        ({"test_epsilons": (-1.0,)}, "test_epsilons must be increasing numbers >= 0"),
        ({"test_steps": 0}, "test_steps"),
        ({"robust_size": 31}, "robust_size 31 was asked of 30"),
        ({"model": "mlp", "width": 4, "depth": 1, "edit": "rank_min"}, "no layer between its first and its logits"),
        ({"pad": False}, "larger than|must be no larger than the input"),
    ],
)
def test_bad_input_ends_before_any_training(tmp_path, options, message):
    given = {**TINY, **CONVNET, "edit": ["none"], "seed": [0], **options}
    if "epsilon" not in given:
        given.setdefault("train_epsilon", 0.0)
    with pytest.raises(InvalidInput, match=message):
        run_rank.run("robustness", out_dir=tmp_path, quiet=True, **given)
    assert not list(tmp_path.iterdir())


def test_a_model_without_convolutions_and_dense_layers_is_refused(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Reshape((8, 8))(inputs))
    x = keras.layers.ZeroPadding1D(1)(x)  # [10, 8], whose rows are averaged to ten logits
    path = str(tmp_path / "mine.keras")
    keras.Model(inputs, keras.layers.GlobalAveragePooling1D(data_format="channels_first")(x)).save(path)
    for experiment in ("robustness", "spectra"):
        with pytest.raises(InvalidInput, match="has no convolution and no Dense layer"):
            run_rank.run(experiment, out_dir=tmp_path / "out", quiet=True, model=path, seed=[0])


# -- flags


def parsed(*arguments):
    values = flags.FlagValues()
    command_line.define(run_rank.EXPERIMENTS, values)
    command_line.parse(["run_rank.py", *arguments], values)
    experiment = run_rank.EXPERIMENTS[values.experiment]
    given = {name: values[name].value for name in experiment.fields if values[name].value is not None}
    return experiment, grid.expand(experiment, given)[0]


def test_there_are_presets():
    assert {(path.parent.name, path.stem) for path in PRESETS} >= {
        ("paper", "rank_resnet18"),
        ("paper", "rank_spectra"),
        ("quick", "rank_cifar10_resnet"),
        ("quick", "rank_spectra_resnet"),
    }


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_span_valid_grids_under_todays_flags(path, capsys):
    _, configs = parsed(f"--flagfile={path}")
    assert capsys.readouterr().err == ""  # no flag has another name by now
    shapes = {"digits": (8, 8, 1), "cifar10": (32, 32, 3)}
    for config in configs:
        validate(config.network, shapes[config.data.dataset], 10)
    assert {config.seed for config in configs} >= {0, 1, 2}
    if hasattr(configs[0], "adversary"):
        assert {config.adversary.train_epsilon for config in configs} == {0.0, 8.0}
    command = re.search(r"--flagfile=(\S+\.cfg)", path.read_text())[1]
    assert command == f"presets/{path.parent.name}/{path.name}"


def test_flags_of_earlier_versions_still_work_and_say_their_new_name(capsys):
    _, configs = parsed("--epsilon=8", "--steps=3", "--seed=0", "--edit=none")
    assert [(c.adversary.train_epsilon, c.adversary.attack_steps) for c in configs] == [(8.0, 3)]
    told = capsys.readouterr().err
    assert "--epsilon is now called --train_epsilon" in told and "--steps is now called --attack_steps" in told
