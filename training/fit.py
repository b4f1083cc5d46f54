"""One training run by Keras' loop over epochs: order of data, step schedule, exact resume, divergence, history, events.

A run is a function of (model at the start, data, TrainingConfig, seed): on one CPU it repeats to the bit, also when it
was interrupted in between, because the order of every epoch is keyed by (seed, epoch) and a checkpoint holds every
variable of the model and of the optimizer.
"""
import contextlib
import hashlib
import math
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import models
from analysis.evaluation import dtype_of, evaluate
from analysis.keras_internals import keep_on, structure
from analysis.losses import LOSSES
from training import reuse
from training.data import Data, batches, epoch_numbers, epoch_of
from training.regularizers import REGULARIZERS, RegularizedSGD, is_kernel

STRATEGIES = ("single", "mirrored")
HISTOGRAMS = 3  # weight histograms per training run: enough to see a movement, few enough for a grid of 200


def check_decay_epochs(name: str, epochs: tuple[int, ...]) -> None:
    """ValueError, with the field's name, unless epochs of a decaying learning rate are positive and increasing."""
    if list(epochs) != sorted(set(epochs)) or min(epochs, default=1) < 1:
        raise ValueError(f"{name} must be positive and increasing, got {epochs}")


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained: SGD with momentum, a step schedule and a regularizer of the norm."""

    loss: str = field(default="cross_entropy", metadata={"help": f"training loss, one of {', '.join(LOSSES)}"})
    epochs: int = field(default=30, metadata={"help": "passes over the training set"})
    batch_size: int = field(default=128, metadata={"help": "images in an SGD step, over all devices"})
    learning_rate: float = field(default=0.05, metadata={"help": "SGD step size"})
    momentum: float = field(default=0.9, metadata={"help": "SGD momentum, in [0, 1)"})
    decay_epochs: tuple[int, ...] = field(
        default=(), metadata={"help": "epochs at whose start the learning rate is multiplied by decay_factor: 60-120"}
    )
    decay_factor: float = field(default=0.1, metadata={"help": "factor of the learning rate at decay_epochs"})
    regularizer: str = field(default="none", metadata={"help": f"norm regularizer, one of {', '.join(REGULARIZERS)}"})
    coefficient: float = field(
        default=0.0, metadata={"help": "coefficient of the regularizer in the gradient: coefficient * theta"}
    )
    norm_target: float = field(default=0.0, metadata={"help": "target of ||theta||^2 for norm_bias"})
    regularize_all: bool = field(
        default=True, metadata={"help": "batch norm and biases belong to the regularized theta; if not, kernels only"}
    )
    strategy: str = field(default="single", metadata={"help": f"devices, one of {', '.join(STRATEGIES)}"})

    def validate(self) -> None:
        for name, allowed in (("loss", tuple(LOSSES)), ("regularizer", REGULARIZERS), ("strategy", STRATEGIES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "decay_factor", "coefficient", "norm_target"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be a finite number >= 0, got {getattr(self, name)}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        if self.coefficient and self.regularizer == "none":
            raise ValueError(f"coefficient {self.coefficient} needs a regularizer: weight_decay or norm_bias")
        if self.norm_target and self.regularizer != "norm_bias":
            raise ValueError(f"norm_target {self.norm_target} needs regularizer norm_bias, got {self.regularizer!r}")
        check_decay_epochs("decay_epochs", self.decay_epochs)


@dataclass(frozen=True)
class History:
    """What a training run did: one row per epoch, the epoch (from 1) at which it diverged, or None, and what a probe
    saw.

    probes: {epoch: {name: array}}.
    """

    rows: list
    diverged_epoch: int | None
    probes: dict


def scope(config: TrainingConfig, devices: list[str] | None = None) -> contextlib.AbstractContextManager:
    """Context in which a model for this TrainingConfig must be built: variables of `mirrored` live on all devices.

    devices: their names; all GPUs when None.
    """
    return (
        tf.distribute.MirroredStrategy(devices).scope() if config.strategy == "mirrored" else contextlib.nullcontext()
    )


def build_network(config: Any, data: Data) -> keras.Model:
    """The network of an experiment's config, for its data and with its seed, on the devices of config.training.

    Within a grid it may be the model of an earlier config, made as new: see training/reuse.py.
    """
    training, network = getattr(config, "training", None), config.network

    def build():
        return models.build(network, data.input_shape, data.num_classes, seed=config.seed)

    if isinstance(training, TrainingConfig) and training.strategy != "single":
        with scope(training):
            return build()
    digest = hashlib.sha256(Path(network.model).read_bytes()).digest() if network.model.endswith(".keras") else b""
    return reuse.network((network, digest, tuple(data.input_shape), data.num_classes), build)


def ask_network(what: Hashable, config: Any, data: Data, run: Any, question: Callable) -> Any:
    """question(network), for what rests on a network's layers and shapes and not on its weights.

    Asked once of all configs whose networks differ by their seed alone; what: names the question.
    """
    key = (what, config.network, data.input_shape, data.num_classes)
    return run.once(key, lambda: question(build_network(config, data)))


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Keras computes losses, metrics and learning rates in its global floatx, whatever the model's precision."""
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx(before)


