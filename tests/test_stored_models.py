"""A person's own .keras file in every experiment that takes one ends in a verdict, be it Sequential or functional."""
import importlib
import warnings

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from harness import runner
from judging.wording import MAX_NAME, short_name
from models.user_model import load_user_model

TRAINED = {"epochs": 2, "train_size": 60, "test_size": 40, "seed": [0, 1]}
UNEDITED = {"train_epsilon": 0.0, "edit": "none"}
EXPERIMENTS = {
    "run_ntk drift": {**TRAINED, "ntk_sample": 10},
    "run_ntk evolution": {**TRAINED, "ntk_sample": 10},
    "run_ntk features": {**TRAINED, "feature_sample": 20},
    "run_ntk linearization": TRAINED,
    "run_ntk lazy": {"train_size": 40, "test_size": 30, "max_steps": 20, "alpha": [1.0, 100.0], "seed": [0, 1]},
    "run_norm norm_bias": TRAINED,
    "run_norm norm_profile": {**TRAINED, "multiple": [0.5, 2.0]},
    "run_norm randomization": {
        **TRAINED, "label_noise": [0.0, 1.0], "pixel_noise": "none", "explicit_regularizer": "none"
    },
    "run_norm double_descent": {"train_size": 40, "test_size": 30, "seed": [0, 1]},
    "run_norm minimum_norm": {"train_size": 50, "kernel": "ntk", "seed": 0},
    "run_rank robustness": {**TRAINED, **UNEDITED, "finetune_epochs": 1, "attack_steps": 1, "test_steps": 1},
    "run_rank spectra": {**TRAINED, **UNEDITED},
    "run_rank collapse": {**TRAINED, "epochs": 4},
    "run_local_minima initialization": {**TRAINED, "initialization": "default", "hessian_products": 50},
    "run_local_minima distillation": {**TRAINED, "distillation_epochs": 1, "loss": "squared"},
    "run_local_minima connectivity": {**TRAINED, "curve_epochs": 1, "points": 5},
    "run_local_minima sharpness": {**TRAINED, "batch_size": 5, "max_epochs": 3},
    "run_local_minima edge_of_stability": {
        "train_size": 40, "test_size": 30, "steps": 12, "control_steps": 6, "measure_every": 2, "seed": [0, 1]
    },
}  # fmt: skip


def sequential():
    hidden = [layers.Dense(12, activation="relu") for _ in range(2)]
    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), *hidden, layers.Dense(10)])


def functional():
    x = keras.Input((8, 8, 1))
    h = layers.Conv2D(4, 3, activation="relu")(x)
    h = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(h)))
    return keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(h)))


def stored(folder, make, dtype="float32"):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    model = make()
    keras.config.set_dtype_policy(before)
    model.save(folder / f"{make.__name__}.keras")
    return model, str(folder / f"{make.__name__}.keras")


def test_long_paths_with_one_end_stay_two_networks():
    end = "/a_long_path_of_a_checkpoint/at_the_end_of_training.keras"
    names = {short_name(folder + end) for folder in ("first", "second")}
    assert len(names) == 2 and all(len(name) == MAX_NAME for name in names)


def test_a_loaded_sequential_knows_the_inputs_of_its_layers(tmp_path):
    model, path = stored(tmp_path, sequential)
    loaded = load_user_model(path, (8, 8, 1), 10)
    x = np.random.default_rng(0).random([3, 8, 8, 1], np.float32)
    np.testing.assert_array_equal(loaded(x), model(x))
    features = keras.Model(loaded.input, loaded.layers[-1].input)
    np.testing.assert_array_equal(features(x) @ loaded.layers[-1].kernel + loaded.layers[-1].bias, model(x))


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("drift", "linearization")]


