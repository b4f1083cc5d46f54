"""experiments/norm/measures.py: the judge on tables made by hand, small runs, what is refused."""
import keras
import numpy as np
import pandas as pd
import pytest

import run_norm
from analysis.generalization_measures import generalization_measures, kernels_of
from experiments.norm.measures import EXPERIMENT, LOSS, NAMES, PARAMETERS, agreement_of
from harness.grid import flat, make
from harness.runner import InvalidInput
from models import NetworkConfig
from tests.experiments.local_minima.made_by_hand import judged, results
from training.data import load
from training.fit import build_network, fit, loss_reached

TINY = {"width": [16, 32], "depth": 1, "train_size": 40, "test_size": 60, "learning_rate": [0.05, 0.1],
        "batch_size": 10, "coefficient": 1e-4, "noise_draws": 2}  # fmt: skip


def run(folder, **options):
    return run_norm.run("measures", out_dir=folder, quiet=True, **options)


def rows(measure, loss=lambda rng, gap: rng.standard_normal(len(gap)), others=None, seeds=6, lost=0, **fields):
    """32 networks a seed; measure, loss, others: (random generator, gap) -> values; lost: networks without measures."""
    table = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        gap = rng.standard_normal(32)
        found = {LOSS: loss(rng, gap), PARAMETERS: rng.standard_normal(32)}
        for i, name in enumerate(NAMES):
            found[f"measure/{name}"] = (others if i and others else measure)(rng, gap)
        for place in range(32):
            bits = [place >> i & 1 for i in range(5)]
            network = flat(NetworkConfig(width=32 * (1 + bits[0]), depth=1 + bits[1]))
            training = {"learning_rate": 0.01 * (1 + bits[2]), "batch_size": 10 * (1 + bits[3]),
                        "coefficient": 1e-4 * (1 + bits[4])}  # fmt: skip
            row = {"config_id": f"{seed}-{place}", **network, **training, **fields, "seed": seed}
            if place >= lost:
                row |= {"gap": gap[place], **{name: values[place] for name, values in found.items()}}
            table.append(row)
    return table


def noise(rng, gap):
    return rng.standard_normal(len(gap))


def nearly(rng, gap):
    return gap + 0.3 * rng.standard_normal(len(gap))


def opposite(rng, gap):
    return -nearly(rng, gap)


def test_judge():
    claim = judged(EXPERIMENT, rows(nearly, others=noise))
    assert claim.outcome == "supported" and "parameter norm tells" in claim.reason
    assert "192 of 192 networks reached" in claim.reason and "over 6 seeds" in claim.reason
    assert judged(EXPERIMENT, rows(opposite)).outcome == "refuted"  # all of them in the wrong order
    assert judged(EXPERIMENT, rows(noise, loss=opposite)).outcome == "refuted"  # a small loss tells more
    assert judged(EXPERIMENT, rows(nearly, loss=nearly)).outcome == "undecided"  # no better than the loss
    assert judged(EXPERIMENT, rows(nearly, loss=opposite)).outcome == "undecided"
    assert judged(EXPERIMENT, rows(nearly, others=noise, seeds=2)).outcome == "undecided"


def test_networks_that_missed_the_loss_do_not_count_and_are_told():
    verdict = judged(EXPERIMENT, rows(nearly, others=noise, lost=3))
    assert verdict.outcome == "supported" and "174 of 192 networks reached" in verdict.reason


def test_nothing_to_compare_decides_nothing():
    same = [row for row in rows(nearly) if row["config_id"].endswith("-0")]
    verdict = judged(EXPERIMENT, same)
    assert verdict.outcome == "undecided" and "differ in one hyperparameter alone" in verdict.reason
    assert judged(EXPERIMENT, rows(nearly, lost=32)).outcome == "undecided"


def test_groups_are_judged_apart():
    both = rows(nearly, others=noise, train_size=100) + rows(opposite, train_size=200)
    verdict = judged(EXPERIMENT, both)
    assert verdict.outcome == "refuted" and {outcome for _, outcome in verdict.groups} == {"supported", "refuted"}
    assert "12 seeds" not in verdict.reason


