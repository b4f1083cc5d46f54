"""What does Keras' training loop cost on the small default networks, and what do its own options save?

    python benchmarks/training_loop.py

Milliseconds per epoch of digits (11 steps of 128 images): steps_per_execution 1 or a whole epoch, with and without XLA.
Paired: every round times all variants once, in turn; medians over rounds.
"""
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
from absl import app, flags

from models import NetworkConfig, build
from training.data import DataConfig, batches, load
from training.fit import TrainingConfig, compile_model

flags.DEFINE_integer("rounds", 5, "times that every variant is measured")
flags.DEFINE_integer("epochs", 20, "epochs in a measurement")
flags.DEFINE_list("width", ["64", "256"], "widths of the mlp with three hidden layers")


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


def measure(data, width, whole_epoch, xla, epochs):
    model = build(NetworkConfig(width=width), data.input_shape, data.num_classes, seed=0)
    pipeline, steps = batches(data, batch_size=128, seed=0, epochs=epochs)
    compile_model(model, TrainingConfig(), steps=steps)
    model.steps_per_execution = steps if whole_epoch else 1
    model.jit_compile = xla
    clock = Clock()
    model.fit(pipeline, epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=[clock])
    return 1000 * np.median(clock.seconds)


def main(_):
    data, args = load(DataConfig(), seed=0), flags.FLAGS
    print("| width | steps per execution | XLA | ms per epoch |\n| --- | --- | --- | --- |")
    for width in map(int, args.width):
        variants = [(whole, xla) for whole in (False, True) for xla in (False, True)]
        rounds = [[measure(data, width, *variant, args.epochs) for variant in variants] for _ in range(args.rounds)]
        for (whole, xla), milliseconds in zip(variants, np.median(rounds, axis=0)):
            print(f"| {width} | {'a whole epoch' if whole else 1} | {'yes' if xla else 'no'} | {milliseconds:.1f} |")


if __name__ == "__main__":
    app.run(main)
