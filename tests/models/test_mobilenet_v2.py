"""models/mobilenet_v2.py: parameters by formula, torchvision's count, the start of depthwise kernels."""
import pytest

from models import NetworkConfig, build
from tests.models.networks import CIFAR, DIGITS, layer_types, trainable


def mobilenet_v2_parameters(scale, channels, classes):
    c = scale(32)
    total = 9 * channels * c + 2 * c
    stages = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    for t, out, repeats in stages:
        for _ in range(repeats):
            total += (t > 1) * (c * t * c + 2 * t * c) + 9 * t * c + 2 * t * c + t * c * scale(out) + 2 * scale(out)
            c = scale(out)
    return total + c * scale(1280) + 2 * scale(1280) + (scale(1280) + 1) * classes


def test_mobilenet_v2_parameters():
    half = build(NetworkConfig("mobilenet_v2", width=16), DIGITS, 10, seed=0)
    assert trainable(half) == mobilenet_v2_parameters(lambda c: c // 2, 1, 10)
    # With 1 000 classes: the count that torchvision gives for its MobileNetV2 (strides have no parameters).
    full = build(NetworkConfig("mobilenet_v2"), CIFAR, 1000, seed=0)
    assert trainable(full) == mobilenet_v2_parameters(lambda c: c, 3, 1000) == 3_504_872
    assert full.get_layer("head_act").output.shape[1:] == (4, 4, 1280)
    assert layer_types(full).count("Add") == sum((0, 1, 2, 3, 2, 2, 0))


def test_depthwise_kernels_have_a_fan_in_of_nine():
    model = build(NetworkConfig("mobilenet_v2"), DIGITS, 10, seed=0)
    kernel = model.get_layer("stage6_block2_depthwise_conv").get_weights()[0]
    assert kernel.shape == (3, 3, 960, 1)
    assert kernel.var() == pytest.approx(2 / 9, rel=0.05)
