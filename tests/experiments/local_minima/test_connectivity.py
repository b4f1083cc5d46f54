"""experiments/local_minima/connectivity.py: the judge on tables made by hand, small runs, what is refused."""
import keras
import numpy as np
import pytest

import run_local_minima
from experiments.local_minima.connectivity import EXPERIMENT, Config
from harness.runner import InvalidInput
from tests.experiments.local_minima.made_by_hand import NETWORK, judged

TINY = {"train_size": 40, "test_size": 20, "width": 12, "depth": 1, "epochs": 2, "curve_epochs": 2, "points": 5}


def run(folder, **options):
    return run_local_minima.run("connectivity", out_dir=folder, quiet=True, **options)


def rows(curve, matched, seeds=4, accuracy=1.0, **fields):
    """{width: barrier} of both paths."""
    result = []
    for width in curve:
        for seed in range(seeds):
            wiggle = 1 + 0.01 * np.sin(7 * seed + width)
            measures = {
                "curve/barrier": curve[width] * wiggle, "matched/barrier": matched[width] * wiggle,
                "line/barrier": 0.5, "curve/error_barrier": 0.01, "matched/error_barrier": 0.02,
                "first/train/accuracy": 1.0, "second/train/accuracy": accuracy,
            }  # fmt: skip
            result.append({**NETWORK, **fields, "width": width, "seed": seed, **measures})
    return result


LOW, HIGH, FALLING = {32: 0.3, 128: 0.001, 512: 0.001}, {32: 0.3, 128: 0.3, 512: 0.3}, {32: 0.8, 128: 0.4, 512: 0.2}


def test_judge():
    claim = judged(EXPERIMENT, rows(LOW, LOW))
    assert claim.outcome == "supported" and "barrier 0.00099" in claim.reason and "at width 512" in claim.reason
    assert [name.rsplit(", ", 1)[1] for name, _ in claim.groups] == ["curve", "line after matching"]
    curve = judged(EXPERIMENT, rows(HIGH, LOW))
    assert curve.outcome == "refuted" and [one for _, one in curve.groups] == ["refuted", "supported"]
    line = judged(EXPERIMENT, rows(LOW, HIGH))
    assert line.outcome == "refuted" and "barrier above 0.02, not falling" in line.reason
    # Above the level and falling: wider ones may get below it. A curve has no such excuse.
    assert judged(EXPERIMENT, rows(LOW, FALLING)).outcome == "undecided"
    assert judged(EXPERIMENT, rows(FALLING, LOW)).outcome == "refuted"
    one_width = judged(EXPERIMENT, rows({64: 0.001}, {64: 0.3}))
    assert [one for _, one in one_width.groups] == ["supported", "undecided"]
    assert judged(EXPERIMENT, rows({64: 0.001}, {64: 0.001})).outcome == "supported"
    assert judged(EXPERIMENT, rows(LOW, LOW, seeds=2)).outcome == "undecided"
    diverged = judged(EXPERIMENT, [{**NETWORK, "seed": 0, "diverged_epoch": 3}])
    assert diverged.reason == "Every network or curve diverged."


def test_networks_that_are_at_no_minimum_are_not_judged():
    verdict = judged(EXPERIMENT, rows(LOW, LOW, accuracy=0.98))
    assert verdict.outcome == "undecided"
    assert "not judged, as 4 of 4 pairs have a training accuracy below 0.99" in verdict.reason
    # Narrow ones that do not fit are left out of the slope: without them it does not fall any more.
    table = rows({32: 0.001}, {32: 9.0}, accuracy=0.5) + rows({128: 0.001, 512: 0.001}, {128: 0.3, 512: 0.3})
    assert judged(EXPERIMENT, table).outcome == "refuted"


def test_without_matching_the_curve_alone_is_judged():
    table = [{key: value for key, value in row.items() if not key.startswith("matched/")} for row in rows(LOW, LOW)]
    verdict = judged(EXPERIMENT, table)
    assert verdict.outcome == "supported" and len(verdict.groups) == 1


def test_a_line_below_the_certified_floor_would_be_told():
    columns = {"certified/barrier": 9.0, "certified/bound": 0.01, "certified/lowest_inside": 1e-12,
               "certified/floor": 0.15, "certified/end_loss": 0.05}  # fmt: skip
    good = [{**row, **columns} for row in rows(LOW, LOW)]
    assert "On 12 of 12 straight lines from a certified minimum to" in judged(EXPERIMENT, good).reason
    for wrong in ({"certified/lowest_inside": -1e-3}, {"certified/barrier": 0.0}):
        assert "On 11 of 12 straight" in judged(EXPERIMENT, [{**good[0], **wrong}, *good[1:]]).reason
    no_lower = [{**good[0], "certified/end_loss": 0.2}, *good[1:]]  # no network that the minimum is cut off from
    assert "On 11 of 11 straight" in judged(EXPERIMENT, no_lower).reason


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("connectivity"), **{**TINY, "width": [10, 12]}, seed=[0, 1])


