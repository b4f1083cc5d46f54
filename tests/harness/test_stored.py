"""harness/stored.py: what a grid takes from a .keras file, and what the person's flags keep from it."""
import keras
import pytest

import run_norm
import run_ntk
from harness import grid, stored
from models.stored_file import read_stored_file
from tests.models.test_stored_file import SGD, mlp

NORM_BIAS, DRIFT = run_norm.EXPERIMENTS["norm_bias"], run_ntk.EXPERIMENTS["drift"]


@pytest.fixture
def save(tmp_path):
    def make(name, *widths, optimizer=None):
        model = mlp(*widths)
        if optimizer is not None:
            model.compile(optimizer, loss="mse")
        model.save(tmp_path / f"{name}.keras")
        return str(tmp_path / f"{name}.keras")

    return make


def settings(experiment, **options):
    configs, axes = grid.expand(experiment, {"seed": 0, **options})
    return [grid.flat(config) for config in configs], axes


def test_each_file_gives_its_own_rate_and_a_model_by_name_keeps_the_default(save):
    files = [save("a", 4, optimizer=SGD(0.02, momentum=0.8)), save("b", 8, optimizer=keras.optimizers.Adam(0.1))]
    found, axes = settings(DRIFT, model=[*files, "mlp"], width=32, depth=1)
    default = DRIFT.config().training
    plain = (default.learning_rate, default.momentum)
    assert [(row["learning_rate"], row["momentum"]) for row in found] == [(0.02, 0.8), plain, plain]
    assert not {"learning_rate", "momentum"} & set(axes)  # so that the flags ask the files again
    again, _ = settings(DRIFT, **axes | {"seed": 0})
    assert again == found


@pytest.mark.parametrize("given", [{"learning_rate": 0.3}, {"momentum": 0.5}, {"learning_rate": 0.3, "momentum": 0.5}])
def test_a_given_rate_or_momentum_keeps_both_from_the_file(given, save):
    (row,), axes = settings(DRIFT, model=save("a", 4, optimizer=SGD(0.02, momentum=0.8)), **given)
    expected = {"learning_rate": DRIFT.config().training.learning_rate, "momentum": 0.9, **given}
    assert {name: row[name] for name in expected} == expected and set(expected) <= set(axes)


@pytest.mark.parametrize("regularize_all", [True, False])
def test_norm_targets_are_multiples_of_the_norm_that_is_regularized(regularize_all, save):
    path = save("a", 4)
    found, _ = settings(NORM_BIAS, model=path, regularize_all=regularize_all)
    file = read_stored_file(path)
    norm = file.squared_norm if regularize_all else file.kernel_norm
    targets = [row["norm_target"] for row in found if row["regularizer"] == "norm_bias"]
    assert targets == pytest.approx([1.4 * norm], rel=1e-3)
    assert {row["norm_target"] for row in found if row["regularizer"] != "norm_bias"} == {0.0}


def test_a_given_target_is_kept_and_one_line_says_what_was_taken(save):
    path = save("a", 4, optimizer=SGD(0.02, momentum=0.8))
    found, axes = settings(NORM_BIAS, model=path, norm_target=5.0)
    assert {row["norm_target"] for row in found} == {0.0, 5.0} and axes["norm_target"] == [5.0]
    says = stored.describe(NORM_BIAS, [path, "mlp"], {"norm_target": 5.0})
    assert says == "Taken from the file where no flag was given: a.keras: learning_rate 0.02, momentum 0.8."
    assert "norm_target" in stored.describe(NORM_BIAS, [path], {}) and "\n" not in says
    assert "not compiled with plain SGD" in stored.describe(DRIFT, [save("b", 4)], {})
    assert stored.describe(DRIFT, ["mlp"], {}) == ""


def test_the_report_says_what_was_taken(save, tmp_path):
    path = save("a", 4, optimizer=SGD(0.02, momentum=0.8))
    report = run_ntk.run(
        "features", out_dir=tmp_path / "out", quiet=True, model=path, seed=0, epochs=1, train_size=60, test_size=20,
        feature_sample=20,
    )  # fmt: skip
    assert "a.keras: learning_rate 0.02, momentum 0.8" in (report.folder / "report.md").read_text()
    assert report.results.table["learning_rate"].tolist() == [0.02]
    assert "learning_rate" not in (report.folder / "flags.cfg").read_text()
