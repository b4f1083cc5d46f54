"""Do the features of a wide network move during training?  (In the NTK limit they do not: Jacot et al. 2018.)

Distances, cosines and inner products between the penultimate features of a class-balanced sample, before and after.
"""
from dataclasses import dataclass, field

import keras
import numpy as np
from scipy.spatial.distance import pdist

import models
from analysis.evaluation import predict
from analysis.kernels import kernel_drift
from experiments import ntk_drift
from experiments.affine_embedding import ended
from experiments.networks import against_width
from models import NetworkConfig
from reporting import figures as plots
from reporting.verdict import Claim
from training.data import DataConfig
from training.fit import TrainingConfig, fit, scope

CLAIM = Claim(
    "The features of a wide network do not move during training.",
    source="the NTK limit of Jacot et al. 2018; feature measurements of Goldblum et al. 2020's code",
)
GRID = ntk_drift.GRID
MEASURES = {
    "features/gram_correlation": "correlation of inner products",
    "features/gram_change": "their relative change",
    "features/distance_correlation": "correlation of distances",
    "features/cosine_correlation": "correlation of cosines",
    "features/separation_before": "between / within class distance before",
    "features/separation_after": "after",
    "trained/test_accuracy": "test accuracy",
}


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=0.05)
    feature_sample: int = field(default=100, metadata={"help": "training images whose features are compared"})
    seed: int = field(default=0, metadata={"help": "seed of weights, data subset and order; 0,1,2 for several"})

    def validate(self):
        if self.feature_sample < 20:
            raise ValueError(f"feature_sample must be at least 20 images (two a class), got {self.feature_sample}")


def check(config, data):
    data.sample(config.feature_sample)


def penultimate(model):
    """The model from its input to the input of its last layer with weights."""
    last = [layer for layer in model.layers if layer.trainable_variables][-1]
    return keras.Model(model.input, last.input)


def measure(config, data, run):
    with scope(config.training):
        model = models.build(config.network, data.input_shape, data.num_classes, seed=config.seed)
    x, labels = data.sample(config.feature_sample)
    features = penultimate(model)
    before = predict(features, x).reshape(len(x), -1).astype(np.float64)  # [n, features]
    history = fit(model, data, config.training, seed=config.seed, run=run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    after = predict(features, x).reshape(len(x), -1).astype(np.float64)
    gram = kernel_drift(before @ before.T, after @ after.T)
    return {
        "diverged_epoch": None,
        "features/gram_correlation": gram.correlation,
        "features/gram_change": gram.relative_change,
        "features/gram_cosine": gram.cosine,
        "features/distance_correlation": correlation(pdist(before), pdist(after)),
        "features/cosine_correlation": correlation(pdist(before, "cosine"), pdist(after, "cosine")),
        "features/separation_before": separation(before, labels),
        "features/separation_after": separation(after, labels),
        **ended("trained", config, model, data, history),
    }


def correlation(a, b):
    """Pearson's; nan where one side is constant (a network whose features died)."""
    a, b = a - a.mean(), b - b.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale > 0 else float("nan")


def separation(features, labels):
    """Mean distance between images of different classes over that within classes."""
    same = pdist(labels[:, None].astype(float), "hamming") == 0
    distances = pdist(features)
    within = distances[same].mean()
    return float(distances[~same].mean() / within) if within > 0 else float("nan")


def judge(results):
    return ntk_drift.judge(results, ("features/gram_correlation", "features/gram_change"), "features' Gram matrix")


def figures(results):
    if "features/gram_correlation" not in results.table:
        return {}
    figure, axes = plots.new(1, 3, width=4.2)
    labels = {
        "features/gram_correlation": "correlation of inner products",
        "features/distance_correlation": "correlation of distances",
        "features/separation_after": "between / within class distance, after",
    }
    for axis, (measure_name, label) in zip(axes.flat, labels.items()):
        against_width(axis, results.table, measure_name, label)
    axes[0, 0].legend()
    return {"features_against_width": figure}
