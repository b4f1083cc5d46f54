"""models/alexnet_small.py: Zhang et al.'s size, and the local response norm against TensorFlow's."""
import numpy as np
import tensorflow as tf

from models import NetworkConfig, build
from models.alexnet_small import LocalResponseNorm
from tests.models.networks import images, trainable


def test_alexnet_has_the_size_of_zhang_et_al():
    assert trainable(build(NetworkConfig("alexnet"), (28, 28, 3), 10, seed=0)) == 1_387_786


def test_local_response_norm_equals_tensorflow():
    x = 10 * images(2, (4, 4, 12), "float32")
    expected = tf.nn.local_response_normalization(x, depth_radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)
    np.testing.assert_allclose(LocalResponseNorm()(x), expected, rtol=1e-5)
    assert np.abs(np.asarray(expected) / x - 1).max() > 0.01
