"""analysis/ntk_layers.py: the ways to contract a layer's factors, and which layers are followed, against einsum."""
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from analysis import ntk_layers
from models.batch_norm import BatchNormalization
from tests.analysis.full_jacobian import error

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("order", ["jacobian", "applied_gram", "both_grams"])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("positions", [(4, 2), (1, 1)])
def test_the_three_contraction_orders(order, same, k, positions, monkeypatch):
    def factors(n, s):
        return tf.constant(RNG.standard_normal([n, s, 6])), tf.constant(RNG.standard_normal([k, n, s, 5]))

    monkeypatch.setattr(ntk_layers, "SCRATCH_BYTES", 2000)  # several chunks
    left = factors(5, positions[0])
    right = left if same else factors(3, positions[1])
    strips = [(0, 2, 0), (2, 5, 2)] if same else [(0, 5, 0)]
    parts = tf.function(lambda: ntk_layers.matmul_parts(left, right, strips, True, True, order))()
    rows = [
        np.concatenate([np.einsum("isp,kiso->ikpo", h, d).reshape(len(h), k, -1), np.einsum("kiso->iko", d)], 2)
        for h, d in (left, right)
    ]
    wanted = np.einsum("iaq,jbq->iajb", *rows).reshape(5 * k, -1)
    for part, (start, stop, first) in zip(parts, strips, strict=True):
        assert error(part, wanted[start * k : stop * k, first * k :]) < 1e-12


def test_strips_cover_the_upper_half_once():
    for n, k in ((3, 1), (30, 10), (200, 10)):
        strips = ntk_layers.strips_of(n, n, k, True)
        assert [start for start, _, _ in strips] == [0, *[stop for _, stop, _ in strips[:-1]]] and strips[-1][1] == n
        assert all(first == start for start, _, first in strips)  # from the diagonal on
    assert ntk_layers.strips_of(4, 7, 2, False) == [(0, 4, 0)]


def test_the_cheapest_order_is_taken():
    """One position: Grams of inputs [n, n] beat Jacobians of p o numbers.  Many positions on few channels: Jacobians.
    """
    dense = ntk_layers.matmul_costs(100, 10, (1, 1), 10, 784, 512)
    conv = ntk_layers.matmul_costs(100, 10, (1024, 1024), 10, 27, 16)
    assert min(dense, key=dense.get) != "jacobian" and min(conv, key=conv.get) == "jacobian"


@pytest.mark.parametrize(
    ("layer", "shape", "kind"),
    [
        (layers.Dense(3), (2,), "matmul"),
        (layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d"), (4, 2), "matmul"),
        (layers.EinsumDense("abc,bd->acd", (None, 3)), (4, 2), None),  # contracts the middle axis
        (layers.Conv2D(4, 3), (5, 5, 2), "matmul"),
        (layers.Conv2D(4, 3, groups=2), (5, 5, 2), "jacobian"),
        (layers.DepthwiseConv2D(3), (5, 5, 2), "jacobian"),
        (layers.BatchNormalization(), (2,), "jacobian"),
        (layers.LayerNormalization(), (2,), "jacobian"),
        (layers.LayerNormalization(axis=(1, 2)), (4, 2), None),
        (layers.Conv1D(4, 3), (5, 2), None),
        (type("Mine", (layers.Dense,), {})(3), (2,), None),  # may compute anything
        (BatchNormalization(), (5, 5, 2), "jacobian"),  # says that it computes what Keras' does
        (type("Mine", (BatchNormalization,), {})(), (5, 5, 2), None),
    ],
)
def test_which_layers_are_followed(layer, shape, kind):
    layer.build((None, *shape))
    assert ntk_layers.layer_kind(layer) == kind
    if kind:
        first, second = ntk_layers.layer_weights(layer)
        ends = [w.path.rsplit("/", 1)[-1] for w in (first, second) if w is not None]
        assert ends in (["kernel", "bias"], ["gamma", "beta"])
