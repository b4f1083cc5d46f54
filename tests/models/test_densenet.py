"""models/densenet.py: parameters by formula and the published size."""
import pytest

from models import NetworkConfig, build
from tests.models.networks import layer_types, trainable


@pytest.mark.parametrize("growth, depth, channels", [(12, 40, 3), (3, 10, 1)])
def test_densenet_parameters(growth, depth, channels):
    blocks, c = (depth - 4) // 3, 16
    total = 9 * channels * c
    for block in range(3):
        for _ in range(blocks):
            total += 2 * c + 9 * c * growth
            c += growth
        if block < 2:
            total += 2 * c + c * c
    total += 2 * c + (c + 1) * 10
    model = build(NetworkConfig("densenet", width=growth, depth=depth), (32, 32, channels), 10, seed=0)
    assert trainable(model) == total
    if depth == 40:
        assert total == 1_019_722
    assert layer_types(model).count("Conv2D") == depth - 1  # and the logits