class PerExampleLoss(keras.losses.Loss):
    """A loss of analysis.losses as Keras' own: the mean over a batch of its per-example values."""

    def __init__(self, name: str):
        super().__init__(name=name)
        self.call = LOSSES[name]


def learning_rate(config: TrainingConfig, steps: int) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """The step schedule as a function of the SGD step; `steps` steps make an epoch."""
    if not config.decay_epochs:
        return config.learning_rate
    values = [config.learning_rate * config.decay_factor**i for i in range(len(config.decay_epochs) + 1)]
    # Keras' boundary is the last step of the old value, so the new one holds from the epoch's first step on.
    return keras.optimizers.schedules.PiecewiseConstantDecay([e * steps - 1 for e in config.decay_epochs], values)


def fit(
    model: keras.Model, data: Data, config: TrainingConfig, *, seed: int, run: Any = None, stage: str = "training",
    callbacks: Iterable[keras.callbacks.Callback] = (), probe: Callable | None = None, until: Callable | None = None,
) -> History:  # fmt: skip
    """Train a Keras model in place and return its History.

    run: where checkpoints, scalars and progress go (reporting.run_folder.Run); nothing is written when None. An
    unfinished or finished stage of the same run is taken up from its checkpoint.  stage: its name, when a config
    trains more than once.  callbacks: further Keras callbacks.  probe: called as probe(model, epoch) after each epoch;
    the {name: array} that it may return is kept in History.probes, and with the checkpoint.
    until: until(model) -> bool, asked after each epoch: ends the training early where it holds (see `loss_reached`).
    """
    if run:
        run.begin(stage)
    with precision(dtype_of(model)):
        train_epoch = make_ready(model, config, len(data.x_train))
        keeper = Keeper(data, config, run, stage, probe, until)
        state = run.load_checkpoint(stage) if run else None
        if state is not None:
            keeper.restore(model, state)
        first = len(keeper.rows)
        if first < config.epochs and keeper.diverged_epoch is None and not keeper.ended:
            if train_epoch is not None:
                # Keras makes no train_function where there is one.
                model.train_function = on_epochs(train_epoch, data, seed=seed, dtype=dtype_of(model))
                pipeline, steps = epoch_numbers(first, config.epochs), 1  # a step of Keras' loop is an epoch
            else:
                pipeline, steps = batches(
                    data,
                    batch_size=config.batch_size,
                    seed=seed,
                    epochs=config.epochs,
                    first_epoch=first,
                    dtype=dtype_of(model),
                )
            try:
                with warnings.catch_warnings():
                    # Keras warns that it will not shuffle a tf.data pipeline, which is what is wanted.
                    warnings.filterwarnings("ignore", message="`shuffle=True` was passed")
                    model.fit(
                        pipeline,
                        epochs=config.epochs,
                        initial_epoch=first,
                        steps_per_epoch=steps,
                        verbose=0,
                        callbacks=[keeper, *callbacks],
                    )
            finally:
                model.train_function = None  # which may hold the data
    return History(keeper.rows, keeper.diverged_epoch, keeper.probes)


def loss_reached(data: Data, loss: str, target: float) -> Callable:
    """A stopping rule for fit's `until`: does the loss on the whole training set, in inference mode, reach `target`?

    Networks that are stopped by it are compared at an equal training loss, whatever the number of epochs.
    """
    return lambda model: evaluate(model, data.x_train, data.y_train, loss)[0] <= target


