"""experiments/norm/double_descent.py: exact solutions against NumPy, the chosen widths, the judge, small runs."""
import numpy as np
import pandas as pd
import pytest

import run_norm
from analysis.evaluation import score
from experiments.norm.double_descent import EXPERIMENT, Config, solve_last_layer
from harness.grid import flat
from harness.runner import InvalidInput
from models import NetworkConfig
from tests.experiments.local_minima.made_by_hand import judged, results
from training.data import DataConfig, load
from training.fit import build_network

NOISE = 0.01 * np.array([1, -2, 3, 0, -1, 2])  # of log10 of a loss, over seeds


def run(folder, **options):
    return run_norm.run("double_descent", out_dir=folder, quiet=True, **options)


def rows(before, at, beyond, seeds=6, widths=(50, 200, 1600), ridge=None, **fields):
    """Losses at three widths of networks on 200 images."""
    result = []
    for seed in range(seeds):
        for place, (width, loss) in enumerate(zip(widths, (before, at, beyond))):
            network = {"config_id": f"{width}-{seed}", **flat(NetworkConfig(depth=1, width=width))}
            measures = {"capacity": width / 200, "test/loss": loss * 10 ** (NOISE[seed] * (1 + place))}
            measures |= {} if ridge is None else {"ridge/test/loss": ridge}
            result.append({**network, **fields, "seed": seed, **measures})
    return result


def test_judge():
    claim = judged(EXPERIMENT, rows(1.0, 3.0, 0.8, ridge=0.5))
    assert claim.outcome == "supported" and "over 6 seeds (with ridge regression 1" in claim.reason
    assert judged(EXPERIMENT, rows(1.0, 3.0, 3.0)).outcome == "refuted"  # no second descent
    assert judged(EXPERIMENT, rows(3.0, 2.0, 1.0)).outcome == "refuted"  # one descent only
    assert judged(EXPERIMENT, rows(1.0, 1.02, 0.5)).outcome == "refuted"  # a peak below the margin
    assert judged(EXPERIMENT, rows(1.0, 3.0, 0.8, seeds=2)).outcome == "undecided"
    assert judged(EXPERIMENT, [{**rows(1, 1, 1)[0], "capacity": np.nan, "test/loss": np.nan}]).outcome == "undecided"


def along_images(losses, sizes=(800, 200, 50), seeds=6, **fields):
    """Losses at three numbers of images of networks of width 200."""
    return [
        {**row, "width": 200, "config_id": f"{row['config_id']}-{sizes[place % 3]}", "train_size": sizes[place % 3],
         "capacity": 200 / sizes[place % 3], **fields}
        for place, row in enumerate(rows(*losses, seeds=seeds))
    ]  # fmt: skip


def test_one_width_is_judged_along_the_images():
    verdict = judged(EXPERIMENT, along_images((0.5, 3.0, 1.0)))
    assert verdict.outcome == "supported" and "that at 0.25" in verdict.reason and "that at 4," in verdict.reason
    assert judged(EXPERIMENT, along_images((0.5, 0.9, 1.0))).outcome == "refuted"  # more images never hurt
    assert judged(EXPERIMENT, along_images((0.5, 3.0, 1.0), sizes=(800, 200, 100))).outcome == "undecided"
    # Two kinds of data are two groups; and with a second width, the widths are compared at every number of images.
    mixed = along_images((0.5, 3.0, 1.0), label_noise=0.2) + along_images((0.5, 0.9, 1.0), label_noise=0.0)
    assert judged(EXPERIMENT, mixed).outcome == "refuted"
    wide = [{**row, "width": 50, "capacity": 50 / row["train_size"]} for row in along_images((1, 1, 1))]
    verdict = judged(EXPERIMENT, along_images((0.5, 3.0, 1.0)) + wide)
    assert verdict.outcome == "undecided" and verdict.reason.count("nothing to compare") == 3


def test_what_is_one_width_does_not_hang_on_how_it_was_given_nor_on_what_diverged():
    found = along_images((0.5, 3.0, 1.0))
    for given in ({"width": None}, {"width": None, "widths": (200,)}):
        assert judged(EXPERIMENT, [{**row, **given} for row in found]).outcome == "supported"
    other = [{**row, "model": "resnet", "width": 16, "config_id": f"r-{row['config_id']}"} for row in found]
    assert judged(EXPERIMENT, found + other).outcome == "supported"
    lost = [{**row, "width": 50, "capacity": np.nan, "test/loss": np.nan} for row in found]
    for more in (lost, [{**row, "width": None, "capacity": 64 / row["train_size"]} for row in found]):
        verdict = judged(EXPERIMENT, found + more)
        assert verdict.outcome == "undecided" and verdict.reason.count("nothing to compare") == 3


