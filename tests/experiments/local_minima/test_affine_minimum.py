"""experiments/local_minima/affine_minimum.py: its judge and figures on results made by hand."""
import numpy as np
import pandas as pd
import pytest

from analysis.statistics import t_interval
from experiments.local_minima.affine_minimum import EXPERIMENT
from judging.wording import format_factor
from models import NetworkConfig
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results


def certified(seed, radius, floor, loss, **changes):
    names = ("seed", "certificate/radius", "certificate/floor", "default/train/loss")
    return {**NETWORK, **dict(zip(names, (seed, radius, floor, loss))), **changes}


def test_judge():
    rows = [certified(0, 0.5, 1.0, 0.01), certified(1, 0.25, 1.0, 0.01), certified(2, 0.1, 1.0, 0.95)]
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "refuted" and "2 of 3 networks" in verdict.reason
    assert "a distance of 0.25 (the smallest radius)" in verdict.reason
    assert "100 [100, 100] times lower (95 % interval over 2 seeds)." in verdict.reason
    assert "width 16 (refuted: certified and beaten): 2 of 3, 100 [100, 100] times lower" in verdict.reason
    assert "proved or counted" in verdict.family  # no error is spent
    one = judged(EXPERIMENT, [certified(0, 0.5, 1.0, 0.01)])  # the proof needs no second seed, an interval does
    assert one.outcome == "refuted" and one.reason.endswith(": 1 of 1, 100 times lower.")
    assert judged(EXPERIMENT, [certified(0, 0.5, 1.0, 0.0), certified(1, 0.5, 1.0, 0.0)]).outcome == "refuted"


@pytest.mark.parametrize(
    ("row", "sit"),
    [
        (certified(0, 0.0, 1.0, 0.01), 0),  # nothing is certified
        (certified(0, 0.0, np.nan, 0.01), 0),
        (certified(0, 0.5, 1.0, 0.95), 2),  # nearly global
        (certified(0, 0.5, 1.0, np.nan), 2),  # diverged from default
        ({**NETWORK, "seed": 0, "certificate/radius": 0.5, "certificate/floor": 1.0, "diverged_epoch": 3}, 2),
        ({**NETWORK, "seed": 0, "diverged_epoch": 3}, 0),
    ],
)
def test_without_a_network_that_is_proven_and_beaten_it_is_undecided(row, sit):
    verdict = judged(EXPERIMENT, [row, {**row, "seed": 1}])
    assert not verdict.advice and verdict.seeds_needed is None  # more seeds prove nothing
    assert verdict.outcome == "undecided" and f"{sit} of 2 networks sit at a certified local minimum" in verdict.reason


LOSSES = {1: [0.01, 0.02, 0.05], 2: [0.1, 0.08, 0.02]}  # by depth: their mean over seeds hides how far seeds lie apart


@pytest.mark.parametrize("axis", ["depth", "learning_rate"])
def test_the_interval_counts_three_seeds_of_two_networks_as_three(axis):
    rows = [
        certified(seed, 0.5, 1.0, loss, **{axis: level})
        for level, losses in LOSSES.items()
        for seed, loss in enumerate(losses)
    ]
    interval = t_interval(-np.mean(np.log10(list(LOSSES.values())), axis=0))
    verdict = judged(EXPERIMENT, rows)
    assert "6 of 6 networks" in verdict.reason
    said = f"{format_factor(interval)} times lower (95 % interval over 3 seeds, each the mean of 2 networks)."
    assert said in verdict.reason
    assert {outcome for _, outcome in verdict.groups} == {"refuted"} and len(verdict.groups) == 2
    alone = judged(EXPERIMENT, rows[::3])  # seed 0 of both: their spread is no interval
    mean = np.mean(np.log10([1 / 0.01, 1 / 0.1]))
    assert f"a loss {10**mean:.3g} times lower (the mean of 2 networks)." in alone.reason


def test_one_network_that_is_beaten_refutes_beside_others_that_are_not():
    rows = [certified(seed, 0.5, 1.0, loss, depth=d) for d, loss in ((1, 0.01), (2, 0.95)) for seed in range(3)]
    verdict = judged(EXPERIMENT, rows)
    assert verdict.outcome == "refuted" and [outcome for _, outcome in verdict.groups] == ["refuted", "undecided"]
    assert "3 of 6 networks" in verdict.reason and "depth 2, width 16 (undecided): 0 of 3" in verdict.reason


