"""Plain convolutional network without batch norm, whose NTK Goldblum et al. 2020 follow as it widens."""
import keras
from keras import layers

from models.layers import LayerFactory


def convnet(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 16, activation: str = "relu", seed: int = 0,
    dtype: str = "float32", name: str = "convnet",
) -> keras.Model:  # fmt: skip
    """Convolutions of w, 2w, 2w, 4w, 4w channels, max pooling behind the last two, flatten, logits; default w = 16.

    All convolutions are 3x3. Pooling is 3x3 with stride 3, as in the authors' code (32 -> 10 -> 3: 36w features on
    CIFAR); a map smaller than that is pooled whole, which makes 8x8 the smallest sensible input (8 -> 2 -> 1).
    Layers: conv_1, ..., conv_4, pool_4, conv_5, pool_5, flatten, logits.
    """
    make = LayerFactory(seed, activation, dtype)
    inputs = x = make.input(input_shape)  # [n, h, w, c]
    for i, multiple in enumerate((1, 2, 2, 4, 4), start=1):
        x = make.conv(x, multiple * width, f"conv_{i}", activate=True)
        if i >= 4:
            pool = tuple(min(3, side) for side in x.shape[1:3])
            x = layers.MaxPooling2D(pool, dtype=dtype, name=f"pool_{i}")(x)
    return keras.Model(inputs, make.logits(make.flatten(x), num_classes), name=name)
