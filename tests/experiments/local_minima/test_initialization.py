"""experiments/local_minima/initialization.py: its starts, and its judge and figures on results made by hand."""
import numpy as np
import pytest

import models
from experiments.local_minima.initialization import EXPERIMENT, INITIALIZATIONS, Config
from models import NetworkConfig
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results


def started(name, losses, **changes):
    return [
        {**NETWORK, **changes, "initialization": name, "seed": seed, "after/train/loss": loss}
        for seed, loss in enumerate(losses)
    ]


DEFAULT = started("default", [0.10, 0.11, 0.09])


def test_judge():
    verdict = judged(EXPERIMENT, DEFAULT + started("zero", [0.5, 0.5, 0.5]) + started("equal", [0.10, 0.11, 0.091]))
    assert verdict.outcome == "refuted" and "1 of 2 starts" in verdict.reason
    assert "mlp, depth 1, width 16 from zero (0.5), where the default ends at 0.1." in verdict.reason


@pytest.mark.parametrize("losses", [
    [0.1, 0.9, 0.05],  # too far spread
    [0.105, 0.115, 0.095],  # nearly as low
    [0.05, 0.06, 0.04],  # lower
])  # fmt: skip
def test_a_start_that_is_not_measurably_and_clearly_above_decides_nothing(losses):
    verdict = judged(EXPERIMENT, DEFAULT + started("zero", losses))
    assert verdict.outcome == "undecided" and "None of 1 starts" in verdict.reason


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (DEFAULT, "No start was compared"),
        (DEFAULT[:1] + started("zero", [0.5]), "No start was compared"),
        (started("default", [np.nan] * 3) + started("zero", [0.5] * 3), "No start was compared"),
        (started("default", [np.nan] * 2) + started("zero", [np.nan] * 2), "Every network diverged"),
        ([{k: v for k, v in row.items() if k != "after/train/loss"} for row in DEFAULT], "Every network diverged"),
    ],
)
def test_without_two_pairs_it_is_undecided(rows, reason):
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and reason in verdict.reason


def test_starts_are_compared_at_one_setting_only():
    """A second learning rate must neither end in an error nor be mixed into the pairs, nor into the default's mean."""
    slow = started("default", [0.8, 0.7, 0.9], learning_rate=0.1) + started("zero", [0.8, 0.7, 0.9], learning_rate=0.1)
    fast = started("default", [0.10, 0.11, 0.09], learning_rate=0.2) + started("zero", [0.5] * 3, learning_rate=0.2)
    verdict = judged(EXPERIMENT, slow + fast)
    assert verdict.outcome == "refuted" and "1 of 2 starts" in verdict.reason
    assert "learning rate 0.2 from zero (0.5), where the default ends at 0.1." in verdict.reason
    assert "learning rate 0.1" not in verdict.reason
    halves = [row for rows in (slow, fast) for row in rows if row["initialization"] == "default" or row["seed"] == 0]
    assert "No start was compared" in judged(EXPERIMENT, halves).reason  # one seed at each of two rates is one pair


def test_figures_have_a_panel_for_each_setting():
    rows = [
        {**row, "learning_rate": rate, "before/train/loss": 2.0}
        for rate in (0.1, 0.2) for row in DEFAULT + started("zero", [np.nan] * 3)
    ]  # fmt: skip
    (figure,) = EXPERIMENT.figures(results(EXPERIMENT, rows)).values()
    assert [axis.get_title() for axis in figure.axes] == [
        f"mlp, depth 1, width 16, learning rate {rate}" for rate in (0.1, 0.2)
    ]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["default", "zero"]
    assert EXPERIMENT.figures(results(EXPERIMENT, DEFAULT)) == {}


@pytest.fixture(scope="module")
def network():
    return models.build(NetworkConfig(model="mlp", width=4, depth=1), (3,), 2, seed=0)


@pytest.mark.parametrize("name", [name for name, start in INITIALIZATIONS.items() if start])
def test_the_starts_change_biases_or_everything(network, name):
    before = [v.numpy() for v in network.trainable_variables]
    INITIALIZATIONS[name](network, np.random.default_rng(0))
    moved = [v.numpy() - b for v, b in zip(network.trainable_variables, before)]
    ends = {"zero": 0.0, "equal": 0.001}
    bounds = {"default": (0, 0), "bias+20": (20, 20), "bias-20": (-20, -20), "bias_uniform_50": (-50, 50),
              "bias_uniform_10_no_momentum": (-10, 10)}  # fmt: skip
    for variable, change in zip(network.trainable_variables, moved):
        if name in ends:
            np.testing.assert_array_equal(variable.numpy(), np.float32(ends[name]))
        elif variable.name == "kernel":
            assert not change.any()
        else:
            low, high = bounds[name]
            assert (low <= change).all() and (change <= high).all() and (low == high or np.ptp(change) > 0)
    for variable, value in zip(network.trainable_variables, before):
        variable.assign(value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"initialization": "ones"}, "unknown initialization 'ones': allowed are default"),
    ({"kernel_scale": 0.0}, "kernel_scale must be a finite number > 0"),
    ({"kernel_scale": np.inf}, "kernel_scale must be a finite number > 0"),
    ({"hessian_products": 49}, "hessian_products must be at least 50"),
    ({"hessian_size": -1}, "hessian_size 0"),
])  # fmt: skip
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes).validate()


def test_only_the_embedding_needs_a_relu_mlp():
    for start, model, activation, applies in (
        ("default", "resnet", "relu", True), ("embedding", "resnet", "relu", False), ("embedding", "mlp", "relu", True),
        ("embedding", "mlp", "tanh", False),
    ):  # fmt: skip
        network = NetworkConfig(model=model, activation=activation)
        assert EXPERIMENT.applies(Config(initialization=start, network=network)) == applies