def test_the_default_width_and_the_same_width_given_are_one_setting():
    table = pd.DataFrame(rows(nearly))
    table.loc[table["width"] == 64, "width"] = None  # of an mlp 64 is the default
    again = table[table["width"].isna()].assign(width=64.0, config_id="x")
    (group,) = results(EXPERIMENT, pd.concat([table, again])).groups()
    assert len(agreement_of(group).rows) == len(table)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return run(tmp_path_factory.mktemp("measures"), **TINY, seed=[0, 1])


def test_a_small_run_measures_everything(report):
    table = report.results.table
    assert table["reached"].all() and (table["train/loss"] <= 0.02).all()
    np.testing.assert_allclose(table["gap"], table["train/accuracy"] - table["test/accuracy"])
    np.testing.assert_allclose(table["gap"], (table["gap/half_1"] + table["gap/half_2"]) / 2)
    assert np.isfinite(table[[f"measure/{name}" for name in NAMES]].to_numpy()).all()
    assert set(table[PARAMETERS]) == {64 * w + w + 10 * w + 10 for w in (16, 32)}
    paths = sorted((report.folder / "figures").iterdir())
    assert [path.stem for path in paths] == [
        "gap_over_best_measure", "granulated_tau", "tau_by_hyperparameter", "training_loss_reached"
    ]  # fmt: skip
    assert all(path.stat().st_size > 10_000 for path in paths)


def test_the_measures_are_those_of_the_network_that_was_trained(report):
    row = report.results.table.iloc[0]
    config = make(EXPERIMENT.config, {name: row[name] for name in EXPERIMENT.fields if name in TINY or name == "seed"})
    data = load(config.data, seed=0)
    model = build_network(config, data)
    start = kernels_of(model)
    fit(model, data, config.training, seed=0, until=loss_reached(data, "cross_entropy", config.target_loss))
    found = generalization_measures(model, data.x_train, data.y_train, start, draws=2)
    assert {f"measure/{name}": value for name, value in found.items()} == {
        name: value for name, value in row.items() if name.startswith("measure/")
    }


def test_a_network_that_misses_the_target_has_no_measures(tmp_path):
    table = run(tmp_path, **{**TINY, "epochs": 1}, seed=0).results.table
    assert not table["reached"].any() and "gap" not in table and table["train/loss"].notna().all()


@pytest.mark.slow
def test_a_stored_chain_is_taken_and_any_other_model_refused(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    kept = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    normed = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.BatchNormalization()(kept(inputs))))
    paths = [str(tmp_path / name) for name in ("kept.keras", "normed.keras")]
    kept.save(paths[0])
    normed.save(paths[1])
    given = {**TINY, "width": None, "depth": None, "batch_size": [10, 20]}
    table = run(tmp_path / "out", **given, model=paths[0], seed=0).results.table
    assert table["reached"].all() and table["measure/stable_rank"].notna().all()
    with pytest.raises(InvalidInput, match="is a Functional"):
        run(tmp_path / "refused", **given, model=paths[1], seed=0)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_loss": 0.1}, r"target_loss must lie in \(0, 0.0693\]"),
        ({"target_loss": 0.03, "loss": "squared"}, r"target_loss must lie in \(0, 0.025\]"),
        ({"rise": 0.0}, "rise must be a finite number above 0"),
        ({"noise_draws": 0}, "noise_draws must be a finite number above 0"),
        ({"activation": "tanh"}, "layer 'dense_1' has tanh"),
        ({"model": "resnet", "depth": 1, "width": 2}, "is a BatchNormalization"),
    ],
)
def test_bad_input_is_one_line(options, message, tmp_path):
    with pytest.raises(InvalidInput, match=message) as refusal:
        run(tmp_path / "out", **{**TINY, "seed": 0, **options})
    assert "\n" not in str(refusal.value) and not (tmp_path / "out").exists()
