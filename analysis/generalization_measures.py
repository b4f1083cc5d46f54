"""Does a number that is measured on the training set tell how well a network generalizes?  The numbers.

Capacity measures of Jiang, Neyshabur, Mobahi, Krishnan & Bengio 2020, "Fantastic generalization measures and where to
find them" (1912.02178, appendix C; the equations' numbers stand with each name in MEASURES), of Kwon et al. 2021 and of
the low-rank bound of Pinto, Rangamani & Poggio 2025. Each is oriented so that a larger one should mean a larger
generalization gap. Products over layers are logarithms to base 10; factors that all networks of one training set share
(its size, its inputs' length) are left out, as they change no order.

W_l is the linear operator of layer l: for a convolution that of the whole image, whose singular values are exact
(conv_operators.py). K_l is its kernel, gamma the margin: the 10th percentile over the training set of the label's logit
minus the largest other one, which stands for the minimum.

The low-rank capacity is derived here within the method of Pinto et al. (Maurer's chain rule for Gaussian complexity,
layer by layer), as their theorem's constants were not at hand. A layer adds

    sup_{||K||_F <= b} <gamma, W (h - h')> = b ||sum_{i, s} gamma_{i, s} patch_{i, s}(h - h')'||_F,
    E of which <= b sqrt(out kh kw) ||h - h'||

and all layers beside it multiply it by their spectral norms, so that

    capacity = prod_l ||W_l||_2  *  sum_l  sqrt(out_l kh_l kw_l)  ||K_l||_F / ||W_l||_2  /  gamma.

(||K||_F / ||W||_2)^2 is the stable rank of a dense kernel, which stands for the rank r: sqrt(r out) adds over layers
where peeling arguments multiply it. The chain rule's own constants, exponential in depth, are set to 1.

All of it is for chains of Dense and convolutional layers with activations for which phi(a z) = a phi(z), a > 0: only
there a product of spectral norms bounds the network's Lipschitz constant, and a path norm is one.
"""
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from scipy.optimize import brentq

from analysis.conv_operators import model_operators, relative_rank, stable_rank
from analysis.evaluation import dtype_of, predict
from analysis.hessian import TrainingLoss
from analysis.keras_internals import calls_of, graphs_of
from analysis.losses import LOSSES
from analysis.margins import margins
from analysis.parameters import get_parameters, parameters_kept
from analysis.rescaling import HOMOGENEOUS
from analysis.sharpness import adaptive_sharpness, corner_sharpness

MEASURES = {  # {family: {name: in words}}; numbers are equations of Jiang et al. 2020, appendix C
    "norm": {
        "parameter_norm": "parameter norm",  # (42) sum_l ||K_l||_F^2
        "distance": "distance from initialization",  # (40) sum_l ||K_l - K_l^0||_F^2
        "frobenius_product": "product of Frobenius norms",  # (37) prod_l ||K_l||_F^2
        "spectral_product": "product of spectral norms",  # (32) prod_l ||W_l||_2^2
        "spectral_sum": "sum of spectral norms",  # (35) L (prod_l ||W_l||_2^2)^(1/L)
        "path_norm": "path norm",  # (44) sum_k f_{w^2}(1)_k
        "fisher_rao": "Fisher-Rao norm",  # (45), by its definition: mean_i <w, grad l_i>^2
    },
    "margin": {
        "inverse_margin": "inverse margin",  # (22) 1 / gamma^2
        "spectral_product_margin": "product of spectral norms / margin",  # (31) prod_l ||W_l||_2^2 / gamma^2
        "spectral_sum_margin": "sum of spectral norms / margin",  # (34) L (prod_l ||W_l||_2^2 / gamma^2)^(1/L)
        "bartlett": "Bartlett et al.'s bound",  # (29) (31) times sum_l ||W_l - W_l^0||_F^2 / ||W_l||_2^2
        "path_norm_margin": "path norm / margin",  # (43) (44) / gamma^2
    },
    "sharpness": {
        "sharpness": "sharpness",  # Keskar et al. 2017, Metric 2.1; (50) to (52) are built on the like
        "adaptive_sharpness": "adaptive sharpness",  # Kwon et al. 2021
        "flatness": "PAC-Bayes 1/sigma^2",  # (53)
        "adaptive_flatness": "PAC-Bayes 1/sigma^2, in units of the weights",  # (61), without its epsilon
        "pac_bayes": "PAC-Bayes distance / sigma",  # (48), its main term: ||w - w^0||^2 / (4 sigma^2)
    },
    "rank": {
        "stable_rank": "stable rank",  # (33) sum_l ||W_l||_F^2 / ||W_l||_2^2
        "effective_rank": "effective rank",  # mean_l of ||s||_1 / ||s||_2, as a share of its largest value
        "low_rank_capacity": "low-rank capacity",  # Pinto et al. 2025, see above
    },
}
PERCENTILE = 10  # of the margins, as in Jiang et al.
SIGMAS = 1e-8, 1e4  # between which sigma is sought
MOST = 700.0  # logarithm of a rise that is not finite