@pytest.mark.parametrize("name", ["features", *SLOW])
def test_files_of_one_family_make_a_trend_and_one_file_none(name, tmp_path):
    paths = []
    for width in (4, 16):
        hidden = layers.Dense(width, activation="relu")
        model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), hidden, layers.Dense(10)])
        paths.append(str(tmp_path / f"w{width}.keras"))
        model.save(paths[-1])
    options = {**EXPERIMENTS[f"run_ntk {name}"], "epochs": 1, "train_size": 40, "seed": [0, 1, 2]}
    script = importlib.import_module("run_ntk")
    report = script.run(name, out_dir=tmp_path, quiet=True, model=paths, **options)
    table = report.results.table
    assert table["width"].tolist() == [4] * 3 + [16] * 3 and table["family"].nunique() == 1
    assert [label for label, _ in report.verdict.groups] == [table["family"][0]]
    assert "3 seeds)" in report.verdict.reason and "family" in (report.folder / "results.csv").read_text()
    alone = script.run(name, out_dir=tmp_path, quiet=True, model=paths[0], **options)
    assert alone.verdict.outcome == "undecided" and len(alone.results) == 3
    # The other file's results, which an earlier call left in the folder, know their width too.
    assert pd.read_csv(alone.folder / "results.csv")["width"].tolist() == [4] * 3 + [16] * 3


def test_a_training_accuracy_at_chance_is_warned_of_in_the_verdict(tmp_path):
    model, path = stored(tmp_path, sequential)
    model.layers[-1].kernel.assign(np.zeros([12, 10]))  # at the start it names one class for every image
    model.save(path)
    options = {"model": path, "seed": [0, 1], "train_size": 100, "test_size": 20, "feature_sample": 20, "epochs": 40}
    script = importlib.import_module("run_ntk")
    idle = script.run("features", out_dir=tmp_path / "idle", quiet=True, learning_rate=0.0, **options)
    assert "Warning: in 2 of 2 runs the training accuracy (train/accuracy)" in idle.verdict.reason
    assert "is at chance" in (idle.folder / "report.md").read_text()
    learned = script.run("features", out_dir=tmp_path / "learned", quiet=True, learning_rate=0.05, **options)
    assert "at chance" not in learned.verdict.reason


# What functional is refused for: batch norm where a network is trained as it is in inference, and too few features.
REFUSED = {
    "run_ntk lazy": "as it is in inference, and this one has batch norm",
    "run_local_minima edge_of_stability": "without batch norm and dropout, and this one has batch norm",
    "run_rank collapse": "a simplex of 10 class means needs at least 9 features, there are 4",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [(name, sequential) for name in EXPERIMENTS]
    + [pytest.param(name, functional, marks=pytest.mark.long) for name in EXPERIMENTS if name not in REFUSED],
)
def test_every_experiment_that_takes_one_ends_in_a_verdict(name, make, tmp_path):
    script, title = name.split()
    experiment = importlib.import_module(script).EXPERIMENTS[title]
    _, path = stored(tmp_path, make, experiment.config().network.dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Matplotlib's: a legend of nothing
        report = importlib.import_module(script).run(
            title, out_dir=tmp_path / "results", quiet=True, model=path, **EXPERIMENTS[name]
        )
    table = report.results.table
    assert (table["model"] == path).all() and "diverged" not in report.verdict.reason
    measured = [column for column in experiment.table if column in table]
    assert measured and table[measured].notna().any().any()
    page = (report.folder / "report.html").read_text()  # names it in its table, or short in verdict and figures
    assert f">{path}</th>" in page or short_name(path) in page


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_experiment_cannot_work_with_is_refused_in_one_line(name, tmp_path):
    script, title = name.split()
    dtype = importlib.import_module(script).EXPERIMENTS[title].config().network.dtype
    _, path = stored(tmp_path, functional, dtype)
    with pytest.raises(runner.InvalidInput, match=REFUSED[name]):
        importlib.import_module(script).run(title, out_dir=tmp_path, quiet=True, model=path, **EXPERIMENTS[name])


@pytest.mark.slow
def test_a_stored_relu_mlp_is_certified(tmp_path):
    _, path = stored(tmp_path, sequential, "float64")
    options = {"embedding_epochs": 1, "ball_points": 1, "directions": 1, **TRAINED}
    script = importlib.import_module("run_local_minima")
    report = script.run("affine_minimum", out_dir=tmp_path, quiet=True, model=path, **options)
    assert (report.results.table["certificate/radius"] > 0).all()


@pytest.mark.parametrize(("script", "experiment"), [("run_ntk", "infinite_width"), ("run_norm", "expressivity")])
def test_experiments_that_build_their_networks_refuse_it_in_one_line(script, experiment, tmp_path):
    _, path = stored(tmp_path, sequential)
    with pytest.raises(runner.InvalidInput, match="takes no --model") as error:
        importlib.import_module(script).run(experiment, out_dir=tmp_path, quiet=True, model=path)
    assert "\n" not in str(error.value)
