"""analysis/ntk.py: closed form, full Jacobian, reference values, what changes between calls, bad arguments."""

import gc
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from analysis import ntk
from analysis.keras_internals import releasable_graphs
from analysis.ntk import empirical_ntk, ntk_vector_product
from tests.analysis.full_jacobian import error, full_jacobian_ntk
from tests.graphs import live_graphs

DATA = Path(__file__).parents[1] / "data"
RNG = np.random.default_rng(0)


class Scale(layers.Layer):
    """A user's own layer."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return tf.sin(x * self.scale)


class Tied(keras.Model):
    """Subclassed; one dense layer's kernel is read a second time, outside of any layer."""

    def __init__(self):
        super().__init__()
        self.encoder, self.head = layers.Dense(5, activation="tanh"), layers.Dense(2)

    def call(self, x):
        return self.head(tf.matmul(self.encoder(x), self.encoder.kernel, transpose_b=True))


class SharedWeight(keras.Model):
    """Two dense layers that own one kernel."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(6, activation="tanh"), layers.Dense(6)
        self.first.build((None, 6))
        self.second.build((None, 6))
        vars(self.second)["_kernel"] = self.first._kernel

    def call(self, x):
        return self.second(self.first(x))


class LoopedDense(layers.Layer):
    """A dense layer called inside a traced loop, where its calls can't be followed."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, activation="tanh")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return tf.while_loop(
            lambda i, x: i < 3, lambda i, x: (i + 1, tf.ensure_shape(self.dense(x), [None, 4])), (0, x)
        )[1]


def functional(shape, function, **kwargs):
    inputs = keras.Input(shape, **kwargs)
    return keras.Model(inputs, function(inputs))


def chain(shape, *parts):
    return keras.Sequential([keras.Input(shape), *parts])


def shared_dense(x):
    dense = layers.Dense(5, activation="tanh")
    return layers.Dense(2)(dense(dense(dense(x))))


def shared_conv(x):  # the calls see inputs of different sizes
    conv = layers.Conv2D(3, 3, padding="same", activation="tanh")
    return layers.Dense(2)(
        layers.Flatten()(layers.Add()([conv(layers.MaxPooling2D()(conv(x))), layers.AveragePooling2D(2)(conv(x))]))
    )


def nested(x):
    inner = chain([5], layers.Dense(4, activation="relu"), chain([4], layers.Dense(5), Scale()))
    return layers.Concatenate()([inner(x), layers.Dense(2)(inner(inner(x)))])


def attention(x):
    h = layers.Embedding(9, 6)(x)
    return layers.Dense(2)(layers.GlobalAveragePooling1D()(layers.MultiHeadAttention(2, 3)(h, h)))


def conv(**kwargs):
    return lambda: chain([7, 8, 4], layers.Conv2D(6, 3, activation="tanh", **kwargs), layers.Flatten(), layers.Dense(2))


def mixed_image():
    return chain(
        [6, 6, 3],
        layers.Conv2D(4, 3, padding="same", use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(4, 3, activation="gelu"),
        layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5),
        layers.Dense(3),
    )


MODELS = {
    "dense": lambda: chain([5], layers.Dense(7, activation="tanh"), layers.Dense(3)),
    "dense on sequences": lambda: chain(
        [4, 5], layers.Dense(6, activation="tanh"), layers.Flatten(), layers.Dense(3, use_bias=False)
    ),
    "one output": lambda: chain([5], layers.Dense(7, activation="tanh"), layers.Dense(1)),
    "output of rank 3": lambda: chain([4, 5], layers.Dense(2)),
    "conv same": conv(padding="same"),
    "conv valid": conv(padding="valid", use_bias=False),
    "conv strides": conv(padding="same", strides=(2, 3)),
    "conv strides valid": conv(padding="valid", strides=2),
    "conv dilation": conv(padding="same", dilation_rate=2),
    "conv groups": conv(padding="same", groups=2),
    "conv 1x1 strided": lambda: chain([5, 5, 3], layers.Conv2D(4, 1, strides=2), layers.Flatten(), layers.Dense(2)),
    "conv1d": lambda: chain([6, 3], layers.Conv1D(4, 3), layers.Flatten(), layers.Dense(2)),
    "conv transposed": lambda: chain([3, 3, 2], layers.Conv2DTranspose(2, 2), layers.Flatten(), layers.Dense(2)),
    "depthwise": lambda: chain(
        [6, 6, 3], layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2), layers.Flatten(), layers.Dense(2)
    ),
    "separable": lambda: chain([6, 6, 3], layers.SeparableConv2D(4, 3), layers.Flatten(), layers.Dense(2)),
    "batch norm": mixed_image,
    "batch norm axis": lambda: chain([4, 3], layers.BatchNormalization(axis=1), layers.Flatten(), layers.Dense(2)),
    "layer norm": lambda: chain(
        [4, 6], layers.Dense(5), layers.LayerNormalization(), layers.Flatten(), layers.Dense(2)
    ),
    "group norm": lambda: chain([4, 6], layers.GroupNormalization(3), layers.Flatten(), layers.Dense(2)),
    "prelu": lambda: chain([5], layers.Dense(4), layers.PReLU(), layers.Dense(2, activation="softmax")),
    "own layer": lambda: chain([5], layers.Dense(4), Scale(), layers.Dense(2)),
    "dense in a loop": lambda: chain([4], LoopedDense(), layers.Dense(2)),
    "gru": lambda: chain([4, 3], layers.GRU(4), layers.Dense(2)),
    "time distributed": lambda: chain(
        [4, 5], layers.TimeDistributed(layers.Dense(3)), layers.Flatten(), layers.Dense(2)
    ),
    "shared dense": lambda: functional([5], shared_dense),
    "shared conv": lambda: functional([6, 6, 3], shared_conv),
    "nested": lambda: functional([5], nested),
    "embedding and attention": lambda: functional([5], attention, dtype="int32"),
    "tied": Tied,
    "shared weight": SharedWeight,
}


