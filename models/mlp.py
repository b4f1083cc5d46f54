"""Fully connected network: flatten, hidden layers, logits."""
import keras
from keras import layers

from models.layers import LayerFactory, layer_seed


def mlp(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 64, depth: int = 3, widths: tuple[int, ...] = (),
    activation: str = "relu", dropout: float = 0.0, seed: int = 0, dtype: str = "float32", name: str = "mlp",
) -> keras.Model:  # fmt: skip
    """Multilayer perceptron with `depth` hidden layers of `width` units, or with the hidden `widths` if they are given.

    The default, 3 x 64, is small enough for a grid on two cores; Goldblum et al. 2020 (Table 1) use 2048, 2048, 1024.
    Layers: flatten, dense_1, dense_2, ..., logits; with dropout > 0 a dropout_<i> behind each dense_<i>.
    The state of dropout's random numbers is in model.variables only: neither save_weights nor a .keras file keeps it.
    """
    make = LayerFactory(seed, activation, dtype)
    inputs = make.input(input_shape)
    x = make.flatten(inputs)
    for i, units in enumerate(widths or (width,) * depth, start=1):
        x = make.dense(x, units, f"dense_{i}")
        if dropout:
            x = layers.Dropout(dropout, seed=layer_seed(seed, f"dropout_{i}"), dtype=dtype, name=f"dropout_{i}")(x)
    return keras.Model(inputs, make.logits(x, num_classes), name=name)