@pytest.mark.parametrize(("factor", "outcome"), [(1.1, "undecided"), (1.05, "refuted")])
def test_the_margin_says_what_is_nearly_global(factor, outcome):
    table = pd.DataFrame([certified(0, 0.5, 1.0, 0.93)])
    assert EXPERIMENT.judge(EXPERIMENT.results(table, margins={"margin_factor": factor})).outcome == outcome


def test_seeds_that_lack_a_network_are_left_out_of_the_interval():
    rows = [certified(seed, 0.5, 1.0, loss, depth=depth) for depth in LOSSES for seed, loss in enumerate(LOSSES[depth])]
    rows[5]["certificate/radius"] = 0.0
    interval = t_interval(-np.mean(np.log10(list(LOSSES.values())), axis=0)[:2])
    assert f"{format_factor(interval)} times lower (95 % interval over 2 seeds, each" in judged(EXPERIMENT, rows).reason
    apart = [rows[0], rows[4]]  # no seed has both: nothing but a mean can be said
    mean = np.mean([-np.log10(0.01), -np.log10(0.08)])
    assert f"a loss {10**mean:.3g} times lower (the mean of 2 networks)." in judged(EXPERIMENT, apart).reason


def drawn(rows, *, stages=("embedding", "default"), walks=None):
    around = {"directions/distances": np.array([0, 0.1, 1, 10]), "directions/losses": np.array([[1.0, 1, 2, 9]] * 2)}
    arrays, histories = {}, {}
    for row in rows:
        arrays[row["config_id"]] = {**around, **(walks or {}).get(row["config_id"], {})}
        histories[row["config_id"]] = pd.DataFrame(
            [{"stage": stage, "epoch": epoch, "train/loss": 1 / epoch} for stage in stages for epoch in (1, 2)]
        )
    return EXPERIMENT.figures(results(EXPERIMENT, rows, arrays, histories))


def test_figures_have_a_panel_and_two_curves_a_network():
    rows = [
        certified(seed, 0.5, 1.0, 0.01, learning_rate=rate, config_id=f"{rate}-{seed}", **{"minimum/train/loss": 1.0})
        for rate in (0.1, 0.2) for seed in (0, 1)
    ]  # fmt: skip
    figures = drawn(rows)
    assert list(figures) == ["loss_around_the_minimum", "training_from_both_starts"]
    titles = [axis.get_title() for axis in figures["loss_around_the_minimum"].axes]
    assert titles == [f"mlp, depth 1, width 16, learning rate {rate}, seed 0" for rate in (0.1, 0.2)]
    (legend,) = figures["training_from_both_starts"].legends
    assert len(legend.get_texts()) == 4 and len(figures["training_from_both_starts"].axes[0].lines) == 8


def test_figures_leave_out_what_was_not_measured():
    rows = [certified(0, 0.5, 1.0, np.nan, **{"minimum/train/loss": 1.0})]
    figure = drawn(rows, stages=("embedding",))["training_from_both_starts"]
    (text,) = figure.legends[0].get_texts()
    assert text.get_text() == "mlp, depth 1, width 16, from the certified minimum"
    assert EXPERIMENT.figures(results(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 1}])) == {}


def test_walks_have_one_legend_beside_their_panels_with_every_kind_of_walk():
    rows = [{**certified(0, 0.5, 1.0, 0.01, **{"minimum/train/loss": 1.0}), "width": w, "config_id": w} for w in (8, 9)]
    walk = np.ones(2)
    walks = {
        row["config_id"]: {"escape/rates": walk, f"escape/{name}/farthest": walk, f"escape/{name}/losses": walk}
        for row, name in zip(rows, ("minibatch", "full_batch"))
    }
    figure = drawn(rows, walks=walks)["leaving_the_minimum"]
    assert len(figure.axes) == 4 and not any(axis.get_legend() for axis in figure.axes)
    texts = {text.get_text() for text in figure.legends[0].get_texts()}
    assert texts == {"with minibatches", "with all images a step", "certified radius"}


@pytest.mark.parametrize(("network", "applies"), [
    (NetworkConfig(model="mlp"), True), (NetworkConfig(model="mlp", activation="tanh"), False),
    (NetworkConfig(model="resnet"), False), (NetworkConfig(model="mine.keras"), True),
])  # fmt: skip
def test_it_applies_to_relu_mlps_and_stored_models(network, applies):
    assert EXPERIMENT.applies(EXPERIMENT.config(network=network)) == applies
