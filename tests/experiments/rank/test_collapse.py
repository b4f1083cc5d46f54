"""experiments/rank/collapse.py: what is summarized, unequal classes, the judge on tables made by hand, small runs."""
import numpy as np
import pytest

import run_rank
from experiments.rank.collapse import EXPERIMENT, JUDGED, MEASURES, summarize, thin_out
from harness.grid import flat
from harness.runner import InvalidInput
from models import NetworkConfig
from tests.experiments.rank.tables import SPREAD, judged
from training.data import DataConfig, load

NETWORK = {"config_id": "mlp-3x128-x", **flat(NetworkConfig(depth=3, width=128))}
TINY = {"model": "mlp", "train_size": 60, "test_size": 40, "width": 16, "depth": 1, "epochs": 12}


def run(folder, **options):
    return run_rank.run("collapse", out_dir=folder, quiet=True, **options)


def probes(accuracies, values):
    """Probes at epochs 1, 2, ..: training accuracy, and a value of all measures; half as much again on the test set."""
    return {
        epoch: {"accuracy": np.array([accuracy, 0.5]), **{name: np.array([value, 1.5 * value]) for name in MEASURES}}
        for epoch, (accuracy, value) in enumerate(zip(accuracies, values), start=1)
    }


def test_the_terminal_phase_is_compared_with_its_beginning():
    found = summarize(probes([0.9, 1, 0.99, 1, 1], [8, 4, 3, 2, 1]), 5)
    assert found["fitted/epoch"] == 2 and found["fitted/test_accuracy"] == 0.5
    assert found["fitted/nc1"] == 4 and found["end/nc4"] == 1 and found["end/test_nc1"] == 1.5
    assert [found[f"change/{name}"] for name in JUDGED] == [0.25] * len(JUDGED)
    assert found["curve/nc1"].shape == (5, 2) and found["curve/epochs"].tolist() == [1, 2, 3, 4, 5]
    late = summarize(probes([0.9, 0.9, 1, 1, 1], [8, 4, 3, 2, 1]), 5)  # more than half of the training was over
    assert late["fitted/nc1"] == 3 and "change/nc1" not in late
    never = summarize(probes([0.9, 0.99], [8, 4]), 2)
    assert never["end/nc1"] == 4 and "fitted/epoch" not in never
    exact = summarize(probes([1, 1], [1e-3, 0]), 2)
    assert exact["change/nc1"] == pytest.approx(1e-9)  # nothing falls below LOWEST


def test_the_second_half_of_the_classes_is_thinned_out():
    data = load(DataConfig(train_size=200), seed=0)
    few = thin_out(data, 0.25)
    counts, kept = (part.y_train.sum(axis=0).astype(int) for part in (data, few))
    np.testing.assert_array_equal(kept[:5], counts[:5])
    np.testing.assert_array_equal(kept[5:], np.round(0.25 * counts[5:]))
    assert few.x_test is data.x_test and thin_out(data, 1) is data
    with pytest.raises(ValueError, match=r"minority 0\.01 of the .* training images of class 5 is none of them"):
        thin_out(data, 0.01)


def rows(change, nc4=0.0, seeds=6, **fields):
    """`change`: of every judged measure, or {measure: of this one, None: of the others}."""
    factors = change if isinstance(change, dict) else {None: change}
    result = []
    for seed in range(seeds):
        changes = {f"change/{n}": factors.get(n, factors[None]) * (1 + 10 * SPREAD[seed]) for n in JUDGED}
        measures = {"end/nc1": 0.1, "end/nc4": nc4, "test/accuracy": 0.97, "fitted/test_accuracy": 0.96, **changes}
        result.append({**NETWORK, **fields, "seed": seed, **measures})
    return result


def test_judge():
    claim = judged(EXPERIMENT, rows(0.2))
    assert claim.outcome == "supported" and "over 6 seeds" in claim.reason and "+1.0 points" in claim.reason
    assert judged(EXPERIMENT, rows(0.2, nc4=0.02)).outcome == "undecided"  # not the nearest class mean's decisions
    assert judged(EXPERIMENT, rows({"nc3": 1.0, None: 0.2})).outcome == "refuted"
    assert judged(EXPERIMENT, rows({"nc2_angles": 0.95, None: 0.2})).outcome == "refuted"  # by next to nothing
    assert judged(EXPERIMENT, rows({"nc1": 0.909, None: 0.2})).outcome == "supported"
    assert judged(EXPERIMENT, rows(0.2, seeds=2)).outcome == "undecided"
    assert judged(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 3}]).reason == "Every network diverged."


def test_runs_that_were_fitted_too_late_bar_the_claim():
    found = rows(0.2)
    late = {**found[-1], **{f"change/{name}": np.nan for name in JUDGED}}
    verdict = judged(EXPERIMENT, [*found[:-1], late])
    assert verdict.outcome == "undecided"
    assert "1 of 6 runs were at zero training error too late or never" in verdict.reason
    verdict = judged(EXPERIMENT, [{**late, "seed": seed} for seed in range(3)])
    assert verdict.outcome == "undecided" and "no run had half of its epochs left" in verdict.reason
    unmeasured = [{name: value for name, value in late.items() if not name.startswith("change/")}]
    assert judged(EXPERIMENT, unmeasured).outcome == "undecided"


def test_groups_are_judged_apart():
    verdict = judged(EXPERIMENT, rows(0.2) + rows(1.0, minority=0.1))
    assert verdict.outcome == "refuted" and "12 seeds" not in verdict.reason


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("collapse"), **TINY, learning_rate=0.2, minority=[1.0, 0.5], seed=[0, 1])


def test_a_small_run(report):
    table = report.results.table
    assert len(table) == 4 and report.verdict.outcome == "undecided" and table["diverged_epoch"].isna().all()
    arrays = report.results.arrays[table["config_id"][0]]
    assert arrays["curve/epochs"].tolist() == list(range(1, 13)) and arrays["curve/nc1"].shape == (12, 2)
    np.testing.assert_allclose(arrays["curve/accuracy"][-1], table.loc[0, ["train/accuracy", "test/accuracy"]].tolist())
    assert table["end/nc1"].is_unique  # fewer images of some classes are another training
    assert (report.folder / "figures" / "collapse_over_epochs.png").exists()


def test_bad_input_is_one_line(tmp_path):
    for options, text in (
        ({"minority": 0.0}, r"minority must be a share in \(0, 1\]"),
        ({"minority": 0.01}, "training images of class 5 is none of them"),
        ({"width": 4}, "a simplex of 10 class means needs at least 9 features, there are 4"),
    ):
        with pytest.raises(InvalidInput, match=text) as refusal:
            run(tmp_path, **{**TINY, "seed": 0, **options})
        assert "\n" not in str(refusal.value)
