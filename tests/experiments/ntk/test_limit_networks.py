"""experiments/ntk/limit_networks.py: what has no known limit is refused, finite networks, their names in verdicts."""
import pytest

from experiments.ntk import infinite_width
from experiments.ntk.limit_networks import build_finite, check_network, check_variances, groups_by_architecture
from models import NetworkConfig, default_width
from tests.experiments.ntk.tables import results
from training.data import DataConfig, load


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"model": "resnet"}, "takes no --model"),
        ({"widths": (4, 4)}, "takes no --model, --widths"),
        ({"dropout": 0.1}, "or --dropout"),
        ({"activation": "tanh"}, r"closed form \(relu, erf\), got 'tanh'"),
    ],
)
def test_networks_without_a_known_limit_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        check_network(infinite_width.Config(network=NetworkConfig(**{"activation": "erf", **network})))


@pytest.mark.parametrize("values", [(0.0, 0.1), (float("nan"), 0.1), (1.0, -0.1), (1.0, float("inf"))])
def test_variances_out_of_range_are_refused(values):
    with pytest.raises(ValueError, match="must be finite and >"):
        check_variances(weight_variance=[1.0, values[0]], bias_variance=[values[1]])


def test_the_finite_network_has_the_configs_width_or_the_default():
    data = load(DataConfig(dataset="gaussian", train_size=10, test_size=10), seed=0)
    inputs, classes = int(data.x_train[0].size), data.num_classes
    for width in (7, None):
        config = infinite_width.Config(network=NetworkConfig(activation="erf", width=width))
        model = build_finite(config, data, weight_variance=1.0, depth=2)
        w = width or default_width("mlp")
        assert model.count_params() == (inputs + 1) * w + (w + 1) * w + (w + 1) * classes


def test_groups_go_by_their_architecture():
    def labels(**axes):
        found = results(infinite_width.EXPERIMENT, lambda fields: {"ntk/distance": 1.0}, width=[8, 16], depth=1, **axes)
        return [group.label for group in groups_by_architecture(found)]

    assert labels() == ["fcn, depth 1, erf"]
    assert labels(architecture=["fcn", "cnn-pool"]) == ["fcn, depth 1, erf", "cnn-pool, depth 1, erf"]
    assert labels(architecture="cnn-pool", weight_variance=[1.5, 2.0]) == [
        "cnn-pool, depth 1, erf, weight variance 1.5", "cnn-pool, depth 1, erf, weight variance 2",
    ]  # fmt: skip