def make_ready(model: keras.Model, config: TrainingConfig, examples: int) -> Callable | None:
    """Compile a model to be trained on so many examples, and return the graph of its epochs (see `whole_epoch`), None
    where Keras' own loop goes over the batches.

    A model that was compiled for the like before gets its optimizer as new, and needs no second tracing.
    """
    batch = min(config.batch_size, examples)
    steps = examples // batch
    schedule = (config.learning_rate, config.decay_factor, config.decay_epochs) if config.decay_epochs else None
    regularizer = config.regularizer, bool(config.coefficient), config.regularize_all
    whole = in_one_graph(model, config)
    key = (config.loss, config.momentum, regularizer, schedule, batch, steps, whole, structure(model))
    kept = keep_on(model, "_compiled_for", dict)
    # A model of a person's own class may do in a step what its structure does not tell.
    known = config.strategy == "single" and type(model).__module__.startswith("keras.")
    if known and kept.get("key") == key and kept["optimizer"] is model.optimizer:
        model.optimizer.restart(config.learning_rate, config.coefficient, config.norm_target)
    else:
        # Keras 3.15's loop over steps fails under a strategy of several replicas.
        one = whole or config.strategy != "single" or model.distribute_strategy.num_replicas_in_sync > 1
        compile_model(model, config, steps=steps, steps_a_call=1 if one else steps)
        train_epoch = whole_epoch(model, steps, batch) if whole else None
        kept.update(key=key, optimizer=model.optimizer, train_epoch=train_epoch)
    return kept["train_epoch"]


def in_one_graph(model: keras.Model, config: TrainingConfig) -> bool:
    """Can all steps of an epoch be one graph? Elsewhere Keras' own loop goes over the batches.

    Not on the devices of a strategy, nor for a class of a person's own, whose steps may return logs of their own.
    """
    plain = not tf.distribute.has_strategy() and model.distribute_strategy is tf.distribute.get_strategy()
    return config.strategy == "single" and plain and type(model).__module__.split(".")[0] in ("keras", "training")


def whole_epoch(model: keras.Model, steps: int, batch_size: int) -> Callable:
    """All SGD steps of one epoch of a compiled model as a graph: (x [n, ...], y [n, k], seed, epoch, augment) -> logs.

    Batches are taken from the whole set within the graph, the same as those of `batches`. Keras' own loop over
    steps_per_execution asks tf.data for every batch, which takes longer than the steps of a small network.
    """
    step = tf.function(model.train_step, autograph=False, jit_compile=True) if model.jit_compile else model.train_step

    @tf.function
    @tf.autograph.experimental.do_not_convert
    def train_epoch(x, y, seed, epoch, augment):
        rows, take = epoch_of(x, y, seed, epoch, steps=steps, batch_size=batch_size, augment=augment)

        def body(i):
            step(take(rows[i]))
            return [i + 1]

        tf.while_loop(lambda i: i < steps, body, [0])
        return model.get_metrics_result()

    return train_epoch


def on_epochs(train_epoch: Callable, data: Data, *, seed: int, dtype: str) -> Callable:
    """What Keras' fit calls as the model's train_function, with an iterator over the numbers of epochs."""
    x, y, seed = tf.constant(data.x_train, dtype), tf.constant(data.y_train, dtype), tf.constant(seed, tf.int64)
    return lambda iterator: train_epoch(x, y, seed, next(iterator), data.augment)


def compile_model(model: keras.Model, config: TrainingConfig, *, steps: int, steps_a_call: int = 1) -> None:
    """Compile a model for this TrainingConfig; `steps` SGD steps make an epoch, Keras' own loop takes
    steps_a_call of them at once.
    """
    with model.distribute_strategy.scope():
        optimizer = RegularizedSGD(
            learning_rate(config, steps),
            momentum=config.momentum,
            regularizer=config.regularizer,
            coefficient=config.coefficient,
            norm_target=config.norm_target,
            regularize_all=config.regularize_all,
        )
        optimizer.build(model.trainable_variables)
        model.compile(
            optimizer,
            loss=PerExampleLoss(config.loss),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            steps_per_execution=steps_a_call,
            # XLA made small networks slower on CPU, and costs its compilation.
            jit_compile="auto" if tf.config.list_physical_devices("GPU") else False,
        )


