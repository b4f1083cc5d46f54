"""MobileNetV2 with the strides usual on CIFAR (Sandler et al. 2018; on trial in Goldblum et al. 2020)."""
import keras
from keras import layers

from models.layers import GAINS, LayerFactory

# Expansion, channels at stem width 32, blocks, stride of the first block: the paper's Table 2 but for stage 2's stride.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def mobilenet_v2(
    input_shape: tuple[int, ...], num_classes: int, *, width: int = 32, activation: str = "relu", seed: int = 0,
    dtype: str = "float32", name: str = "mobilenet_v2",
) -> keras.Model:  # fmt: skip
    """Inverted residual blocks with depthwise convolutions; `width` is the stem's channels, all others scale with it.

    The default 32 is the paper's multiplier 1. Stem and second stage have stride 1 instead of 2 (32 -> 4, not 32 -> 1).
    Scaled channels are rounded to whole numbers (the paper: to multiples of 8), and the activation is ReLU: ReLU6 is
    for low-precision inference, which is not on trial.
    Layers: stem_*; stage<s>_block<b>_{expand, depthwise, project}_{conv, norm, act} (no activation behind project) and
    stage<s>_block<b>_add; head_*; global_pool, logits.
    """
    make = LayerFactory(seed, activation, dtype)

    def scaled(channels):
        return max(1, round(channels * width / 32))

    def conv_norm_act(x, channels, prefix, **options):
        x = make.norm(make.conv(x, channels, f"{prefix}_conv", use_bias=False, **options), f"{prefix}_norm")
        return make.activate(x, f"{prefix}_act")

    def depthwise_norm_act(x, strides, prefix):
        # Keras counts 9 * channels inputs to a depthwise kernel, which sees 9: the gain makes up for it.
        kernel = make.kernel(f"{prefix}_conv", gain=GAINS[activation] * x.shape[-1])
        x = layers.DepthwiseConv2D(
            3,
            strides=strides,
            padding="same",
            use_bias=False,
            depthwise_initializer=kernel,
            dtype=dtype,
            name=f"{prefix}_conv",
        )(x)
        return make.activate(make.norm(x, f"{prefix}_norm"), f"{prefix}_act")

    def block(x, expansion, channels, strides, prefix):
        y = x
        if expansion > 1:
            y = conv_norm_act(y, expansion * x.shape[-1], f"{prefix}_expand", size=1)
        y = depthwise_norm_act(y, strides, f"{prefix}_depthwise")
        linear = make.kernel(f"{prefix}_project_conv", gain=1.0)  # a linear bottleneck
        y = make.conv(y, channels, f"{prefix}_project_conv", size=1, use_bias=False, kernel=linear)
        y = make.norm(y, f"{prefix}_project_norm")
        return make.add(x, y, f"{prefix}_add") if x.shape == y.shape else y

    inputs = make.input(input_shape)  # [n, h, w, c]
    x = conv_norm_act(inputs, width, "stem")
    for stage, (expansion, channels, blocks, first_stride) in enumerate(STAGES, start=1):
        for index in range(1, blocks + 1):
            strides = first_stride if index == 1 else 1
            x = block(x, expansion, scaled(channels), strides, f"stage{stage}_block{index}")
    x = conv_norm_act(x, scaled(1280), "head", size=1)
    return keras.Model(inputs, make.logits(make.global_pool(x), num_classes), name=name)
