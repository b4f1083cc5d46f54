"""experiments/ntk/spectrum.py: predicted rates, what correlates with what, verdicts diagram by diagram."""
from dataclasses import replace

import numpy as np
import pytest

from analysis.linearized_training import scale_to_unit_variance
from experiments.ntk import spectrum
from experiments.ntk.spectrum import Config
from tests.experiments.ntk import tables
from training.data import DataConfig, load


def results(experiment, measures, **axes):
    return tables.results(experiment, measures, **{"cells": 16, "centre_labels": False, **axes})


def correlations(training, test, spread=0.02, saved=0.1):
    """saved: what the spectrum saves of the errors of depth and weight variance."""
    errors = ("error_depth", "error_variance", "error_both")
    return lambda fields: {
        **{f"{what}/{name}": 0.2 + saved for what in ("trainability", "generalization") for name in errors},
        "trainability/error": 0.2 + 0.001 * fields["seed"], "generalization/error": 0.2 - 0.001 * fields["seed"],
        "finite/diverged": 0, "infinite/test_agreement": 0.9,
        "trainability/correlation": training + spread * fields["seed"],
        "generalization/correlation": test + spread * fields["seed"],
    }  # fmt: skip


def test_outcomes():
    means = (0.8, 0.9), (0.8, 0.1), (0.5, 0.9)
    verdicts = [spectrum.judge(results(spectrum.EXPERIMENT, correlations(*both))) for both in means]
    assert [verdict.outcome for verdict in verdicts] == ["supported", "refuted", "undecided"]
    assert verdicts[0].reason.startswith(
        "fcn, width 64, erf (supported: the spectrum tells both, and more than depth and weight variance): rank "
        "correlation with training accuracy 0.82 [0.77, 0.87] over 3 seeds, predicted with an error of 0.2 ["
    )


@pytest.mark.parametrize(("saved", "outcome"), [(0.1, "supported"), (0.009, "refuted"), (-0.1, "refuted")])
def test_what_depth_and_weight_variance_tell_as_well_refutes(saved, outcome):
    verdict = spectrum.judge(results(spectrum.EXPERIMENT, correlations(0.8, 0.9, saved=saved), seed=list(range(6))))
    assert verdict.outcome == outcome
    assert ("it tells no more of trainability than depth" in verdict.reason) == (outcome == "refuted")


def test_cells_that_all_seeds_share_decide_nothing():
    verdict = spectrum.judge(results(spectrum.EXPERIMENT, correlations(0.8, 0.9), cells=0))
    assert verdict.outcome == "undecided" and "cells that were chosen (--cells=12 draws them)" in verdict.reason


def test_a_table_of_earlier_versions_is_no_error():
    old = {name: value for name, value in correlations(0.8, 0.9)({"seed": 0}).items() if "error" not in name}
    verdict = spectrum.judge(results(spectrum.EXPERIMENT, lambda fields: old, cells=0))
    assert verdict.outcome == "undecided" and "nan" not in verdict.reason


def test_every_seed_draws_its_cells_from_the_whole_plane():
    found = [Config(cells=16, seed=seed).finite_cells for seed in range(20)]
    assert found[3] == Config(cells=16, seed=3).finite_cells and found[3] != found[4]
    assert all(len({*cells}) == 16 for cells in found)
    variances, depths = np.array([cell for cells in found for cell in cells]).T
    assert 0.5 <= variances.min() < 0.6 and 2.9 < variances.max() <= 3.0
    assert {*depths} >= {1, 2, 3, 23} and depths.max() <= 24 and np.median(depths) == pytest.approx(5, abs=1)
    config = Config(cells=16)
    assert config.variances_of_map == sorted(config.weight_variances) and config.depths_of_map == sorted(config.depths)


@pytest.mark.parametrize(
    "axis", [{"train_size": [20, 50]}, {"steps": [5, 10]}, {"dataset": ["digits", "gaussian"]}, {"width": [8, 16]}]
)
def test_three_seeds_count_as_three_beside_a_second_value_of_another_field(axis):
    """Runs that differed in anything but architecture, activation, width and bias variance were pooled as seeds."""
    verdict = spectrum.judge(results(spectrum.EXPERIMENT, correlations(0.8, 0.9), **axis))
    assert verdict.reason.count("over 3 seeds") == 4 and "6 seeds" not in verdict.reason  # two of each group
    assert verdict.outcome == "supported" and verdict.reason.count("fcn, ") == 2


def test_one_seed_decides_nothing():
    verdict = spectrum.judge(results(spectrum.EXPERIMENT, correlations(0.8, 0.9), seed=0))
    assert verdict.outcome == "undecided" and "over 1 seeds" in verdict.reason and "nan" not in verdict.reason


