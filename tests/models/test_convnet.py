"""models/convnet.py: parameters by formula at several image sizes, which pooling decides."""
from itertools import pairwise

import pytest

from models import NetworkConfig, build
from tests.models.networks import CIFAR, DIGITS, trainable


@pytest.mark.parametrize("shape, positions", [(CIFAR, 3 * 3), (DIGITS, 1), ((28, 28, 1), 3 * 3), ((8, 32, 2), 1 * 3)])
def test_convnet_parameters(shape, positions):
    w = 3
    channels = (shape[-1], w, 2 * w, 2 * w, 4 * w, 4 * w)
    convolutions = sum((9 * a + 1) * b for a, b in pairwise(channels))
    model = build(NetworkConfig("convnet", width=w), shape, 10, seed=0)
    assert trainable(model) == convolutions + (positions * 4 * w + 1) * 10