PASSED = (layers.InputLayer, layers.Flatten, layers.Dropout, layers.MaxPooling2D, layers.AveragePooling2D,
          layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D, layers.Reshape, layers.ZeroPadding2D)  # fmt: skip
WEIGHTED = (layers.Dense, layers.Conv1D, layers.Conv2D, layers.DepthwiseConv1D, layers.DepthwiseConv2D)
ACTIVATIONS = (layers.Activation, layers.ReLU, layers.LeakyReLU)


def check_chain(model: keras.Model) -> None:
    """Raise ValueError, in one line, for a model that is no chain of Dense and convolutional layers with positively
    homogeneous activations (see the module's text).
    """
    for layer in model.layers:
        kind = type(layer).__name__
        calls = calls_of(model, layer)
        merges = not isinstance(layer, layers.InputLayer) and isinstance(layer.input, (list, tuple, dict))
        if len(calls) != 1 or merges or not isinstance(layer, (*PASSED, *WEIGHTED, *ACTIVATIONS)):
            raise ValueError(
                f"these measures need a chain of Dense and convolutional layers, each used once, and layer "
                f"{layer.name!r} is a {kind}{' that joins branches' if merges else ''}"
            )
        activation = getattr(layer, "activation", None)
        if isinstance(layer, (*WEIGHTED, layers.Activation)) and activation not in HOMOGENEOUS:
            name = getattr(activation, "__name__", activation)
            raise ValueError(
                f"these measures need activations with phi(a z) = a phi(z), a > 0, such as relu: layer {layer.name!r} "
                f"has {name}"
            )


def operators(model: keras.Model) -> list:
    """The conv_operators.Operator of every layer of a chain, in order; found once for a model."""
    kept = graphs_of(model, "_chain_operators")
    if "operators" not in kept:
        kept["operators"] = list(model_operators(model, pad=True).values())
    return kept["operators"]


def kernels_of(model: keras.Model) -> list:
    """The kernels of a chain's layers as they are now, [layer] arrays in float64."""
    return [np.asarray(op.layer.kernel.numpy(), np.float64) for op in operators(model)]


def output_margin(logits: np.ndarray, y: np.ndarray) -> float:
    """gamma: the 10th percentile of the margins of logits [n, k] on one-hot targets [n, k]."""
    return float(np.percentile(margins(logits, np.argmax(y, axis=1)), PERCENTILE))


def path_norm(model: keras.Model) -> float:
    """Sum of the outputs of the network of squared parameters on an input of ones: over all paths from an input (or a
    bias) to an output, the sum of the products of the squared weights along it (Neyshabur et al. 2015).

    Maximum pooling takes its largest input in place of the sum, as in Jiang et al.
    """
    with parameters_kept(model):
        for variable in model.trainable_variables:
            variable.assign(np.square(variable.numpy()))
        return float(predict(model, np.ones((1, *model.input_shape[1:]), dtype_of(model))).astype(np.float64).sum())


def fisher_rao_norm(
    model: keras.Model, x: np.ndarray, y: np.ndarray, loss: str = "cross_entropy", *, batch_size: int = 1024
) -> float:
    """mean_i <theta, grad_theta l(f(x_i), y_i)>^2, with theta all trainable parameters (Liang et al. 2019, definition).

    For a network that is homogeneous of degree L in theta this is L^2 mean_i <dl/df, f(x_i)>^2. The product with theta
    is the derivative of the loss along theta, by forward-mode differentiation of the whole network.
    """
    kept, key = graphs_of(model, "_radial_slopes"), (loss, np.shape(x)[1:])
    if key not in kept:
        kept[key] = tf.function(lambda x, y: _radial_slopes(model, LOSSES[loss], x, y), reduce_retracing=True)
    dtype = dtype_of(model)
    slopes = [
        kept[key](tf.constant(x[i : i + batch_size], dtype), tf.constant(y[i : i + batch_size], dtype)).numpy()
        for i in range(0, len(x), batch_size)
    ]
    return float(np.mean(np.square(np.concatenate(slopes), dtype=np.float64)))


def _radial_slopes(model, loss, x, y):
    """d/dt l_i((1 + t) theta) at t = 0, [n]."""
    variables = [v.value for v in model.trainable_variables]
    with tf.autodiff.ForwardAccumulator(variables, [tf.convert_to_tensor(v) for v in variables]) as forward:
        values = loss(y, model(x, training=False))
    return forward.jvp(values)