def test_each_correlation_counts_the_seeds_that_have_it():
    """Where all finite networks test alike there is no correlation, and the other one's seeds were claimed for it."""

    def measured(fields):
        found = correlations(0.8, 0.9)(fields)
        return {**found, "generalization/correlation": np.nan} if fields["seed"] == 0 else found

    reason = spectrum.judge(results(spectrum.EXPERIMENT, measured, seed=[0, 1, 2, 3])).reason
    assert "0.83 [0.79, 0.87] over 4 seeds" in reason and "over 3 seeds" in reason


def test_one_diagram_that_tells_nothing_refutes():
    def measured(fields):
        return correlations(0.8, 0.9 if fields["activation"] == "erf" else 0.1)(fields)

    verdict = spectrum.judge(results(spectrum.EXPERIMENT, measured, activation=["erf", "relu"]))
    assert verdict.outcome == "refuted" and verdict.reason.startswith("fcn, width 64, erf (supported")


def test_diagrams_without_finite_networks_are_not_judged():
    nothing = results(spectrum.EXPERIMENT, lambda fields: {"rate/ordered_condition": 1.0})
    assert spectrum.judge(nothing).reason == "No finite network was trained." and spectrum.figures(nothing) == {}


def test_networks_that_all_diverged_are_counted():
    def diverged(fields):
        return {**dict.fromkeys(correlations(0, 0)(fields), np.nan), "finite/diverged": 4}

    verdict = spectrum.judge(results(spectrum.EXPERIMENT, diverged, seed=[0, 1]))
    assert verdict.outcome == "undecided" and "8 finite networks diverged" in verdict.reason
    assert "accuracy not measured" in verdict.reason and "nan" not in verdict.reason


def test_finite_networks_are_compared_with_their_own_cells_of_the_map(monkeypatch):
    """Accuracies made from the map must correlate perfectly; a diverged network is left out and counted."""
    finite = {"finite_weight_variances": (3.0, 0.5), "finite_depths": (8, 1)}
    config = Config(weight_variances=(0.5, 2.0), depths=(1, 3), **finite)
    assert config.finite_cells == [(3.0, 8), (3.0, 1), (0.5, 8), (0.5, 1)]
    assert config.variances_of_map == [0.5, 2.0, 3.0] and config.depths_of_map == [1, 3, 8]
    number = np.array([[v * l for l in config.depths_of_map] for v in config.variances_of_map])
    infinite = {
        "condition": np.exp(number), "lambda_max": number, "predictor_after_steps": -number,
        "predictor_uncentred": number, "predictor_converged": number, "train": number, "test": -number,
    }  # fmt: skip
    seen = []

    def train_finite(config, data, run, variance, depth, largest):
        seen.append((variance, depth))
        assert largest == variance * depth
        return (np.nan, np.nan) if (variance, depth) == (0.5, 1) else (1 - largest / 300, 1 / largest)

    monkeypatch.setattr(spectrum, "train_finite", train_finite)
    found = spectrum.finite_networks(config, None, None, infinite)
    assert seen == [(3.0, 8), (3.0, 1), (0.5, 8), (0.5, 1)] and found["finite/diverged"] == 1
    signs = {
        "trainability/correlation": 1, "generalization/correlation": 1, "generalization/trained": -1,
        "infinite/train_agreement": -1, "infinite/test_agreement": 1,
    }  # fmt: skip
    assert {name: found[name] for name in signs} == pytest.approx(signs)
    assert found["finite/weight_variance"].tolist() == [3.0, 3.0, 0.5, 0.5]
    assert found["finite/depth"].tolist() == [8, 1, 8, 1]
    assert found["finite/signal"].tolist() == [-24, -3, -4, -0.5]


def test_columns_of_earlier_versions_are_read():
    former = {"generalisation/correlation": 0.5, "generalisation/trained": 0.6, "rate/chaotic_predictor": 1.0}
    assert spectrum.EXPERIMENT.modernize(former) == {
        "generalization/correlation": 0.5, "generalization/trained": 0.6, "rate/chaotic_predictor": 1.0,
    }  # fmt: skip


@pytest.mark.slow
def test_rates_are_the_predicted_ones():
    """Deep enough, all four measured rates are within some per cent of theory, which needs inputs of one length."""
    data = load(DataConfig(dataset="gaussian", train_size=30, test_size=20), seed=0)
    data = replace(data, x_train=scale_to_unit_variance(data.x_train), x_test=scale_to_unit_variance(data.x_test))
    found = spectrum.curves(Config(curve_depth=400), data)
    for name in ("ordered_condition", "chaotic_condition", "critical_condition", "chaotic_predictor"):
        assert found[f"rate/{name}"] == pytest.approx(1, abs=0.08), name
    fall = np.log(found["curve/predictor"][1][-1] / found["curve/predictor"][1][-4]) / np.log(
        found["curve/depths"][-1] / found["curve/depths"][-4]
    )
    assert -1.05 < fall < -0.7  # 1 / l at criticality, slowly
