"""experiments/local_minima/affine_start.py: one optimum for all who share the data, and what cannot take it in."""
import dataclasses

import numpy as np
import pytest

from analysis.affine_minimum import SeparableDataError
from experiments.local_minima import affine_start
from experiments.local_minima.affine_minimum import Config
from experiments.local_minima.affine_start import affine_optimum, check_embeddable, stable_rate
from harness.memo import Memo
from models import NetworkConfig
from reporting.run_folder import Run
from training.data import DataConfig, load
from training.fit import TrainingConfig

CONFIG = Config(
    network=NetworkConfig(model="mlp", width=12, depth=1, dtype="float64"),
    data=DataConfig(dataset="gaussian", train_size=60, test_size=20),
)


@pytest.fixture
def calls(monkeypatch):
    """The losses that fit_affine is asked to minimize."""
    made, fit = [], affine_start.fit_affine

    def counted(x, y, *, loss):
        made.append(loss)
        return fit(x, y, loss=loss)

    monkeypatch.setattr(affine_start, "fit_affine", counted)
    return made


def test_configs_that_share_training_set_and_loss_share_the_optimum(tmp_path, calls):
    run, data = Run(tmp_path, "id", {}, memo=Memo()), load(CONFIG.data, seed=0)
    first = affine_optimum(CONFIG, data, run)
    wider = dataclasses.replace(CONFIG, network=dataclasses.replace(CONFIG.network, width=32))
    other = Run(tmp_path, "other", {}, memo=run.memo)
    assert affine_optimum(wider, dataclasses.replace(data, x_train=data.x_train.copy()), other) is first
    assert affine_optimum(CONFIG, data, run, "squared") is first and calls == ["squared"]
    assert affine_optimum(CONFIG, load(CONFIG.data, seed=1), run).loss != first.loss
    relabelled = dataclasses.replace(data, y_train=np.roll(data.y_train, 1, axis=0))
    assert affine_optimum(CONFIG, relabelled, run).loss != first.loss
    assert calls == ["squared"] * 3


def test_another_run_computes_its_own(tmp_path, calls):
    data = load(CONFIG.data, seed=0)
    for _ in range(2):
        affine_optimum(CONFIG, data, Run(tmp_path, "id", {}, memo=Memo()))
    assert len(calls) == 2


def test_the_loss_is_the_configs_unless_another_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(affine_start, "fit_affine", lambda x, y, loss: f"the optimum of {loss}")
    run, data = Run(tmp_path, "id", {}, memo=Memo()), load(CONFIG.data, seed=0)
    soft = dataclasses.replace(CONFIG, training=TrainingConfig(loss="cross_entropy"))
    assert affine_optimum(soft, data, run) == "the optimum of cross_entropy"
    assert affine_optimum(soft, data, run, loss="squared") == "the optimum of squared"


def test_what_cannot_take_in_the_optimum_is_refused(tmp_path, calls):
    run, data = Run(tmp_path, "id", {}, memo=Memo()), load(CONFIG.data, seed=0)

    def check(network=CONFIG.network, loss="squared", **changes):
        network = dataclasses.replace(network, **changes)
        check_embeddable(dataclasses.replace(CONFIG, network=network, training=TrainingConfig(loss=loss)), data, run)

    check()
    with pytest.raises(ValueError, match="hidden width 8 is below the affine map's rank"):
        check(width=8)
    with pytest.raises(ValueError, match="is no ReLU mlp"):
        check(activation="tanh")
    for _ in range(2):  # 60 points in 64 dimensions are separable; that too is found once only
        with pytest.raises(SeparableDataError, match="separates all 60 training images"):
            check(loss="cross_entropy")
    assert calls == ["squared", "cross_entropy"]


def test_the_stable_rate_is_a_tenth_of_one_over_the_curvature_without_momentum():
    assert stable_rate(TrainingConfig(momentum=0.0), 20.0) == pytest.approx(0.005)
    assert stable_rate(TrainingConfig(momentum=0.9), 20.0) == pytest.approx(0.0005)