def test_one_number_of_images_may_be_given_in_two_ways_and_lack_seeds():
    found = along_images((0.5, 3.0, 1.0))
    twice = [{**row, "train_size": 0, "config_id": f"all-{row['config_id']}"} for row in found[::3]]
    assert judged(EXPERIMENT, found + twice).reason == judged(EXPERIMENT, found).reason
    short = [row for row in found if row["train_size"] > 50 or row["seed"] > 1]
    assert "over 6 and 4 seeds." in judged(EXPERIMENT, short).reason


def test_epochs_are_drawn_a_line_a_compared_value_without_diverged_runs():
    found = along_images((0.5, 3.0, 1.0), seeds=2)
    found[0] |= {"capacity": np.nan, "test/loss": np.nan}
    losses = {row["config_id"]: [1e9 if row is found[0] else row["test/loss"], np.nan] for row in found}
    histories = {name: pd.DataFrame({"epoch": [1, 2], "test/loss": values}) for name, values in losses.items()}
    axis = EXPERIMENT.figures(results(EXPERIMENT, found, histories=histories))["epochs"].axes[0]
    assert [line.get_label() for line in axis.lines] == ["n = 50", "n = 200", "n = 800"]
    assert axis.lines[2].get_ydata() == pytest.approx([found[3]["test/loss"]])
    assert len(axis.figure.axes) == 1 and axis.get_title() == "mlp, depth 1, width 200"


@pytest.mark.parametrize("widths", [(50, 200, 700), (50, 300, 1600), (120, 200, 1600)])
def test_widths_that_do_not_stand_for_the_three_places_decide_nothing(widths):
    verdict = judged(EXPERIMENT, rows(1.0, 3.0, 0.8, widths=widths))
    assert verdict.outcome == "undecided" and "nothing to compare" in verdict.reason


def test_groups_are_judged_apart():
    verdict = judged(EXPERIMENT, rows(1.0, 3.0, 0.8, label_noise=0.2) + rows(2.0, 1.9, 0.8, label_noise=0.0))
    assert verdict.outcome == "refuted" and "12 seeds" not in verdict.reason


@pytest.mark.parametrize("width", [10, 60])
def test_the_last_layer_is_the_pseudo_inverse(width):
    config = Config(NetworkConfig(depth=1, width=width, dtype="float64"), DataConfig(train_size=30, test_size=50))
    data = load(config.data, seed=0)
    model = build_network(config, data)
    found = solve_last_layer(model, data)
    kernel, bias = model.layers[-2].get_weights()
    train, test = (
        np.maximum(x.reshape(len(x), -1).astype(float) @ kernel + bias, 0) for x in (data.x_train, data.x_test)
    )
    weights = np.linalg.pinv(train) @ data.y_train
    assert found["test/loss"] == pytest.approx(score(test @ weights, data.y_test, "squared")[0], rel=1e-6)
    assert found["norm"] == pytest.approx(np.linalg.norm(weights), rel=1e-6)
    assert found["capacity"] == width / 30 and found["rank"] <= min(width, 30)
    assert (found["train/loss"] < 1e-16) == (width > 30)  # exact beyond the threshold, and not before it
    assert found["ridge/train/loss"] > found["train/loss"] and found["ridge/test/loss"] < found["test/loss"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("descent"), train_size=40, test_size=200, width=[10, 40, 160], label_noise=0.2,
               seed=[0, 1, 2])  # fmt: skip


def test_a_small_run_peaks_at_the_threshold(report):
    losses = report.results.table.groupby("width")["test/loss"].mean()
    assert losses[40] > losses[10] and losses[40] > losses[160]
    assert (report.folder / "figures" / "double_descent.png").exists()


def test_trained_networks_count_all_parameters(tmp_path):
    tiny = {"train_size": 40, "test_size": 20, "width": 2, "label_noise": 0.0, "epochs": 3, "seed": 0}
    report = run(tmp_path, train=True, **tiny)
    table = report.results.table
    assert (report.folder / "figures" / "epochs.png").exists()
    assert table["capacity"][0] == (64 * 2 + 2 + 2 * 10 + 10) / 400 and "ridge/test/loss" not in table


def test_a_run_whose_networks_all_diverge_at_once_is_reported(tmp_path):
    tiny = {"train_size": 40, "test_size": 20, "width": 2, "label_noise": 0.0, "epochs": 2, "seed": 0}
    report = run(tmp_path, train=True, learning_rate=1e300, **tiny)
    assert report.verdict.outcome == "undecided" and not list((report.folder / "figures").glob("*.png"))


def test_bad_input_is_one_line(tmp_path):
    for options, text in (
        ({"train": True, "loss": "cross_entropy"}, "that of the squared loss, got loss 'cross_entropy'"),
        ({"augment": True}, "augment must be false"),
    ):
        with pytest.raises(InvalidInput, match=text) as refusal:
            run(tmp_path, **{"width": 4, "seed": 0, "label_noise": 0.0, "train_size": 40, **options})
        assert "\n" not in str(refusal.value)
