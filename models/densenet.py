"""DenseNet for CIFAR without bottlenecks or compression (Huang et al. 2017; on trial in Goldblum et al. 2020)."""
import keras
from keras import layers

from models.layers import LayerFactory


def layers_per_block(depth: int) -> int:
    """Dense layers in each of the three blocks; ValueError unless depth = 3 m + 4."""
    if depth < 7 or (depth - 4) % 3:
        raise ValueError(f"densenet needs depth = 3 m + 4 layers (7, 10, ..., 40, ...); received {depth}")
    return (depth - 4) // 3


def densenet(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 12, depth: int = 40, activation: str = "relu",
    seed: int = 0, dtype: str = "float32", name: str = "densenet",
) -> keras.Model:  # fmt: skip
    """Three blocks of layers that each append `width` channels (the growth rate) to all that came before.

    The stem has 16 channels; a transition is a 1x1 convolution that keeps the number of channels and 2x2 mean pooling.
    Layers: stem_conv; block<b>_layer<l>_{norm, act, conv, concat}; transition<b>_{norm, act, conv, pool}; final_norm,
    final_act, global_pool, logits.
    """
    make = LayerFactory(seed, activation, dtype)

    def norm_act(x, prefix):
        return make.activate(make.norm(x, f"{prefix}_norm"), f"{prefix}_act")

    inputs = make.input(input_shape)  # [n, h, w, c]
    x = make.conv(inputs, 16, "stem_conv", use_bias=False)
    for block in (1, 2, 3):
        for index in range(1, layers_per_block(depth) + 1):
            prefix = f"block{block}_layer{index}"
            y = make.conv(norm_act(x, prefix), width, f"{prefix}_conv", use_bias=False)
            x = layers.Concatenate(dtype=dtype, name=f"{prefix}_concat")([x, y])
        if block < 3:
            prefix = f"transition{block}"
            x = make.conv(norm_act(x, prefix), x.shape[-1], f"{prefix}_conv", size=1, use_bias=False)
            x = layers.AveragePooling2D(2, dtype=dtype, name=f"{prefix}_pool")(x)
    x = make.global_pool(norm_act(x, "final"))
    return keras.Model(inputs, make.logits(x, num_classes), name=name)