def test_a_small_run(report):
    table = report.results.table
    assert len(table) == 4 and report.verdict.outcome == "undecided" and table["diverged_epoch"].isna().all()
    assert (table["matched/distance"] < table["line/distance"]).all() and (table["matched/moved"] > 0).all()
    assert (table["matched/function_error"] < 1e-5).all()
    assert (table["certified/lowest_inside"] >= -1e-9).all()
    assert (table["certified/barrier"] >= table["certified/bound"]).all() and (table["certified/reach"] < 1).all()
    assert (table["certified/end_loss"] > 0).all()
    names = {path.stem for path in (report.folder / "figures").iterdir()}
    assert names == {"loss_along_paths", "barrier_against_width", "line_from_certified_minimum"}
    stages = report.results.histories[table["config_id"][0]].groupby("stage")["epoch"].max().to_dict()
    assert stages == {"first": 2, "second": 2, "squared": 4, "curve": 2}
    for identity, row in zip(table["config_id"], table.to_dict("records")):
        arrays = report.results.arrays[identity]
        for path in ("line", "matched", "curve"):  # all three go from the first network to the function of the second
            losses = arrays[f"path/{path}/train_losses"]
            assert len(losses) == 5
            assert losses[[0, -1]] == pytest.approx([row["first/train/loss"], row["second/train/loss"]], rel=1e-4)
            excess = losses - np.linspace(losses[0], losses[-1], 5)
            assert row[f"{path}/barrier"] == pytest.approx(max(0, excess[1:-1].max()) / np.log(10), rel=0.1, abs=1e-9)


@pytest.mark.long
@pytest.mark.slow
def test_it_repeats_to_the_bit_whatever_ran_before(report, tmp_path):
    again = run(tmp_path, **TINY, seed=1)
    (row,) = again.results.table.to_dict("records")
    wanted = report.results.over(width=12, seed=1).iloc[0]
    for path in ("line", "matched", "curve", "certified"):
        assert row[f"{path}/barrier"] == wanted[f"{path}/barrier"]


def test_pairs_of_different_seeds_share_no_network():
    seeds = [seed for i in range(1000) for seed in (i, Config(seed=i).partner)]
    assert len(set(seeds)) == 2000


@pytest.mark.long
@pytest.mark.slow
def test_a_resnet_with_batch_norm_ends_in_a_verdict(tmp_path):
    report = run(tmp_path, **{**TINY, "width": 2, "model": "resnet"}, seed=0)
    (row,) = report.results.table.to_dict("records")
    assert row["matched/function_error"] < 1e-4 and np.isfinite(row["curve/barrier"]) and "certified/barrier" not in row
    only = run(tmp_path / "curve", **{**TINY, "width": 2, "model": "densenet", "depth": 7, "match": False}, seed=0)
    assert "matched/barrier" not in only.results.table and np.isfinite(only.results.table["curve/barrier"][0])


@pytest.mark.slow
def test_a_stored_model_starts_a_second_time_from_weights_of_its_own(tmp_path):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(6, activation="relu"), layers.BatchNormalization(),
         layers.Dense(10)]
    )  # fmt: skip
    model.save(tmp_path / "mine.keras")
    options = {key: value for key, value in TINY.items() if key not in ("width", "depth")}
    report = run(tmp_path, **options, model=str(tmp_path / "mine.keras"), seed=[0, 1])
    assert (report.results.table["line/distance"] > 0.5).all() and report.verdict.outcome == "undecided"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"curve_epochs": 0}, "curve_epochs must be at least 1"),
        ({"points": 2}, "points must be >= 3"),
        ({"certified_width": -1}, "certified_width must be a width"),
        ({"strategy": "mirrored"}, "strategy must be single"),
        ({"regularizer": "norm_bias", "coefficient": 0.1, "norm_target": 9.0}, "regularizer must be none or weight"),
        ({"model": "densenet", "depth": 7}, r"knows no layer such as .*; --match=false judges the curve alone"),
    ],
)
def test_refused(given, message, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "out", **{**TINY, "seed": 0, **given})
    assert not (tmp_path / "out").exists()