def pac_bayes_sigma(
    surface: TrainingLoss, *, rise: float, draws: int = 4, relative: bool = False, seed: int = 0
) -> float:
    """The sigma at which Gaussian noise on the parameters raises the training loss by `rise` on average.

    Noise of standard deviation sigma on every parameter; relative: of sigma |w_i| on parameter w_i, which no rescaling
    of layers changes. The mean is over `draws` directions, the same for every sigma (common random numbers), and sigma
    is found to 2 % by Brent's method on its logarithm. A mean that is not finite counts as a rise. Jiang et al. ask
    for a rise of the training error by 0.1 instead; the loss has no steps. ValueError for rise <= 0 or draws < 1.
    """
    if not rise > 0 or draws < 1:
        raise ValueError(f"need rise > 0 and draws >= 1, got {rise} and {draws}")
    centre = get_parameters(surface.model)
    noise = np.random.default_rng([seed, 41]).standard_normal((draws, len(centre)))
    if relative:
        noise *= np.abs(centre)

    with parameters_kept(surface.model):
        start = surface.value_at(centre)  # in the same graph

        @functools.cache
        def excess(log_sigma):
            sigma = np.exp(log_sigma)
            mean = np.mean([surface.value_at(centre + sigma * direction) for direction in noise]) - start
            return np.log(max(mean, 1e-300) / rise) if np.isfinite(mean) else MOST

        lowest, highest = np.log(SIGMAS)
        first = np.log(0.3 if relative else 0.05)  # where most networks are
        guess = np.clip(first - excess(first) / 2, first - 5, first + 5)  # were the loss quadratic
        low, high = guess - 0.4, guess + 0.4
        while excess(low) > 0 and low > lowest:
            low -= 1
        while excess(high) < 0 and high < highest:
            high += 1
        if excess(low) > 0 or excess(high) < 0:
            return float(np.exp(low if excess(low) > 0 else high))
        return float(np.exp(brentq(excess, low, high, xtol=0.02)))


def norms_and_ranks(model: keras.Model, initial: list, gamma: float) -> dict:
    """The measures that follow from the kernels, their initial values (`kernels_of`) and the margin alone."""
    log_spectral = log_frobenius = 0.0
    squares, distance, ranks, relative, moved, terms = 0.0, 0.0, 0.0, [], 0.0, 0.0
    found = operators(model)
    for op, kernel, start in zip(found, kernels_of(model), initial, strict=True):
        s = op.spectrum().values
        square, move = np.sum(kernel**2), np.sum((kernel - start) ** 2)
        largest = max(s[0], 1e-300)
        positions = np.sum(s**2) / square if square > 0 else 1.0  # at how many places of the image a kernel acts
        fan = kernel.shape[-1] * (1 if op.kind == "dense" else np.prod(kernel.shape[:-2]))  # out kh kw
        log_spectral += 2 * np.log10(largest)
        log_frobenius += np.log10(max(square, 1e-300))
        squares, distance = squares + square, distance + move
        ranks += stable_rank(s)
        relative.append(relative_rank(s))
        moved += positions * move / largest**2
        terms += np.sqrt(fan * square) / largest
    count, log_margin = len(found), 2 * np.log10(gamma)
    return {
        "parameter_norm": squares,
        "distance": distance,
        "frobenius_product": log_frobenius,
        "spectral_product": log_spectral,
        "spectral_sum": np.log10(count) + log_spectral / count,
        "inverse_margin": -log_margin,
        "spectral_product_margin": log_spectral - log_margin,
        "spectral_sum_margin": np.log10(count) + (log_spectral - log_margin) / count,
        "bartlett": log_spectral - log_margin + np.log10(max(moved, 1e-300)),
        "stable_rank": ranks,
        "effective_rank": float(np.mean(relative)),
        "low_rank_capacity": (log_spectral - log_margin) / 2 + np.log10(max(terms, 1e-300)),
    }


def generalization_measures(
    model: keras.Model, x: np.ndarray, y: np.ndarray, initial: list, *, loss: str = "cross_entropy",
    epsilon: float = 1e-3, radius: float = 0.5, rise: float = 0.1, iterations: int = 4, draws: int = 4, seed: int = 0,
) -> dict:  # fmt: skip
    """{name: value} of everything in MEASURES, of a trained chain on its training set x [n, ...], y [n, k] (one-hot).

    initial: `kernels_of` the model before training.  epsilon, radius: sizes of the boxes of sharpness and adaptive
    sharpness.  rise: of the training loss, at which sigma is taken.  iterations, draws: of the searches.
    Raises ValueError for a model that is no chain, or whose margin gamma is not above 0.
    """
    check_chain(model)
    gamma = output_margin(predict(model, x), y)
    if not gamma > 0:
        raise ValueError(f"these measures need a margin above 0 on 90 % of the training set, got {gamma:g}")
    found = norms_and_ranks(model, initial, gamma)
    paths = max(path_norm(model), 1e-300)
    surface = TrainingLoss(model, x, y, loss)
    sigma = pac_bayes_sigma(surface, rise=rise, draws=draws, seed=seed)
    relative = pac_bayes_sigma(surface, rise=rise, draws=draws, relative=True, seed=seed)
    found |= {
        "path_norm": np.log10(paths),
        "path_norm_margin": np.log10(paths) - 2 * np.log10(gamma),
        "fisher_rao": fisher_rao_norm(model, x, y, loss),
        "sharpness": corner_sharpness(surface, epsilon=epsilon, iterations=iterations, seed=seed).value,
        "adaptive_sharpness": adaptive_sharpness(surface, radius=radius, iterations=iterations, seed=seed).value,
        "flatness": -2 * np.log10(sigma),
        "adaptive_flatness": -2 * np.log10(relative),
        "pac_bayes": np.log10(max(found["distance"], 1e-300) / 4) - 2 * np.log10(sigma),
    }
    return {name: float(found[name]) for names in MEASURES.values() for name in names}
