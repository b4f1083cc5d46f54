"""run_rank.py: both experiments end to end on small networks, what the edits do, judges on made tables, bad input."""
import warnings

import keras
import numpy as np
import pandas as pd
import pytest

import run_rank
from experiments import ranks, robustness, spectra
from experiments.options import expand
from experiments.runner import InvalidInput, Results
from models import NetworkConfig, build
from reporting.verdict import OUTCOMES

TINY = {"dataset": "gaussian", "train_size": 100, "test_size": 30, "batch_size": 25, "learning_rate": 0.02, "epochs": 3,
        "finetune_epochs": 2, "edit_epochs": (1,)}  # fmt: skip
CONVNET = {"model": "convnet", "width": 2}


def run(experiment, folder, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        return run_rank.run(experiment, out_dir=folder, quiet=True, **{**TINY, **options})


@pytest.fixture(scope="module")
def robust(tmp_path_factory):
    options = {"epsilon": [0.0, 8.0], "steps": 2, "test_epsilons": (0.0, 8.0), "test_steps": 2, "seed": [0, 1]}
    return run("robustness", tmp_path_factory.mktemp("robust"), **CONVNET, **options, rank_cut=0.8, rank_cap=1.2)


@pytest.mark.slow
def test_edits_lower_and_raise_the_rank_and_start_from_one_trained_network(robust):
    table = robust.results.table
    assert len(table) == 12 and robust.verdict.outcome in OUTCOMES
    for _, group in table.groupby(["epsilon", "seed"]):
        assert group["base/test_accuracy"].nunique() == 1 and group["base/test_loss"].nunique() == 1
        by_edit = group.set_index("edit")
        assert by_edit.loc["rank_min", "rank/relative"] < by_edit.loc["none", "rank/relative"]
        assert by_edit.loc["rank_max", "rank/relative"] > by_edit.loc["none", "rank/relative"]
    low, high = robust.results.over(edit="rank_min"), robust.results.over(edit="rank_max")
    assert (low["edit/rank_asked"] <= low["edit/rank_after"]).all() and (low["edit/rank_after"] < low["edit/rank_before"]).all()
    assert (high["edit/rank_after"] > high["edit/rank_before"]).all()


@pytest.mark.slow
def test_robust_accuracy_without_an_attack_is_the_clean_one_and_never_above(robust):
    table = robust.results.table
    np.testing.assert_array_equal(table["robust/0"], table["test/accuracy"])
    assert (table["robust/8"] <= table["test/accuracy"]).all()
    np.testing.assert_allclose(table["robust/mean"], (table["robust/0"] + table["robust/8"]) / 2)
    for arrays in robust.results.arrays.values():
        moved = np.abs(arrays["examples/adversarial"] - arrays["examples/clean"])
        assert 0 < moved.max() <= 8 / 255 + 1e-6


@pytest.mark.slow
def test_figures_histograms_and_repetition(robust, tmp_path):
    assert {p.stem for p in (robust.folder / "figures").glob("*.png")} == {
        "robust_accuracy", "effective_rank", "spectra", "adversarial_examples"
    }  # fmt: skip
    row = robust.results.over(edit="rank_min", seed=1, epsilon=8.0).iloc[0]
    ranks._base.clear()  # another process
    again = run("robustness", tmp_path, **CONVNET, epsilon=[8.0], steps=2, test_epsilons=(0.0, 8.0), test_steps=2, seed=[1],
                edit=["rank_min"], rank_cut=0.8).results.table.iloc[0]  # fmt: skip
    assert again["config_id"] == row["config_id"]
    for name in ("test/loss", "rank/relative", "robust/8", "edit/rank_after"):
        assert again[name] == row[name]


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    return run("spectra", tmp_path_factory.mktemp("spectra"), **CONVNET, epsilon=[0.0], seed=[0, 1], edit=["none", "rank_max"],
               rank_cap=1.2)  # fmt: skip


@pytest.mark.slow
def test_spectra_start_at_the_untrained_network_and_end_at_the_trained(traced):
    for identity, arrays in traced.results.arrays.items():
        assert arrays["course/epochs"].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(arrays["course/relative"][0], arrays["untrained/relative_rank"])
        row = traced.results.table.set_index("config_id").loc[identity]
        assert row["trained/rank"] == pytest.approx(arrays["course/relative"][-1].mean())
        assert (row["edit"] == "none") == (row["rank/relative"] == pytest.approx(row["trained/rank"]))
    plain = traced.results.over(edit="none").iloc[0]
    model = build(NetworkConfig(model="convnet", width=2), (8, 8, 1), 10, seed=int(plain["seed"]))
    assert plain["untrained/rank"] == pytest.approx(
        np.mean([ranks.relative_rank(op.spectrum().values) for op in ranks.model_operators(model, pad=True).values()])
    )
    assert len(list((traced.folder / "figures").glob("*.png"))) == 3


def test_spectra_of_a_persons_own_file_as_it_is(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(x)))
    path = str(tmp_path / "mine.keras")
    model.save(path)
    report = run("spectra", tmp_path, model=path, train=False, epsilon=[0.0, 8.0], edit=["none", "rank_min"], seed=[0])
    assert len(report.results.table) == 1  # neither attack nor edit without training
    (arrays,) = report.results.arrays.values()
    kernel = model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(arrays["spectrum/dense"], np.linalg.svd(kernel, compute_uv=False), rtol=1e-5)
    assert report.verdict.outcome == "undecided" and "No trained network" in report.verdict.reason


