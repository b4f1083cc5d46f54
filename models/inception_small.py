"""The small Inception of Zhang et al. 2017, with and without batch norm, which fits random labels and pure noise."""
import keras
from keras import layers

from models.layers import LayerFactory

# Channels at width 96: (1x1, 3x3) for a mixed module, (3x3,) for a downsampling one.
MODULES = ((32, 32), (32, 48), (80,), (112, 48), (96, 64), (80, 80), (48, 96), (96,), (176, 160), (176, 160))


def inception(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 96, activation: str = "relu",
    batch_norm: bool = True, seed: int = 0, dtype: str = "float32", name: str = "inception",
) -> keras.Model:  # fmt: skip
    """3x3 stem of `width` channels, ten modules, global mean, logits; all channels scale with the stem's default 96.

    Mixed module: 1x1 and 3x3 convolutions side by side. Downsampling module: 3x3 convolution and 3x3 max pooling, both
    with stride 2, side by side. Batch norm has no trainable scale or shift and the convolutions keep their biases, so
    that the number of parameters is the same without it: 1 649 402 on 28x28x3 with ten classes.
    Layers: stem_*; module<i>_{1x1, 3x3}_{conv, norm, act}, module<i>_pool, module<i>_concat; global_pool, logits.
    """
    make = LayerFactory(seed, activation, dtype)

    def conv(x, channels, prefix, **options):
        x = make.conv(x, channels, f"{prefix}_conv", **options)
        if batch_norm:
            x = make.norm(x, f"{prefix}_norm", center=False, scale=False)
        return make.activate(x, f"{prefix}_act")

    inputs = make.input(input_shape)  # [n, h, w, c]
    x = conv(inputs, width, "stem")
    for i, module in enumerate(MODULES, start=1):
        channels = [max(1, round(c * width / 96)) for c in module]
        if len(channels) == 2:
            y = conv(x, channels[0], f"module{i}_1x1", size=1)
            z = conv(x, channels[1], f"module{i}_3x3")
        else:
            y = conv(x, channels[0], f"module{i}_3x3", strides=2)
            z = layers.MaxPooling2D(3, strides=2, padding="same", dtype=dtype, name=f"module{i}_pool")(x)
        x = layers.Concatenate(dtype=dtype, name=f"module{i}_concat")([y, z])
    return keras.Model(inputs, make.logits(make.global_pool(x), num_classes), name=name)
