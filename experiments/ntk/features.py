"""Do the features of a wide network move during training?  (In the NTK limit they do not: Jacot et al. 2018.)

Distances, cosines and inner products between the penultimate features of a class-balanced sample, before and
after; and the inner products of another initialization's, which are alike in wide networks without any training.
"""
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist

from analysis.evaluation import evaluate_splits
from analysis.features import pearson, penultimate_features, separation
from analysis.kernels import kernel_drift
from experiments.ntk.constancy import (
    GRID,
    MARGINS,
    REDRAW_COLUMNS,
    judge_constancy,
    label_measures,
    redraw_measures,
)
from experiments.ntk.limit_conditions import (
    check_conditions,
    of_redraw,
    rate_scaling_field,
    stored_defaults,
    target_loss_field,
    train,
)
from harness.experiment import Experiment, evaluation_columns, former_evaluation_columns, seed_field
from judging.results import Results
from judging.verdict import Claim, Verdict
from models import NetworkConfig
from reporting import figures as plots
from reporting.run_folder import Run
from training.data import Data, DataConfig
from training.fit import TrainingConfig, build_network

CLAIM = Claim(
    "The features of a wide network do not move during training.",
    source="the NTK limit of Jacot et al. 2018, theorem 2; feature measurements of Goldblum et al. 2020's code",
)
COLUMNS = {
    "features/gram_correlation": "correlation of inner products",
    "features/gram_change": "their relative change",
    "features/gram_cosine": "their cosine",
    "features/cka": "their centred alignment",
    "features/label_alignment_before": "alignment with labels before",
    "features/label_alignment_after": "alignment with labels after",
    **REDRAW_COLUMNS,
    "features/distance_correlation": "correlation of distances",
    "features/cosine_correlation": "correlation of cosines",
    "features/separation_before": "between / within class distance before",
    "features/separation_after": "after",
    **evaluation_columns(),
    "train/epochs": "epochs trained",
}
TABLE = (
    "features/gram_change", "features/gram_correlation", "redraw/correlation", "features/cka",
    "features/label_alignment_before", "features/label_alignment_after", "features/separation_before",
    "features/separation_after", "train/loss", "test/accuracy",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    network: NetworkConfig = NetworkConfig()
    data: DataConfig = DataConfig(normalize=False)
    training: TrainingConfig = TrainingConfig(epochs=30, learning_rate=0.05)
    feature_sample: int = field(default=100, metadata={"help": "training images whose features are compared"})
    rate_scaling: str = rate_scaling_field()
    target_loss: float | None = target_loss_field()
    seed: int = seed_field()

    def validate(self) -> None:
        check_conditions(self)
        if self.feature_sample < 20:
            raise ValueError(f"feature_sample must be at least 20 images (two a class), got {self.feature_sample}")


def check(config: Config, data: Data, run: Run) -> None:
    data.first_balanced(config.feature_sample)  # refuses more images than there are


def measure(config: Config, data: Data, run: Run) -> dict[str, object]:
    """Features of the same images before and after training, and how their geometry changed."""
    model = build_network(config, data)
    x, labels = data.first_balanced(config.feature_sample)
    before = penultimate_features(model, x)
    redrawn = of_redraw(lambda model: inner_products(penultimate_features(model, x)), model, config, data)
    history = train(model, data, config, run)
    if history.diverged_epoch:
        return {"diverged_epoch": history.diverged_epoch}
    after = penultimate_features(model, x)
    grams = inner_products(before), inner_products(after)
    gram = kernel_drift(*grams)
    return {
        "diverged_epoch": None,
        "features/gram_correlation": gram.correlation,
        "features/gram_change": gram.relative_change,
        "features/gram_cosine": gram.cosine,
        **{f"features/{name}": value for name, value in label_measures(*grams, labels).items()},
        **({} if redrawn is None else redraw_measures(grams[0], redrawn, grams[0], redrawn)),
        "features/distance_correlation": pearson(pdist(before), pdist(after)),
        "features/cosine_correlation": pearson(pdist(before, "cosine"), pdist(after, "cosine")),
        "features/separation_before": separation(before, labels),
        "features/separation_after": separation(after, labels),
        **evaluate_splits(model, data, config.training.loss),
        "train/epochs": len(history.rows),
    }


def inner_products(features: np.ndarray) -> np.ndarray:
    """The Gram matrix [n, n] of features [n, d]."""
    return features @ features.T


def judge(results: Results) -> Verdict:
    """Constant: the Gram matrix changes little at the largest width, and less with width (constancy.py)."""
    return judge_constancy(
        results, correlation="features/gram_correlation", change="features/gram_change", noun="features' Gram matrix"
    )


def figures(results: Results) -> dict[str, Figure]:
    """Correlation of inner products and of distances, and class separation after training, against width."""
    groups = results.measured("features/gram_correlation").groups()
    if not groups:
        return {}
    figure, axes = plots.new(1, 3, width=4.2)
    labels = {
        "features/gram_correlation": "correlation of inner products",
        "features/distance_correlation": "correlation of distances",
        "features/separation_after": "between / within class distance, after",
    }
    for axis, (column, label) in zip(axes.flat, labels.items()):
        plots.against_width(axis, groups, column, label)
    axes[0, 0].legend()
    return {"features_against_width": figure}


EXPERIMENT = Experiment(
    claim=CLAIM,
    config=Config,
    grid=GRID,
    columns=COLUMNS,
    table=TABLE,
    stages=("training",),
    apart=("width",),
    measure=measure,
    judge=judge,
    figures=figures,
    check=check,
    former_columns={**former_evaluation_columns("trained"), "trained/epochs": "train/epochs"},
    margins=MARGINS,
    stored_defaults=stored_defaults,
    max_seeds=5,
)
