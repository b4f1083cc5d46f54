"""Which ReLU units are switched off?

A unit is one entry of a ReLU-like layer's output (a channel at a position, for convolutions); it is inactive on an
example where its pre-activation is <= 0, which for ReLU and leaky ReLU is where its output is <= 0. Units inactive on
every example are dead: no gradient reaches them (Goldblum et al., ICLR 2020, report the fraction of inactive units per
layer).
"""
import keras
import numpy as np

from analysis.keras_internals import all_layers, calls_of

_RELU_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU)
_RELU_FUNCTIONS = (keras.activations.relu, keras.activations.relu6, keras.activations.leaky_relu)


def _is_relu(layer):
    return isinstance(layer, _RELU_LAYERS) or getattr(layer, "activation", None) in _RELU_FUNCTIONS


def inactive_fractions(model: keras.Model, x: np.ndarray, batch_size: int = 256) -> dict[str, tuple[float, float]]:
    """Per ReLU-like layer of a functional or Sequential model on inputs x [n, ...], in inference mode:

    {layer name: (fraction of (example, unit) pairs inactive, fraction of units inactive on every example)}.
    Raises ValueError without inputs, for a model without ReLU-like layers, and for ReLUs that are shared or inside
    nested models, where a layer has no single output.
    """
    if len(x) == 0:
        raise ValueError("x must hold at least one example, got 0")
    for inner in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        if any(_is_relu(layer) for layer in all_layers(inner, include_self=True)):
            raise ValueError(f"model {model.name!r} nests model {inner.name!r} with ReLU layers: call it on that model")
    layers = [layer for layer in model.layers if _is_relu(layer)]
    if not layers:
        raise ValueError(f"model {model.name!r} has no ReLU-like layer")
    # layer.output is the layer's first call anywhere, perhaps in another model: take the calls made inside this one.
    calls = [calls_of(model, layer) for layer in layers]
    for layer, made in zip(layers, calls):
        if len(made) != 1:
            raise ValueError(f"model {model.name!r} calls ReLU layer {layer.name!r} {len(made)} times: "
                             "give each call its own layer")
    outputs = [made[0][0] for made in calls]
    probe = keras.Model(model.inputs[0] if len(model.inputs) == 1 else model.inputs, outputs)
    counts, dead = [0] * len(layers), [True] * len(layers)
    for start in range(0, len(x), batch_size):
        values = probe(x[start:start + batch_size], training=False)
        for i, value in enumerate(values if isinstance(values, (list, tuple)) else [values]):
            off = np.asarray(value) <= 0                                                # [m, ...units]
            counts[i] += int(off.sum())
            dead[i] = dead[i] & off.all(axis=0)
    return {
        layer.name: (counts[i] / (len(x) * dead[i].size), float(np.mean(dead[i]))) for i, layer in enumerate(layers)
    }
