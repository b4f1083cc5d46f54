"""experiments/local_minima/elimination.py: escape and failure at a minimum, what is refused, judge and figures."""
import warnings

import numpy as np
import pandas as pd
import pytest

import run_local_minima
from experiments.local_minima.elimination import EXPERIMENT
from harness import runner
from harness.runner import InvalidInput
from tests.experiments.local_minima.made_by_hand import NETWORK, judged, results

TINY = {"dataset": "gaussian", "train_size": 150, "test_size": 20, "width": 10, "depth": 1, "iterations": 12}


def run(folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_local_minima.run("elimination", out_dir=folder, quiet=True, **options)


# -- the experiment


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("elimination"), **TINY, penalty=0.1, seed=0)


@pytest.mark.slow
def test_the_certified_minimum_is_left_by_the_neurons(report):
    table = report.results.table
    assert len(table) == 2 and (table["certificate/radius"] > 0).all()
    np.testing.assert_allclose(table["start/loss"], table["certificate/floor"], rtol=1e-8)
    # With a = 0 the loss is the network's, but the certified minimum is no stationary point any more: it is left.
    assert (table["start/slope"] > 1e-5).all() and (table["final/objective"] < table["certificate/floor"]).all()
    assert (table["reference/loss"] < table["certificate/floor"]).all()
    assert "objective below the certified floor in 1 of 1" in report.verdict.reason


def test_neurons_trained_alone_leave_the_network_where_it_was(report):
    table = report.results.table
    held = table[table["trainable"] == "neurons"]
    np.testing.assert_array_equal(held["moved"], 0)
    np.testing.assert_array_equal(held["final/network_loss"], held["start/loss"])
    assert (table[table["trainable"] == "all"]["moved"] > 0).all()


def test_the_path_goes_downhill_from_the_minimum_to_the_end(report):
    for _, row in report.results.table.iterrows():
        arrays = report.results.arrays[row["config_id"]]
        assert arrays["path/iteration"][0] == 0 and arrays["path/a"][0] == 0
        assert arrays["path/iteration"][-1] == row["steps"] <= 12
        assert (np.diff(arrays["path/objective"]) <= 1e-12).all()
        assert row["peak/a"] == arrays["path/a"].max() >= row["final/a"]
        for name in ("objective", "network_loss", "a", "exponent", "neurons"):
            assert arrays[f"path/{name}"][-1] == row[f"final/{name}"]
    assert (report.folder / "figures" / "path_from_the_minimum.png").exists()


def test_the_loss_from_default_initialization_is_shared_and_the_same_alone(report, tmp_path):
    assert report.results.table["reference/loss"].nunique() == 1
    again = run(tmp_path, **TINY, penalty=0.1, trainable="neurons", seed=0)
    same = report.results.over(trainable="neurons")
    for column in ("final/objective", "reference/loss", "final/test/accuracy"):
        assert again.results.table[column][0] == same[column].iloc[0]
    assert again.verdict.outcome == "undecided" and "No run trained all parameters" in again.verdict.reason


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trainable": "none"}, "unknown trainable 'none'"),
        ({"trained": "none"}, "unknown trainable 'none'"),  # its earlier name
        ({"penalty": 0}, "penalty must be a finite number > 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"loss": "hinge"}, "unknown loss 'hinge'"),
        ({"dtype": "float32"}, "needs dtype=float64"),
        ({"activation": "tanh"}, "needs --model=mlp with --activation=relu"),
        ({"width": 3}, "width"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "seed": 0, **given})
    assert not (tmp_path / "out").exists()


def test_results_of_earlier_versions_are_found_and_read():
    identity = runner.config_id(EXPERIMENT, EXPERIMENT.config())
    assert identity == "mlp-2x16-float64-digits-200-normalize=False-all-penalty=1-seed=0-e76eacbff8"
    before = {"trained": "all", "final/test_accuracy": 0.5, "moved": 1.0}
    assert EXPERIMENT.modernize(before) == {"trainable": "all", "final/test/accuracy": 0.5, "moved": 1.0}


# -- the judge and the figures, on tables made by hand


def row(seed, network_loss, *, objective=0.5, trainable="all", a=0.1, exponent=9.0, radius=0.1, **fields):
    return {
        **NETWORK, "trainable": trainable, "penalty": 0.1, "seed": seed, "config_id": f"{trainable}-{seed}",
        "certificate/radius": radius, "certificate/floor": 1.0, "final/objective": objective,
        "final/network_loss": network_loss, "reference/loss": 0.01, "final/a": a, "peak/a": 1.0,
        "final/exponent": exponent, "peak/exponent": 3.0, "final/neurons": 1.0, "peak/neurons": 1.0,
        "final/gradient_norm": 1e-8, **fields,
    }  # fmt: skip


def bad(**fields):
    """Three seeds that leave the minimum, and whose network ends no better."""
    return [row(i, 1.0 + 0.01 * i, **fields) for i in range(3)]


def good(**fields):
    """Three seeds that leave the minimum for one that is nearly global."""
    return [row(i, 0.01 + 0.0001 * i, **fields) for i in range(3)]


def test_refuted_where_the_network_itself_stays_bad():
    verdict = judged(EXPERIMENT, bad() + [row(i, 1.0, trainable="neurons") for i in range(3)])
    assert verdict.outcome == "refuted"
    assert "mlp, depth 1, width 16 (refuted: left, but for no nearly global one): objective below" in verdict.reason
    assert "below the certified floor in 3 of 3, its gradient 0 to 1e-06 in 3 (largest norm 1e-08)" in verdict.reason
    assert "speaks of the local minima of the theorem; the network itself 1 [0.975, 1.02] above" in verdict.reason
    assert "a vanishing with growing exponents in 3, neurons trained alone: below the floor in 3 of 3" in verdict.reason
    assert "a vanishing with growing exponents in 0" in judged(EXPERIMENT, bad(a=0.9)).reason


