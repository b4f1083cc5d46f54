"""models/resnet_fixup.py: parameters by formula, the identity at the start, where the scalars act."""
import keras
import numpy as np
import pytest

from models import NetworkConfig, build
from tests.models.networks import CIFAR, DIGITS, images, layer_types, trainable


@pytest.mark.parametrize("w, depth", [(16, 20), (3, 8)])
def test_resnet_fixup_parameters(w, depth):
    n = (depth - 2) // 6
    convolutions = 9 * 3 * w + 9 * w * w * (2 * n + (2 + 4 * (2 * n - 1)) + (8 + 16 * (2 * n - 1)))
    scalars = 3 * n * 5 + 2  # four biases and a multiplier a block; behind the stem and before the classifier
    model = build(NetworkConfig("resnet_fixup", width=w, depth=depth), CIFAR, 10, seed=0)
    assert trainable(model) == convolutions + scalars + (4 * w + 1) * 10
    assert "BatchNormalization" not in layer_types(model)


def test_fixup_starts_as_the_identity_with_small_branches():
    model = build(NetworkConfig("resnet_fixup", width=16, depth=20, dtype="float64"), DIGITS, 10, seed=0)
    acts = ["stem_act"] + [f"stage{s}_block{b}_act2" for s in (1, 2, 3) for b in (1, 2, 3)]
    outputs = keras.Model(model.input, [model.get_layer(name).output for name in acts])(images(2, DIGITS))
    x = np.asarray(outputs[0])
    for index, output in enumerate(map(np.asarray, outputs[1:])):
        if index in (3, 6):  # first block of a stage: every second pixel, zeros in the new channels
            x = np.concatenate([x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], axis=-1)
        assert np.array_equal(output, x)
    assert x.any() and not np.any(model(images(2, DIGITS)))
    # He's variance times L^(-1) with L = 9 branches
    kernel = model.get_layer("stage3_block2_conv1").kernel.numpy()
    assert kernel.var() == pytest.approx(2 / (9 * 64) / 9, rel=0.02)
    # The scalars act where they should: out = relu(x + scale * conv2 + bias2b)
    rng = np.random.default_rng(0)
    model.set_weights([weight + 0.1 * rng.normal(size=weight.shape) for weight in model.get_weights()])
    names = ("stem_act", "stage1_block1_conv2", "stage1_block1_act2")
    x, y, out = map(np.asarray, keras.Model(model.input, [model.get_layer(n).output for n in names])(images(2, DIGITS)))
    scale, bias = (model.get_layer(f"stage1_block1_{n}").get_weights()[0] for n in ("scale", "bias2b"))
    assert scale != 1 and bias != 0
    np.testing.assert_allclose(out, np.maximum(x + scale * y + bias, 0), rtol=1e-12, atol=1e-13)