def test_what_is_edited():
    network = build(NetworkConfig(model="resnet", width=2, depth=1), (32, 32, 3), 10, seed=0)
    names = list(ranks.editable(network))
    assert "stem_conv" not in names and "logits" not in names and not any("shortcut" in name for name in names)
    assert len(names) == 8
    assert list(ranks.editable(build(NetworkConfig(depth=3, width=4), (8, 8, 1), 10, seed=0))) == ["dense_2", "dense_3"]
    with pytest.raises(ValueError, match="no layer between its first and its logits"):
        ranks.editable(build(NetworkConfig(depth=1, width=4), (8, 8, 1), 10, seed=0))


def test_fields_that_an_edit_or_a_training_lacks_make_no_other_config():
    configs, _ = expand(robustness, {"rank_cut": [0.5, 1.0], "rank_cap": [2.0, 3.0], "steps": [3, 7], "seed": [0]})
    count = {}
    for config in configs:
        key = config.adversary.epsilon, config.edit.edit
        count[key] = count.get(key, 0) + 1
    assert count == {(0.0, "none"): 1, (0.0, "rank_min"): 2, (0.0, "rank_max"): 2, (24.0, "none"): 2, (24.0, "rank_min"): 4,
                     (24.0, "rank_max"): 4}  # fmt: skip


# -- judges, on tables made by hand

SPREAD = 1e-3 * np.array([1, -2, 3, 0, -1, 2])


def rows(edit, clean, robust_mean, rank, epsilon=0.0, seeds=6):
    values = {"none": (np.nan, np.nan, ()), "rank_min": (1.0, np.nan, (1,)), "rank_max": (np.nan, 2.0, (1,))}[edit]
    fields = dict(zip(("rank_cut", "rank_cap", "edit_epochs"), values))
    sign = {"none": 1, "rank_min": -1, "rank_max": 2}[edit]
    return [
        {"model": "convnet", "epsilon": epsilon, "edit": edit, **fields, "seed": i, "test/accuracy": clean + sign * SPREAD[i],
         "robust/mean": robust_mean + sign * SPREAD[i], "rank/relative": rank + sign * SPREAD[i] / 10}
        for i in range(seeds)
    ]  # fmt: skip


