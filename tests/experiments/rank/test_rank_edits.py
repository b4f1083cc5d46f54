"""experiments/rank/rank_edits.py: what is edited, which fields make a config of its own, what is trained once."""
from types import SimpleNamespace

import pandas as pd
import pytest

from experiments.rank import rank_edits, robustness, spectra
from experiments.rank.rank_edits import AdversaryConfig, EditConfig
from harness import grid
from harness.memo import Memo
from harness.runner import config_id
from judging.results import Group
from models import NetworkConfig, build
from tests.experiments.rank.tables import edit_fields
from training.data import DataConfig, load
from training.fit import TrainingConfig


def test_what_is_edited():
    network = build(NetworkConfig(model="resnet", width=2, depth=1), (32, 32, 3), 10, seed=0)
    names = list(rank_edits.editable(network))
    assert "stem_conv" not in names and "logits" not in names and not any("shortcut" in name for name in names)
    assert len(names) == 8
    network = build(NetworkConfig(depth=3, width=4), (8, 8, 1), 10, seed=0)
    assert list(rank_edits.editable(network)) == ["dense_2", "dense_3"]
    with pytest.raises(ValueError, match="no layer between its first and its logits"):
        rank_edits.editable(build(NetworkConfig(depth=1, width=4), (8, 8, 1), 10, seed=0))


def test_fields_that_an_edit_or_a_training_lacks_make_no_other_config():
    axes = {"rank_cut": [0.5, 1.0], "rank_cap": [2.0, 3.0], "attack_steps": [3, 7], "seed": [0]}
    configs, _ = grid.expand(robustness.EXPERIMENT, axes)
    count = {}
    for config in configs:
        key = config.adversary.train_epsilon, config.edit.edit
        count[key] = count.get(key, 0) + 1
    assert count == {(0.0, "none"): 1, (0.0, "rank_min"): 2, (0.0, "rank_max"): 2, (0.0, "random"): 2,
                     (24.0, "none"): 2, (24.0, "rank_min"): 4, (24.0, "rank_max"): 4, (24.0, "random"): 4}  # fmt: skip


def test_without_training_there_is_neither_attack_nor_edit():
    configs, _ = grid.expand(spectra.EXPERIMENT, {"train": False, "model": "mlp", "seed": 0})
    assert len(configs) == 1
    assert configs[0].adversary.train_epsilon == 0 and configs[0].edit.edit == "none"


@pytest.mark.parametrize(
    ("module", "options", "identity"),
    [
        (robustness, {"train_epsilon": 24.0, "attack_steps": 3, "edit": "rank_min", "rank_cut": 0.5,
                      "edit_epochs": (1, 2), "seed": 1, "check_size": 0, "train_size": 0},
         "convnet-w8-digits-normalize=False-adversarial=24-rank_min=0.5-seed=1-1e547cec83"),
        (spectra, {"model": "mlp", "train_epsilon": 0.0, "edit": "none", "seed": 0},
         "mlp-3x8-digits-normalize=False-natural-plain-seed=0-7e8eb00f2f"),
        (spectra, {"model": "mlp", "train": False, "seed": 0},
         "mlp-3x8-digits-normalize=False-before=training-seed=0-0c1e5da281"),
    ],
)  # fmt: skip
def test_config_ids_are_those_of_earlier_versions(module, options, identity):
    (config,), _ = grid.expand(module.EXPERIMENT, options)
    assert config_id(module.EXPERIMENT, config) == identity


def test_names_of_earlier_versions_are_known():
    former = {"epsilon": 8.0, "steps": 3, "base/test_loss": 1.0, "base/test_accuracy": 0.5}
    names = robustness.EXPERIMENT.modernize(former)
    assert names == {"train_epsilon": 8.0, "attack_steps": 3, "base/test/loss": 1.0, "base/test/accuracy": 0.5}


def test_an_edit_without_its_level_is_refused():
    with pytest.raises(ValueError, match="rank_min needs a rank_cut"):
        grid.expand(robustness.EXPERIMENT, {"edit": "rank_min", "rank_cut": None, "seed": 0})


def test_attacks_are_in_pixels_and_training_has_its_own_steps():
    adversary = AdversaryConfig(train_epsilon=8.0, step_size=0.5, attack_steps=3)
    assert (adversary.attack().epsilon, adversary.attack().step_size, adversary.attack().steps) == (8 / 255, 4 / 255, 3)
    assert (adversary.attack(16.0, 20).epsilon, adversary.attack(16.0, 20).steps) == (16 / 255, 20)


# -- groups by edit


def group(*edits):
    return Group("mlp", pd.DataFrame([{"model": "mlp", "seed": 0, **fields} for fields in edits]))


def test_edits_are_named_and_come_back_as_configs():
    found = rank_edits.split_by_edit(group(*map(edit_fields, ("none", "rank_min", "rank_max"))))
    assert [name for name, _, _ in found] == ["plain", "rank_min 1", "rank_max 2"]
    assert [edit for _, edit, _ in found] == [
        EditConfig("none", None, None, ()),
        EditConfig("rank_min", 1.0, None, (1,)),
        EditConfig("rank_max", None, 2.0, (1,)),
    ]


def test_two_edits_of_one_name_say_what_tells_them_apart():
    edits = edit_fields("rank_min"), edit_fields("rank_min", edit_epochs=(1, 2)), edit_fields("rank_max")
    names = [name for name, _, _ in rank_edits.split_by_edit(group(*edits))]
    assert names == ["rank_min 1, edit epochs 1", "rank_min 1, edit epochs 1-2", "rank_max 2"]


def test_a_legend_leaves_a_network_out_that_all_lines_share():
    def of(label, model="mlp"):
        return Group(label, pd.DataFrame([{"model": model, "width": 8, "seed": 0}]))

    one = [of("mlp, width 8, natural"), of("mlp, width 8, adversarial 8")]
    assert rank_edits.short_labels(one) == ["natural", "adversarial 8"]
    assert rank_edits.short_labels([of("mlp, width 8")]) == [""] and rank_edits.short_labels([]) == []
    two = [of("mlp, width 8, natural"), of("resnet, width 8, natural", "resnet")]
    assert rank_edits.short_labels(two) == [group.label for group in two]


# -- one training for all edits


class SharedRun:
    """As much of a Run as a network needs that is trained once."""

    def __init__(self):
        self.once, self.trainings = Memo().once, []

    def __getattr__(self, name):  # begin, epoch, histograms, checkpoints
        if name == "begin":
            return self.trainings.append
        return lambda *arguments: None


def test_a_network_is_trained_once_for_each_probe_and_again_for_another_config():
    def config(**training):
        return SimpleNamespace(
            network=NetworkConfig(width=4, depth=2), data=DataConfig(dataset="gaussian", train_size=20, test_size=10),
            training=TrainingConfig(epochs=1, batch_size=10, **training), adversary=AdversaryConfig(), seed=0,
        )  # fmt: skip

    run, data = SharedRun(), load(config().data, seed=0)
    first, history = rank_edits.trained_base(config(), data, run)
    again, same = rank_edits.trained_base(config(), data, run)
    assert same is history and run.trainings == ["base"] and not history.probes
    for a, b in zip(first.variables, again.variables):
        assert a is not b and (a.numpy() == b.numpy()).all()
    _, probed = rank_edits.trained_base(config(), data, run, probe=lambda model, epoch: {"x": epoch}, probe_key=("x",))
    assert probed.probes == {1: {"x": 1}} and len(run.trainings) == 2
    rank_edits.trained_base(config(learning_rate=0.1), data, run)
    assert len(run.trainings) == 3
