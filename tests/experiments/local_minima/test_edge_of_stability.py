"""experiments/local_minima/edge_of_stability.py: what is summarized, the judge on tables made by hand, small runs."""
import numpy as np
import pytest

import run_local_minima
from experiments.local_minima.edge_of_stability import EXPERIMENT, Config, summarize
from harness.runner import InvalidInput
from tests.experiments.local_minima.made_by_hand import NETWORK, judged
from training.gradient_descent import Descent

TINY = {"train_size": 20, "test_size": 10, "width": 4, "depth": 1, "steps": 12, "measure_every": 2, "control_steps": 4}


def run(folder, **options):
    return run_local_minima.run("edge_of_stability", out_dir=folder, quiet=True, **options)


def test_the_threshold_rises_with_momentum():
    assert Config(learning_rate=0.1).threshold == pytest.approx(20)
    assert Config(learning_rate=0.1, momentum=0.9).threshold == pytest.approx(38)


def test_the_last_third_is_compared_with_the_threshold():
    sharpness = np.array([10.0, 15, 19, 21, 20, 20, 24, 16, 20])
    rows = [
        {"epoch": 2 * i, "sharpness": value, "products": 9 + i, "relative_residual": 0.01}
        for i, value in enumerate(sharpness)
    ]
    losses = np.array([9.0, 8, 7, 6, 5, 4, 3, 2.5, 2, 1.8, 1.6, 1.5, 1.0, 1.2, 0.9, 0.8, 0.5])
    found = summarize(Config(learning_rate=0.1), Descent(losses, rows, None))
    assert found["late/ratio"] == pytest.approx((1.2 * 0.8 * 1.0) ** (1 / 3))
    assert found["late/near"] == pytest.approx(1 / 3)  # 1.2 and 0.8 are away by more than a tenth
    assert found["late/rising_steps"] == pytest.approx(1 / 4) and found["late/loss_ratio"] == pytest.approx(0.5)
    assert found["start/ratio"] == pytest.approx(0.5) and found["reached_step"] == 6
    assert found["products"] == pytest.approx(np.mean(np.arange(1, 9) + 9))
    below = [{**row, "sharpness": 5.0} for row in rows]
    assert summarize(Config(learning_rate=0.1), Descent(losses, below, None))["reached_step"] is None


def rows(ratio, seeds=6, rate=0.1, reached=100.0, loss=0.01, **fields):
    result = []
    for seed in range(seeds):
        late = ratio * (1 + 0.01 * (-1) ** seed)
        measures = {"late/ratio": late, "late/near": 1.0, "late/rising_steps": 0.4, "reached_step": reached,
                    "start/loss": 1.0, "train/loss": loss, "control/ratio": 2.0}  # fmt: skip
        result.append({**NETWORK, **fields, "learning_rate": rate, "seed": seed, **measures})
    return result


def test_judge():
    claim = judged(EXPERIMENT, rows(1.02) + rows(0.98, rate=0.2))
    assert claim.outcome == "supported" and "at every step size tried" in claim.reason
    assert "at step size 0.1 over 6 seeds (within 10 % at 100 % of the measurements, 40 % of single" in claim.reason
    assert "a tenth of the step size gets to 2 times it" in claim.reason
    assert judged(EXPERIMENT, rows(1.02) + rows(1.3, rate=0.2)).outcome == "refuted"  # above at one of two
    assert judged(EXPERIMENT, rows(0.5)).outcome == "refuted"  # was there, and came down
    assert judged(EXPERIMENT, rows(0.5, reached=np.nan)).outcome == "undecided"  # has not got there yet
    assert judged(EXPERIMENT, rows(0.5, reached=np.nan, loss=1e-4)).outcome == "refuted"  # and never will
    assert judged(EXPERIMENT, rows(1.1)).outcome == "undecided"
    assert judged(EXPERIMENT, rows(1.0, seeds=2)).outcome == "undecided"
    assert judged(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 3}]).reason == "Every network diverged."


def test_groups_are_judged_apart():
    verdict = judged(EXPERIMENT, rows(1.0, seeds=4, loss_name="a") + rows(1.4, seeds=4, dataset="gaussian"))
    assert "6 seeds" not in verdict.reason and "8 seeds" not in verdict.reason


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("edge"), **TINY, learning_rate=[0.05, 0.1], seed=[0, 1])


def test_a_small_run(report):
    table = report.results.table
    assert len(table) == 4 and report.verdict.outcome == "undecided" and table["diverged_epoch"].isna().all()
    assert (table["train/loss"] < table["start/loss"]).all() and (table["products"] <= 20).all()
    # Half the step size has twice the threshold, and both start from the same networks.
    starts = table.pivot(index="seed", columns="learning_rate", values="start/ratio")
    np.testing.assert_allclose(starts[0.1], 2 * starts[0.05], rtol=1e-6)
    assert [path.stem for path in (report.folder / "figures").iterdir()] == ["sharpness_over_steps"]
    history = report.results.histories[table["config_id"][0]]
    assert history.groupby("stage")["epoch"].max().to_dict() == {"control": 4, "descent": 12}


def test_it_repeats_to_the_bit_also_without_its_control(report, tmp_path):
    again = run(tmp_path, **{**TINY, "control_steps": 0}, learning_rate=0.1, seed=1)
    (row,) = again.results.table.to_dict("records")
    wanted = report.results.over(learning_rate=0.1, seed=1).iloc[0]
    for name in ("late/ratio", "train/loss", "test/accuracy", "products"):
        assert row[name] == wanted[name]
    assert "control/ratio" not in row and "a tenth of the step size" not in again.verdict.reason


def test_a_step_size_that_diverges_is_counted(tmp_path):
    report = run(tmp_path, **TINY, learning_rate=1e6, seed=0)
    assert report.results.table["diverged_epoch"].notna().all()
    assert report.verdict.reason == "Every network diverged. 1 of 1 configs diverged."


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 5, "measure_every": 1}, "steps must be at least 6 times measure_every"),
        ({"measure_every": 0}, "steps must be at least 6 times measure_every"),
        ({"control_steps": 3}, "control_steps must be 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a finite number above 0"),
        ({"momentum": 1.0}, "momentum must be in"),
        ({"loss": "hinge"}, "unknown loss"),
        ({"augment": True}, "augment must be false"),
        ({"model": "resnet", "width": 2}, "without batch norm and dropout, and this one has batch norm"),
        ({"dropout": 0.5}, "and this one has dropout"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "learning_rate": 0.1, "seed": 0, **given})
    assert not (tmp_path / "out").exists()