def inputs_of(model, name, n=4):
    if name == "embedding and attention":
        return RNG.integers(0, 9, [n, 5])
    shape = {"tied": (5,), "shared weight": (6,)}.get(name) or model.input_shape[1:]
    return RNG.standard_normal([n, *shape])


def randomize(model):
    """Moving statistics, scales and biases away from 0 and 1."""
    for v in model.variables:
        if len(v.shape) == 1 and v.dtype.startswith("float"):
            v.assign(np.abs(RNG.standard_normal(v.shape)) + 0.5)


SLOW = {  # costly to trace, and close to another model of the list
    "conv groups", "conv strides", "gru", "layer norm", "nested", "own layer", "time distributed", "separable",
    "conv transposed", "prelu", "conv dilation",
    "group norm", "conv strides valid", "dense in a loop", "conv1d", "batch norm axis", "embedding and attention",
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in MODELS])
def test_equals_the_full_jacobian(name, float64):
    model = MODELS[name]()
    x = inputs_of(model, name)
    model(x)
    randomize(model)
    wanted = full_jacobian_ntk(model, x)
    got = empirical_ntk(model, x)
    k = wanted.shape[1]
    assert error(got, wanted) < 1e-10
    assert error(empirical_ntk(model, x, x[:3], block_size=2), wanted[:, :, :3]) < 1e-10
    assert error(empirical_ntk(model, x, block_size=3, outputs="trace"), np.einsum("iaja->ij", wanted) / k) < 1e-10


@pytest.mark.parametrize("network", ["mlp", "convnet"])
@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-10), ("float32", 1e-5)])
def test_reference_values(network, dtype, tolerance):
    data = np.load(DATA / f"finite_ntk_{network}.npz")
    policy = {"dtype": dtype}
    if network == "mlp":
        parts = [layers.Flatten(**policy), *[layers.Dense(u, activation="relu", **policy) for u in (16, 12)]]
    else:
        parts = [
            layers.Conv2D(o, size, strides=stride, padding="same", activation="relu", **policy)
            for o, size, stride in ((5, 3, 1), (7, 3, 2), (4, 1, 1))
        ] + [layers.GlobalAveragePooling2D(**policy)]
    inputs = keras.Input(data["x"].shape[1:], dtype=dtype)
    outputs = inputs
    for layer in [*parts, layers.Dense(3, **policy)]:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    model.dtype_policy = dtype
    model.set_weights([data[f"weight_{i:02}"] for i in range(len(model.weights))])
    assert error(model(data["x"]).numpy(), data["logits"]) < tolerance
    assert error(empirical_ntk(model, data["x"]), data["ntk"]) < tolerance


def test_linear_model_in_closed_form():
    model = chain([4], layers.Dense(3))
    x = RNG.standard_normal([6, 4]).astype("float32")
    x64 = x.astype(float)
    wanted = np.einsum("ij,ab->iajb", x64 @ x64.T + 1, np.eye(3))
    assert error(empirical_ntk(model, x), wanted) < 1e-6
    assert error(empirical_ntk(model, x, outputs="trace"), x64 @ x64.T + 1) < 1e-6


@pytest.mark.slow
def test_symmetric_psd_and_independent_of_block_size():
    model, x = mixed_image(), RNG.standard_normal([7, 6, 6, 3])
    kernel = empirical_ntk(model, x)
    matrix = kernel.reshape(21, 21)
    assert np.array_equal(matrix, matrix.T)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues[0] > -1e-5 * eigenvalues[-1]
    for size in (1, 3, 100):
        assert error(empirical_ntk(model, x, block_size=size), kernel) < 1e-5
    assert error(empirical_ntk(model, x[:4], x[2:], block_size=2), kernel[:4, :, 2:]) < 1e-5


