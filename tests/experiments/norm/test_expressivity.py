"""experiments/norm/expressivity.py: the verdict on tables made by hand, what is drawn, what is refused."""
import numpy as np
import pandas as pd
import pytest

from experiments.norm import expressivity
from experiments.norm.expressivity import EXPERIMENT, Config
from harness.grid import expand
from tests.experiments.norm.tables import judged, unmeasured


def rows(seeds=(0, 1, 2), error=1e-9, parameters=104, **fields):
    common = {"config_id": "x", "model": "mlp", "width": 20, "depth": 1, "dataset": "digits", "diverged_epoch": None}
    return [
        {**common, "targets": targets, "seed": seed, **fields, "error/max": error, "gap/smallest": 1e-3,
         "parameters": parameters, "parameters/theorem": 104, "test/error": 0.8}
        for targets in expressivity.TARGETS for seed in seeds
    ]  # fmt: skip


def test_supported_where_every_network_is_exact_and_has_the_weights_of_the_theorem():
    verdict = judged(EXPERIMENT, rows())
    assert verdict.outcome == "supported" and "9 of 9 networks of 20 to 20 units" in verdict.reason
    assert "all have 2n + d weights, but representing is not generalizing" in verdict.reason
    counted = judged(EXPERIMENT, rows(parameters=105))
    assert counted.outcome == "undecided" and "not all have 2n + d weights" in counted.reason


def test_an_error_is_rounding_and_undecided():
    verdict = judged(EXPERIMENT, rows() + rows(error=1e-3, width=50))
    assert verdict.outcome == "undecided" and "9 of 18 networks" in verdict.reason
    assert "the largest error being 0.001 (n = 50, labels)" in verdict.reason


def test_a_proof_costs_no_error_and_more_seeds_would_not_decide():
    one = judged(EXPERIMENT, rows(seeds=(0,)))
    assert one.outcome == "supported" and "proved or counted" in one.family
    large = judged(EXPERIMENT, rows(error=1e-3))
    assert large.advice == "More seeds alone would not decide." and large.seeds_needed is None


def test_two_data_sets_are_groups_of_which_each_must_hold():
    gaussian = {"dataset": "gaussian"}
    verdict = judged(EXPERIMENT, rows() + rows(**gaussian))
    assert verdict.outcome == "supported" and verdict.reason.count("9 of 9 networks") == 2
    assert "mlp, depth 1, digits (supported: every network fits with 2n + d weights): 9 of 9" in verdict.reason
    verdict = judged(EXPERIMENT, rows() + rows(error=1e-3, **gaussian))
    assert [outcome for _, outcome in verdict.groups] == ["supported", "undecided"] and verdict.outcome == "undecided"


def test_nothing_measured_is_undecided():
    table = [{k: v for k, v in row.items() if k != "parameters"} for row in unmeasured(rows())]
    assert judged(EXPERIMENT, table).outcome == "undecided"
    assert EXPERIMENT.figures(EXPERIMENT.results(pd.DataFrame(table))) == {}


def test_values_are_those_of_the_seed_alone():
    labels = np.arange(50) % 10
    drawn = {
        (targets, seed): expressivity.draw_values(Config(targets=targets, seed=seed), labels, 10)
        for targets in expressivity.TARGETS for seed in (0, 1)
    }  # fmt: skip
    np.testing.assert_array_equal(drawn["labels", 0], labels)
    np.testing.assert_array_equal(drawn["labels", 1], labels)
    assert set(drawn["random_labels", 0]) <= set(range(10)) and (drawn["random_labels", 0] != labels).any()
    for targets in ("random_labels", "gaussian"):
        assert (drawn[targets, 0] != drawn[targets, 1]).any()
        again = expressivity.draw_values(Config(targets=targets, seed=1), labels, 10)
        np.testing.assert_array_equal(again, drawn[targets, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 1}, "width is the number of points here, from 2 to 10000, got 1"),
        ({"depth": 2}, "expressivity builds its network"),
        ({"model": "resnet"}, "expressivity builds its network"),
        ({"targets": "noise"}, "unknown targets 'noise'"),
        ({"epochs": 3}, "unknown option 'epochs'"),
        ({"augment": True}, "augment changes the points"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        expand(EXPERIMENT, options)


def test_points_that_are_equal_or_too_few_are_refused_once_the_data_are_known():
    class Points:
        def first_balanced(self, count):
            return np.zeros((count, 2)), np.zeros(count)

    with pytest.raises(ValueError, match="the 500 points of dataset digits must differ, but some images are equal"):
        expressivity.check(Config(), Points(), None)
