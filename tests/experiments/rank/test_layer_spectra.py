"""experiments/rank/layer_spectra.py: measures of a small network against its operators, what is kept, the figures."""
import keras
import numpy as np
import pytest

from analysis.conv_operators import model_operators, relative_rank
from experiments.rank import layer_spectra
from models import NetworkConfig, build


@pytest.fixture(scope="module")
def measured():
    model = build(NetworkConfig(model="convnet", width=2), (8, 8, 1), 10, seed=0)
    return model, *layer_spectra.spectrum_measures(model, pad=True)


def test_measures_are_those_of_the_operators(measured):
    model, numbers, arrays, spectra = measured
    operators = model_operators(model, pad=True)
    assert set(numbers) == set(layer_spectra.RANK_COLUMNS)
    assert arrays["layers"].tolist() == list(operators) == list(spectra)
    ranks = [relative_rank(op.spectrum().values) for op in operators.values()]
    np.testing.assert_allclose(arrays["relative_rank"], ranks)
    assert numbers["rank/relative"] == pytest.approx(np.mean(ranks))
    assert numbers["rank/largest_singular_value"] == max(s.max() for s in spectra.values())
    kernel = model.layers[-1].kernel.numpy()
    np.testing.assert_allclose(arrays["spectrum/logits"], np.linalg.svd(kernel, compute_uv=False), rtol=1e-5)


def test_kept_spectra_have_both_ends_and_few_points():
    s = np.linspace(5, 1, 1001)
    kept = layer_spectra.thin_out(s)
    assert len(kept) == layer_spectra.MAX_CURVE_POINTS and (kept[0], kept[-1]) == (5, 1)
    np.testing.assert_array_equal(layer_spectra.thin_out(s[:7]), s[:7])


def test_figures_have_the_layers_of_all_networks(measured):
    _, _, arrays, _ = measured
    keras.utils.set_random_seed(0)
    shallow = build(NetworkConfig(depth=1, width=4), (8, 8, 1), 10, seed=0)
    _, other, _ = layer_spectra.spectrum_measures(shallow, pad=True)
    lines = [("shallow", [other]), ("deep", [arrays, arrays])]
    layers = layer_spectra.layers_of(lines)
    assert layers == list(dict.fromkeys([*other["layers"], *arrays["layers"]]))
    axis = layer_spectra.plot_rank_by_layer(lines).axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == layers
    panels = [axis for axis in layer_spectra.plot_spectra(lines).axes if axis.get_visible()]
    assert [axis.get_title() for axis in panels] == layers
