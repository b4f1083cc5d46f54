"""models/ntk_parameterized.py: forward pass by hand, the limit of its kernels, saving, what is refused."""
import keras
import numpy as np
import pytest
from scipy.special import erf

from analysis.infinite_width_kernels import ARCHITECTURES, limit_kernels
from analysis.ntk import empirical_ntk
from models import NetworkConfig, build
from models.ntk_parameterized import ntk_parameterized

IMAGES = np.random.default_rng(0).standard_normal([3, 4, 5, 2])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_forward_pass_by_hand(architecture):
    weight, bias = 1.7, 0.3
    model = ntk_parameterized(
        (4, 5, 2),
        3,
        architecture=architecture,
        width=6,
        depth=2,
        weight_variance=weight,
        bias_variance=bias,
        dtype="float64",
    )
    kernels = [v.numpy() for v in model.trainable_variables]

    def dense(h, w):
        return np.sqrt(weight / h.shape[1]) * h @ w[:-1] + np.sqrt(bias) * w[-1]

    def conv(h, w):
        fan_in = 9 * h.shape[-1]
        out = np.sqrt(bias) * w[:, :, -1].sum(axis=(0, 1)) / 3  # nine taps make one standard normal bias
        for s, t in np.ndindex(3, 3):
            out = out + np.sqrt(weight / fan_in) * np.roll(h, (1 - s, 1 - t), (1, 2)) @ w[s, t, :-1]
        return out

    h = IMAGES.reshape(3, -1) if architecture == "fcn" else IMAGES
    for w in kernels[:-1]:
        h = erf((dense if architecture == "fcn" else conv)(h, w))
    h = h.mean(axis=(1, 2)) if architecture == "cnn-pool" else h.reshape(3, -1)
    np.testing.assert_allclose(model(IMAGES).numpy(), dense(h, kernels[-1]), rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "activation"),
    [("fcn", "relu"), ("fcn", "erf"), ("cnn-flatten", "erf"), pytest.param("cnn-pool", "relu", marks=pytest.mark.long)],
)
def test_mean_kernel_of_finite_networks_is_the_limit(architecture, activation):
    """Three seeds of width 256: the mean's error is a few per cent, where other architectures differ by tens."""
    setting = {
        "architecture": architecture,
        "activation": activation,
        "depth": 2,
        "weight_variance": 1.6,
        "bias_variance": 0.2,
    }
    _, limit = limit_kernels(IMAGES, **setting)
    traces = []
    for seed in range(3):
        keras.backend.clear_session()
        model = ntk_parameterized((4, 5, 2), 5, width=256, seed=seed, **setting)
        traces.append(empirical_ntk(model, IMAGES, outputs="trace"))
    assert np.abs(np.mean(traces, axis=0) - limit).max() < 0.15 * limit.max()


def test_model_can_be_saved(tmp_path):
    model = ntk_parameterized((4, 5, 2), 3, architecture="cnn-pool", width=4, depth=1, bias_variance=0.1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded(IMAGES).numpy(), model(IMAGES).numpy())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "cnn"}, "unknown architecture 'cnn'"),
        ({"activation": "tanh"}, "activation 'tanh'"),
        ({"input_shape": (20,), "architecture": "cnn-pool"}, r"cnn-pool needs images .*got \(20,\)"),
    ],
)
def test_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ntk_parameterized(**{"input_shape": (4, 5, 2), "num_classes": 3, **changes})


def test_an_mlp_in_ntk_parameterization_is_built_by_name_and_its_kernel_does_not_grow_with_width():
    """In standard parameterization the trace of the NTK is proportional to the width."""
    traces = {}
    for name in ("mlp", "mlp_ntk"):
        for width in (64, 1024):
            model = build(NetworkConfig(name, width=width, depth=2, dtype="float64"), (4, 5, 2), 3, seed=0)
            traces[name, width] = np.trace(empirical_ntk(model, IMAGES, outputs="trace"))
    assert traces["mlp", 1024] > 8 * traces["mlp", 64]
    assert 0.5 < traces["mlp_ntk", 1024] / traces["mlp_ntk", 64] < 2


def test_an_mlp_in_ntk_parameterization_is_the_known_network_with_he_variances():
    h = IMAGES.reshape(3, -1)
    model = build(NetworkConfig("mlp_ntk", width=6, depth=1, dtype="float64"), (4, 5, 2), 3, seed=0)
    first, last = (v.numpy() for v in model.trainable_variables)
    h = np.maximum(np.sqrt(2 / h.shape[1]) * h @ first[:-1] + 0.1 * first[-1], 0)
    wanted = np.sqrt(1 / 6) * h @ last[:-1] + 0.1 * last[-1]
    np.testing.assert_allclose(model(IMAGES).numpy(), wanted, rtol=1e-10)
