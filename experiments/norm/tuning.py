"""How a network is to be trained, chosen on images that are held out of its own training set."""
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from analysis.evaluation import evaluate
from reporting.run_folder import Run
from training.data import Data
from training.fit import TrainingConfig, build_network, fit

HELD_OUT = 0.25  # share of the training set on which the trials are compared


def check_size(data: Data) -> None:
    """ValueError where there are too few training images to hold some out."""
    if held_out(len(data.x_train)) < 2:
        raise ValueError(f"too few training images to hold some out for the tuning, got {len(data.x_train)}")


def held_out(size: int) -> int:
    """How many of so many training images are held out."""
    return round(HELD_OUT * size)


def choose(
    config: Any, data: Data, run: Run, trials: Mapping[str, TrainingConfig], tuned: Iterable[str]
) -> tuple[TrainingConfig, dict[str, float]]:
    """(the best of the trials, its measures): by accuracy on held-out images, then by loss.

    The seed's test set is not looked at. The held-out images are part of the training set again when the chosen
    settings train the network that is judged.
    config: with network, data and seed.  trials: {stage of training: settings}; of equally good ones the first is best.
    tuned: the settings in which they differ, measured as `tuned/<name>`; without `tuned/accuracy` where all diverged.
    """
    order = np.random.default_rng([config.seed, 89]).permutation(len(data.x_train))
    out, kept = np.split(order, [held_out(len(order))])
    inner = dataclasses.replace(
        data, x_train=data.x_train[kept], y_train=data.y_train[kept], x_test=data.x_train[out], y_test=data.y_train[out]
    )
    scores = []
    for stage, training in trials.items():
        model = build_network(config, inner)
        diverged = fit(model, inner, training, seed=config.seed, run=run, stage=stage).diverged_epoch
        loss, accuracy = (np.inf, -1.0) if diverged else evaluate(model, inner.x_test, inner.y_test, training.loss)
        scores.append((accuracy, -loss, training))
    accuracy, _, best = max(scores, key=lambda score: score[:2])
    measures = {f"tuned/{name}": getattr(best, name) for name in tuned}
    return best, measures | ({"tuned/accuracy": accuracy} if accuracy >= 0 else {})