@pytest.mark.slow
def test_frozen_weights_do_not_count(float64):
    model, x = mixed_image(), RNG.standard_normal([3, 6, 6, 3])
    parts = []
    for layer in [layer for layer in model.layers if layer.weights]:
        for other in model.layers:
            other.trainable = other is layer
        parts.append(empirical_ntk(model, x))
        assert error(parts[-1], full_jacobian_ntk(model, x)) < 1e-10
    for layer in model.layers:
        layer.trainable = True
    whole = empirical_ntk(model, x)
    assert error(sum(parts), whole) < 1e-10
    model.layers[-1].kernel.trainable = False  # one variable: its bias still counts
    model.layers[3].bias.trainable = False
    assert error(empirical_ntk(model, x), full_jacobian_ntk(model, x)) < 1e-10
    assert error(empirical_ntk(model, x), whole) > 1e-3


def test_follows_new_weights_and_new_activations(float64):
    model, x = MODELS["dense"](), RNG.standard_normal([4, 5])
    empirical_ntk(model, x)
    model.layers[0].kernel.assign(model.layers[0].kernel * 3)
    assert error(empirical_ntk(model, x), full_jacobian_ntk(model, x)) < 1e-10
    model.layers[0].activation = keras.activations.relu
    assert error(empirical_ntk(model, x), full_jacobian_ntk(model, x)) < 1e-10


def test_several_inputs(float64):
    a, b = keras.Input([3]), keras.Input([4])
    model = keras.Model(
        [a, b], layers.Dense(2)(layers.Multiply()([layers.Dense(5)(a), layers.Dense(5, activation="tanh")(b)]))
    )
    x = [RNG.standard_normal([4, 3]), RNG.standard_normal([4, 4])]
    assert error(empirical_ntk(model, x, block_size=3), full_jacobian_ntk(model, x)) < 1e-10


def test_leaves_the_model_as_it_was_and_does_not_keep_it():
    model, x = mixed_image(), RNG.standard_normal([2, 6, 6, 3])
    before, attributes = [v.numpy() for v in model.variables], [set(vars(layer)) for layer in model.layers]
    empirical_ntk(model, x)
    assert all(np.array_equal(a, v.numpy()) for a, v in zip(before, model.variables, strict=True))
    assert [set(vars(layer)) for layer in model.layers] == attributes
    watcher = weakref.ref(model)
    del model
    gc.collect()
    assert watcher() is None


ACTIVATIONS = {
    "none": lambda: None,
    "linear": lambda: "linear",
    "a layer": lambda: layers.Activation("linear"),
    "a function": lambda: lambda z: z,
    "relu": lambda: "relu",
}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_no_graph_outlives_a_network_whose_layers_are_added(activation):
    """What both layers receive is one tensor: TensorFlow holds it for ever where a tape gives it out for both."""
    before = len(live_graphs())
    inputs = keras.Input([5])
    added = layers.Add()([layers.Dense(4, activation=activation())(inputs) for _ in range(2)])
    model = keras.Model(inputs, layers.Dense(3)(added))
    with releasable_graphs():
        empirical_ntk(model, RNG.standard_normal([6, 5]))
    assert len(live_graphs()) > before
    del model, inputs, added
    assert len(live_graphs()) == before


def test_dropout_is_measured_in_inference_mode():
    dense = layers.Dense(3)
    with_dropout, without = chain([5], layers.Dropout(0.9), dense), chain([5], dense)
    x = RNG.standard_normal([4, 5])
    assert np.array_equal(empirical_ntk(with_dropout, x), empirical_ntk(without, x))


def test_bad_arguments(monkeypatch):
    model, x = MODELS["dense"](), RNG.standard_normal([3, 5])
    for arguments, message in [({"outputs": "diagonal"}, "outputs must be"), ({"block_size": 0}, "block_size must be")]:
        with pytest.raises(ValueError, match=message):
            empirical_ntk(model, x, **arguments)
    for bad, message in [(x[:0], "at least one sample"), (x * np.nan, "finite")]:
        with pytest.raises(ValueError, match=message):
            empirical_ntk(model, bad)
    with pytest.raises(ValueError, match=r"keras\.Model"):
        empirical_ntk(lambda x: x, x)
    with pytest.raises(ValueError, match=r"shape \(3, 3\)"):
        ntk_vector_product(model, x, np.ones([3, 2]))
    monkeypatch.setattr(ntk.os, "sysconf", lambda name: 16)
    with pytest.raises(MemoryError, match="GiB"):
        empirical_ntk(model, x)


@pytest.mark.parametrize(
    "name", ["batch norm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("gru", "conv groups")),
             "embedding and attention"],
)  # fmt: skip
def test_vector_product(name, float64):
    model = MODELS[name]()
    x = inputs_of(model, name)
    kernel = empirical_ntk(model, x)
    v = RNG.standard_normal(kernel.shape[:2])
    wanted = np.einsum("iajb,jb->ia", kernel, v)
    assert error(ntk_vector_product(model, x, v), wanted) < 1e-10
    assert error(ntk_vector_product(model, x, v, block_size=3), wanted) < 1e-10