def judged(module, table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return module.judge(Results(pd.DataFrame(table), {}, {}))


def test_refuted_where_low_rank_costs_and_supported_where_it_gains():
    plain = rows("none", 0.9, 0.5, 0.8)
    assert judged(robustness, plain + rows("rank_min", 0.8, 0.4, 0.7)).outcome == "refuted"
    assert judged(robustness, plain + rows("rank_min", 0.95, 0.6, 0.7)).outcome == "supported"
    assert judged(robustness, plain + rows("rank_max", 0.8, 0.4, 0.9)).outcome == "supported"
    assert judged(robustness, plain + rows("rank_max", 0.95, 0.6, 0.9)).outcome == "refuted"
    assert judged(robustness, plain + rows("rank_min", 0.9, 0.4, 0.7)).outcome == "refuted"  # one claim, the other open
    assert judged(robustness, plain + rows("rank_min", 0.95, 0.4, 0.7)).outcome == "undecided"  # one each way
    assert judged(robustness, plain + rows("rank_min", 0.9, 0.5, 0.7)).outcome == "undecided"
    assert judged(robustness, plain + rows("rank_min", 0.8, 0.4, 0.7) + rows("rank_max", 0.8, 0.4, 0.9)).outcome == "undecided"


def test_an_edit_that_moved_no_rank_and_too_few_seeds_decide_nothing():
    plain = rows("none", 0.9, 0.5, 0.8)
    verdict = judged(robustness, plain + rows("rank_min", 0.8, 0.4, 0.8))
    assert verdict.outcome == "undecided" and "did not measurably move" in verdict.reason
    assert judged(robustness, plain[:2] + rows("rank_min", 0.8, 0.4, 0.7)[:2]).outcome == "undecided"
    assert judged(robustness, plain).outcome == "undecided"


def test_trainings_are_not_mixed():
    table = rows("none", 0.9, 0.5, 0.8) + rows("rank_min", 0.8, 0.4, 0.7)
    table += rows("none", 0.7, 0.6, 0.8, epsilon=8.0) + rows("rank_min", 0.6, 0.7, 0.7, epsilon=8.0)
    reason = judged(robustness, table).reason  # robustness falls in one and rises in the other
    assert "convnet natural rank_min 1" in reason and "convnet adversarial 8 rank_min 1" in reason
    assert "for generalisation: refuted" in reason and "for robustness: undecided" in reason


def test_spectra_are_judged_by_paired_changes():
    def table(change):
        return [{"model": "mlp", "epsilon": 0.0, "train": True, "edit": "none", "rank_cut": np.nan, "rank_cap": np.nan,
                 "edit_epochs": (), "seed": i, "untrained/rank": 0.9 + s, "trained/rank": 0.9 + change + 2 * s}
                for i, s in enumerate(SPREAD)]  # fmt: skip

    assert judged(spectra, table(-0.1)).outcome == "supported"
    assert judged(spectra, table(0.1)).outcome == "refuted"
    assert judged(spectra, table(0.0)).outcome == "undecided"
    assert judged(spectra, table(-0.1)[:1]).outcome == "undecided"


def test_a_run_that_diverges_is_told_and_judged(tmp_path):
    given = {**TINY, "model": "mlp", "width": 4, "depth": 2, "learning_rate": 1e9, "epsilon": [0.0], "seed": [0]}
    report = run_rank.run("robustness", out_dir=tmp_path, quiet=True, **given, edit=["none", "rank_min"])
    assert report.verdict.outcome == "undecided" and "diverged" in report.verdict.reason
    assert (report.folder / "report.md").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": -1.0}, "epsilon must be a finite number >= 0"),
        ({"epsilon": 8.0, "steps": 0}, "steps of the training attack must be at least 1"),
        ({"step_size": 0.0}, "step_size must be a finite number > 0"),
        ({"attack_norm": "l1"}, "l1"),
        ({"rank_cut": 0.0, "edit": "rank_min"}, "rank_cut must be a finite number > 0"),
        ({"rank_cap": -1.0, "edit": "rank_max"}, "rank_cap must be a finite number > 0"),
        ({"edit": "lower"}, "unknown edit"),
        ({"edit": "rank_min", "edit_epochs": (3,)}, "edit_epochs must be epochs of fine-tuning, 1 to 2"),
        ({"finetune_epochs": 0}, "finetune_epochs must be at least 1"),
        ({"test_epsilons": (8.0, 1.0)}, "test_epsilons must be increasing"),
        ({"test_epsilons": (-1.0,)}, "test_epsilons must be increasing numbers >= 0"),
        ({"test_steps": 0}, "test_steps"),
        ({"robust_size": 31}, "robust_size 31 was asked of 30"),
        ({"model": "mlp", "width": 4, "depth": 1}, "no layer between its first and its logits"),
        ({"pad": False}, "larger than|must be no larger than the input"),
    ],
)
def test_bad_input_ends_before_any_training(tmp_path, options, message):
    given = {**TINY, **CONVNET, "epsilon": 0.0, "edit": ["none"], "seed": [0], **options}
    if given["model"] == "mlp":
        given["edit"] = ["rank_min"]
    with pytest.raises(InvalidInput, match=message):
        run_rank.run("robustness", out_dir=tmp_path, quiet=True, **given)
    assert not list(tmp_path.iterdir())


def test_a_model_without_convolutions_and_dense_layers_is_refused(tmp_path):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Reshape((8, 8))(inputs))
    x = keras.layers.ZeroPadding1D(1)(x)  # [10, 8], whose rows are averaged to ten logits
    path = str(tmp_path / "mine.keras")
    keras.Model(inputs, keras.layers.GlobalAveragePooling1D(data_format="channels_first")(x)).save(path)
    with pytest.raises(InvalidInput, match="has no convolution and no Dense layer"):
        run_rank.run("robustness", out_dir=tmp_path / "out", quiet=True, model=path, seed=[0])
