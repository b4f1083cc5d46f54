"""What does the loop over SGD steps cost on small networks: Keras' own, and the one of training/fit.py?

    python benchmarks/training_loop.py

Milliseconds per epoch of digits: Keras' loop with steps_per_execution 1 or a whole epoch, and a whole epoch in one
graph, with and without XLA. Paired: every round times all variants once, in turn; medians over rounds.
"""
import itertools
import os
import sys
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from absl import app, flags

from benchmarks.tables import head, row
from models import NetworkConfig, build
from training.data import DataConfig, batches, epoch_numbers, load
from training.fit import TrainingConfig, compile_model, on_epochs, whole_epoch

flags.DEFINE_integer("rounds", 5, "times that every variant is measured")
flags.DEFINE_integer("epochs", 20, "epochs in a measurement")
flags.DEFINE_list("width", ["64", "256"], "widths of the mlp with three hidden layers")
flags.DEFINE_list("batch_size", ["10", "128"], "images in an SGD step")

VARIANTS = {  # name: (Keras' loop?, is an epoch one call?, XLA)
    "Keras, a step a call": (True, False, False),
    "Keras, an epoch a call": (True, True, False),
    "fit": (False, True, False),
    "fit, XLA": (False, True, True),
}


class Clock(keras.callbacks.Callback):
    """Seconds of every epoch but the first, which traces."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        if epoch:
            self.seconds.append(time.perf_counter() - self.started)


def measure(data, width, batch_size, variant, epochs):
    keras_loop, epoch_a_call, xla = VARIANTS[variant]
    model = build(NetworkConfig(width=width), data.input_shape, data.num_classes, seed=0)
    steps = len(data.x_train) // batch_size
    compile_model(model, TrainingConfig(), steps=steps, steps_a_call=steps if keras_loop and epoch_a_call else 1)
    model.jit_compile = xla
    if keras_loop:
        pipeline, _ = batches(data, batch_size=batch_size, seed=0, epochs=epochs)
    else:
        model.train_function = on_epochs(whole_epoch(model, steps, batch_size), data, seed=0, dtype="float32")
        pipeline, steps = epoch_numbers(0, epochs), 1
    clock = Clock()
    model.fit(pipeline, epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=[clock])
    return 1000 * np.median(clock.seconds)


def main(_):
    data, args = load(DataConfig(), seed=0), flags.FLAGS
    warnings.filterwarnings("ignore", message="`shuffle=True` was passed")  # a tf.data pipeline has its own order
    head("width", "images a step", *VARIANTS)
    for width, batch_size in itertools.product(map(int, args.width), map(int, args.batch_size)):
        rounds = [[measure(data, width, batch_size, v, args.epochs) for v in VARIANTS] for _ in range(args.rounds)]
        row(width, batch_size, *(f"{milliseconds:.1f}" for milliseconds in np.median(rounds, axis=0)))


if __name__ == "__main__":
    app.run(main)