def test_supported_where_the_network_ends_within_the_margin():
    verdict = judged(EXPERIMENT, good())
    assert verdict.outcome == "supported" and "minimum eliminated in 3" in verdict.reason


@pytest.mark.parametrize(
    "rows",
    [
        [row(0, 1.0), row(1, 0.01)],  # too far spread
        [row(0, 1.0)],  # one seed
        [row(0, 0.0101)],
        good()[:2],
        [row(0, 0.10), row(1, 0.12), row(2, 0.11)],  # about the margin
        good()[:2] + [row(2, 0.0101, **{"final/gradient_norm": 1e-5})],  # not stationary
        bad()[:2] + [row(2, 1.0, **{"final/gradient_norm": 1e-5})],
        good()[:2] + [row(2, 0.0101, objective=1.0)],  # one that never left
        bad()[:2] + [row(2, 1.0, objective=1.0)],
        bad(objective=1.0),  # nothing escaped
        good(objective=1.0),
        bad(radius=0.0),  # nothing certified
        bad(**{"reference/loss": 0.95}),  # nothing suboptimal
        [row(i, 1.0, trainable="neurons") for i in range(3)],
        [{**NETWORK, "trainable": "all", "seed": 0, "diverged_epoch": 1}],
    ],
)
def test_undecided(rows):
    assert judged(EXPERIMENT, rows).outcome == "undecided"


@pytest.mark.parametrize(("margin", "outcome"), [(0.1, "refuted"), (0.5, "supported")])
def test_the_margin_is_a_share_of_the_minimums_loss(margin, outcome):
    table = pd.DataFrame([row(i, 0.3 + 0.001 * i) for i in range(3)])  # the minimum's is 1.0, the default's 0.01
    assert EXPERIMENT.judge(EXPERIMENT.results(table, margins={"margin": margin})).outcome == outcome


def test_the_spread_of_the_reference_alone_does_not_refute():
    """Ratios to losses between 1e-5 and 0.15 were a measure of where L-BFGS stopped."""
    rows = [row(i, 0.02, **{"reference/loss": loss}) for i, loss in enumerate((1e-5, 1e-4, 0.015))]
    assert judged(EXPERIMENT, rows).outcome == "supported"


def test_ends_that_are_not_stationary_say_nothing_of_the_theorem():
    verdict = judged(EXPERIMENT, bad(**{"final/gradient_norm": 0.01}))
    assert verdict.outcome == "undecided" and "and not of the theorem" in verdict.reason
    assert "its gradient 0 to 1e-06 in 0 (largest norm 0.01)" in verdict.reason


def test_a_second_setting_is_no_second_seed():
    """One seed at each of three penalties made a verdict of three runs; now each penalty has one seed."""
    one_seed_each = [row(0, 0.0101, penalty=penalty) for penalty in (0.01, 0.1, 1.0)]
    assert judged(EXPERIMENT, one_seed_each).outcome == "undecided"
    mixed = judged(EXPERIMENT, good(train_size=100) + bad(train_size=200))
    assert mixed.outcome == "refuted" and mixed.reason.count("; the network itself") == 2
    assert "n = 100 (supported: the minimum is eliminated): objective" in mixed.reason
    assert "n = 200 (refuted: left, but for no nearly global one): objective" in mixed.reason
    assert judged(EXPERIMENT, good(penalty=0.1) + good(penalty=1.0)).outcome == "supported"
    assert judged(EXPERIMENT, good(penalty=0.1) + good(penalty=1.0)[:1]).outcome == "undecided"


def test_a_setting_without_a_certified_minimum_is_named_and_supports_nothing():
    verdict = judged(EXPERIMENT, good(penalty=0.1) + bad(penalty=1.0, radius=0.0))
    assert verdict.outcome == "undecided" and [outcome for _, outcome in verdict.groups] == ["supported", "undecided"]
    assert "width 16, penalty 1 (undecided): no certified suboptimal minimum to start from" in verdict.reason
    assert judged(EXPERIMENT, bad(penalty=0.1) + bad(penalty=1.0, radius=0.0)).outcome == "refuted"


def test_more_seeds_do_not_help_where_a_run_never_left():
    verdict = judged(EXPERIMENT, [*bad()[:2], row(2, 1.0, objective=1.0)])
    assert verdict.seeds_needed is None and "no number of seeds" in verdict.advice
    assert "objective below the certified floor in 2 of 3" in verdict.reason


def test_figures_have_a_column_for_each_setting_and_what_it_trains():
    rows = [*bad(penalty=0.1), *bad(penalty=1.0), row(0, 1.0, trainable="neurons", penalty=1.0)]
    rows = [{**r, "config_id": str(i)} for i, r in enumerate(rows)]
    names = ("iteration", "objective", "network_loss", "a", "neurons", "exponent")
    arrays = {r["config_id"]: {f"path/{name}": np.array([0.0, 1.0, 2.0]) for name in names} for r in rows}
    (figure,) = EXPERIMENT.figures(results(EXPERIMENT, rows, arrays)).values()
    titles = ["penalty 0.1\nall trained", "penalty 1\nall trained", "penalty 1\nneurons trained"]
    assert [axis.get_title() for axis in figure.axes[:3]] == [f"mlp, depth 1, width 16, {title}" for title in titles]
    assert [len(axis.lines) for axis in figure.axes[:3]] == [8, 8, 4]  # two a seed, the floor and the reference
    legend = [text.get_text() for text in figure.axes[2].get_legend().get_texts()]
    assert legend == ["objective", "network alone", "certified floor", "from default initialization"]
    assert EXPERIMENT.figures(results(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 1}])) == {}
