"""experiments/ntk/features.py: what it measures, and its figure; its verdict is tested with constancy.py."""
import dataclasses

import numpy as np

from experiments.ntk import features
from harness.memo import Memo
from models import NetworkConfig
from reporting.run_folder import Run
from tests.experiments.ntk.tables import results
from training.data import DataConfig, load
from training.fit import TrainingConfig


def test_untrained_features_do_not_move_and_differ_from_those_of_another_initialization(tmp_path):
    config = features.Config(
        network=NetworkConfig(width=16, depth=1), data=DataConfig(train_size=60, test_size=20),
        training=TrainingConfig(epochs=1, learning_rate=0.0), feature_sample=20,
    )  # fmt: skip
    data = load(config.data, seed=0)
    found = features.measure(config, data, Run(tmp_path, "one", {}, memo=Memo()))
    assert set(found) <= {*features.COLUMNS, "diverged_epoch"}
    assert found["features/gram_change"] == 0
    for name in ("separation", "label_alignment"):
        assert found[f"features/{name}_before"] == found[f"features/{name}_after"]
    np.testing.assert_allclose([found["features/gram_correlation"], found["features/cka"]], 1)
    assert found["redraw/correlation"] < 0.99 and found["redraw/relative_change"] > 0.01


def test_inner_products_by_hand():
    np.testing.assert_array_equal(features.inner_products(np.array([[1.0, 2.0], [0.0, 3.0]])), [[5, 6], [6, 9]])


def test_the_figure_has_a_panel_a_measure_and_is_left_out_where_all_diverged():
    measured = {"features/gram_correlation": 0.9, "features/distance_correlation": 0.8, "features/separation_after": 2}
    found = results(features.EXPERIMENT, lambda fields: measured, width=[8, 16], depth=1)
    (figure,) = features.figures(found).values()
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "correlation of inner products", "correlation of distances", "between / within class distance, after"
    ]  # fmt: skip
    assert features.figures(dataclasses.replace(found, table=found.table.drop(columns=list(measured)))) == {}
