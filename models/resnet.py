"""ResNet-18 in its CIFAR layout, with batch norm and skip connections on or off (He et al. 2016).

Which of the two, batch norm or skips, changes the behaviour of the NTK is one of the questions of Goldblum et al. 2020.
"""
import keras

from models.layers import LayerFactory


def resnet(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 64, depth: int = 2, activation: str = "relu",
    batch_norm: bool = True, skip: bool = True, seed: int = 0, dtype: str = "float32", name: str = "resnet",
) -> keras.Model:  # fmt: skip
    """3x3 stem, four stages of `depth` basic blocks with w, 2w, 4w, 8w channels, global mean, logits.

    The default width 64 and depth 2 are ResNet-18. Stages have strides 1, 2, 2, 2 and there is no max pooling, so that
    8x8 inputs work (8 -> 8 -> 4 -> 2 -> 1). batch_norm=False gives the convolutions biases instead; skip=False leaves
    the plain network without projections; activation="linear" leaves out the nonlinearities.
    Layers: stem_conv, stem_norm, stem_act; in each stage<s>_block<b>_: conv1, norm1, act1, conv2, norm2, add, act2 and,
    where the shape changes, shortcut_conv, shortcut_norm; then global_pool, logits.
    """
    make = LayerFactory(seed, activation, dtype)

    def conv_norm(x, filters, prefix, index="", **options):
        x = make.conv(x, filters, f"{prefix}_conv{index}", use_bias=not batch_norm, **options)
        return make.norm(x, f"{prefix}_norm{index}") if batch_norm else x

    def block(x, filters, strides, prefix):
        y = conv_norm(x, filters, prefix, 1, strides=strides)
        y = make.activate(y, f"{prefix}_act1")
        y = conv_norm(y, filters, prefix, 2)
        if skip:
            if x.shape[-1] != filters or strides != 1:
                # Nothing nonlinear follows the projection on its own, hence gain 1.
                kernel = make.kernel(f"{prefix}_shortcut_conv", gain=1.0)
                x = conv_norm(x, filters, f"{prefix}_shortcut", size=1, strides=strides, kernel=kernel)
            y = make.add(x, y, f"{prefix}_add")
        return make.activate(y, f"{prefix}_act2")

    inputs = make.input(input_shape)  # [n, h, w, c]
    x = make.activate(conv_norm(inputs, width, "stem"), "stem_act")
    for stage in range(1, 5):
        for index in range(1, depth + 1):
            strides = 2 if stage > 1 and index == 1 else 1
            x = block(x, width * 2 ** (stage - 1), strides, f"stage{stage}_block{index}")
    return keras.Model(inputs, make.logits(make.global_pool(x), num_classes), name=name)