class Keeper(keras.callbacks.Callback):
    """Keeps what a run must not lose: history, checkpoint, scalars; and stops a run that diverged."""

    def __init__(
        self, data: Data, config: TrainingConfig, run: Any, stage: str, probe: Callable | None,
        until: Callable | None = None,
    ):  # fmt: skip
        super().__init__()
        self.data, self.config, self.run, self.stage, self.probe = data, config, run, stage, probe
        self.until, self.ended = until, False
        self.rows, self.diverged_epoch, self.probes = [], None, {}
        # Evaluations on the test set are spread over at most about 20 epochs: often enough for a curve.
        self.every = max(1, config.epochs // 20)
        self.cost, self.saved = 0.0, -math.inf

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        now = time.perf_counter()
        row = {
            "stage": self.stage,
            "epoch": epoch + 1,
            "train/loss": float(logs["loss"]),  # running mean over the epoch, regularizer not included
            "train/accuracy": float(logs["accuracy"]),
            "learning_rate": float(
                keras.ops.convert_to_numpy(tf.convert_to_tensor(self.model.optimizer.learning_rate))
            ),
            **norms(self.model),
        }
        finite = math.isfinite(row["train/loss"]) and math.isfinite(row["norm/all"])
        self.ended = bool(finite and self.until and self.until(self.model))
        last = self.ended or epoch + 1 == self.config.epochs
        if finite and (last or (epoch + 1) % self.every == 0):
            row["test/loss"], row["test/accuracy"] = evaluate(
                self.model, self.data.x_test, self.data.y_test, self.config.loss
            )
        row["seconds"] = now - self.started
        self.started = time.perf_counter()
        self.rows.append(row)
        if not finite:
            self.diverged_epoch = epoch + 1
            self.model.stop_training = True
        elif self.probe and (found := self.probe(self.model, epoch + 1)):
            self.probes[epoch + 1] = found
        if self.ended:
            self.model.stop_training = True
        if self.run:
            self.report(epoch, row, last or not finite)

    def report(self, epoch: int, row: dict, last: bool) -> None:
        self.run.epoch(self.stage, row, self.config.epochs)
        if epoch == 0 or last or (epoch + 1) % max(1, self.config.epochs // (HISTOGRAMS - 1)) == 0:
            self.run.histograms(self.stage, epoch + 1, {v.path: v.numpy() for v in self.model.trainable_variables})
        # Saving may take at most a twentieth of the time: a resume is exact from whichever epoch was saved last.
        now = time.perf_counter()
        if last or now - self.saved >= 20 * self.cost:
            self.run.save_checkpoint(self.stage, self.state())
            self.saved = time.perf_counter()
            self.cost = self.saved - now

    def state(self) -> dict:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {f"variable/{i:04d}": v.numpy() for i, v in enumerate(variables)}
        arrays.update({f"probe/{e}/{name}": value for e, found in self.probes.items() for name, value in found.items()})
        return {"arrays": arrays, "rows": self.rows, "diverged_epoch": self.diverged_epoch, "ended": self.ended}

    def restore(self, model: keras.Model, state: dict) -> None:
        variables = [*model.variables, *model.optimizer.variables]
        arrays = state["arrays"]
        values = [arrays[name] for name in sorted(arrays) if name.startswith("variable/")]
        for key in arrays:
            if key.startswith("probe/"):
                _, epoch, name = key.split("/", 2)
                self.probes.setdefault(int(epoch), {})[name] = arrays[key]
        if [v.shape for v in values] != [tuple(v.shape) for v in variables]:
            raise ValueError(f"the checkpoint of stage {self.stage!r} belongs to another network: shapes differ")
        for variable, value in zip(variables, values):
            variable.assign(value)
        self.rows, self.diverged_epoch = state["rows"], state["diverged_epoch"]
        self.ended = state.get("ended", False)  # earlier versions' checkpoints know no early end


def norms(model: keras.Model) -> dict[str, float]:
    """Squared Euclidean norms ||theta||^2 of the trainable parameters.

    `norm/all`: of all of them, `norm/kernels`: without biases and batch norm, `norm/<layer>`: by layer.
    """
    layers, kernels = {}, 0.0
    for variable in model.trainable_variables:
        with np.errstate(over="ignore"):  # a run that diverges gets to infinity, which says it all
            value = float(np.sum(np.square(variable.numpy(), dtype=np.float64)))
        name = f"norm/{variable.path.split('/')[0]}"
        layers[name] = layers.get(name, 0.0) + value
        kernels += value * is_kernel(variable)
    return {"norm/all": sum(layers.values()), "norm/kernels": kernels, **layers}
