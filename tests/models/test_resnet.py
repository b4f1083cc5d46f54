"""models/resnet.py: parameters by formula, He et al.'s size, a block and its convolution by hand."""
import keras
import numpy as np
import pytest

from models import NetworkConfig, build
from tests.models.networks import CIFAR, DIGITS, images, layer_types, trainable


def resnet_parameters(w, depth, channels, classes, batch_norm, skip):
    extra = 2 if batch_norm else 1  # scale and shift, or a bias, a channel
    total = 9 * channels * w + extra * w
    last = w
    for stage in range(4):
        out = w * 2**stage
        total += 9 * last * out + (2 * depth - 1) * 9 * out * out + 2 * depth * extra * out
        if skip and out != last:
            total += last * out + extra * out
        last = out
    return total + (last + 1) * classes


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("width, depth", [(4, 2), (3, 1)])
def test_resnet_parameters_and_layers(width, depth, batch_norm, skip):
    config = NetworkConfig("resnet", width=width, depth=depth, batch_norm=batch_norm, skip=skip)
    model = build(config, DIGITS, 10, seed=0)
    assert trainable(model) == resnet_parameters(width, depth, 1, 10, batch_norm, skip)
    assert layer_types(model).count("Add") == (4 * depth if skip else 0)
    assert ("BatchNormalization" in layer_types(model)) == batch_norm


def test_resnet18_at_its_default_width_has_the_known_size():
    model = build(NetworkConfig("resnet"), CIFAR, 10, seed=0)
    assert trainable(model) == resnet_parameters(64, 2, 3, 10, True, True) == 11_173_962
    sizes = [model.get_layer(f"stage{stage}_block2_act2").output.shape[1] for stage in (1, 2, 3, 4)]
    assert sizes == [32, 16, 8, 4]


@pytest.mark.parametrize("batch_norm", [True, False])
def test_residual_block_is_input_plus_branch(batch_norm):
    config = NetworkConfig("resnet", width=2, depth=1, batch_norm=batch_norm, dtype="float64")
    model = build(config, DIGITS, 3, seed=0)
    norm = "norm" if batch_norm else "conv"
    names = ("stem_act", f"stage1_block1_{norm}2", "stage1_block1_act2", "stage1_block1_conv1")
    probe = keras.Model(model.input, [model.get_layer(name).output for name in names])
    x, branch, out, first = map(np.asarray, probe(images(2, DIGITS)))
    np.testing.assert_allclose(out, np.maximum(x + branch, 0), rtol=1e-12)
    kernel = model.get_layer("stage1_block1_conv1").kernel.numpy()
    patch = x[:, 2:5, 3:6, :]  # the 3x3 neighbourhood of position (3, 4)
    expected = np.einsum("nhwi,hwio->no", patch, kernel)
    np.testing.assert_allclose(first[:, 3, 4], expected, rtol=1e-12, atol=1e-13)
