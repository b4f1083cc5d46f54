"""experiments/local_minima/initialization.py: its starts, and its judge and figures on results made by hand."""
import numpy as np
import pandas as pd
import pytest

import models
from experiments.local_minima.initialization import EXPERIMENT, INITIALIZATIONS, NEAR, Config, is_stationary
from models import NetworkConfig
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results

AT_REST = {"after/relative_gradient": 0.0, "after/smallest_eigenvalue": 0.0, "after/largest_eigenvalue": 1.0,
           "after/eigenvalues_converged": True}  # fmt: skip


def started(name, losses, **changes):
    return [
        {**NETWORK, **AT_REST, **changes, "initialization": name, "seed": seed, "after/train/loss": loss}
        for seed, loss in enumerate(losses)
    ]


SEEDS = 6
NOISE = 0.02 * np.array([0, 1, -1, 0.5, -0.5, 0.2])


def around(loss, spread=1.0):
    """Losses of six seeds."""
    return loss * (1 + spread * NOISE)


DEFAULT = started("default", around(0.1, 3))


def test_a_start_that_is_trapped_refutes():
    verdict = judged(EXPERIMENT, DEFAULT + started("zero", around(0.5)) + started("equal", around(0.1, 3.1)))
    assert verdict.outcome == "refuted"
    assert "mlp, depth 1, width 16 (refuted: zero is trapped): from default 0.1, from zero 0.5, " in verdict.reason
    assert "from equal 0.1, 1 [0.999, 1] times that over 6 seeds (6 of 6 runs end nearly stationary)." in verdict.reason
    both = judged(EXPERIMENT, DEFAULT + started("zero", around(0.5)) + started("equal", around(0.4)))
    assert "(refuted: zero is trapped, equal is trapped)" in both.reason


@pytest.mark.parametrize(("state", "outcome"), [
    ({"after/relative_gradient": NEAR}, "refuted"),
    ({"after/relative_gradient": 1.01 * NEAR}, "undecided"),  # it is still on its way down
    ({"after/relative_gradient": np.nan}, "undecided"),
    ({"after/eigenvalues_converged": False}, "undecided"),  # the smallest may lie below what was found
    ({"after/smallest_eigenvalue": -NEAR}, "refuted"),
    ({"after/smallest_eigenvalue": -1.01 * NEAR}, "undecided"),  # a saddle
])  # fmt: skip
def test_a_start_that_ends_high_is_trapped_only_where_training_came_to_rest(state, outcome):
    verdict = judged(EXPERIMENT, DEFAULT + started("zero", around(0.5), **state))
    assert verdict.outcome == outcome
    assert f"({6 if outcome == 'refuted' else 0} of 6 runs end nearly stationary)" in verdict.reason
    rows = started("zero", around(0.5))
    rows[2].update(state)  # one run of six: every run must have come to rest
    assert judged(EXPERIMENT, DEFAULT + rows).outcome == outcome
    rows[2]["after/train/loss"] = np.nan  # a run that diverged is no run that moves on
    assert judged(EXPERIMENT, DEFAULT + rows).outcome == "refuted"


def test_results_of_earlier_versions_refute_nothing_and_say_why():
    rows = [{k: v for k, v in row.items() if k != "after/relative_gradient"} for row in
            DEFAULT + started("zero", around(0.5))]  # fmt: skip
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and "12 runs of an earlier version count as not stationary" in verdict.reason
    assert "earlier version" not in judged(EXPERIMENT, DEFAULT + started("zero", around(0.5))).reason


def test_what_counts_as_stationary_is_free_of_scale():
    """Loss times 7 leaves both measures; so do weights times 3, whose gradient is a third."""
    state = {"after/relative_gradient": 0.5 * NEAR, "after/smallest_eigenvalue": -0.5 * NEAR * 4,
             "after/largest_eigenvalue": 4.0, "after/eigenvalues_converged": True}  # fmt: skip
    assert is_stationary(state) and not is_stationary({**state, "after/smallest_eigenvalue": -2 * NEAR * 4})
    assert is_stationary({**state, **{name: 7 * state[name] for name in state if name.endswith("eigenvalue")}})


