"""How robust is a network?  Adversarial examples, robust accuracy and adversarial training.

An attack looks in a ball around each image for the point of the highest loss (Madry et al. 2018):

    maximize  l(f(p + d), y)  over  ||d|| <= epsilon,  low <= p + d <= high            projected gradient descent (PGD)

p are pixels in [0, 1], and so are the units of d, epsilon and the step size. Networks see x = (p - mean) / std instead
(training.data), so all functions here take and give x, and mean and std [channels] (or numbers) to go by.

Attacks see the network in inference mode: the gradient of an image then depends on no other image of its batch, and no
batch-norm statistics move. Goldblum et al. 2020 attack in training mode while training; here only the outer step of
adversarial training, on the finished examples, uses and updates the statistics of the batch.
"""
import importlib.util
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import keras
import numpy as np
import tensorflow as tf

from analysis.evaluation import dtype_of, predict
from analysis.keras_internals import keep_on
from analysis.losses import LOSSES

NORMS = ("linf", "l2")


def margin(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Largest wrong logit minus the right one, [n, k] x [n, k] -> [n]; it never saturates (Carlini & Wagner 2017)."""
    targets = tf.cast(targets, logits.dtype)
    wrong = tf.reduce_max(tf.where(targets > 0, tf.constant(-math.inf, logits.dtype), logits), axis=-1)
    return wrong - tf.reduce_sum(targets * logits, axis=-1)


ATTACK_LOSSES = {**LOSSES, "margin": margin}


@dataclass(frozen=True)
class AttackConfig:
    """How a network is attacked by PGD; epsilon and step_size in units of pixels in [0, 1] (8/255 = 0.0314)."""

    norm: str = field(default="linf", metadata={"help": f"norm of the ball, one of {', '.join(NORMS)}"})
    epsilon: float = field(default=8 / 255, metadata={"help": "radius of the ball, in pixels of [0, 1]; 0: no attack"})
    step_size: float = field(default=2 / 255, metadata={"help": "length of a step, in pixels of [0, 1]"})
    steps: int = field(default=7, metadata={"help": "gradient steps of an attack"})
    restarts: int = field(default=1, metadata={"help": "attacks on each image, of which the worst counts"})
    random_start: bool = field(
        default=True, metadata={"help": "start at a uniform point of the ball, not at the image"}
    )
    loss: str = field(
        default="cross_entropy", metadata={"help": f"what the attack raises, one of {', '.join(ATTACK_LOSSES)}"}
    )

    def validate(self) -> None:
        for name, allowed in (("norm", NORMS), ("loss", tuple(ATTACK_LOSSES))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r} of an attack: allowed are {', '.join(allowed)}"
                )
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon)):
            raise ValueError(f"epsilon must be a finite number >= 0, got {self.epsilon}")
        if not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise ValueError(f"step_size must be a finite number > 0, got {self.step_size}")
        for name in ("steps", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of an attack must be at least 1, got {getattr(self, name)}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts {self.restarts} without random_start would repeat one and the same attack")


def pgd(
    model: Callable, x: np.ndarray, y: np.ndarray, *, epsilon: float, step_size: float, steps: int, norm: str = "linf",
    restarts: int = 1, random_start: bool = True, loss: str = "cross_entropy", mean: float | np.ndarray = 0.0,
    std: float | np.ndarray = 1.0, pixel_range: tuple[float, float] = (0.0, 1.0), seed: int = 0, batch_size: int = 256,
) -> np.ndarray:  # fmt: skip
    """Adversarial examples [n, ...] for inputs x [n, ...] and one-hot targets y [n, k]: of all restarts the highest
    loss.

    model: a Keras model, or a function from inputs to logits. The examples depend on the seed, not on batch_size.
    An input outside of pixel_range (which is in pixels) stays allowed but is moved no further out.
    Raises ValueError as AttackConfig.validate does, and for an empty pixel range, std <= 0, x and y of other lengths.
    """
    attack = AttackConfig(norm, epsilon, step_size, steps, restarts, random_start, loss)
    x = np.asarray(x)
    result, highest = x.astype(_dtype(model, x)), np.full(len(x), -np.inf)
    for rows, examples, losses, _ in _attacks(model, x, y, attack, mean, std, pixel_range, seed, batch_size):
        better = losses > highest[rows]
        result[rows[better]] = examples[better]
        highest[rows[better]] = losses[better]
    return result


def fgsm(
    model: Callable, x: np.ndarray, y: np.ndarray, *, epsilon: float, norm: str = "linf", loss: str = "cross_entropy",
    mean: float | np.ndarray = 0.0, std: float | np.ndarray = 1.0, pixel_range: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:  # fmt: skip
    """Fast gradient sign method (Goodfellow et al. 2015): one step of length epsilon from the image; else as pgd."""
    return pgd(
        model, x, y, epsilon=epsilon, step_size=epsilon or 1.0, steps=1, norm=norm, random_start=False, loss=loss,
        mean=mean, std=std, pixel_range=pixel_range,
    )  # fmt: skip


def robust_accuracy(
    model: Callable, x: np.ndarray, y: np.ndarray, attack: AttackConfig, *, mean: float | np.ndarray = 0.0,
    std: float | np.ndarray = 1.0, pixel_range: tuple[float, float] = (0.0, 1.0), seed: int = 0, batch_size: int = 256,
) -> float:  # fmt: skip
    """Share of the inputs x [n, ...] that are classified as y [n, k] on the clean image and after every restart.

    Arguments and errors of pgd, with an AttackConfig; never above the clean accuracy.
    """
    labels = np.argmax(y, axis=1)
    correct = _classes(model, np.asarray(x), batch_size) == labels
    for rows, _, _, classes in _attacks(model, x, y, attack, mean, std, pixel_range, seed, batch_size):
        correct[rows] &= classes == labels[rows]
    return float(correct.mean())


def check_attack(
    model: Callable, x: np.ndarray, y: np.ndarray, attack: AttackConfig, *, times: int = 4, restarts: int = 3,
    mean: float | np.ndarray = 0.0, std: float | np.ndarray = 1.0, seed: int = 0,
) -> dict[str, float]:  # fmt: skip
    """Is an attack as strong as it can be?  {"loss_clean", "loss_few", "loss", "loss_strong", "accuracy",
    "accuracy_strong"}.

    Mean cross-entropies of images x [n, ...], of which each restart's worst counts: without attack, after 1/`times` of
    its steps, after all of them, and after `times` as many from `restarts` starts or more. A sound attack's rise in
    this order (Carlini et al. 2019, "On evaluating adversarial robustness"). Robust accuracies: under the attack, and
    under the strong one together with an equally strong one on the margin loss, which finds what a saturated
    cross-entropy hides. Arguments and errors of pgd, with an AttackConfig.
    """
    few = replace(attack, steps=max(1, attack.steps // times))
    strong = replace(attack, steps=times * attack.steps, restarts=max(restarts, attack.restarts), random_start=True)
    labels = np.argmax(y, axis=1)
    start = _classes(model, np.asarray(x), 256) == labels
    none = replace(attack, epsilon=0.0, step_size=1.0, steps=1, restarts=1)

    def outcome(config, of=None):
        highest, correct = np.full(len(x), -np.inf), start.copy()
        for rows, _, losses, classes in _attacks(model, x, y, config, mean, std, (0.0, 1.0), seed, 256, of):
            highest[rows] = np.maximum(highest[rows], losses)
            correct[rows] &= classes == labels[rows]
        return float(highest.mean()), correct

    (clean, _), (least, _), (loss, correct), (most, strongly) = map(outcome, (none, few, attack, strong))
    standing = correct & strongly  # of no others can the margin loss take anything away
    _, by_margin = outcome(replace(strong, loss="margin"), standing)
    return {
        "loss_clean": clean, "loss_few": least, "loss": loss, "loss_strong": most,
        "accuracy": float(correct.mean()), "accuracy_strong": float((standing & by_margin).mean()),
    }  # fmt: skip


def _dtype(model, x):
    return dtype_of(model) if isinstance(model, keras.Model) else x.dtype.name


def _classes(model, x, batch_size):
    if isinstance(model, keras.Model):
        return predict(model, x, batch_size=batch_size).argmax(axis=1)
    blocks = [np.asarray(model(tf.constant(x[i : i + batch_size]))) for i in range(0, len(x), batch_size)]
    return np.concatenate(blocks).argmax(axis=1)


def _attacks(model, x, y, attack, mean, std, pixel_range, seed, batch_size, of=None):
    """Yields (rows, examples, losses, predicted classes) for each restart and batch.

    of: the images that are attacked, [n] bool, each from the start that it has when all of them are; all when None.
    """
    attack.validate()
    low, high = pixel_range
    if not low < high:
        raise ValueError(f"pixel_range must be (low, high) with low < high, got {pixel_range}")
    if not np.all(np.asarray(std) > 0):
        raise ValueError(f"std must be positive, got {std}")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"x and y must have one length of at least 1, got {len(x)} and {len(y)}")
    dtype = _dtype(model, x)
    steps = tf.constant(attack.steps)
    numbers = [tf.constant(v, dtype) for v in (mean, std, low, high, attack.epsilon, attack.step_size)]
    blocks = [tf.TensorSpec([None, *np.shape(a)[1:]], dtype) for a in (x, y, x)]
    run = _graph(model, attack.norm, attack.loss, [*blocks, *map(tf.TensorSpec.from_tensor, (steps, *numbers))])
    x, y, of = np.asarray(x), np.asarray(y), np.ones(len(x), bool) if of is None else of
    together = max(1, batch_size // len(x))  # restarts in one batch: few images take nearly as long as some more
    for restart in range(0, attack.restarts, together):
        # One stream for each restart, drawn image by image: no image's start depends on the size of the batches.
        rngs = [np.random.default_rng([seed, r]) for r in range(restart, min(restart + together, attack.restarts))]
        for first in range(0, len(x), batch_size):
            attacked = of[first : first + batch_size]
            shape, rows = (len(attacked), *x.shape[1:]), first + np.flatnonzero(attacked)
            starts = [numpy_start(rng, shape, attack) if attack.random_start else np.zeros(shape) for rng in rngs]
            if not len(rows):
                continue
            parts = [x[rows]] * len(rngs), [y[rows]] * len(rngs), [start[attacked] for start in starts]
            batch = (tf.constant(np.concatenate(part), dtype) for part in parts)
            outputs = run(*batch, steps, *numbers)
            for output in zip(*(np.split(output.numpy(), len(rngs)) for output in outputs)):
                yield rows, *output


def _graph(model, norm, loss, signature):
    """The compiled attack, kept with the model: epsilon, steps and so on are inputs, so that a sweep traces once.

    signature: TensorSpecs of its inputs, for any number of images.
    """
    kept, key = keep_on(model, "_attack_graphs", dict), (norm, loss, *((tuple(s.shape), s.dtype) for s in signature))
    if key not in kept:

        def attack(x, y, start, steps, mean, std, low, high, epsilon, step_size):
            examples = perturb(_logits(model), x, y, start, norm, loss, steps, mean, std, low, high, epsilon, step_size)
            logits = _logits(model)(examples)
            return examples, ATTACK_LOSSES[loss](y, logits), tf.argmax(logits, axis=1)

        kept[key] = tf.function(attack, input_signature=signature)
    return kept[key]


def _logits(model):
    return (lambda x: model(x, training=False)) if isinstance(model, keras.Model) else model


def numpy_start(rng: np.random.Generator, shape: tuple[int, ...], attack: AttackConfig) -> np.ndarray:
    """Uniform points of the ball, in pixel units, by a NumPy generator."""
    if attack.norm == "linf":
        return attack.epsilon * rng.uniform(-1, 1, shape)
    size = math.prod(shape[1:])
    draws = rng.standard_normal((shape[0], size + 2))
    # A uniform point on the sphere in d + 2 dimensions, less two coordinates, is a uniform point of the d-ball.
    points = draws / np.linalg.norm(draws, axis=1, keepdims=True)
    return (attack.epsilon * points[:, :size]).reshape(shape)


def graph_start(key: tf.Tensor, x: tf.Tensor, attack: AttackConfig) -> tf.Tensor:
    """Uniform points of the ball as a tensor in the shape of x, as a function of key [2] alone."""
    shape = tf.shape(x)
    if attack.norm == "linf":
        return attack.epsilon * tf.random.stateless_uniform(shape, key, -1, 1, x.dtype)
    size = tf.reduce_prod(shape[1:])
    draws = tf.random.stateless_normal([shape[0], size + 2], key, dtype=x.dtype)
    points = draws / tf.norm(draws, axis=1, keepdims=True)
    return tf.reshape(attack.epsilon * points[:, :size], shape)


def perturb(
    logits: Callable, x: tf.Tensor, y: tf.Tensor, start: tf.Tensor, norm: str, loss: str, steps: int | tf.Tensor,
    mean: tf.Tensor, std: tf.Tensor, low: tf.Tensor, high: tf.Tensor, epsilon: tf.Tensor, step_size: tf.Tensor,
) -> tf.Tensor:  # fmt: skip
    """PGD in a graph: x [b, ...] moved by `steps` steps from x + start, start in pixel units in the ball -> [b, ...].

    logits: function from inputs to logits. Costs one forward and one backward pass to the inputs for each step.
    """
    axes = list(range(1, len(x.shape)))
    pixels = x * std + mean
    # Both bounds hold d = 0, also where rounding (or pixel noise) has put the image itself outside of the range.
    lowest, highest = tf.minimum(low - pixels, 0), tf.maximum(high - pixels, 0)

    def length(d):
        return tf.sqrt(tf.reduce_sum(tf.square(d), axes, keepdims=True))

    def project(d):
        if norm == "linf":
            d = tf.clip_by_value(d, -epsilon, epsilon)
        else:
            d = d * tf.math.divide_no_nan(epsilon, tf.maximum(length(d), epsilon))  # 0 when epsilon is
        return tf.clip_by_value(d, lowest, highest)  # towards 0 in every coordinate, so it stays in the ball

    def step(i, d):
        # Variables are not watched: gradients for the weights would cost a third of the whole.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(d)
            total = tf.reduce_sum(ATTACK_LOSSES[loss](y, logits(x + d / std)))
        gradient = tape.gradient(total, d)
        if norm == "linf":
            direction = tf.sign(gradient)
        else:
            # The squares of a confident network's gradients underflow, hence the division by the largest entry first.
            gradient = tf.math.divide_no_nan(gradient, tf.reduce_max(tf.abs(gradient), axes, keepdims=True))
            direction = tf.math.divide_no_nan(gradient, length(gradient))
        return i + 1, project(d + step_size * direction)

    _, d = tf.while_loop(lambda i, d: i < steps, step, (0, project(start)), parallel_iterations=1)
    return tf.stop_gradient(x + d / std)


class AdversarialModel(keras.Model):
    """A network that is trained on adversarial examples of each batch instead of its images (Madry et al. 2018).

    It shares all variables with `network` and gives the same outputs; compile, fit and checkpoints work as for any
    Keras model, training.fit.fit included, whose train/loss and train/accuracy are then those under attack. The attack
    is part of the compiled training step, sees the network in inference mode and starts from noise that is a function
    of (seed, SGD step), so that training resumes exactly. restarts does not apply: one attack a step.
    """

    def __init__(
        self, network: keras.Model, attack: AttackConfig, *, mean: float | np.ndarray = 0.0,
        std: float | np.ndarray = 1.0, pixel_range: tuple[float, float] = (0.0, 1.0), seed: int = 0,
    ):  # fmt: skip
        attack.validate()
        if attack.restarts > 1:
            raise ValueError(f"adversarial training takes one attack a step, got restarts {attack.restarts}")
        super().__init__(name=f"adversarial_{network.name}", dtype=dtype_of(network))
        self.network, self.attack, self.seed = network, attack, seed
        self.scaling = [np.asarray(v, self.compute_dtype) for v in (mean, std, *pixel_range)]
        self.built = True

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        return self.network(x, training=training)

    def train_step(self, data: tuple) -> dict:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return super().train_step(keras.utils.pack_x_y_sample_weight(self.adversarial(x, y), y, sample_weight))

    def adversarial(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The examples on which the present SGD step trains."""
        attack, x = self.attack, tf.cast(x, self.compute_dtype)
        start = tf.zeros_like(x)
        if attack.random_start:
            step = tf.cast(tf.convert_to_tensor(self.optimizer.iterations), tf.int64)
            replica = tf.distribute.get_replica_context()  # each device attacks its own images
            draw = step * replica.num_replicas_in_sync + tf.cast(replica.replica_id_in_sync_group, tf.int64)
            start = graph_start(tf.stack([tf.constant(self.seed, tf.int64), draw]), x, attack)
        numbers = [tf.constant(v, x.dtype) for v in (*self.scaling, attack.epsilon, attack.step_size)]
        return perturb(_logits(self.network), x, y, start, attack.norm, attack.loss, attack.steps, *numbers)


def strong_attacks_installed() -> bool:
    """Whether strong_robust_accuracy can run (requirements-attacks.txt)."""
    return importlib.util.find_spec("art") is not None


def strong_robust_accuracy(
    model: Callable, x: np.ndarray, y: np.ndarray, attack: AttackConfig, *, mean: float | np.ndarray = 0.0,
    std: float | np.ndarray = 1.0, pixel_range: tuple[float, float] = (0.0, 1.0), seed: int = 0, batch_size: int = 256,
    apgd_steps: int = 100, square_queries: int = 1000,
) -> dict[str, float]:  # fmt: skip
    """Robust accuracies {"pgd", "apgd_ce", "square", "worst"} of images x [n, h, w, c]; worst: all attacks together.

    APGD-CE has no step size to tune, Square uses no gradients, so masked gradients show as square below pgd (Croce and
    Hein 2020). Both by adversarial-robustness-toolbox, in the norm and epsilon of `attack`, from `attack.restarts`
    starts. Raises ValueError where it isn't installed, for inputs that are no images, and as robust_accuracy does.
    """
    if not strong_attacks_installed():
        raise ValueError("adversarial-robustness-toolbox is not installed: pip install -r requirements-attacks.txt")
    if np.ndim(x) != 4:
        raise ValueError(f"APGD-CE and Square take images [n, h, w, c], got shape {np.shape(x)}")
    x, labels = np.asarray(x), np.argmax(y, axis=1)
    scaling = {"mean": mean, "std": std, "pixel_range": pixel_range}
    clean = _classes(model, x, batch_size) == labels
    robust = {"pgd": clean.copy()}
    for rows, _, _, classes in _attacks(model, x, y, attack, **scaling, seed=seed, batch_size=batch_size):
        robust["pgd"][rows] &= classes == labels[rows]
    for name in ("apgd_ce", "square"):
        robust[name] = clean.copy()
        if attack.epsilon > 0 and clean.any():  # the toolbox refuses epsilon 0
            steps = apgd_steps if name == "apgd_ce" else square_queries
            examples = _art(name, model, x[clean], y[clean], attack, steps, seed=seed, batch_size=batch_size, **scaling)
            robust[name][clean] = _classes(model, examples, batch_size) == labels[clean]
    robust["worst"] = np.logical_and.reduce(list(robust.values()))
    return {name: float(correct.mean()) for name, correct in robust.items()}


def _art(name, model, x, y, attack, steps, *, mean, std, pixel_range, seed, batch_size):
    """Adversarial examples by adversarial-robustness-toolbox, which works on pixels in float32."""
    from art.attacks.evasion import AutoProjectedGradientDescent, SquareAttack
    from art.estimators.classification import TensorFlowV2Classifier

    dtype = _dtype(model, x)
    mean, std = np.asarray(mean, dtype), np.asarray(std, dtype)
    logits = tf.function(lambda p: _logits(model)((tf.cast(p, dtype) - mean) / std), reduce_retracing=True)
    # It calls the model with a `training` argument, which must not reach the network: attacks are in inference mode.
    classifier = TensorFlowV2Classifier(
        model=lambda p, training=False: tf.cast(logits(p), tf.float32),
        nb_classes=y.shape[1],
        input_shape=x.shape[1:],
        loss_object=keras.losses.CategoricalCrossentropy(from_logits=True),
        clip_values=pixel_range,
    )
    ball = {"norm": np.inf if attack.norm == "linf" else 2, "eps": attack.epsilon, "batch_size": batch_size}
    if name == "apgd_ce":
        method = AutoProjectedGradientDescent(
            classifier, eps_step=2 * attack.epsilon, max_iter=steps, nb_random_init=attack.restarts,
            loss_type="cross_entropy", verbose=False, **ball,
        )  # fmt: skip
    else:
        method = SquareAttack(classifier, max_iter=steps, nb_restarts=attack.restarts, verbose=False, **ball)
    pixels = (x * std + mean).astype(np.float32)
    states = np.random.get_state(), random.getstate()
    np.random.seed(seed)  # the toolbox draws from both global generators
    random.seed(seed)
    try:
        with np.errstate(invalid="ignore", divide="ignore"):
            d = method.generate(pixels.clip(*pixel_range), y=np.asarray(y, np.float32)) - pixels
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
    # Square's l2 version gives NaN on small images (seen in 1.20) and steps out of its ball: that fools nobody.
    d = np.where(np.isfinite(d).all(axis=(1, 2, 3), keepdims=True), d, 0).astype(np.float64)
    if attack.norm == "linf":
        d = d.clip(-attack.epsilon, attack.epsilon)
    else:
        size = np.sqrt(np.sum(d**2, axis=(1, 2, 3), keepdims=True))
        d = d * (attack.epsilon / np.maximum(size, attack.epsilon))
    return (x + d / std).astype(x.dtype)
