"""models/batch_norm.py: what the fused kernel computes against Keras' own layer, and where it must not be used."""
import keras
import numpy as np
import pytest
import tensorflow as tf

from analysis.hessian import TrainingLoss
from analysis.ntk import empirical_ntk
from analysis.scale_invariance import scale_invariant_kernels
from models import NetworkConfig, build
from models.batch_norm import BatchNormalization
from tests.models.networks import DIGITS, images

RNG = np.random.default_rng(0)
X = (3 + 2 * RNG.standard_normal((6, 5, 4, 3))).astype("float32")
UPSTREAM = RNG.standard_normal(X.shape).astype("float32")


def pair(x=X, **options):
    """Our layer and Keras', with the same weights, none of them at its initial value."""
    options = {"momentum": 0.9, "epsilon": 1e-5, **options}
    ours, theirs = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    ours.build(x.shape)
    theirs.build(x.shape)
    ours.set_weights([RNG.uniform(0.5, 2, w.shape) for w in ours.weights])
    theirs.set_weights(ours.get_weights())
    return ours, theirs


def kernels_used(layer, x, **arguments):
    """How often the fused kernel stands in the graph of one call."""
    graph = tf.function(lambda x: layer(x, **arguments)).get_concrete_function(tf.TensorSpec(x.shape, x.dtype)).graph
    return sum(operation.type == "FusedBatchNormV3" for operation in graph.get_operations())


def derivatives(function, tensors, upstream):
    """f, the gradients of sum(upstream sin(f)) for all tensors, and those of their product with a fixed direction."""

    @tf.function
    def traced():
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                y = function()
                value = tf.reduce_sum(upstream * tf.sin(y))
            first = inner.gradient(value, tensors)
            along = [tf.cos(tf.cast(tf.reshape(tf.range(tf.size(g)), g.shape), g.dtype)) for g in first]
            product = tf.add_n([tf.reduce_sum(g * v) for g, v in zip(first, along, strict=True)])
        return [y, *first], outer.gradient(product, tensors)

    return traced()


def layer_derivatives(layer, training):
    x = tf.constant(X)
    return derivatives(lambda: layer(x, training=training), [x, *(w.value for w in layer.trainable_weights)], UPSTREAM)


def formula_derivatives(layer):
    """Training mode by the formula, in float64."""
    x, *weights = (tf.constant(v, tf.float64) for v in (X, *layer.trainable_weights))

    def formula():
        mean = tf.reduce_mean(x, [0, 1, 2])
        z = (x - mean) / tf.sqrt(tf.reduce_mean((x - mean) ** 2, [0, 1, 2]) + layer.epsilon)
        gamma = weights[0] if layer.scale else 1
        return z * gamma + (weights[-1] if layer.center else 0)

    return derivatives(formula, [x, *weights], UPSTREAM.astype("float64"))


OPTIONS = [{}, {"center": False, "scale": False}, {"axis": 3, "center": False}]


@pytest.mark.parametrize("options", OPTIONS)
def test_training_has_the_formula_s_output_and_derivatives_of_both_orders(options):
    ours, theirs = pair(**options)
    assert kernels_used(ours, X, training=True) == 1
    ours.set_weights(theirs.get_weights())
    found, of_keras = (layer_derivatives(layer, True) for layer in (ours, theirs))
    expected = formula_derivatives(ours)
    for got, want in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())
    # Keras' second derivatives are no reference: tf.nn.moments holds the mean fixed, so that they lack a term.
    for got, want in zip(found[0], of_keras[0], strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * np.abs(want).max())
    for got, want in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_inference_is_keras_own_to_the_bit(options):
    ours, theirs = pair(**options)
    assert kernels_used(ours, X, training=False) == 0
    found, expected = (layer_derivatives(layer, False) for layer in (ours, theirs))
    for got, want in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        assert np.abs(want).max() > 1e-3  # something to compare
        np.testing.assert_array_equal(got, want)


def test_moving_variance_is_the_biased_one():
    """By hand: the kernel's own would be count / (count - 1) times as large, here 8 / 7."""
    x = X[:2, :2, :2]
    layer = BatchNormalization(momentum=0.75)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.25 * x.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(layer.moving_variance, 0.75 + 0.25 * x.var((0, 1, 2)), rtol=1e-6)
    single = BatchNormalization(momentum=0.75)
    single(X[:1, :1, :1], training=True)  # one value a channel: a variance of 0, not 0 / 0
    np.testing.assert_array_equal(single.moving_variance, [0.75] * 3)