def test_support_needs_every_start_tried():
    near = started("zero", around(0.104, 2)) + started("equal", around(0.05))
    verdict = judged(EXPERIMENT, DEFAULT + near)
    assert verdict.outcome == "supported" and "(supported: no start tried ends above)" in verdict.reason
    lost = judged(EXPERIMENT, DEFAULT + near + started("bias+20", [np.nan] * SEEDS))  # it always diverged
    assert lost.outcome == "undecided" and "from bias+20 not measured" in lost.reason
    spread = judged(EXPERIMENT, DEFAULT + near + started("bias+20", around(0.1, 20)))
    assert spread.outcome == "undecided" and spread.seeds_needed > SEEDS


@pytest.mark.parametrize(("factor", "outcome"), [(1.1, "refuted"), (1.3, "supported")])
def test_the_margin_says_what_is_nearly_as_low(factor, outcome):
    table = pd.DataFrame(DEFAULT + started("zero", around(0.12, 3)))
    assert EXPERIMENT.judge(EXPERIMENT.results(table, margins={"margin_factor": factor})).outcome == outcome


def test_pairs_are_of_the_same_seed():
    """Seeds that differ a hundredfold, and a start that is 1.3 times above on each: only the pairs see it."""
    scales = 10.0 ** np.array([0, 1, 2, 0.5, 1.5, 1.2])
    rows = started("default", around(0.1) * scales) + started("zero", around(0.13, 0.9) * scales)
    assert judged(EXPERIMENT, rows).outcome == "refuted"
    assert judged(EXPERIMENT, rows[:SEEDS] + started("zero", (around(0.13) * scales)[::-1])).outcome == "undecided"


def test_two_seeds_decide_nothing():
    verdict = judged(EXPERIMENT, DEFAULT[:2] + started("zero", [5.0, 5.1]))
    assert verdict.outcome == "undecided" and verdict.advice == "A verdict needs 3 seeds or more."
    few = judged(EXPERIMENT, DEFAULT + started("zero", [5.0, 5.1] + [np.nan] * 4))  # the others diverged
    assert few.outcome == "undecided" and "Too few of the 6 seeds have all that is compared" in few.advice


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (DEFAULT, "no start was compared"),
        (started("zero", around(0.5)), "no start was compared"),
        (started("default", [np.nan] * 3) + started("zero", [0.5] * 3), "no start was compared"),
        (started("default", [np.nan] * 2) + started("zero", [np.nan] * 2), "Every network diverged"),
        ([{k: v for k, v in row.items() if k != "after/train/loss"} for row in DEFAULT], "Every network diverged"),
    ],
)
def test_without_two_starts_to_compare_it_is_undecided(rows, reason):
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "undecided" and reason in verdict.reason


def test_starts_are_compared_at_one_setting_only():
    """A second learning rate must neither end in an error nor be mixed into the pairs, nor into the default's mean."""
    slow = [row for name in ("default", "zero") for row in started(name, around(0.8), learning_rate=0.1)]
    fast = started("default", around(0.1, 2), learning_rate=0.2) + started("zero", around(0.5, 3), learning_rate=0.2)
    verdict = judged(EXPERIMENT, slow + fast)
    assert verdict.outcome == "refuted" and [outcome for _, outcome in verdict.groups] == ["undecided", "refuted"]
    assert "learning rate 0.2 (refuted: zero is trapped): from default 0.1, from zero 0.501, 5 [" in verdict.reason
    halves = [row for rows in (slow, fast) for row in rows if row["initialization"] == "default" or row["seed"] == 0]
    assert judged(EXPERIMENT, halves).outcome == "undecided"  # one seed at each of two rates is no two pairs


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
