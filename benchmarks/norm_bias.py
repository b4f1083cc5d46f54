"""Does norm-bias cost anything?  One step with it against one step of plain SGD, alternating, on a ResNet.

    python benchmarks/norm_bias.py --width=16 --image=32

Copies of a network train on the same batch, one step of each in turn, so that whatever else the machine does meets all.
"""
import argparse
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.tables import head, row
from models import NetworkConfig, build
from training.fit import TrainingConfig, compile_model

SETTINGS = {
    "none": TrainingConfig(),
    "weight_decay": TrainingConfig(regularizer="weight_decay", coefficient=5e-3),
    "norm_bias": TrainingConfig(regularizer="norm_bias", coefficient=5e-3, norm_target=2500.0),
    "norm_bias, kernels only": TrainingConfig(
        regularizer="norm_bias", coefficient=5e-3, norm_target=2500.0, regularize_all=False
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("width", 16), ("image", 32), ("batch", 128), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((given.batch, given.image, given.image, 3), dtype=np.float32)
    y = np.eye(10, dtype=np.float32)[rng.integers(10, size=given.batch)]
    step = {}
    for name, training in SETTINGS.items():
        model = build(NetworkConfig("resnet", width=given.width), x.shape[1:], 10, seed=0)
        compile_model(model, training, steps=1)
        step[name] = model.train_on_batch
        for _ in range(3):  # traces, and fills the caches
            model.train_on_batch(x, y)
    seconds = {name: [] for name in step}
    for i in range(given.steps):
        order = list(step)[:: 1 if i % 2 else -1]
        for name in order:
            start = time.perf_counter()
            step[name](x, y)
            seconds[name].append(time.perf_counter() - start)
    plain = np.array(seconds["none"])
    head("regularizer", "median step, ms", "median of paired ratios to none, 95 % (bootstrap)")
    for name, values in seconds.items():
        ratios = np.array(values) / plain
        low, high = np.quantile([np.median(rng.choice(ratios, len(ratios))) for _ in range(1000)], [0.025, 0.975])
        row(name, f"{1e3 * np.median(values):.1f}", f"{np.median(ratios):.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