@pytest.mark.parametrize("shape", [[None, 5, 4, 3], [6, None, None, 3], [None, None, None, 3]])
def test_sizes_may_be_unknown_while_tracing(shape):
    ours, theirs = pair()
    traced = tf.function(lambda x: ours(x, training=True), input_signature=[tf.TensorSpec(shape)])
    np.testing.assert_allclose(traced(X), theirs(X, training=True), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ours.moving_variance, theirs.moving_variance, rtol=2e-6)


@pytest.mark.parametrize(
    "shape, options",
    [
        ((6, 3), {}),
        ((6, 4, 3), {}),
        ((2, 6, 5, 4, 3), {}),
        ((6, 5, 4, 3), {"axis": 1}),
        ((6, 5, 4, 3), {"dtype": "float64"}),
        ((6, 5, 4, 3), {"dtype": "mixed_bfloat16"}),
        ((6, 5, 4, 3), {"renorm": True}),
        ((6, 5, 4, 3), {"synchronized": True}),
        ((6, 5, 4, 3), {"trainable": False}),  # Keras then stays in inference mode
    ],
)
def test_everything_else_is_computed_by_keras_to_the_bit(shape, options):
    x = RNG.standard_normal(shape).astype("float64" if options.get("dtype") == "float64" else "float32")
    ours, theirs = pair(x, **options)
    assert kernels_used(ours, x, training=True) == 0
    np.testing.assert_array_equal(ours(x, training=True), theirs(x, training=True))
    for got, want in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_mask_is_left_to_keras():
    ours, theirs = pair()
    mask = RNG.random(X.shape[:3]) < 0.5
    np.testing.assert_array_equal(ours(X, training=True, mask=mask), theirs(X, training=True, mask=mask))


def small(seed=0):
    """A network of ours that has been trained, by Keras alone."""
    model = build(NetworkConfig("resnet", width=2, depth=1), DIGITS, 3, seed=seed)
    model.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    x = images(16, DIGITS, "float32")
    model.fit(x, np.eye(3, dtype="float32")[np.arange(16) % 3], epochs=1, batch_size=8, shuffle=False, verbose=0)
    return model, x


def of_keras(model):
    """A copy made of Keras' own layers."""
    norm = keras.layers.BatchNormalization

    def own(layer):
        return (norm if isinstance(layer, norm) else type(layer)).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=own)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.slow
def test_a_network_keeps_names_weights_and_what_is_measured_on_it():
    model, x = small()
    copy = of_keras(model)
    assert {type(layer) for layer in model.layers} - {type(layer) for layer in copy.layers} == {BatchNormalization}
    assert [w.path for w in model.weights] == [w.path for w in copy.weights]
    assert [w.path for w in scale_invariant_kernels(model)] == [w.path for w in scale_invariant_kernels(copy)] != []
    np.testing.assert_array_equal(model(x, training=False), copy(x, training=False))
    np.testing.assert_array_equal(empirical_ntk(model, x[:4]), empirical_ntk(copy, x[:4]))
    y, vector = np.eye(3)[np.arange(16) % 3], RNG.standard_normal(model.count_params())
    ours, theirs = (TrainingLoss(m, x, y, "cross_entropy") for m in (model, copy))
    vector = vector[: ours.parameter_count]
    np.testing.assert_array_equal(ours.product(vector), theirs.product(vector))


def test_saved_files_load_again_as_what_they_were(tmp_path):
    model, x = small()
    for network, kind in ((model, BatchNormalization), (of_keras(model), keras.layers.BatchNormalization)):
        network.save(tmp_path / "network.keras")
        loaded = keras.models.load_model(tmp_path / "network.keras", compile=False, safe_mode=True)
        assert {type(layer) for layer in loaded.layers if "norm" in layer.name} == {kind}
        np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))


@pytest.mark.slow
def test_training_differs_from_keras_by_rounding_only():
    """Twenty SGD steps end where those of Keras' layers do, within a thousandth of the way."""
    x, y = images(40, DIGITS, "float32"), np.eye(3, dtype="float32")[np.arange(40) % 3]
    model = build(NetworkConfig("resnet", width=2, depth=1), DIGITS, 3, seed=0)
    copy = of_keras(model)
    before = np.concatenate([w.numpy().ravel() for w in model.weights])
    for network in (model, copy):
        network.compile(keras.optimizers.SGD(0.01, 0.9), keras.losses.CategoricalCrossentropy(from_logits=True))
        network.fit(x, y, epochs=20, batch_size=40, shuffle=False, verbose=0)
    ours, theirs = (np.concatenate([w.numpy().ravel() for w in network.weights]) for network in (model, copy))
    assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(ours - before)
