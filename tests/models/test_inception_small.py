"""models/inception_small.py: Zhang et al.'s size, with and without batch norm."""
import pytest

from models import NetworkConfig, build
from tests.models.networks import layer_types, trainable


@pytest.mark.parametrize("batch_norm", [True, False])
def test_inception_has_the_size_of_zhang_et_al(batch_norm):
    model = build(NetworkConfig("inception", batch_norm=batch_norm), (28, 28, 3), 10, seed=0)
    assert trainable(model) == 1_649_402
    assert ("BatchNormalization" in layer_types(model)) == batch_norm
