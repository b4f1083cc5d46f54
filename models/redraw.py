"""Another start for a person's own network: weights as its layers' initializers draw them, by a seed."""
import keras
import numpy as np

from models.layers import layer_seed


def redraw(model: keras.Model, seed: int) -> list[np.ndarray]:
    """The weights of `model`, in the order of get_weights, with the trained ones drawn anew; the model stays as it is.

    Each layer draws with a seed of its own, of `seed` and its name. What is not trained stays, such as the constants of
    a normalization that was adapted to data.
    """
    def anew(layer):
        return type(layer).from_config(_reseeded(layer.get_config(), layer_seed(seed, layer.name)))

    drawn = keras.models.clone_model(model, clone_function=anew)
    trained = {id(variable) for variable in model.trainable_variables}
    return [
        np.asarray(new if id(variable) in trained else variable)
        for variable, new in zip(model.weights, drawn.weights, strict=True)
    ]


def _reseeded(value, seed):
    """A layer's configuration, every seed in it replaced."""
    if isinstance(value, dict):
        return {key: seed if key == "seed" else _reseeded(inner, seed) for key, inner in value.items()}
    return [_reseeded(inner, seed) for inner in value] if isinstance(value, list) else value
